"""Host work of the engine core for one step, at 32 decode rows: all but the sockets and the stages.

    python tests/bench/host_work.py [--rows 32] [--steps 2000] [--stages 2] [--slots 1]

Prints microseconds (median, p95) of each part: the scheduler's plan, its encoding, the result's decoding, the
scheduler's books, the encoding of what goes to the client, the stages' reports; their sum; bytes of an encoded plan.
``--slots M`` gives each slot ``rows``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import msgspec

from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.core.messages import AddRequest, Outputs, SampledToken, StepPlan, StepReport, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.scheduler.predictor import StepTimePredictor
from stageline_engine.scheduler.scheduler import Scheduler, SchedulerLimits


def answer(plan: StepPlan) -> StepResult:
    """A result that ends no sequence."""
    tokens = [SampledToken(segment.seq, 7 + plan.step % 100) for segment in plan.segments if segment.samples]
    return StepResult(plan.epoch, plan.step, plan.slot, tokens)


def measure(rows: int, steps: int, stages: int, slots: int) -> dict[str, list[float]]:
    """Microseconds by part, one number for each steady step."""
    num_seqs = rows * slots
    limits = SchedulerLimits(
        max_num_seqs=num_seqs, max_num_batched_tokens=256, max_model_len=steps + 1000, slots=slots, max_waiting=num_seqs
    )
    allocator = BlockAllocator(num_seqs * (steps + 1000) // 16 + 1, 16)
    scheduler = Scheduler(limits, allocator, StepTimePredictor(stages), num_stages=stages)
    for number in range(num_seqs):
        prompt = [number] * 64
        scheduler.add(AddRequest(f"r{number}", prompt, SamplingParams(max_tokens=None, seed=0)), (2,))
    parts = ("plan", "encode plan", "decode result", "complete", "encode outputs", "observe")
    times: dict[str, list[float]] = {part: [] for part in (*parts, "bytes of a plan")}
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(StepResult)
    in_flight: list[bytes] = []
    while len(times["plan"]) < steps // 2:
        start = time.perf_counter()
        scheduled = scheduler.plan(start)
        planned = time.perf_counter()
        if scheduled is not None:
            sent = encoder.encode(scheduled.plan)
            encoded = time.perf_counter()
            in_flight.append(encoder.encode(answer(scheduled.plan)))
            if len(scheduled.plan.segments) == rows and scheduled.plan.num_rows == rows:
                times["plan"].append(1e6 * (planned - start))
                times["encode plan"].append(1e6 * (encoded - planned))
                times["bytes of a plan"].append(len(sent))
            continue
        arrived = in_flight.pop(0)
        start = time.perf_counter()
        result = decoder.decode(arrived)
        decoded = time.perf_counter()
        outputs = scheduler.complete(result, decoded)
        completed = time.perf_counter()
        encoder.encode(Outputs(outputs))
        emitted = time.perf_counter()
        for stage in range(stages):
            scheduler.observe(StepReport(1, result.step, stage, 0.05, 0.0, 0.0, 0.0, 0.0, 0))
        observed = time.perf_counter()
        if len(result.tokens) == rows:
            times["decode result"].append(1e6 * (decoded - start))
            times["complete"].append(1e6 * (completed - decoded))
            times["encode outputs"].append(1e6 * (emitted - completed))
            times["observe"].append(1e6 * (observed - emitted))
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--slots", type=int, default=1)
    arguments = parser.parse_args()
    times = measure(arguments.rows, arguments.steps, arguments.stages, arguments.slots)
    in_bytes = times.pop("bytes of a plan")
    times["sum"] = [sum(step) for step in zip(*times.values(), strict=False)]
    times["bytes of a plan"] = in_bytes
    for part, values in times.items():
        ordered = sorted(values)
        print(f"{part:16} median {statistics.median(ordered):7.1f}   p95 {ordered[int(0.95 * len(ordered))]:7.1f}")


if __name__ == "__main__":
    main()
