"""The `stageline-operator` command: joins its subcommands."""

from __future__ import annotations

import sys
from importlib.metadata import version

import cyclopts

from stageline_operator.api.errors import OperatorError, SpecError

app = cyclopts.App(
    name="stageline-operator",
    help="Run InferenceDeployments on Kubernetes.",
    version=version("stageline"),
)
# By name: a command loads what it needs, and the operator's memory holds nothing of the others.
for command, text in {
    "run": "Serve InferenceDeployments until SIGTERM.",
    "render": "Print the objects that a resource stands for.",
    "plan": "Print what would change, step by step, and why.",
    "crd": "Print the CustomResourceDefinition.",
    "docs": "Print the reference of the resource.",
}.items():
    app.command(f"stageline_operator.cli.{command}:{command}_command", name=command, help=text)


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
