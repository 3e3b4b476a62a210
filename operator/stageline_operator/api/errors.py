"""Every error of the operator, as one tree.

OperatorError
├── SpecError              a spec is wrong: field, value and remedy are known (condition InvalidSpec, exit code 2)
├── NameTakenError         a child's name belongs to an object that is not ours
├── ApiError               the API server said no, or nothing
│   ├── ConflictError      … 409: the object is not as it was read; read again
│   ├── GoneError          … 404 or 410
│   ├── RefusedError       … 400, 403, 422: this object as it is will never be accepted
│   │   └── ForbiddenError … 403: a right is missing, or a quota or an admission rule says no
│   └── UnavailableError   … 429, 5xx, time-out, reset connection: try again later
└── LeaseLostError         this process may not write any more
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all errors that this package raises on purpose."""


class SpecError(OperatorError, ValueError):
    """A spec is wrong.

    Args:
        field: full path, as the person wrote it (``spec.pipeline.stages``).
        value: the refused value; shown with ``repr`` and cut at 200 characters. Pass ``...`` when there is none to
        show. remedy: what to do instead, a clause that can follow a colon.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        shown = "" if value is ... else f"={value!r}"
        if len(shown) > 200:
            shown = shown[:197] + "..."
        # A rule across fields names them itself, further down than the object that has the rule.
        super().__init__(remedy if remedy.startswith((field, "spec.")) else f"{field}{shown}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


class NameTakenError(OperatorError):
    """A child's name belongs to an object that is not ours. It is never taken over."""


class ApiError(OperatorError):
    """The API server said no, or nothing.

    Args:
        message: the server's own, or what happened instead of an answer.
        status: HTTP status; 0 when there was no answer.
        retry_after: seconds that the server asks to wait; None when it does not.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ConflictError(ApiError):
    """409: the object is not as it was read, or exists already; read again."""


class GoneError(ApiError):
    """404 or 410: the object, or the history that was asked for, is not there."""


class RefusedError(ApiError):
    """400, 403, 422: this object as it is will not be accepted."""


class ForbiddenError(RefusedError):
    """403: a right is missing; for a write it may also be a quota or an admission rule that says no."""


class UnavailableError(ApiError):
    """429, 5xx, a time-out or a reset connection: the same call may succeed later."""


class LeaseLostError(OperatorError):
    """Another process leads, or nobody can tell: this one may not write any more."""
