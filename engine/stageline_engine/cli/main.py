"""The `stageline` command: joins its subcommands."""

from __future__ import annotations

import sys
from importlib.metadata import version

import cyclopts

from stageline_engine.cli.bench import bench_command
from stageline_engine.cli.console import fail
from stageline_engine.cli.plan import plan_command
from stageline_engine.cli.serve import serve_command
from stageline_engine.core.errors import StagelineError

app = cyclopts.App(
    name="stageline",
    help="Serve language models through a pipeline of stages.",
    version=version("stageline"),
)
app.command(serve_command, name="serve")
app.command(plan_command, name="plan")
app.command(bench_command, name="bench")


def main() -> None:
    """Entry point: errors of ours become one line and an exit code, never a traceback."""
    try:
        sys.exit(app())
    except StagelineError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(130)
