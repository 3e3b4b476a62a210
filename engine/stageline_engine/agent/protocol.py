"""What a node agent and its fork parent say to each other: JSON datagrams over a socket pair.

agent → fork parent :  Fork (with two descriptors), Signal
fork parent → agent :  Preloaded, Forked, Exited
"""

from __future__ import annotations

import msgspec

from stageline_engine.comm.commands import RankBoot

MAX_DATAGRAM = 64 * 1024


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Make a rank. Two descriptors come along: its standard output and error go to the first, the second is that of its
    RankCounters."""

    boot: RankBoot


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to a rank, unless it has ended: the fork parent knows, since it has not collected it yet."""

    pid: int
    number: int


class Preloaded(msgspec.Struct, frozen=True, tag=True):
    """Imports are done; what was asked before waits in the socket until then."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """A rank exists."""

    stage: int
    rank: int
    incarnation: int
    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A rank has ended and was collected; ``exit_code`` is negative for a signal."""

    pid: int
    exit_code: int


AgentMessage = Fork | Signal
ForkParentMessage = Preloaded | Forked | Exited
