"""Our engine with one stage against transformers' `generate` in static batches, in turn, as ratios of throughput.

    python tests/bench/vs_transformers.py MODEL [--rounds 3] [--threads 2] [--workloads W1,W2]

Both get the same token ids, float32, the same number of threads, greedy choice, and go on past end-of-sequence.
`generate` gets all requests of a workload as one batch (padded on the left where lengths differ) and runs in a process
of its own, which is gone before the engine starts, and the other way round. Loading and a warm-up are not timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

from stageline_engine.bench.runner import check_lengths, run_session
from stageline_engine.bench.workloads import WARM_UP, SyntheticRequest, Workload, parse_workloads
from stageline_engine.cli.console import Progress
from stageline_engine.client.launch import Launch, prepare
from stageline_engine.core.config import EngineConfig, ModelConfig, ParallelConfig

PAD = 0
"""Masked wherever it stands, so any id will do."""


def static_batch(model: transformers.PreTrainedModel, requests: list[SyntheticRequest]) -> float:
    """Seconds that `generate` takes for all requests as one batch (as long as its longest output)."""
    longest = max(len(request.prompt_token_ids) for request in requests)
    num_new = max(request.output_tokens for request in requests)
    pads = [longest - len(request.prompt_token_ids) for request in requests]
    ids_BT = torch.tensor([[PAD] * pad + request.prompt_token_ids for pad, request in zip(pads, requests, strict=True)])
    mask_BT = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
    began = time.perf_counter()
    output_BT = model.generate(
        ids_BT,
        attention_mask=mask_BT,
        do_sample=False,
        min_new_tokens=num_new,
        max_new_tokens=num_new,
        pad_token_id=PAD,
    )
    seconds = time.perf_counter() - began
    assert output_BT.shape == (len(requests), longest + num_new)
    return seconds


def run_transformers(folder: str, threads: int, workloads: list[Workload], round_: int) -> dict[str, float]:
    """Output tokens per second by workload."""
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    static_batch(model, WARM_UP.requests(0, round_))
    found = {}
    for workload in workloads:
        requests = workload.requests(0, round_)
        found[workload.name] = sum(request.output_tokens for request in requests) / static_batch(model, requests)
    return found


def in_process_of_its_own(folder: str, arguments: argparse.Namespace, round_: int) -> dict[str, float]:
    """The same, in a new process that is gone afterwards."""
    command = [sys.executable, __file__, folder, "--only-transformers-round", str(round_)]
    flags = ["--threads", str(arguments.threads), "--workloads", arguments.workloads]
    done = subprocess.run([*command, *flags], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run_engine(launch: Launch, workloads: list[Workload], round_: int, say: Progress) -> dict[str, float]:
    """Output tokens per second by workload."""
    session = asyncio.run(run_session(launch.setup, workloads, range(round_, round_ + 1), 0, say))
    return {name: rounds[0].figures.throughput for name, rounds in session.rounds.items()}


def compare(arguments: argparse.Namespace, workloads: list[Workload]) -> None:
    """Run both in turn and print each round, then the median ratio with its spread."""
    say = Progress()
    config = EngineConfig(
        model=ModelConfig(model=arguments.model, dtype="float32"), parallel=ParallelConfig(threads=arguments.threads)
    )
    launch = prepare(config, say)
    check_lengths(workloads, launch.setup.max_model_len)
    ratios: dict[str, list[float]] = {workload.name: [] for workload in workloads}
    for round_ in range(arguments.rounds):
        ours = run_engine(launch, workloads, round_, say)
        say(f"round {round_ + 1}: transformers")
        theirs = in_process_of_its_own(str(launch.folder.path), arguments, round_)
        for name, found in ratios.items():
            found.append(ours[name] / theirs[name])
            print(
                f"round {round_ + 1} {name}: stageline {ours[name]:.1f} tok/s, "
                f"transformers {theirs[name]:.1f} tok/s, ratio {found[-1]:.3f}",
                flush=True,
            )
    for name, found in ratios.items():
        print(f"{name}: ratio {statistics.median(found):.3f} ({min(found):.3f} … {max(found):.3f})")
    if arguments.json is not None:
        summary = {
            name: {"median": statistics.median(found), "min": min(found), "max": max(found), "rounds": found}
            for name, found in ratios.items()
        }
        arguments.json.write_text(json.dumps({"ratios": summary}, indent=2) + "\n")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as for stageline serve")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workloads", default="W1,W2")
    parser.add_argument("--json", type=Path, help="file to write the ratios to")
    parser.add_argument("--only-transformers-round", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    workloads = parse_workloads(arguments.workloads)
    if arguments.only_transformers_round is None:
        compare(arguments, workloads)
    else:
        print(
            json.dumps(
                run_transformers(arguments.model, arguments.threads, workloads, arguments.only_transformers_round)
            )
        )


if __name__ == "__main__":
    main()
