"""The API server or its etcd goes away and comes back: nothing that runs is touched, and work goes on afterwards."""

from __future__ import annotations

from support.running.scene import Scene, demo
from support.running.survival import assert_gives_up_the_lease, goes_on, uids


def test_the_api_server_is_restarted(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    scene.plane.restart_api()
    goes_on(scene, operator, before)


def test_etcd_is_gone_for_longer_than_the_lease(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    with scene.plane.etcd_stopped():
        assert_gives_up_the_lease(operator)
    goes_on(scene, operator, before)


def test_an_api_server_that_answers_nothing_ends_the_leader(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    with scene.plane.api_frozen():
        assert_gives_up_the_lease(operator)
    goes_on(scene, operator, before)
