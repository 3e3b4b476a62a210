"""Whatever arrives, in whatever order: the mirror finds no wrong row, books balance, and every request ends right."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stageline_engine.core.errors import InvalidRequestError, OverloadedError
from stageline_engine.core.messages import AddRequest, SequenceOutput, StepReport, StepResult, TokenLogprobs
from support.mirror import StageMirror, logprob_of, next_token
from support.scheduling import make_request, make_scheduler

EOS = 3
VOCAB = 24


@dataclass
class Expected:
    """What one choice has to become, and what came of it."""

    request: AddRequest
    choice: int
    token_ids: list[int] = field(default_factory=list)
    finish: str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None


class World:
    """A scheduler, its mirror, and results on their way back."""

    def __init__(self, shape: dict[str, int], prefix_caching: bool) -> None:
        self.slots = shape["slots"]
        self.max_model_len = shape["max_model_len"]
        self.capacity = (shape["num_blocks"] - 1) * shape["block_size"]
        self.scheduler = make_scheduler(**shape, prefix_caching=prefix_caching)
        self.mirror = StageMirror(shape["num_blocks"], shape["block_size"], shape["budget"], self.slots, VOCAB)
        self.results: deque[StepResult] = deque()
        self.choices: dict[tuple[str, int], Expected] = {}
        self.stages = shape["stages"]
        self.now = 0.0

    def add(self, request: AddRequest) -> None:
        try:
            self.scheduler.add(request, (EOS,))
        except InvalidRequestError:
            longest = min(self.max_model_len, self.capacity + 1)
            assert len(request.prompt_token_ids) + 1 > longest
        except OverloadedError as error:
            assert error.retry_after >= 1
        else:
            for choice in range(request.sampling.n):
                self.choices[request.request_id, choice] = Expected(request, choice)

    def plan(self) -> bool:
        scheduled = self.scheduler.plan(self.now)
        self.scheduler.check()
        if scheduled is None:
            return False
        self.results.append(self.mirror.execute(scheduled))
        assert len(self.results) <= self.slots + 1
        in_flight = Counter(sampled.seq for result in self.results for sampled in result.tokens)
        assert max(in_flight.values(), default=0) <= 2, "more than one row ahead of a token in flight"
        for stage in range(self.stages):
            busy = 0.001 * scheduled.plan.num_rows
            report = StepReport(scheduled.plan.epoch, scheduled.plan.step, stage, busy, 0.0, 0.0, 0.0, 0.0, 0)
            self.scheduler.observe(report)
        return True

    def deliver(self, index: int = 0) -> None:
        """Hand back the result at ``index`` of those outstanding, even before older ones."""
        self.now += 0.01
        result = self.results[index]
        del self.results[index]
        for output in self.scheduler.complete(result, self.now):
            self.book(output)
        self.scheduler.check()

    def abort(self, name: str, choices: list[int] | None) -> None:
        for output in self.scheduler.abort(name, choices):
            assert output.finish_reason == "abort"
            assert not output.token_ids
            self.book(output)
        self.scheduler.check()

    def reset(self) -> None:
        self.results.clear()
        epoch = self.scheduler.epoch + 1
        self.scheduler.reset(epoch)
        self.mirror.reset(epoch)
        self.scheduler.check()

    def book(self, output: SequenceOutput) -> None:
        expected = self.choices[output.request_id, output.choice]
        assert expected.finish is None, "an output after the end"
        expected.token_ids += output.token_ids
        expected.finish = output.finish_reason
        assert 0 <= output.num_cached_tokens < len(expected.request.prompt_token_ids)
        if output.prompt_logprobs:
            assert expected.prompt_logprobs is None, "prompt logprobs twice"
            expected.prompt_logprobs = output.prompt_logprobs

    def drain(self) -> None:
        """Run to the end; progress is certain while anything is left."""
        while self.scheduler.has_work:
            moved = False
            while self.plan():
                moved = True
            if self.results:
                self.deliver()
                moved = True
            assert moved, "stuck"
        while self.results:
            self.deliver()
        stats = self.scheduler.stats()
        assert (stats.num_running, stats.num_waiting, stats.steps_in_flight) == (0, 0, 0)
        assert stats.num_free_blocks == stats.num_blocks

    def check_outputs(self) -> None:
        for expected in self.choices.values():
            assert expected.finish is not None, "a request did not end"
            right, reason = self.reference(expected)
            if expected.finish == "abort":
                assert expected.token_ids == right[: len(expected.token_ids)]
                continue
            assert (expected.token_ids, expected.finish) == (right, reason)
            if expected.request.sampling.prompt_logprobs is not None:
                prompt = expected.request.prompt_token_ids
                assert expected.prompt_logprobs is not None
                assert expected.prompt_logprobs[0] is None
                found = [entry.logprob for entry in expected.prompt_logprobs[1:] if entry is not None]
                assert found == [logprob_of(prompt, position) for position in range(1, len(prompt))]

    def reference(self, expected: Expected) -> tuple[list[int], str]:
        """Tokens and finish reason without any scheduling."""
        sampling, tokens = expected.request.sampling, list(expected.request.prompt_token_ids)
        num_prompt = len(tokens)
        most = self.max_model_len if sampling.max_tokens is None else num_prompt + sampling.max_tokens
        longest = min(most, self.max_model_len, self.capacity + (sampling.max_tokens != 0))
        while len(tokens) < longest:
            tokens.append(next_token(tokens, expected.choice, VOCAB))
            if tokens[-1] in (EOS, *sampling.stop_token_ids):
                return tokens[num_prompt:], "stop"
        return tokens[num_prompt:], "length"


SHAPES = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 4),
        "stages": st.integers(1, 3),
        "num_blocks": st.integers(4, 40),
        "block_size": st.sampled_from([1, 2, 4, 8]),
        "budget": st.integers(1, 24),
        "max_num_seqs": st.integers(1, 10),
        "max_model_len": st.integers(8, 64),
        "max_waiting": st.integers(1, 30),
    }
)
PROMPTS = st.one_of(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    # Long common beginnings, so that prefixes are hit.
    st.builds(
        lambda zeros, rest: [0] * zeros + [1, *rest], st.integers(0, 24), st.lists(st.integers(4, 5), max_size=4)
    ),
)
ADD = st.tuples(
    st.just("add"),
    PROMPTS,
    st.one_of(st.none(), st.integers(0, 30)),
    st.integers(1, 3),
    st.sampled_from([None, None, 0]),
)
OPERATION = st.one_of(
    ADD,
    ADD,
    st.tuples(st.just("plan"), st.integers(1, 5)),
    st.tuples(st.just("plan"), st.integers(1, 5)),
    st.tuples(st.just("deliver"), st.integers(0, 4)),
    st.tuples(st.just("deliver"), st.just(0)),
    st.tuples(st.just("abort"), st.integers(0, 30), st.sampled_from([None, [0], [1], [0, 2]])),
    st.tuples(st.just("reset")),
)


@settings(max_examples=300, deadline=None)
@given(SHAPES, st.booleans(), st.lists(OPERATION, max_size=60))
def test_every_request_ends_with_its_own_tokens(
    shape: dict[str, int], prefix_caching: bool, operations: list[tuple[Any, ...]]
) -> None:
    world = World(shape, prefix_caching)
    for number, (kind, *arguments) in enumerate(operations):
        if kind == "add":
            prompt, max_tokens, n, prompt_logprobs = arguments
            if max_tokens == 0 and prompt_logprobs is None:
                max_tokens = 1
            request = make_request(
                f"r{number}", prompt, max_tokens, n=n, stop_token_ids=(7,), prompt_logprobs=prompt_logprobs
            )
            world.add(request)
        elif kind == "plan":
            for _ in range(arguments[0]):
                world.plan()
        elif kind == "deliver" and world.results:
            world.deliver(arguments[0] % len(world.results))
        elif kind == "abort":
            world.abort(f"r{arguments[0]}", arguments[1])
        elif kind == "reset":
            world.reset()
    world.drain()
    world.check_outputs()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 32),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 6)), min_size=1, max_size=20),
)
def test_a_decoding_sequence_is_never_held_up_by_prefill(
    slots: int, budget: int, max_num_seqs: int, arrivals: list[tuple[int, int, int]]
) -> None:
    """With room in the KV cache, a sequence has a row at least every few rounds, however many prompts come."""
    shape = {
        "slots": slots, "stages": 2, "num_blocks": 2000, "block_size": 4, "budget": budget,
        "max_num_seqs": max_num_seqs, "max_model_len": 200, "max_waiting": 1000,
    }  # fmt: skip
    world = World(shape, prefix_caching=True)
    for number, (prompt, max_tokens, plans_before) in enumerate(arrivals):
        for _ in range(plans_before):
            if not world.plan() and world.results:
                world.deliver()
        world.add(make_request(f"r{number}", prompt, max_tokens, ignore_eos=True))
    world.drain()
    # A slot's rows may exceed the budget, so that its turns are shared; a row that moved skips a turn.
    turns = -(-min(max_num_seqs, len(arrivals)) // budget)
    bound = 2 * slots * (turns + 1)
    for seq, steps in world.mirror.rows_of.items():
        gaps = [later - earlier for earlier, later in zip(steps, steps[1:], strict=False)]
        assert max(gaps, default=0) <= bound, f"sequence {seq} waited {max(gaps)} steps, bound {bound}"


def test_preemption_keeps_every_token() -> None:
    shape = {
        "slots": 2, "stages": 2, "num_blocks": 17, "block_size": 4, "budget": 16,
        "max_num_seqs": 8, "max_model_len": 64, "max_waiting": 100,
    }  # fmt: skip
    world = World(shape, prefix_caching=True)
    for number in range(8):
        world.add(make_request(f"r{number}", [number, 9, 9, 9, 9], 40))
    world.drain()
    world.check_outputs()
    assert world.scheduler.stats().preemptions > 0
