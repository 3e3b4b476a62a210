"""The `stageline` command, also as `python -m stageline_engine`: hears a signal from its first moment on."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command.

    A container's first process hears no signal that it has no handler for. The imports of the command take seconds,
    and a model may be fetched for long: without one, a pod that is told to end would stay until its grace period is
    over (seen: 50 and 60 s).
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from stageline_engine.cli.main import main as command  # noqa: PLC0415 - the handler comes first

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
