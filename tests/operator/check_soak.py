"""Faults and rest that last: a minute without etcd, every event ten seconds late, ten idle minutes with many resources.

Twenty minutes, most of them idle: ``make soak``. ``make test`` has shorter ones (test_server_away.py, test_watch.py,
test_runtime_life.py).
"""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from stageline_operator.runtime.lease import RENEW_EVERY
from support.kube.api import Object
from support.running.account import user_of
from support.running.scene import Scene, demo
from support.running.survival import assert_gives_up_the_lease, goes_on, heals, settled_writes, uids

ETCD_GONE_SECONDS = 60.0
LATE_SECONDS = 10.0
RESOURCES = 100
IDLE_SECONDS = 600.0


@pytest.mark.timeout(600)
def test_etcd_is_gone_for_a_minute(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    with scene.plane.etcd_stopped():
        end = time.monotonic() + ETCD_GONE_SECONDS
        assert_gives_up_the_lease(operator)
        while time.monotonic() < end:
            assert not operator.is_leading()
            time.sleep(0.5)
    goes_on(scene, operator, before)


@pytest.mark.timeout(600)
def test_every_event_may_come_ten_seconds_late(scene: Scene) -> None:
    """Nothing is made twice meanwhile, and nothing that runs is touched."""
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    proxy.delay_watches(lambda call: True, LATE_SECONDS)
    scene.apply(demo())
    scene.wait_phase("Ready", patience=180)
    before = uids(scene)
    assert sorted(before) == ["demo-0-head-0", "demo-0-s0-0", "demo-0-s1-0"]
    heals(scene, "demo-0-s1-0", "demo-0-s1-1")
    del before["demo-0-s1-0"]
    assert before.items() <= uids(scene).items()
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the second replica", patience=180)
    assert len(uids(scene)) == 6 and before.items() <= uids(scene).items()
    posts = [call for call in proxy.writes() if call.method == "POST" and call.path.endswith("/pods")]
    assert len(posts) == 7, "each pod is made once"
    assert operator.exits == []


@pytest.mark.timeout(1500)
def test_nothing_is_written_in_ten_idle_minutes_with_a_hundred_resources(scene: Scene) -> None:
    """But the Lease."""
    operator = scene.run_operator("--log-level=info")
    for index in range(RESOURCES):
        scene.apply(demo(f"demo-{index}"))

    def are_ready() -> bool:
        bodies = scene.api.list("inferencedeployments", scene.namespace)
        return [each.get("status", {}).get("phase") for each in bodies] == ["Ready"] * RESOURCES

    scene.wait(are_ready, f"{RESOURCES} resources to be ready", patience=300)
    before = settled_writes(scene, seconds=10)
    begin = time.time()
    while time.time() < begin + IDLE_SECONDS:
        time.sleep(5)
        late = scene.writes()[before:]
        assert not late, late
    renewals = [event for event in scene.plane.audit_events(user_of(scene.namespace)) if is_renewal(event, begin)]
    assert len(renewals) > IDLE_SECONDS / (2 * RENEW_EVERY), "the audit log tells of what is written"
    assert operator.exits == [] and operator.is_leading()


def is_renewal(event: Object, since: float) -> bool:
    at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
    return event["verb"] == "update" and event["objectRef"]["resource"] == "leases" and at >= since
