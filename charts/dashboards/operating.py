"""Does the operator work? What it sees, how long it takes, what fails."""

from __future__ import annotations

from typing import Final

from dashboards.board import Board, Panel, Query, Row, Variable

_CHOSEN: Final = 'namespace=~"$namespace"'
_SLOW: Final = (
    "histogram_quantile({0}, sum by (le) (rate(stageline_operator_reconcile_seconds_bucket[$__rate_interval])))"
)

BOARD: Final = Board(
    uid="stageline-operator",
    title="Stageline / Operator",
    description="Does the operator work? What it sees, how long it takes, what fails.",
    variables=(Variable("namespace", "namespace", "stageline_operator_resource_phase"),),
    rows=(
        Row(
            "Is it well?",
            (
                Panel(
                    "Operators that work",
                    "Pods that hold the Lease: 1. With 0 nothing is healed; 2 for longer than a moment must not be.",
                    "none",
                    [Query("sum(stageline_operator_leading)", "leading")],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Objects that are watched",
                    "0 while resources exist: it is blind.",
                    "short",
                    [Query("max(stageline_operator_objects)", "objects")],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Looks that failed",
                    "By reason, in a second. Refused writes are told in the resource's status too.",
                    "ops",
                    [Query("sum(rate(stageline_operator_errors_total[$__rate_interval])) or vector(0)", "errors")],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Deletions that the watch missed",
                    "Found by reads: the safety net works, but the watch lost something.",
                    "short",
                    [Query("sum(stageline_operator_missed_deletions_total)", "missed")],
                    width=6,
                    now=True,
                ),
            ),
        ),
        Row(
            "What does it serve?",
            (
                Panel(
                    "Resources by phase",
                    "All of them should be Ready.",
                    "short",
                    [Query(f"sum by (phase) (stageline_operator_resource_phase{{{_CHOSEN}}} == 1)", "{{phase}}")],
                    stacked=True,
                ),
                Panel(
                    "Replicas that are missing",
                    "Asked for and not ready.",
                    "short",
                    [
                        Query(
                            f"stageline_operator_resource_replicas{{{_CHOSEN}}} - "
                            f"stageline_operator_resource_ready_replicas{{{_CHOSEN}}}",
                            "{{namespace}}/{{name}}",
                        )
                    ],
                ),
                Panel(
                    "Queue",
                    "Resources that wait for a look. It goes back to 0 in seconds.",
                    "short",
                    [Query("max(stageline_operator_queue_depth)", "waiting")],
                ),
            ),
        ),
        Row(
            "What does it do?",
            (
                Panel(
                    "Time of a look at a resource",
                    "With its writes.",
                    "s",
                    [Query(_SLOW.format(0.5), "p50"), Query(_SLOW.format(0.99), "p99")],
                ),
                Panel(
                    "Writes",
                    "By verb and kind. A resource at rest causes none.",
                    "ops",
                    [
                        Query(
                            "sum by (verb, kind) (rate(stageline_operator_writes_total[$__rate_interval]))",
                            "{{verb}} {{kind}}",
                        )
                    ],
                    stacked=True,
                ),
                Panel(
                    "Memory",
                    "Resident memory of each operator pod; the chart limits it.",
                    "bytes",
                    [
                        Query(
                            "process_resident_memory_bytes and on (instance, job) stageline_operator_leading",
                            "{{instance}}",
                        )
                    ],
                ),
            ),
        ),
    ),
)
