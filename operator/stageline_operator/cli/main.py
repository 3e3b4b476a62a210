"""The `stageline-operator` command: joins its subcommands."""

from __future__ import annotations

import sys
from importlib.metadata import version

import cyclopts

from stageline_operator.api.errors import OperatorError, SpecError
from stageline_operator.cli.crd import crd_command
from stageline_operator.cli.docs import docs_command
from stageline_operator.cli.render import render_command

app = cyclopts.App(
    name="stageline-operator",
    help="Run InferenceDeployments on Kubernetes.",
    version=version("stageline"),
)
# By name: these two load the client, and kopf, which the others can do without.
app.command("stageline_operator.cli.run:run_command", name="run")
app.command("stageline_operator.cli.plan:plan_command", name="plan")
app.command(render_command, name="render")
app.command(crd_command, name="crd")
app.command(docs_command, name="docs")


def main() -> None:
    """Entry point: errors become one line and an exit code, never a traceback."""
    try:
        sys.exit(app(exit_on_error=False, print_error=False))
    except cyclopts.CycloptsError as error:
        print(f"stageline-operator: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (OperatorError, OSError) as error:
        print(f"stageline-operator: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
