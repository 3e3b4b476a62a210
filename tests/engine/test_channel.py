"""The control channel on real sockets: what members say arrives, what others say does not, and nobody is harmed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import pytest
import zmq

from stageline_engine.comm.channel import HeadChannel, RankChannel
from stageline_engine.comm.codec import MAX_MESSAGE_BYTES, BadMessageError, Codec, encode
from stageline_engine.comm.commands import (
    Connected,
    Hello,
    RankBoot,
    RankCommand,
    RankReply,
    ReplicaKeys,
    WarmUp,
)
from stageline_engine.comm.curve import KeyedContext, new_keys
from stageline_engine.comm.node_commands import (
    NODE_PREFIX,
    NodeCommand,
    NodeMessage,
)
from stageline_engine.core.messages import (
    AdmitSequence,
    Segment,
    StepPlan,
)
from stageline_engine.core.request import SamplingParams
from support.channel_messages import COMMANDS, NODE_COMMANDS, NODE_MESSAGES, PLAN, REPLIES

PATIENCE_MS = 20_000


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


def receive(channel: HeadChannel, number: int) -> list[tuple[bytes, RankReply | NodeMessage]]:
    """So many messages."""
    got: list[tuple[bytes, RankReply | NodeMessage]] = []
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
