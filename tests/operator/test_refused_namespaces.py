"""An operator of several namespaces, one of which is gone or refused: the others are served, and nothing is decided
where not everything is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.waiting import wait_until
from support.running.account import chart_rules, give_role, take_role
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo, scene_of_its_own
from support.running.survival import uids
from support.running.together import played_together


def serve(scene: Scene, *namespaces: str) -> OperatorProcess:
    """An operator of ``scene``'s namespace and of these."""
    return scene.run_operator(*(f"--namespace={each}" for each in namespaces))


def is_refused(operator: OperatorProcess, namespace: str) -> float:
    return operator.metric(f'stageline_operator_namespace_refused{{namespace="{namespace}"}}')


def times_told(operator: OperatorProcess, text: str) -> int:
    return operator.log.read_text().count(text)


def grant(scene: Scene, team: Scene, lacking: tuple[str, str] = ("", "")) -> None:
    """Give the operator of ``scene`` the chart's Role in ``team``; ``lacking``: but for a verb on a resource."""
    resource, verb = lacking
    rules = [
        {**rule, "resources": [each], "verbs": [word for word in rule["verbs"] if (each, word) != (resource, verb)]}
        for rule in chart_rules()
        for each in rule["resources"]
    ]
    give_role(scene.plane, team.namespace, scene.namespace, rules)


def a_namespace_that_never_was_and_one_without_a_role(scene: Scene, team: Scene) -> None:
    operator = serve(scene, "never-was", team.namespace)
    for each in (scene, team):
        each.apply(demo())
    scene.wait_phase("Ready")
    for namespace in ("never-was", team.namespace):
        assert is_refused(operator, namespace) == 1
        assert times_told(operator, f"namespace {namespace} is not served") == 1
    assert not team.pods()
    grant(scene, team)
    team.wait_phase("Ready")
    assert is_refused(operator, team.namespace) == 0
    assert times_told(operator, f"namespace {team.namespace} is served again") == 1
    assert times_told(operator, "APIForbiddenError") == 0
    assert operator.exits == []


def a_role_that_is_taken_away_and_given_back(scene: Scene, team: Scene) -> None:
    """It ends the service of its namespace alone."""
    grant(scene, team)
    operator = serve(scene, team.namespace)
    for each in (scene, team):
        each.apply(demo())
    for each in (scene, team):
        each.wait_phase("Ready")
    before = uids(team)
    take_role(scene.plane, team.namespace)
    scene.wait(lambda: is_refused(operator, team.namespace), "the refusal to be told")
    phase = f'stageline_operator_resource_phase{{name="demo",namespace="{team.namespace}",phase="Ready"}}'
    assert operator.metric(phase) == 0, "what was true is shown as if it were"
    team.api.delete("pods", "demo-0-s1-0", team.namespace, grace=0)
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the other namespace to be served")
    assert uids(team) == {name: uid for name, uid in before.items() if name != "demo-0-s1-0"}
    grant(scene, team)
    team.wait(lambda: "demo-0-s1-1" in team.names("pods"), "the lost pod to be replaced")
    team.wait_phase("Ready")
    assert before.items() - uids(team).items() == {("demo-0-s1-0", before["demo-0-s1-0"])}
    assert operator.metric(phase) == 1
    assert operator.exits == []


def pods_are_out_of_sight(scene: Scene, team: Scene, verb: str) -> None:
    """All other rights are there: an operator that went by what it sees would make all pods again."""
    with team.operator(name="first") as first:
        first.wait_leading()
        team.apply(demo())
        team.wait_phase("Ready")
    before = uids(team)
    grant(scene, team, lacking=("pods", verb))
    operator = serve(scene, team.namespace)
    scene.apply(demo())
    team.change(replicas=2)
    scene.wait_phase("Ready")
    assert is_refused(operator, team.namespace) == 1
    assert uids(team) == before
    grant(scene, team)
    team.wait(lambda: team.resource()["status"].get("ready") == "2/2", "the change to be made")
    assert before.items() <= uids(team).items()
    assert operator.exits == []


def a_namespace_that_is_deleted_and_made_anew(scene: Scene, team: Scene) -> None:
    grant(scene, team)
    operator = serve(scene, team.namespace)
    team.apply(demo())
    team.wait_phase("Ready")
    api, name = scene.api, team.namespace
    labels = api.get("namespaces", name)["metadata"]["labels"]
    api.delete("namespaces", name)
    wait_until(lambda: api.find("namespaces", name) is None, "the namespace to go")
    scene.wait(lambda: is_refused(operator, name), "the refusal to be told")
    scene.apply(demo())
    scene.wait_phase("Ready")
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    wait_until(lambda: api.find("serviceaccounts", "default", name), "the namespace to be served")
    with ExitStack() as stack:
        again = Scene(scene.plane, name, scene.folder, stack)
        grant(scene, again)
        again.apply(demo())
        again.wait_phase("Ready")
    assert operator.exits == []


SCENES: dict[str, Callable[[Scene, Scene], None]] = {
    "a namespace never was, and one has no Role": a_namespace_that_never_was_and_one_without_a_role,
    "a Role is taken away and given back": a_role_that_is_taken_away_and_given_back,
    "pods cannot be listed": partial(pods_are_out_of_sight, verb="list"),
    "pods cannot be watched": partial(pods_are_out_of_sight, verb="watch"),
    "a namespace is deleted and made anew": a_namespace_that_is_deleted_and_made_anew,
}


@pytest.fixture(scope="module")
def played(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All scenes at the same time, by name: the operator's namespace, and another, where it has no rights yet."""

    def play(name: str, folder: Path) -> None:
        with (
            scene_of_its_own(control_plane, folder) as scene,
            scene_of_its_own(control_plane, folder.with_name(f"{folder.name}-team")) as team,
        ):
            SCENES[name](scene, team)

    with played_together(SCENES, play, tmp_path_factory.mktemp("scenes")) as outcomes:
        yield outcomes


@pytest.mark.parametrize("name", SCENES)
def test_the_others_are_served_and_nothing_is_done_unseen(played: dict[str, Future[None]], name: str) -> None:
    played[name].result()
