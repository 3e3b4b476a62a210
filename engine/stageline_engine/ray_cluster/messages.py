"""What crosses Ray, and what the engine core and its Ray driver say to each other: msgpack of these structs.

engine core → driver :  Place
driver → engine core :  Placed, Ended, CannotPlace
driver → actor       :  NodeOrder
actor → driver       :  ActorHome, NodeEnded
"""

from __future__ import annotations

import msgspec

from stageline_engine.core.logs import TEXT

MAX_DATAGRAM = 128 * 1024
"""Bytes of one message between the engine core and its driver."""


class StageNeeds(msgspec.Struct, frozen=True):
    """What the ranks of a stage take of one machine."""

    cpus: int
    gpus: int


class NodeOrder(msgspec.Struct, frozen=True):
    """What an actor starts on a machine where nobody runs `stageline node` yet."""

    arguments: list[str]
    """Of the machine's Python, for `stageline node`. ``--keys=FOLDER`` is added when there are keys."""
    keys: dict[str, bytes]
    """Content of the files in the folder of keys, by name."""
    log_level: str = "info"
    log_format: str = TEXT
    """How the actor writes what the node logs; the node itself writes JSON, which the actor reads."""


class Place(msgspec.Struct, frozen=True):
    """Connect, and have one actor for each stage."""

    address: str
    """HOST:PORT of Ray's head."""
    namespace: str
    """The replica's own."""
    stages: int
    needs: list[StageNeeds] = []
    """By stage, to be found in a Ray of others; empty: each stage has a node of its own, which says so."""
    orders: list[NodeOrder] = []
    """By stage, with ``needs``."""
    patience: float = 8.0
    """Seconds until stages' own nodes must have joined."""


class ActorHome(msgspec.Struct, frozen=True):
    """Where an actor is."""

    address: str
    """Of its machine, as Ray knows it."""
    ray_node: str
    """Ray's id of the node, in hex."""
    pid: int
    """The actor's process."""


class NodeEnded(msgspec.Struct, frozen=True):
    """What became of the process that owns a stage's ranks."""

    exit_code: int | None
    """As a shell gives it; None when it is not the actor's child."""
    log_tail: str


class Placed(msgspec.Struct, frozen=True, tag=True):
    """A stage's actor runs."""

    stage: int
    home: ActorHome


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A stage's node, its actor or its machine has ended, as far as Ray knows."""

    stage: int
    reason: str
    node: NodeEnded | None
    """None when nobody was left to tell."""


class CannotPlace(msgspec.Struct, frozen=True, tag=True):
    """The last word of a driver that cannot do its work."""

    reason: str
    is_input: bool
    """Whether it is the person's to change: address, token, size of the cluster."""


DriverEvent = Placed | Ended | CannotPlace
