"""Whether a Ray cluster has room for a pipeline, and what is said if not."""

from __future__ import annotations

from stageline_engine.ray_cluster.messages import StageNeeds
from stageline_engine.ray_cluster.room import what_is_missing


def test_stages_that_fit_miss_nothing() -> None:
    nodes = {"10.0.0.1": {"GPU": 2.0, "CPU": 8.0}, "10.0.0.2": {"GPU": 1.0, "CPU": 8.0}}
    assert what_is_missing([StageNeeds(cpus=1, gpus=1)] * 3, nodes) is None


def test_a_large_stage_is_placed_before_small_ones_take_its_machine() -> None:
    nodes = {"10.0.0.1": {"GPU": 2.0, "CPU": 8.0}, "10.0.0.2": {"GPU": 1.0, "CPU": 8.0}}
    assert what_is_missing([StageNeeds(cpus=1, gpus=1), StageNeeds(cpus=1, gpus=2)], nodes) is None


def test_gpus_of_several_machines_do_not_make_one_stage() -> None:
    nodes = {"10.0.0.1": {"GPU": 1.0, "CPU": 8.0}, "10.0.0.2": {"GPU": 1.0, "CPU": 8.0}}
    missing = what_is_missing([StageNeeds(cpus=1, gpus=2)], nodes)
    assert missing is not None
    assert missing == (
        "stage 0 needs 2 GPUs and 1 CPU on one machine, and the 2 machines of the Ray cluster have left:"
        " 10.0.0.1 1 GPU and 8 CPUs; 10.0.0.2 1 GPU and 8 CPUs"
    )


def test_what_other_stages_took_is_counted() -> None:
    missing = what_is_missing([StageNeeds(cpus=2, gpus=0)] * 3, {"10.0.0.1": {"CPU": 4.0}})
    assert missing == (
        "stage 2 needs 0 GPUs and 2 CPUs on one machine, and with 2 other stages placed the 1 machine of the Ray"
        " cluster has left: 10.0.0.1 0 GPUs and 0 CPUs"
    )
