"""What the engine core and the nodes of its stages say to each other, on the channel that the ranks use too.

    node → engine core :  NodeJoin; then NodePrepared, NodeProgress, RankEnded, NodeFailed; NodeToldToEnd; NodeLeft
    engine core → node :  RunStage, or NodeRefused; EpochBegan; MayEnd; at the end ReplicaOver
    both                :  NodeBeat and HeadBeat, all the time

A node is one machine of one stage, or a pod. Its ranks talk to the engine core themselves (comm.commands).
"""

from __future__ import annotations

import msgspec

from stageline_engine.comm.commands import RankFailed
from stageline_engine.core.deployment import StageSpec

NODE_PREFIX = b"node-"
"""How the names of nodes on the channel begin; ranks' begin with a digit."""
BEAT_SECONDS = 0.5
"""Between two beats. Whose loop moves sends them, whatever ranks do."""
SILENT_SECONDS = 5.0
"""A node or a head that has said nothing for so long is lost."""


# --- node → engine core ---------------------------------------------------------------------------------------------


class NodeJoin(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node would run a stage. → RunStage or NodeRefused"""

    stage: int
    tp: int
    """Ranks that it has room for."""
    pod: str
    """Its pod's name; "" outside of Kubernetes."""
    address: str
    """Its own address, to which its ranks bind."""


class NodeBeat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node's loop moves."""

    resident_bytes: int
    """Memory of its ranks."""


class NodePrepared(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The model is there, but for weights that are fetched while ranks load."""

    model_folder: str
    """Where its ranks find the model."""
    threads: int
    """CPU threads of each of its ranks."""


class NodeProgress(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line for the person who waits."""

    message: str


class RankEnded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A rank has ended, for whatever reason; as in :class:`agent.node_agent.RankDied`."""

    rank: int
    incarnation: int
    exit_code: int
    reason: str
    log_tail: str


class NodeFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node cannot run the stage: the model, or a setting, is wrong there."""

    failed: RankFailed


class NodeToldToEnd(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node's pod is to end; may it, or does the head drain? → MayEnd, or ReplicaOver when the head is done."""


class NodeLeft(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node ends; its ranks have ended."""

    reason: str


NodeMessage = NodeJoin | NodeBeat | NodePrepared | NodeProgress | RankEnded | NodeFailed | NodeToldToEnd | NodeLeft


# --- engine core → node ---------------------------------------------------------------------------------------------


class RunStage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Prepare the model and start the ranks of a stage."""

    head: str
    """Names this life of the head: one that came back is another."""
    model: str
    """The model's name by which every machine finds the same files."""
    architecture: str
    """transformers class to be imported ahead."""
    spec: StageSpec
    threads: int
    """CPU threads per rank; 0: what the node's cores give."""
    incarnation: int
    """Of its ranks: see :attr:`comm.commands.RankBoot.incarnation`."""
    log_level: int
    """As logging counts them."""


class NodeRefused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node is not taken."""

    message: str
    flag: str = ""
    """Which argument of the node is wrong; "" when none is, so that a later try may help."""
    value: int = 0


class EpochBegan(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The stage's ranks are loaded, warm and joined with those of the other stages."""

    epoch: int


class MayEnd(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The head does not drain."""


class HeadBeat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The head's loop moves."""

    head: str
    """As in RunStage."""
    asks_to_join: bool = False
    """The head does not know this node, or has given it up: what it runs is worth nothing any more."""


class ReplicaOver(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The head ends."""

    reason: str
    comes_back: bool
    """True: it failed, and another one may take its place, with other ranks. False: nobody is needed any more."""


NodeCommand = RunStage | NodeRefused | EpochBegan | MayEnd | HeadBeat | ReplicaOver
