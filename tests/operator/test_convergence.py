"""From any state that a cluster can be brought into, the operator comes to what the spec asks for, and then writes
nothing. What must hold for each single decision is checked on the way: see support.operator.invariants."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from support.operator import pods as pod_states
from support.operator.shape import shape_of
from support.operator.simulation import Simulation, resource

ANY = st.integers(min_value=0, max_value=1_000)
"""Chooses one of however many there are."""


class Cluster(RuleBasedStateMachine):
    """A resource, and everything that may befall it in any order."""

    @initialize(replicas=st.integers(0, 3), surge=st.integers(0, 2), missing=st.integers(0, 2))
    def begin(self, replicas: int, surge: int, missing: int) -> None:
        rollout = {"maxSurge": max(surge, 1 - missing), "maxUnavailable": missing}
        restart = {"budget": {"crash": 2, "nodeLost": 3}, "backoffSeconds": 2}
        self.simulation = Simulation(resource(replicas=replicas, rollout=rollout, restart=restart))

    # -- the operator and the world go on ----------------------------------------------------------------------------

    @rule()
    def operator_runs(self) -> None:
        self.simulation.reconcile()

    @rule(after=st.integers(0, 12))
    def operator_dies(self, after: int) -> None:
        self.simulation.reconcile(crash_after=after)

    @rule()
    def world_goes_on(self) -> None:
        self.simulation.advance()

    @rule()
    def both_go_on_for_a_while(self) -> None:
        for _ in range(6):
            self.simulation.reconcile()
            self.simulation.advance()

    @rule(seconds=st.sampled_from((1, 7, 45, 700)))
    def time_passes(self, seconds: int) -> None:
        self.simulation.now += seconds
        self.simulation.reconcile()

    # -- a person ----------------------------------------------------------------------------------------------------

    @rule(replicas=st.integers(0, 3))
    def person_scales(self, replicas: int) -> None:
        self.simulation.change(replicas=replicas)

    @rule(tag=st.integers(1, 3))
    def person_changes_image(self, tag: int) -> None:
        self.simulation.change(image=f"example/stageline:{tag}")

    @rule(stages=st.integers(1, 3))
    def person_changes_stages(self, stages: int) -> None:
        self.simulation.change(pipeline={"stages": stages})

    @rule(paused=st.booleans())
    def person_pauses(self, paused: bool) -> None:
        self.simulation.change(rollout={**self.simulation.body["spec"]["rollout"], "paused": paused})

    @rule(which=ANY)
    def person_deletes_an_object(self, which: int) -> None:
        # The content of an earlier revision is nowhere else: nothing can bring it back.
        keys = sorted(key for key in self.simulation.children if key[0] != "ControllerRevision")
        if keys:
            del self.simulation.children[keys[which % len(keys)]]
            self.simulation.is_dirty = True

    @rule(which=ANY)
    def person_deletes_a_pod(self, which: int) -> None:
        names = sorted(self.simulation.pods)
        if names:
            self.simulation.delete_pod(names[which % len(names)])

    # -- misfortune --------------------------------------------------------------------------------------------------

    @rule(which=ANY, exit_code=st.sampled_from((1, 2, 75, 137)))
    def container_ends(self, which: int, exit_code: int) -> None:
        running = sorted(pod.name for pod in self.simulation.pods.values() if pod.phase == "Running")
        if running:
            pod = self.simulation.pods[running[which % len(running)]]
            self.simulation.set_pod(pod_states.restarted(pod, exit_code, self.simulation.now))

    @rule(which=ANY)
    def pod_is_evicted(self, which: int) -> None:
        placed = sorted(pod.name for pod in self.simulation.pods.values() if pod.scheduled_at and not pod.has_ended)
        if placed:
            pod = self.simulation.pods[placed[which % len(placed)]]
            self.simulation.set_pod(pod_states.failed(pod, self.simulation.now, "Evicted"))

    @rule(which=ANY)
    def node_is_lost(self, which: int) -> None:
        placed = sorted(pod.name for pod in self.simulation.pods.values() if pod.scheduled_at and pod.gone_at is None)
        if placed:
            name = placed[which % len(placed)]
            self.simulation.stopped_nodes.add(self.simulation.pods[name].node)
            self.simulation.delete_pod(name, "DeletionByTaintManager")

    @rule(fits=st.integers(0, 12))
    def cluster_is_full(self, fits: int) -> None:
        self.simulation.fits = fits

    # -- and in the end ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        simulation = self.simulation
        simulation.fits = 10_000
        simulation.change(rollout={**simulation.body["spec"]["rollout"], "paused": False})
        simulation.settle()
        fresh = Simulation(resource(**simulation.body["spec"]))
        fresh.settle()
        status = simulation.body["status"]
        failed = [entry for entry in status["replicaList"] if entry["phase"] == "Failed"]
        # A roll-out that stopped keeps old replicas in the place of those that failed.
        assert status["readyReplicas"] + len(failed) >= simulation.body["spec"]["replicas"], status["reason"]
        if not failed:
            assert status["readyReplicas"] == simulation.body["spec"]["replicas"], status["reason"]
            assert _without_old_revisions(simulation) == _without_old_revisions(fresh)
        simulation.now += 10_000
        assert simulation.decide().actions == (), "it goes on writing"


def _without_old_revisions(simulation: Simulation) -> list[str]:
    current = simulation.plan().current.revision
    return [
        text
        for text in shape_of(simulation)
        if '"kind": "ControllerRevision"' not in text or re.search(f'"name": "[^"]*-{current}"', text)
    ]


TestConvergence = Cluster.TestCase
TestConvergence.settings = settings(
    max_examples=40,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a failure shows its own steps; shrinking takes minutes
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
