"""What was seen is never replaced by what was before, however events come."""

from __future__ import annotations

from typing import Any

import pytest

from stageline_operator.decide.observed import PodSummary, Stray
from stageline_operator.kube.kinds import POD, RESOURCE, kind_of
from stageline_operator.observe.store import Store

KEY = ("default", "demo")
LABELS = {
    "app.kubernetes.io/managed-by": "stageline-operator",
    "stageline.dev/replica": "0",
    "stageline.dev/role": "stage",
    "stageline.dev/stage": "1",
    "stageline.dev/incarnation": "2",
    "stageline.dev/revision": "abc",
}


def resource(version: int = 1) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "demo", "uid": "owner", "resourceVersion": str(version)}}


def pod(version: int, ready: bool = False, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": "demo-0-s1-2",
            "uid": "pod",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": LABELS if labels is None else labels,
            "ownerReferences": [{"kind": "InferenceDeployment", "name": "demo", "uid": "owner", "controller": True}],
        },
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def seen(store: Store) -> PodSummary:
    (entry,) = store.of_owner("owner")
    assert isinstance(entry.content, PodSummary)
    return entry.content


def store() -> Store:
    made = Store()
    assert made.put(RESOURCE, resource()) == KEY
    return made


def test_a_childs_change_makes_its_owner_dirty_and_an_older_state_does_not() -> None:
    known = store()
    assert known.put(POD, pod(5, ready=True)) == KEY
    assert known.put(POD, pod(5, ready=True)) is None
    assert known.put(POD, pod(4)) is None
    assert seen(known).ready


def test_what_was_deleted_does_not_come_back_with_a_late_event() -> None:
    known = store()
    known.put(POD, pod(5))
    assert known.drop("pod", 7) == KEY
    assert known.put(POD, pod(6)) is None
    assert list(known.of_owner("owner")) == []
    assert known.has_seen("pod", 6) and not known.has_seen("pod", 8)


def test_an_object_that_had_only_lost_its_label_comes_back() -> None:
    """The watch tells of it as deleted, at the version of the change."""
    known = store()
    known.put(POD, pod(5))
    known.drop("pod", 7)
    assert known.put(POD, pod(7)) == KEY


def test_a_late_deletion_does_not_take_a_later_state_away() -> None:
    known = store()
    known.put(POD, pod(9))
    assert known.drop("pod", 7) is None
    assert seen(known).resource_version == "9"


def test_children_of_nobody_make_nobody_dirty() -> None:
    known = Store()
    assert known.put(POD, pod(5)) is None
    assert known.uids(POD, "default") == {"pod"}
    assert known.uids(POD, "elsewhere") == set()


@pytest.mark.parametrize(
    "changed",
    [
        {"stageline.dev/replica": "many"},
        {"stageline.dev/replica": "-1"},
        {"stageline.dev/replica": "10000000000"},
        {"stageline.dev/incarnation": "-5"},
        {"stageline.dev/incarnation": "1000000000000"},
        {"stageline.dev/incarnation": "1"},
        {"stageline.dev/stage": "0"},
        {"stageline.dev/role": "head"},
        {"app.kubernetes.io/managed-by": "me"},
    ],
    ids=str,
)
def test_a_pod_whose_labels_are_not_those_that_it_was_made_with_is_a_stray(changed: dict[str, str]) -> None:
    known = store()
    known.put(POD, pod(5, labels={**LABELS, **changed}))
    (entry,) = known.of_owner("owner")
    assert isinstance(entry.content, Stray)
    assert (entry.content.name, entry.content.uid, entry.content.resource_version) == ("demo-0-s1-2", "pod", "5")


def test_a_resource_that_is_made_anew_under_its_name_keeps_its_own_children() -> None:
    known = store()
    known.put(POD, pod(5))
    anew = resource(9)
    anew["metadata"]["uid"] = "anew"
    known.put(RESOURCE, anew)
    known.drop("owner", 8)
    assert known.resources == {KEY: "anew"}
    assert list(known.of_owner("anew")) == []


def test_numbers_of_a_pod_come_from_its_labels() -> None:
    known = store()
    known.put(POD, pod(5))
    summary = seen(known)
    assert (summary.replica, summary.stage, summary.incarnation, summary.is_head) == (0, 1, 2, False)


def test_pod_groups_of_any_scheduler_are_known_by_their_api() -> None:
    assert kind_of("scheduling.volcano.sh/v1beta1", "PodGroup").group == "scheduling.volcano.sh"
    assert kind_of("v1", "Pod") is POD


def test_a_list_forgets_what_it_does_not_have_but_not_what_was_made_since() -> None:
    known = store()
    known.put(POD, pod(5))
    made_since = pod(9)
    made_since["metadata"] |= {
        "uid": "later",
        "name": "demo-0-s1-3",
        "labels": LABELS | {"stageline.dev/incarnation": "3"},
    }
    known.put(POD, made_since)
    assert known.drop_unlisted(POD, "elsewhere", set(), 7) == []
    assert known.drop_unlisted(POD, "default", set(), 7) == [KEY]
    assert seen(known).uid == "later"
    assert known.put(POD, pod(5)) is None, "what was forgotten does not come back by an event that was under way"


def test_a_list_keeps_what_it_has() -> None:
    known = store()
    known.put(POD, pod(5))
    assert known.drop_unlisted(POD, None, {"pod"}, 7) == []
    assert seen(known).uid == "pod"
