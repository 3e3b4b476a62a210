"""Every error of the engine, as one tree.

StagelineError
├── InvalidInputError            a person's input is wrong: field, value and remedy are known
│   ├── InvalidRequestError      … in an API request (HTTP 400)
│   └── ConfigurationError       … in a flag or a config (exit code 2)
│       ├── ModelSourceError     … the model cannot be found, or its files are damaged
│       └── UnsupportedModelError  … the architecture is not one that has a parity test
├── OverloadedError              the queue is full (HTTP 429)
├── PeerError                    a machine of the replica cannot be reached, or does not take this one (exit code 75)
├── StaleEpochError              a message of an older epoch arrived; the receiver drops it
├── StepGapError                 a plan is not the one after the last; the receiver's epoch is over
└── EngineFailedError            the engine cannot go on (HTTP 503, exit code 1)
    ├── StageFailedError         … because a rank of a stage died, hung or raised
    ├── LinkFailedError          … because a rank's neighbour went away or did not answer
    └── EngineStartError         … because it did not start
"""

from __future__ import annotations


class StagelineError(Exception):
    """Base of all errors that this package raises on purpose."""


class InvalidInputError(StagelineError, ValueError):
    """A person's input is wrong.

    Args:
        field: name of the flag or request field, as the person wrote it (``--tp``, ``temperature``).
        value: the refused value; shown with ``repr`` and cut at 200 characters.
        remedy: what to do instead, a clause that can follow a colon.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field}={_shown(value)}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:
        # Python refuses to write whole numbers of thousands of digits.
        return f"{type(value).__name__} of too many digits"
    return shown if len(shown) <= 200 else shown[:197] + "..."


class InvalidRequestError(InvalidInputError):
    """A field of an API request is wrong; answered with HTTP 400."""


class ConfigurationError(InvalidInputError):
    """A flag or a configuration value is wrong; the command ends with exit code 2."""


class ModelSourceError(ConfigurationError):
    """The model cannot be found, or its files are damaged or incomplete."""


class UnsupportedModelError(ConfigurationError):
    """The model's architecture, or something that its config asks for, is not supported."""


class OverloadedError(StagelineError):
    """The queue of waiting requests is full; ``retry_after`` is in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


EXIT_COMMUNICATION = 75
"""Exit code of a command that ends because a machine of the replica went away, or does not take this one: a later try
may succeed (EX_TEMPFAIL)."""


class PeerError(StagelineError):
    """A machine of the replica cannot be reached, or does not take this one: a later try may succeed."""


class StaleEpochError(StagelineError):
    """A message or store key carries an epoch that is not the current one."""

    def __init__(self, got: int, current: int) -> None:
        super().__init__(f"message of epoch {got} refused: the current epoch is {current}")
        self.got = got
        self.current = current


class StepGapError(StagelineError):
    """A stage was given a plan that is not the one after its last; its block tables cannot be right any more."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(f"plan of step {got} refused: step {expected} comes next")
        self.got = got
        self.expected = expected


class EngineFailedError(StagelineError):
    """The engine cannot serve any more; every open request ends with this error."""


class StageFailedError(EngineFailedError):
    """A rank of a stage died, hung or raised.

    ``exit_code`` is negative for a signal, as in :mod:`subprocess`, and None when the process still ran.
    ``log_tail`` holds the last lines that the rank wrote.
    """

    def __init__(self, stage: int, rank: int, reason: str, exit_code: int | None = None, log_tail: str = "") -> None:
        code = "" if exit_code is None else f" (exit code {exit_code})"
        tail = f"\nlast log lines of stage {stage} rank {rank}:\n{log_tail}" if log_tail else ""
        super().__init__(f"stage {stage} rank {rank}: {reason}{code}{tail}")
        self.stage = stage
        self.rank = rank
        self.reason = reason
        self.exit_code = exit_code
        self.log_tail = log_tail


class LinkFailedError(EngineFailedError):
    """A rank cannot reach a neighbour: the neighbour died, was stopped, or belongs to another epoch."""


class EngineStartError(EngineFailedError):
    """The engine did not start; ``exit_code`` is 2 when the configuration or the model's files are at fault, 75 when a
    machine of the replica is, else 1."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
