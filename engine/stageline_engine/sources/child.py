"""Work that needs torch, transformers or a hub, in a process of its own, which reports by lines of JSON.

Both ends are here: :class:`Child` in the head, :func:`main` and :class:`Reporter` in the child. The
child ends when its parent does (its standard input closes), also when the parent was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Generic, TypeVar

import msgspec

from stageline_engine.core import errors
from stageline_engine.core.errors import ConfigurationError, ModelSourceError
from stageline_engine.sources.store import Progress

_T = TypeVar("_T")


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the child. Exactly one of ``progress``, ``error`` and ``result`` is set."""

    progress: str | None = None
    error: str | None = None
    """Name of a class of core.errors that is a ConfigurationError."""
    field: str = ""
    value: str = ""
    remedy: str = ""
    result: msgspec.Raw = msgspec.Raw()


class Child(Generic[_T]):
    """A running ``python -m MODULE ARGUMENTS``. It ends with this process, or by :meth:`close`.

    Args:
        result_type: of what it reports at its end.
        progress: gets its lines.
        value: what the person named, for the error when the child dies without a word.
        inherit: file descriptors that stay open in the child.
        online: the child may ask the hub; otherwise transformers is kept from trying.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        result_type: type[_T] | None,
        progress: Progress,
        *,
        value: str,
        inherit: Sequence[int] = (),
        online: bool = False,
    ) -> None:
        self._result_type = result_type
        self._progress = progress
        self._value = value
        self._unread = b""
        self._outcome: _Message | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # close() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=tuple(inherit),
            env={"HF_HUB_DISABLE_TELEMETRY": "1", **os.environ, **({} if online else {"HF_HUB_OFFLINE": "1"})},
        )

    def fileno(self) -> int:
        """Readable when :meth:`poll` does not block."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def poll(self) -> bool:
        """Take what the child said, or wait until it says something; returns whether it has ended.

        Raises:
            ConfigurationError: the child refused its input, or died; the class is the child's.
        """
        data = os.read(self.fileno(), 1 << 16)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message = msgspec.json.decode(line, type=_Message)
            if message.progress is not None:
                self._progress(message.progress)
            else:
                self._outcome = message
        if data:
            return False
        if self._outcome is None:
            raise ModelSourceError("model", self._value, _last_words(self._log, self._process.wait()))
        if self._outcome.error is not None:
            raise _error(self._outcome)
        return True

    def result(self) -> _T:
        """What it reported, once it has ended."""
        assert self._outcome is not None, "poll() said that it has ended"
        value: _T = msgspec.json.decode(self._outcome.result, type=self._result_type)
        return value

    def to_end(self) -> _T:
        """Wait for its end, and return what it reported. Raises as :meth:`poll`; nothing is left of it either way."""
        try:
            while not self.poll():
                pass
            return self.result()
        finally:
            self.close()

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def _error(message: _Message) -> ConfigurationError:
    kind = getattr(errors, message.error or "", ModelSourceError)
    assert issubclass(kind, ConfigurationError)
    return kind(message.field, message.value, message.remedy)


def _last_words(log: IO[bytes], code: int) -> str:
    log.seek(0)
    lines = log.read()[-2000:].decode(errors="replace").strip().splitlines()
    why = "it was killed, perhaps for lack of memory" if code < 0 else (lines[-1] if lines else "it said nothing")
    return f"its preparation ended with exit code {code}: {why}"


class Reporter:
    """The child's voice. Only it writes to the real standard output; prints of libraries go to the log."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def progress(self, text: str) -> None:
        """Say what happens now."""
        self._send(progress=text)

    def result(self, value: object) -> None:
        """Report success."""
        self._send(result=json.loads(msgspec.json.encode(value)))

    def error(self, error: ConfigurationError) -> None:
        """Report why the input is refused."""
        value = error.value if isinstance(error.value, str) else repr(error.value)
        self._send(error=type(error).__name__, field=error.field, value=value, remedy=error.remedy)

    def _send(self, **message: object) -> None:
        self._out.write(msgspec.json.encode(message) + b"\n")


def main(work: Callable[[Sequence[str], Reporter], object]) -> int:
    """Run ``work(arguments, reporter)`` and report what it returns. Returns the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reporter = Reporter()
    try:
        reporter.result(work(sys.argv[1:], reporter))
    except ConfigurationError as error:
        reporter.error(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held by this thread, would break the interpreter's end
        pass
    os._exit(1)
