"""One writer: two operators, one Lease, and every way in which the one that leads may be lost."""

from __future__ import annotations

import threading
import time
from datetime import datetime

from stageline_operator.handlers import serve
from stageline_operator.runtime import lease
from support.kube.api import Object
from support.running.account import user_of
from support.running.faulty_proxy import Call, hang, lose_answer, reset
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo

LEASE = "stageline-operator"


def holder(scene: Scene) -> str:
    found = scene.api.find("leases", LEASE, scene.namespace)
    return str(((found or {}).get("spec") or {}).get("holderIdentity") or "")


def pair(scene: Scene) -> tuple[OperatorProcess, OperatorProcess]:
    """Two operators, the first of which leads."""
    return scene.run_operator(name="first"), scene.run_standby("second")


def seconds_of(event: Object, stamp: str = "requestReceivedTimestamp") -> float:
    return datetime.fromisoformat(event[stamp]).timestamp()


def periods(scene: Scene) -> list[tuple[str, float, float]]:
    """Who led from when to when, by the Lease as the API server stored it, with the end of its last term."""
    terms: list[tuple[str, float, float]] = []
    for event in scene.plane.audit_events(user=user_of(scene.namespace)):
        body = event.get("requestObject")
        is_stored = event.get("responseStatus", {}).get("code", 500) < 300
        if event.get("objectRef", {}).get("resource") != "leases" or body is None or not is_stored:
            continue
        who, at = body["spec"]["holderIdentity"], seconds_of(event, "stageTimestamp")
        if terms and terms[-1][0] == who:
            terms[-1] = (who, terms[-1][1], at)
        else:
            terms.append((who, at, at))
    return [term for term in terms if term[0]]


CLEAN_SECONDS = 5.0
"""From a leader's SIGTERM until another leads."""
KILLED_SECONDS = 20.0
"""From a leader's sudden end until another leads."""


def test_the_timeouts_leave_room_for_the_limits_of_a_takeover() -> None:
    """What a process may wait for, one after the other, when the API server answers at once."""
    assert serve.WRITERS_SECONDS + lease.RETRY_EVERY <= CLEAN_SECONDS - 1
    # It sees the last renewal up to one try late, and the end of the term up to another.
    assert lease.DURATION + 2 * lease.RETRY_EVERY <= KILLED_SECONDS - lease.CALL_SECONDS
    assert lease.RENEW_WITHIN + lease.CALL_SECONDS < lease.DURATION, "writers end before another leads"
    assert lease.RENEW_EVERY + 2 * lease.CALL_SECONDS < lease.RENEW_WITHIN, "one lost renewal is not the end"


def test_the_second_waits_and_takes_over_when_the_first_is_asked_to_go(scene: Scene) -> None:
    first, second = pair(scene)
    scene.apply(demo())
    scene.wait_phase("Ready")
    assert holder(scene) == "first" and not second.is_leading()
    first.ask_to_stop()
    second.wait_leading(CLEAN_SECONDS)
    assert first.stop() == 0
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the second to work")


def test_the_second_takes_over_from_one_that_was_killed(scene: Scene) -> None:
    first, second = pair(scene)
    scene.apply(demo())
    scene.wait_phase("Ready")
    first.kill()
    second.wait_leading(KILLED_SECONDS)
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the second to work")


def test_a_leader_that_was_stopped_for_long_writes_nothing_when_it_wakes(scene: Scene) -> None:
    first, second = pair(scene)
    scene.apply(demo())
    scene.wait_phase("Ready")
    first.freeze()
    second.wait_leading()
    taken = time.time()
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the second to work")
    # Twice the lease, counted from the freeze: the second waited for the first half of it.
    while time.time() - taken < 15:
        time.sleep(0.2)
    exits = len(first.exits)
    first.thaw()
    scene.wait(lambda: len(first.exits) > exits, "the first to notice and end")
    assert first.exits[-1] == 1
    assert holder(scene) == "second"
    leaders = [who for who, _, _ in periods(scene)]
    assert leaders == ["first", "second"]
    assert all(not is_of(event, first) for event in scene.writes() if seconds_of(event) > taken)


def is_of(event: Object, operator: OperatorProcess) -> bool:
    """A write of that process: each has connections of its own."""
    return bool(event["userAgent"] == f"stageline-operator/{operator.name}")


def test_a_renewal_whose_connection_is_reset_is_tried_again(scene: Scene) -> None:
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    rule = proxy.add(lambda call: call.is_lease and call.method == "PUT", reset, times=2)
    scene.wait(lambda: rule.count == 2, "two resets")
    renewals = len([call for call in proxy.calls if call.is_lease])
    scene.wait(lambda: len([c for c in proxy.calls if c.is_lease]) > renewals + 2, "further renewals")
    assert operator.is_leading() and operator.exits == []


def test_a_renewal_whose_answer_is_lost_is_recognised_as_our_own(scene: Scene) -> None:
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    rule = proxy.add(lambda call: call.is_lease and call.method == "PUT", lose_answer, times=1)
    scene.wait(lambda: rule.count == 1, "a lost answer")
    renewals = len([call for call in proxy.calls if call.is_lease])
    scene.wait(lambda: len([c for c in proxy.calls if c.is_lease]) > renewals + 3, "further renewals")
    assert operator.is_leading() and operator.exits == []


def test_a_leader_whose_renewals_hang_stops_writing_before_another_leads(scene: Scene) -> None:
    proxy = scene.proxy()
    first = scene.run_operator(name="first", proxy=proxy)
    second = scene.run_standby("second")
    scene.apply(demo())
    scene.wait_phase("Ready")
    proxy.add(lambda call: call.is_lease, hang)
    stop = threading.Event()

    def keep_busy() -> None:
        """Without this a leader that goes on would have nothing to write."""
        count = 0
        while not stop.wait(0.2):
            count += 1
            scene.change(rollout={"revisionHistory": count % 5 + 1})

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        scene.wait(lambda: 1 in first.exits, "the first to end")
        second.wait_leading()
    finally:
        stop.set()
        busy.join()
    starts = {who: at for who, at, _ in periods(scene)}
    assert set(starts) >= {"first", "second"}
    late = [call for call in writes_after(scene, starts["second"]) if is_of(call, first)]
    assert late == []


def writes_after(scene: Scene, at: float) -> list[Object]:
    return [event for event in scene.writes() if seconds_of(event) > at]


def test_a_lease_that_somebody_deletes_ends_the_leader_and_is_made_anew(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.api.delete("leases", LEASE, scene.namespace)
    scene.wait(lambda: 1 in operator.exits, "the leader to end")
    operator.wait_leading()
    assert holder(scene) == "operator"


def test_a_container_that_is_restarted_leads_again_at_once(scene: Scene) -> None:
    """Its pod's uid is still in the Lease: nobody else can have it."""
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    tries = count_lease_reads(proxy.calls)
    operator.crash()
    scene.wait(lambda: operator.exits == [-9], "the crash")
    operator.wait_leading()
    assert count_lease_reads(proxy.calls) <= tries + 2


def count_lease_reads(calls: list[Call]) -> int:
    return sum(call.is_lease and call.method == "GET" for call in calls)
