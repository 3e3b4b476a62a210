"""Step results straight from the last stage to stage 0, on real sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import zmq

from stageline_engine.comm.codec import encode
from stageline_engine.comm.commands import (
    ReplicaKeys,
)
from stageline_engine.comm.curve import KeyedContext, new_keys
from stageline_engine.comm.feedback import FeedbackReceiver, FeedbackSender
from stageline_engine.core.errors import (
    LinkFailedError,
)
from stageline_engine.core.messages import (
    StepResult,
)
from support.channel_messages import RESULT

PATIENCE_MS = 20_000


def results(receiver: FeedbackReceiver, number: int) -> Sequence[StepResult]:
    got: list[StepResult] = []
    while len(got) < number:
        assert receiver.socket.poll(PATIENCE_MS)
        got += receiver.receive()
    return got


def test_step_results_reach_every_rank_of_stage_0(contexts: Callable[[ReplicaKeys], KeyedContext]) -> None:
    keys = new_keys()
    receivers = [FeedbackReceiver(contexts(keys)) for _ in range(2)]
    context = contexts(keys)
    sender = FeedbackSender(context, [receiver.address for receiver in receivers])
    raw = context.connect(zmq.PUSH, receivers[0].address)
    raw.send(b"nonsense")
    raw.send_multipart([b"a", b"b"])
    raw.send(encode(RESULT))
    assert results(receivers[0], 1) == [RESULT]
    sender.send(RESULT)
    for receiver in receivers:
        assert results(receiver, 1) == [RESULT]
        assert receiver.address.startswith("tcp://127.0.0.1:")


def test_a_sender_of_results_never_waits_for_a_dead_stage(contexts: Callable[[ReplicaKeys], KeyedContext]) -> None:
    keys = new_keys()
    receiver = FeedbackReceiver(contexts(keys))
    sender = FeedbackSender(contexts(keys), [receiver.address])
    receiver.close()

    def send_many() -> None:
        for _ in range(10**6):
            sender.send(RESULT)

    with pytest.raises(LinkFailedError):
        send_many()
