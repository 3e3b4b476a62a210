"""The control channel on real sockets: what members say arrives, what others say does not, and nobody is harmed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest
import zmq

from stageline_engine.comm.channel import HeadChannel, RankChannel
from stageline_engine.comm.codec import MAX_MESSAGE_BYTES, BadMessageError, Codec, encode
from stageline_engine.comm.commands import (
    Allocate,
    Connect,
    Connected,
    Hello,
    InitRank,
    Loaded,
    Opened,
    RankBoot,
    RankCommand,
    RankFailed,
    RankReply,
    ReplicaKeys,
    Warm,
    WarmUp,
)
from stageline_engine.comm.curve import KeyedContext, new_keys
from stageline_engine.comm.feedback import FeedbackReceiver, FeedbackSender
from stageline_engine.comm.node_commands import (
    NODE_PREFIX,
    EpochBegan,
    HeadBeat,
    MayEnd,
    NodeBeat,
    NodeCommand,
    NodeFailed,
    NodeJoin,
    NodeLeft,
    NodePrepared,
    NodeProgress,
    NodeRefused,
    NodeToldToEnd,
    RankEnded,
    ReplicaOver,
    RunStage,
)
from stageline_engine.core.deployment import RankLoaded, RankSettings, StageSpec
from stageline_engine.core.errors import (
    ConfigurationError,
    InvalidInputError,
    LinkFailedError,
    ModelSourceError,
    UnsupportedModelError,
)
from stageline_engine.core.messages import (
    AdmitSequence,
    PromptLogprobs,
    SampledToken,
    Segment,
    StepPlan,
    StepReport,
    StepResult,
    TokenLogprobs,
)
from stageline_engine.core.request import SamplingParams

PATIENCE_MS = 20_000
SETTINGS = RankSettings(
    model_folder="/models/x",
    spec=StageSpec(stage=1, num_stages=2, start=3, end=5, tp=2),
    dtype="float32",
    device="cpu",
    threads=1,
    block_size=16,
    max_model_len=2048,
    max_num_batched_tokens=256,
    max_num_seqs=64,
)
LOADED = RankLoaded(stage=1, rank=0, weight_bytes=1, bytes_read=2, kv_block_bytes=3, free_bytes=4, load_seconds=0.5)
PLAN = StepPlan(3, 7, 1, [Segment(1, 4, 1, True), Segment(2, 0, 9, False)], [(2, [5, 6])], [8], 6)
RESULT = StepResult(
    3,
    7,
    1,
    [SampledToken(1, 42, TokenLogprobs(-0.5, 1, [42, 3], [-0.5, -2.0])), SampledToken(2, 7)],
    [PromptLogprobs(2, 1, [TokenLogprobs(-3.0, 5, [], [])])],
)
COMMANDS: list[msgspec.Struct] = [
    InitRank(3, SETTINGS, (1, 2)),
    Allocate(3, 100),
    Connect(3, {"boundary-1-0": {0: b"\0\1", 1: b"\2"}}, ["tcp://127.0.0.1:1"]),
    WarmUp(3),
    AdmitSequence(3, 1, [1, 2, 3], 2, SamplingParams(temperature=0.5, logit_bias={3: -1.0}, stop=("a",)), 0, (9,)),
    PLAN,
]
REPLIES: list[msgspec.Struct] = [
    Hello(123),
    Loaded(3, LOADED, False),
    Opened(3, {"tensor-1": b"\xff" * 200}, "tcp://127.0.0.1:2"),
    Connected(3),
    Warm(3, 0.25),
    RankFailed(3, "link", "boundary-1-0: reset"),
    RESULT,
    StepReport(3, 7, 1, 0.1, 0.2, 0.3, 0.4, 0.5, 600),
]


@pytest.fixture
def contexts() -> Iterator[Callable[[ReplicaKeys], KeyedContext]]:
    made: list[KeyedContext] = []

    def make(keys: ReplicaKeys) -> KeyedContext:
        made.append(KeyedContext(keys))
        return made[-1]

    yield make
    for context in reversed(made):
        context.close()


class Pair:
    """A head with one rank that has said Hello."""

    def __init__(self, make: Callable[[ReplicaKeys], KeyedContext]) -> None:
        self.keys = new_keys()
        self.make = make
        self.head = HeadChannel(make(self.keys))
        self.boot = self.boot_of(1)
        self.rank = RankChannel(make(self.keys), self.boot)
        self.head.expect(self.boot.identity)
        self.rank.send(Hello(1))
        assert receive(self.head, 1) == [(self.boot.identity, Hello(1))]

    def boot_of(self, stage: int) -> RankBoot:
        return RankBoot(
            stage=stage, rank=0, incarnation=1, endpoint=self.head.endpoint, keys=self.keys, log_level=logging.INFO
        )


@pytest.fixture
def pair(contexts: Callable[[ReplicaKeys], KeyedContext]) -> Pair:
    return Pair(contexts)


def receive(channel: HeadChannel, number: int) -> list[tuple[bytes, RankReply]]:
    """So many messages."""
    got: list[tuple[bytes, RankReply]] = []
    while len(got) < number:
        assert channel.socket.poll(PATIENCE_MS), f"only {got} of {number} messages came"
        got += channel.receive()
    return got


def receive_commands(channel: RankChannel, number: int) -> list[RankCommand]:
    got: list[RankCommand] = []
    while len(got) < number:
        assert channel.socket.poll(PATIENCE_MS), f"only {got} of {number} messages came"
        got += channel.receive()
    return got


def test_every_message_arrives_as_it_was(pair: Pair) -> None:
    for command in COMMANDS:
        assert pair.head.send([pair.boot.identity], command) == []
    assert receive_commands(pair.rank, len(COMMANDS)) == COMMANDS
    for reply in REPLIES:
        pair.rank.send(reply)
    assert [reply for _, reply in receive(pair.head, len(REPLIES))] == REPLIES


def test_a_plan_of_64_decode_rows_is_small() -> None:
    rows = [Segment(100_000 + row, 3000, 1, True) for row in range(64)]
    assert len(encode(StepPlan(1, 10**6, 1, rows, [(100_000, [70_000])], [99_000], 10**6 - 1))) < 2048


def test_a_rank_that_is_not_there_is_told(pair: Pair) -> None:
    absent = pair.boot_of(5).identity
    assert pair.head.send([absent, pair.boot.identity], WarmUp(1)) == [absent]
    assert receive_commands(pair.rank, 1) == [WarmUp(1)]


def test_unknown_and_malformed_messages_are_dropped(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    unknown = RankChannel(pair.make(pair.keys), pair.boot_of(7))
    unknown.send(Hello(2))
    for nonsense in (b"", b"\xc1", encode(PLAN), encode(Hello(1))[:-1], b"\x93" * 100_000, b"\xdf" + b"\xff" * 4):
        pair.rank.socket.send(nonsense)
    pair.rank.socket.send_multipart([b"two", b"frames"])
    pair.rank.send(Connected(1))
    # The stranger's message took another way than the rank's; wait for its trace.
    while "unknown peer" not in caplog.text or "Connected" not in caplog.text:
        assert pair.head.socket.poll(PATIENCE_MS), caplog.text
        for _, reply in pair.head.receive():
            assert reply == Connected(1)
            logging.getLogger().warning("Connected")
    assert caplog.text.count("dropped a message of rank 1.0.1") == 6


def test_a_forgotten_rank_is_not_listened_to(pair: Pair) -> None:
    successor = RankChannel(pair.make(pair.keys), pair.boot_of(2))
    pair.head.expect(pair.boot_of(2).identity)
    pair.head.forget(pair.boot.identity)
    pair.rank.send(Connected(1))
    successor.send(Connected(2))
    assert [reply for _, reply in receive(pair.head, 1)] == [Connected(2)]


def test_a_message_that_is_too_long_is_not_sent_and_not_taken(
    pair: Pair, contexts: Callable[[ReplicaKeys], KeyedContext]
) -> None:
    prompt = AdmitSequence(1, 1, [2**20] * (MAX_MESSAGE_BYTES // 5 + 1), 1, SamplingParams(), 0, ())
    with pytest.raises(BadMessageError, match="AdmitSequence"):
        pair.head.send([pair.boot.identity], prompt)
    with pytest.raises(BadMessageError):
        Codec[RankReply](RankReply).decode(bytes(MAX_MESSAGE_BYTES + 1))
    # A member that sends one all the same loses its connection, and makes a new one.
    pair.rank.socket.send(bytes(MAX_MESSAGE_BYTES + 1))
    other = RankChannel(contexts(pair.keys), pair.boot_of(2))
    pair.head.expect(pair.boot_of(2).identity)
    other.send(Hello(3))
    assert [reply for _, reply in receive(pair.head, 1)] == [Hello(3)]


@pytest.mark.parametrize("known", ["nothing", "the server's key"])
def test_a_peer_without_the_keys_stays_outside(
    pair: Pair, contexts: Callable[[ReplicaKeys], KeyedContext], known: str
) -> None:
    keys = new_keys()
    intruder: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    monitor = intruder.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    intruder.linger = 0
    intruder.routing_id = pair.boot_of(2).identity
    intruder.curve_publickey, intruder.curve_secretkey = keys.public.encode(), keys.secret.encode()
    intruder.curve_serverkey = (keys if known == "nothing" else pair.keys).public.encode()
    pair.head.expect(pair.boot_of(2).identity)
    intruder.connect(pair.head.endpoint)
    intruder.send(encode(Hello(666)))
    try:
        if known == "the server's key":
            # The gate has spoken. One that does not know the server's key is not even answered.
            assert monitor.poll(PATIENCE_MS)
        pair.rank.send(Connected(1))
        assert receive(pair.head, 1) == [(pair.boot.identity, Connected(1))]
        assert list(pair.head.receive()) == []
        assert pair.head.send([pair.boot_of(2).identity], WarmUp(1)) == [pair.boot_of(2).identity]
    finally:
        intruder.disable_monitor()
        monitor.close()
        intruder.close()


def test_bytes_that_are_no_zeromq_do_no_harm(pair: Pair) -> None:
    port = int(pair.head.endpoint.rpartition(":")[2])
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for number, stranger in enumerate(strangers):
        stranger.sendall(bytes([number * 30]) * 10_000)
    pair.rank.send(Connected(1))
    assert receive(pair.head, 1) == [(pair.boot.identity, Connected(1))]
    for stranger in strangers:
        stranger.close()


NODE_MESSAGES: list[msgspec.Struct] = [
    NodeJoin(1, 2, "pod", "192.0.2.1"),
    NodeBeat(5),
    NodePrepared("/models/x", 3),
    NodeProgress("line"),
    RankEnded(1, 7, -9, "killed", "last words"),
    NodeFailed(RankFailed(0, "model-source", "m", "model", "x", "fetch it")),
    NodeToldToEnd(),
    NodeLeft("told to"),
]
NODE_COMMANDS: list[msgspec.Struct] = [
    RunStage("head", "hf://a/b@c", "LlamaForCausalLM", SETTINGS.spec, 0, 3, 20),
    NodeRefused("no", "--tp", 3),
    EpochBegan(2),
    MayEnd(),
    HeadBeat("head", asks_to_join=True),
    ReplicaOver("over", comes_back=True),
]


def test_nodes_are_heard_where_they_are_taken_and_nowhere_else(
    pair: Pair, contexts: Callable[[ReplicaKeys], KeyedContext], caplog: pytest.LogCaptureFixture
) -> None:
    head = HeadChannel(contexts(pair.keys), takes_nodes=True)
    name = NODE_PREFIX + b"1-abc"
    node = contexts(pair.keys).connect(zmq.DEALER, head.endpoint, name)
    for nonsense in (b"", encode(PLAN), encode(Hello(1))):
        node.send(nonsense)
    for message in NODE_MESSAGES:
        node.send(encode(message))
    assert receive(head, len(NODE_MESSAGES)) == [(name, message) for message in NODE_MESSAGES]
    assert caplog.text.count("dropped a message of node node-1-abc") == 3
    codec: Codec[NodeCommand] = Codec(NodeCommand)
    for command in NODE_COMMANDS:
        assert head.send([name], command) == []
        assert codec.decode(node.recv()) == command

    stranger = contexts(pair.keys).connect(zmq.DEALER, pair.head.endpoint, name)
    stranger.send(encode(NODE_MESSAGES[0]))
    while "unknown peer" not in caplog.text:
        assert pair.head.socket.poll(PATIENCE_MS), caplog.text
        assert list(pair.head.receive()) == []


def test_an_address_of_another_machine_is_told(contexts: Callable[[ReplicaKeys], KeyedContext]) -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1 port 7400"):
        HeadChannel(contexts(new_keys()), "192.0.2.1", 7400)


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


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("--tp", 3, "give 1 or 2"),
        ModelSourceError("model", "/x", "fetch it again"),
        UnsupportedModelError("architecture", "X", "give another"),
        ConfigurationError("--layer-split", (1, 2), "give other numbers"),
    ],
)
def test_a_persons_mistake_is_told_again_as_it_was(error: InvalidInputError) -> None:
    told = msgspec.msgpack.decode(encode(RankFailed.of_input(1, error)), type=RankFailed).input_error()
    assert type(told) is type(error)
    assert (told.field, told.remedy) == (error.field, error.remedy)
    assert str(told.value) == str(error.value)


def test_a_lost_neighbour_is_nobodys_mistake() -> None:
    assert RankFailed(1, "link", "gone").input_error() is None
