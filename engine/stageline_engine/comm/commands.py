"""What the engine core and a rank say to each other while a replica starts, and what the steps need.

    engine core → rank :  InitRank, Allocate, Connect, WarmUp, then AdmitSequence and StepPlan
    rank → engine core :  Hello; Loaded, Opened, Connected and Warm, an answer to each command; then StepResult and
                          StepReport; RankFailed at any time

Each message carries its epoch; an InitRank begins one. No tensors, no sockets here.
"""

from __future__ import annotations

import msgspec

from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelSourceError,
    UnsupportedModelError,
)
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepReport, StepResult

RankId = tuple[int, int]
"""(stage, tensor-parallel rank)."""
LOOPBACK = "127.0.0.1"
"""Own address of ranks whose peers are all on their machine."""


class ReplicaKeys(msgspec.Struct, frozen=True):
    """The CURVE key pair that all processes of one replica share: who holds it belongs to the replica. Z85 text."""

    public: str
    secret: str


class RankBoot(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank's process is born with; everything else comes through the channel."""

    stage: int
    rank: int
    incarnation: int
    """Counts the processes that held this place, from 1, so that a predecessor's messages are not its successor's."""
    endpoint: str
    """ZeroMQ address of the engine core's channel."""
    keys: ReplicaKeys
    log_level: int
    address: str = LOOPBACK
    """Own address of its machine: all that other ranks connect to is bound to it."""

    @property
    def identity(self) -> bytes:
        """Its name on the channel."""
        return f"{self.stage}.{self.rank}.{self.incarnation}".encode()


# --- engine core → rank ---------------------------------------------------------------------------------------------


class InitRank(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Begin an epoch: drop KV and links, and load the weights unless the same ones are loaded. → Loaded"""

    epoch: int
    settings: RankSettings
    tp_of_stages: tuple[int, ...]
    """Tensor-parallel ranks of every stage of the pipeline: they decide who is joined with whom."""


class Allocate(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Make the KV cache, and open the own ends of all links. → Opened"""

    epoch: int
    num_blocks: int


class Connect(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Join the links. → Connected"""

    epoch: int
    ends: dict[str, dict[int, bytes]]
    """By link name and member: what the members' Opened said. Only links that this rank is a member of."""
    feedback: list[str]
    """For rank 0 of the last stage: addresses to send step results to."""


class WarmUp(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Run the model once. All ranks of a stage do it together. → Warm"""

    epoch: int


RankCommand = InitRank | Allocate | Connect | WarmUp | AdmitSequence | StepPlan

# --- rank → engine core ---------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message of a process."""

    pid: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to InitRank."""

    epoch: int
    loaded: RankLoaded
    kept: bool
    """The weights were there already."""


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to Allocate."""

    epoch: int
    ends: dict[str, bytes]
    """By link name: what the other members need in order to connect to this one."""
    feedback: str
    """Address that takes step results; empty unless the rank takes any."""


class Connected(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to Connect."""

    epoch: int


class Warm(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to WarmUp."""

    epoch: int
    seconds: float


_INPUT_ERRORS: dict[str, type[ConfigurationError]] = {
    "configuration": ConfigurationError,
    "model-source": ModelSourceError,
    "unsupported-model": UnsupportedModelError,
}
LINK_FAILED = "link"
"""Kind of a RankFailed: a neighbour is gone; the rank itself is sound and waits for another epoch."""


class RankFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A rank cannot go on in this epoch, but lives. (One that raises anything unforeseen ends; its log says why.)"""

    epoch: int
    kind: str
    """LINK_FAILED, or which kind of a person's input is wrong."""
    message: str
    field: str = ""
    value: str | int | float | bool | None = None
    remedy: str = ""

    @classmethod
    def of_input(cls, epoch: int, error: InvalidInputError) -> RankFailed:
        """Describe a person's mistake so that the engine core can raise it again."""
        kind = next((name for name, known in _INPUT_ERRORS.items() if type(error) is known), "configuration")
        value = error.value if isinstance(error.value, str | int | float | bool | None) else str(error.value)
        return cls(epoch, kind, str(error), error.field, value, error.remedy)

    def input_error(self) -> ConfigurationError | None:
        """The same error as was raised in the rank, or None when nobody's input is at fault."""
        error = _INPUT_ERRORS.get(self.kind)
        return None if error is None else error(self.field, self.value, self.remedy)


RankReply = Hello | Loaded | Opened | Connected | Warm | RankFailed | StepResult | StepReport
