"""An operator of several namespaces, one of which is gone or refused: the others are served, and nothing is decided
where not everything is known."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.kube.control_plane import ControlPlane
from support.kube.waiting import wait_until
from support.running.account import chart_rules, give_role, take_role
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo, scene_of_its_own
from support.running.survival import uids


@pytest.fixture
def team(scene: Scene, tmp_path: Path) -> Any:
    """Another namespace, where the operator of ``scene`` has no rights yet."""
    with scene_of_its_own(scene.plane, tmp_path / "team") as team:
        yield team


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


def test_a_namespace_that_never_was_and_one_without_a_role_keep_no_other_waiting(scene: Scene, team: Scene) -> None:
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


def test_a_role_that_is_taken_away_ends_the_service_of_its_namespace_alone_until_it_is_back(
    scene: Scene, team: Scene
) -> None:
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


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_nothing_is_done_where_pods_are_out_of_sight(scene: Scene, team: Scene, verb: str) -> None:
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


def test_a_namespace_that_is_deleted_and_made_anew_is_served_without_a_restart(
    control_plane: ControlPlane, scene: Scene, team: Scene
) -> None:
    grant(scene, team)
    operator = serve(scene, team.namespace)
    team.apply(demo())
    team.wait_phase("Ready")
    api, name = control_plane.api, team.namespace
    labels = api.get("namespaces", name)["metadata"]["labels"]
    api.delete("namespaces", name)
    wait_until(lambda: api.find("namespaces", name) is None, "the namespace to go")
    scene.wait(lambda: is_refused(operator, name), "the refusal to be told")
    scene.apply(demo())
    scene.wait_phase("Ready")
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    wait_until(lambda: api.find("serviceaccounts", "default", name), "the namespace to be served")
    with ExitStack() as stack:
        again = Scene(control_plane, name, scene.folder / "again", stack)
        grant(scene, again)
        again.apply(demo())
        again.wait_phase("Ready")
    assert operator.exits == []
