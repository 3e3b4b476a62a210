"""The `stageline` command: joins its subcommands."""

from __future__ import annotations

import sys
from importlib.metadata import version

import cyclopts

from stageline_engine.cli.bench import bench_command
from stageline_engine.cli.console import fail
from stageline_engine.cli.node import node_command
from stageline_engine.cli.plan import plan_command
from stageline_engine.cli.serve import serve_command
from stageline_engine.cli.top import top_command
from stageline_engine.core.errors import StagelineError

app = cyclopts.App(
    name="stageline",
    help="Serve language models through a pipeline of stages.",
    version=version("stageline"),
)
app.command(serve_command, name="serve")
app.command(node_command, name="node")
app.command(plan_command, name="plan")
app.command(bench_command, name="bench")
app.command(top_command, name="top")


def main() -> None:
    """Entry point: errors become one line and an exit code, never a traceback."""
    try:
        sys.exit(app(exit_on_error=False, print_error=False))
    except cyclopts.CycloptsError as error:
        print(f"stageline: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (StagelineError, OSError) as error:
        sys.exit(fail(error))
