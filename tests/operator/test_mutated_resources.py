"""Resources that nobody would write: the API server refuses each and names a field, or it comes to rest as asked for.

Rules are written twice, in CEL and in Python: a real API server and the operator judge each resource, and must agree.
Of what both accept the real server takes the objects, and a simulated cluster comes to rest with it: as a new resource,
or as a change of the example. They are the same each time; ``make mutations`` tries ten times as many, and others.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from hypothesis import strategies as st

from stageline_operator.api.constants import LABEL_STAGE
from stageline_operator.api.errors import SpecError
from stageline_operator.cli.render import render
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import check_change, read_spec
from support import specs
from support.kube.api import ApiError, KubeApi, Object
from support.kube.control_plane import ControlPlane
from support.mutations import EXAMPLES, SCHEMA, TIMES, for_each, from_schema, mutated
from support.operator.rest import born, change, come_to_rest
from support.operator.simulation import Simulation

MUTATED = 190
"""Different resources made of each of the four examples."""
FROM_SCHEMA = 300
"""Different ones of which one part is made from the schema."""

UNEQUAL_STAGES = 4
UID = "11111111-2222-3333-4444-555555555555"

A_PERSONS_OBJECTS = re.compile(
    'RuntimeClass "[^"]+" not found|no PriorityClass with name .+ was found|provided port is not in the valid range'
)
"""Why an object may be refused all the same: what only the cluster at hand can know."""


@dataclass
class Judge:
    """Looks at one resource after the other."""

    api: KubeApi
    namespace: str
    known: set[str] = field(default_factory=set)
    accepted: int = 0

    def accepts(self, body: Object) -> bool:
        """Server and operator agree; a refusal says of which field. False also for one that was judged before."""
        text = json.dumps(body, sort_keys=True)
        if text in self.known:
            return False
        self.known.add(text)
        by_server, by_operator = _told_by_server(self.api, body), _told_by_operator(body)
        assert bool(by_server) == bool(by_operator), f"server: {by_server or 'ok'}\noperator: {by_operator or 'ok'}"
        self.accepted += not by_server
        for told in (by_server, by_operator):
            assert not told or re.search(r"\bspec[.]\w", told), f"it names no field: {told}"
        return not by_server

    def takes_objects(self, body: Object) -> None:
        """The server accepts every object that the operator makes of an accepted resource."""
        body = copy.deepcopy(body)
        body["metadata"] |= {"namespace": self.namespace, "uid": UID}
        body["spec"]["replicas"] = 1
        if body["spec"].get("scheduling", {}).get("gang", "auto") != "auto":  # this cluster has none
            del body["spec"]["scheduling"]
        for made in _different(render(body, Cluster())):
            if made["kind"] == "ServiceAccount":  # it is there, for the pods, and depends on no field
                continue
            try:
                path = self.api.path(_plural(made), self.namespace)
                self.api.request("POST", path, params={"dryRun": "All", "fieldValidation": "Strict"}, body=made)
            except ApiError as error:
                assert A_PERSONS_OBJECTS.search(error.message), f"{made['kind']}: {error}"


@pytest.fixture(scope="module")
def judge(control_plane: ControlPlane) -> Iterator[Callable[[], Judge]]:
    """Makes one for each test; all objects are tried in one namespace, which has what pods need."""
    api = control_plane.api
    specs.install_crd(api)
    namespace = control_plane.create_namespace()
    for name in ("demo", *(body["metadata"]["name"] for body in EXAMPLES)):
        account = {"name": f"{name}-pods", "namespace": namespace}
        api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    yield lambda: Judge(api, namespace)
    api.delete("namespaces", namespace)


@pytest.mark.timeout(300 * TIMES)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda body: body["metadata"]["name"])
def test_a_mutated_example_is_refused_clearly_or_comes_to_rest(judge: Callable[[], Judge], example: Object) -> None:
    seen = judge()

    def test(value: tuple[Any, bool]) -> None:
        spec, is_change = value
        body = {**example, "spec": spec}
        if not seen.accepts(body):
            return
        seen.takes_objects(body)
        if is_change and _may_become(example, body):
            simulation = _at_rest(example["metadata"]["name"])
            change(simulation, spec)
        else:
            simulation = born(body)
        come_to_rest(simulation)

    values = st.tuples(mutated(example["spec"], SCHEMA), st.booleans())
    for_each(values, MUTATED, test, lambda: len(seen.known))
    assert seen.accepted >= 20 * TIMES


@pytest.mark.timeout(300 * TIMES)
def test_a_part_made_from_the_schema_is_refused_clearly_or_comes_to_rest(judge: Callable[[], Judge]) -> None:
    seen, parts = judge(), SCHEMA["properties"]

    def test(value: tuple[str, Any]) -> None:
        body = specs.resource({})
        body["spec"][value[0]] = value[1]
        if seen.accepts(body):
            seen.takes_objects(body)
            come_to_rest(born(body))

    values = st.one_of(*(st.tuples(st.just(part), from_schema(parts[part])) for part in sorted(parts)))
    for_each(values, FROM_SCHEMA, test, lambda: len(seen.known))
    assert seen.accepted >= 60 * TIMES


def _told_by_server(api: KubeApi, body: Object) -> str:
    """The server's refusal; "" when it accepts."""
    path = api.path("inferencedeployments.stageline.dev", "default")
    body = {**body, "metadata": {**body["metadata"], "namespace": "default"}}
    try:
        api.request("POST", path, params={"dryRun": "All", "fieldValidation": "Strict"}, body=body)
    except ApiError as error:
        assert error.status in (400, 422), error
        return error.message
    return ""


def _told_by_operator(body: Object) -> str:
    """The operator's refusal; "" when it makes a plan of it."""
    try:
        build_plan(read_spec(body), {})
    except SpecError as error:
        return str(error)
    return ""


def _may_become(before: Object, after: Object) -> bool:
    try:
        check_change(read_spec(before).wanted, read_spec(after).wanted)
    except SpecError:
        return False
    return not read_spec(after).wanted.rollout.paused


def _at_rest(name: str) -> Simulation:
    """An example that has been there for a while."""
    return copy.deepcopy(_resting()[name])


@cache
def _resting() -> dict[str, Simulation]:
    made = {}
    for example in EXAMPLES:
        made[example["metadata"]["name"]] = simulation = born(example)
        come_to_rest(simulation)
    return made


def _different(objects: list[Object]) -> Iterator[Object]:
    """Lists of stages are short; of a greater number all stages are equal."""
    return (body for body in objects if int(body["metadata"]["labels"].get(LABEL_STAGE, 0)) < UNEQUAL_STAGES)


def _plural(body: Object) -> str:
    kind: str = body["kind"].lower()
    return kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
