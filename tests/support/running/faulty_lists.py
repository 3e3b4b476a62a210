"""Lists that fail at their first page or at a later one, and watches that are not opened: of children, and of resources
themselves, which kopf follows."""

from __future__ import annotations

from stageline_operator.handlers.watch import CHUNK as RESOURCES_OF_A_PAGE
from stageline_operator.kube.api_client import CHUNK as OBJECTS_OF_A_PAGE
from support.running.faulty_proxy import Call, Fault, Match
from support.running.scene import MANAGED, Scene, demo
from support.running.survival import heals

CHILDREN, RESOURCES = "controllerrevisions", "inferencedeployments"


def survive_lists(scene: Scene, fault: Fault, restarts: int) -> None:
    """Start an operator of which each kind of list and watch meets the fault once.

    Args:
        restarts: so many of them may cost one: kopf's.

    Raises:
        AssertionError: it does not come to its work all the same.
    """
    _fill_pages(scene)
    proxy = scene.proxy()
    rules = {name: proxy.add(match, fault, times=1) for name, match in _calls().items()}
    operator = scene.run_operator(proxy=proxy)
    scene.apply(demo())
    scene.wait_phase("Ready", patience=120)
    scene.wait(lambda: all(each.count for each in rules.values()), "each kind of call to meet the fault")
    heals(scene, "demo-0-s1-0", "demo-0-s1-1")
    assert operator.exits == [1] * len(operator.exits) and len(operator.exits) <= restarts, operator.log_tail()


def _fill_pages(scene: Scene) -> None:
    """One object more than a page has, of both kinds."""
    label, value = MANAGED.split("=")
    for number in range(OBJECTS_OF_A_PAGE + 1):
        meta = {"name": f"old-{number}", "namespace": scene.namespace, "labels": {label: value}}
        scene.api.create(
            {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": meta, "revision": 1, "data": {}}
        )
    for number in range(RESOURCES_OF_A_PAGE + 1):
        scene.apply(demo(f"none-{number}", replicas=0))


def _calls() -> dict[str, Match]:
    """The kinds of calls by which objects are followed: whole ones, and their metadata to compare with."""
    return {
        "the first page of children": _is_page(CHILDREN),
        "a later page of children": _is_page(CHILDREN, later=True),
        "the first page of children's metadata": _is_page(CHILDREN, metadata=True),
        "a later page of children's metadata": _is_page(CHILDREN, metadata=True, later=True),
        "the watch of children": _is_watch(CHILDREN),
        "the first page of resources": _is_page(RESOURCES),
        "a later page of resources": _is_page(RESOURCES, later=True),
        "the first page of resources' metadata": _is_page(RESOURCES, metadata=True),
        "the watch of resources": _is_watch(RESOURCES),
    }


def _is_watch(resource: str) -> Match:
    return lambda call: call.is_watch and call.path.endswith(f"/{resource}")


def _is_page(resource: str, *, later: bool = False, metadata: bool = False) -> Match:
    def match(call: Call) -> bool:
        accept = call.request.headers.get("Accept", "")
        return (
            (call.method, call.is_watch) == ("GET", False)
            and call.path.endswith(f"/{resource}")
            and ("continue" in call.query) == later
            and ("PartialObject" in accept) == metadata
        )

    return match
