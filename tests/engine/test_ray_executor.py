"""`stageline serve --executor ray` with a node for each stage, as in pods: Ray beside it, and on the way of nothing."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from stageline_engine.cli.options import ControlOptions, EngineOptions, control_config, engine_config
from stageline_engine.core.errors import ConfigurationError
from support import ray_machines
from support.nodes import CONTROL_PORT, Nodes, probe, wait_all_dead
from support.processes import nothing_left
from support.ray_machines import foreign_ray
from support.serving import Served, serving
from support.tiny_models import parity_prompts, reference_greedy, tiny_model

MAX_TOKENS = 8
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_machines.TOKEN}
FLAGS = ("--max-model-len", "128", "--kv-memory", "16MiB", "--threads", "1", "--served-model-name", "tiny")


@contextlib.contextmanager
def replica(nodes: Nodes, *flags: str) -> Iterator[Served]:
    """A head, and a node for each of its two stages."""
    control = ("--executor", "ray", "--control-port", str(CONTROL_PORT), "--keys", str(nodes.keys))
    env = {**TOKEN, "STAGELINE_POD_IP": nodes.network.address}
    with serving(tiny_model("llama"), "--stages", "2", "--tp", "2,1", *FLAGS, *control, *flags, env=env) as served:
        nodes.start(0, tp=2, env=TOKEN)
        nodes.start(1, env=TOKEN)
        served.wait_ready(timeout=240)
        yield served


def test_a_pipeline_over_two_machines_gives_the_tokens_of_transformers_and_names_a_lost_one(nodes: Nodes) -> None:
    folder = tiny_model("llama")
    (prompt,) = parity_prompts(folder, (9,), MAX_TOKENS)
    (tokens,) = reference_greedy(folder, [prompt], MAX_TOKENS)
    with replica(nodes) as served:
        with served.client() as client:
            body = {"model": "tiny", "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0, "ignore_eos": True}
            (choice,) = client.post("/v1/completions", json=body).json()["choices"]
        assert choice["text"] == Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens)
        for machine in nodes.network.machines:
            assert probe(machine, "/ready") == (200, "ok")

        survivor, victim = nodes.started
        family = [*served.family(), *victim.family()[1:]]
        victim.signal(signal.SIGKILL)
        assert served.wait_exit() == 75
        assert "stage 1 rank 0: pod-1 at" in served.log
        wait_all_dead(family)
    survivor.wait_line("the head ends: stage 1 rank 0: pod-1")
    family = survivor.family()
    survivor.signal(signal.SIGTERM)
    assert survivor.wait_exit() == 0
    wait_all_dead(family)


@pytest.mark.timeout(800)
def test_ray_has_an_actor_for_each_stage_on_its_machine_and_ends_with_the_replica(nodes: Nodes) -> None:
    with replica(nodes) as served:
        for stage, machine in enumerate(nodes.network.machines):
            # Three Rays start on one machine here, beside two stages.
            served.wait_line(f"stage {stage}: its actor runs at {machine.address}", timeout=400)

        # Ray's head dies: the stages go on without it, and have other actors by and by.
        (gcs,) = [process for process in served.family() if "gcs_server" in process.name()]
        gcs.kill()
        served.wait_line("its head has ended; the stages go on without it")
        with served.client() as client:
            body = {"model": "tiny", "prompt": [5, 9, 2], "max_tokens": 4}
            assert client.post("/v1/completions", json=body).status_code == 200
        served.wait_lines("stage 1: its actor runs at", 2, timeout=400)

        family = [process for one in (served, *nodes.started) for process in one.family()]
        served.signal(signal.SIGTERM)
        assert served.wait_exit() == 0
        assert [node.wait_exit() for node in nodes.started] == [0, 0]
        wait_all_dead(family)


@pytest.mark.timeout(800)
def test_stages_find_machines_with_room_in_a_ray_that_is_there() -> None:
    folder = tiny_model("llama")
    (prompt,) = parity_prompts(folder, (9,), MAX_TOKENS)
    (tokens,) = reference_greedy(folder, [prompt], MAX_TOKENS)
    with nothing_left(), foreign_ray(cpus=1) as ray, contextlib.ExitStack() as leave:
        control = ("--executor", "ray", "--control-port", str(CONTROL_PORT), "--ray-address", ray.address)
        with ray.network.machines[0].entered():
            refused = leave.enter_context(serving(folder, "--stages", "1", "--tp", "2", *FLAGS, *control, env=TOKEN))
            assert refused.wait_exit() == 2
            assert f"--ray-address='{ray.address}': stage 0 needs 0 GPUs and 2 CPUs on one machine" in refused.log

            served = leave.enter_context(serving(folder, "--stages", "2", *FLAGS, *control, env=TOKEN))
            served.wait_ready(timeout=400)
            with served.client() as client:
                body = {"model": "tiny", "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
                (choice,) = client.post("/v1/completions", json={**body, "ignore_eos": True}).json()["choices"]
        assert choice["text"] == Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens)
        rooms = [line.rpartition(" ")[2] for line in served.lines if "Ray has room for it at" in line]
        assert sorted(rooms) == ray.network.addresses
        served.signal(signal.SIGTERM)
        assert served.wait_exit() == 0


@pytest.mark.parametrize(
    ("executor", "control", "words"),
    [
        ("local", ControlOptions(control_port=7400), "--control-port=7400: only --executor ray"),
        ("local", ControlOptions(keys=Path("/keys")), "--keys='/keys': only --executor ray"),
        ("inline", ControlOptions(ray_address="a:1"), "--ray-address='a:1': only --executor ray"),
        ("ray", ControlOptions(), "--control-port=None: give the port"),
        ("ray", ControlOptions(control_port=7400), "--keys=None: give the folder"),
        ("ray", ControlOptions(control_port=70000, ray_address="127.0.0.1:1"), "--control-port=70000: give a number"),
        ("ray", ControlOptions(control_port=7400, keys=Path("/keys")), "--keys='/keys/curve.key': No such file"),
        ("ray", ControlOptions(control_port=7400, ray_address="nowhere"), "--ray-address='nowhere': write HOST:PORT"),
    ],
)
def test_flags_of_other_machines_that_do_not_fit_are_refused(
    executor: str, control: ControlOptions, words: str
) -> None:
    options = EngineOptions(executor=executor)
    with pytest.raises(ConfigurationError) as caught:
        engine_config("m", options, control_config(control, executor, "127.0.0.1"))
    assert words in str(caught.value)


def test_an_executor_of_other_machines_needs_to_be_found() -> None:
    with pytest.raises(ConfigurationError, match="--executor='ray'.*--control-port"):
        engine_config("m", EngineOptions(executor="ray"))
