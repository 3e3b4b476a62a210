"""Short ways to make what the scheduler's tests need."""

from __future__ import annotations

from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.core.messages import AddRequest, SampledToken, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.scheduler.predictor import StepTimePredictor
from stageline_engine.scheduler.scheduler import ScheduledStep, Scheduler, SchedulerLimits


def make_scheduler(
    *,
    slots: int = 1,
    stages: int = 1,
    num_blocks: int = 1000,
    block_size: int = 16,
    budget: int = 256,
    max_num_seqs: int = 64,
    max_model_len: int = 2048,
    max_waiting: int = 1000,
    prefix_caching: bool = True,
) -> Scheduler:
    """A scheduler with room for everything unless told otherwise."""
    limits = SchedulerLimits(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        slots=slots,
        max_waiting=max_waiting,
    )
    allocator = BlockAllocator(num_blocks, block_size, prefix_caching)
    return Scheduler(limits, allocator, StepTimePredictor(stages), epoch=1, num_stages=stages)


def make_request(
    name: str,
    prompt: int | list[int],
    max_tokens: int | None = 16,
    *,
    n: int = 1,
    stop_token_ids: tuple[int, ...] = (),
    prompt_logprobs: int | None = None,
    ignore_eos: bool = False,
) -> AddRequest:
    """A request; an integer prompt stands for so many tokens that no other name shares."""
    if isinstance(prompt, int):
        base = sum(ord(letter) * 131**index for index, letter in enumerate(name)) % 1_000_003
        prompt = [(base * 7919 + index * 104_729) % 2**31 for index in range(prompt)]
    sampling = SamplingParams(
        max_tokens=max_tokens,
        n=n,
        seed=0,
        stop_token_ids=stop_token_ids,
        prompt_logprobs=prompt_logprobs,
        ignore_eos=ignore_eos,
    )
    return AddRequest(name, prompt, sampling)


def plan(scheduler: Scheduler) -> ScheduledStep:
    """The next step, which there has to be; the scheduler's books are checked."""
    scheduled = scheduler.plan(0.0)
    assert scheduled is not None
    scheduler.check()
    return scheduled


def result_of(scheduled: ScheduledStep, *tokens: int) -> StepResult:
    """Tokens for the segments that sample, in order; missing ones are 100."""
    sampling = [segment.seq for segment in scheduled.plan.segments if segment.samples]
    chosen = [*tokens, *[100] * (len(sampling) - len(tokens))]
    sampled = [SampledToken(seq, token) for seq, token in zip(sampling, chosen, strict=True)]
    return StepResult(scheduled.plan.epoch, scheduled.plan.step, scheduled.plan.slot, sampled)


def run(scheduler: Scheduler) -> list[ScheduledStep]:
    """Until nothing is left; every token is 100."""
    steps = []
    while scheduler.has_work:
        scheduled = plan(scheduler)
        steps.append(scheduled)
        scheduler.complete(result_of(scheduled), 0.0)
        scheduler.check()
    return steps
