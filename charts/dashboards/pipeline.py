"""Where do the stages' seconds go? Stage by stage: shares of time, bubble, balance, boundaries, epoch."""

from __future__ import annotations

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.queries import BY_DEPLOYMENT, BY_STAGE, CHOSEN, ENGINE_VARIABLES, REPLICA, STAGE, rate

_BY_REPLICA: Final = f"{BY_DEPLOYMENT}, stageline_dev_replica"
_FIRST: Final = 'stage="0"'


def _share(metric: str, legend: str, by: str, more: str = "") -> Query:
    """Part of a stage's whole time; the time is its replica's, without the label of a stage."""
    seconds = rate("stageline_engine_seconds_total", _BY_REPLICA)
    return Query(f"{rate(metric, by, more)} / on ({_BY_REPLICA}) group_left () {seconds}", legend)


BOARD: Final = Board(
    uid="stageline-pipeline",
    title="Stageline / Pipeline",
    description="Where do the stages' seconds go? Stage by stage: shares of time, bubble, balance, boundaries, epoch.",
    variables=ENGINE_VARIABLES,
    rows=(
        Row(
            "Is the pipeline full?",
            (
                Panel(
                    "Pipeline efficiency",
                    "Busy share of the time with work, over all stages. What is missing to 100 % is the bubble.",
                    "percentunit",
                    [Query(f"stageline_pipeline_efficiency_ratio{{{CHOSEN}}}", REPLICA)],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Slowest stage over the mean",
                    "1 is balanced. Above 1.1: `stageline plan MODEL --from-metrics URL` proposes a better split.",
                    "none",
                    [Query(f"max by ({_BY_REPLICA}) (stageline_stage_load_ratio{{{CHOSEN}}})", REPLICA)],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Micro-batches in flight",
                    "Of as many as are kept in flight when there is work (M).",
                    "none",
                    [
                        Query(f"stageline_slots_in_flight{{{CHOSEN}}}", f"now {REPLICA}"),
                        Query(f"stageline_slots{{{CHOSEN}}}", f"M {REPLICA}"),
                    ],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Epoch",
                    "Generation of the process groups: grows with each recovery.",
                    "none",
                    [Query(f"stageline_epoch{{{CHOSEN}}}", REPLICA)],
                    width=6,
                    now=True,
                ),
            ),
        ),
        Row(
            "Where does the time of a stage go?",
            (
                Panel(
                    "Busy",
                    "Share of all time in which a stage runs the model. Equal curves: the split is balanced.",
                    "percentunit",
                    [_share("stageline_stage_busy_seconds_total", STAGE, BY_STAGE)],
                    width=12,
                    top=1,
                ),
                Panel(
                    "Waiting although there is work",
                    "upstream: the stage before is slower; downstream: the one after; schedule: no plan; feedback: a "
                    "token that is still on its way.",
                    "percentunit",
                    [_share("stageline_stage_wait_seconds_total", f"{{{{cause}}}} {STAGE}", f"cause, {BY_STAGE}")],
                    width=12,
                    top=1,
                ),
                Panel(
                    "Communicating",
                    "Taking and handing on messages and activations.",
                    "percentunit",
                    [_share("stageline_stage_communicating_seconds_total", STAGE, BY_STAGE)],
                    width=12,
                ),
                Panel(
                    "Idle",
                    "Nothing to do for any stage: there are no requests.",
                    "percentunit",
                    [_share("stageline_stage_idle_seconds_total", STAGE, BY_STAGE)],
                    width=12,
                    top=1,
                ),
            ),
        ),
        Row(
            "Are stages and micro-batches balanced?",
            (
                Panel(
                    "Load of a stage",
                    "Its busy seconds over the mean of all stages. The largest holds the others up.",
                    "none",
                    [Query(f"stageline_stage_load_ratio{{{CHOSEN}}}", STAGE)],
                ),
                Panel(
                    "Imbalance of micro-batches",
                    "(longest - mean) / mean predicted time of the slots' last micro-batches; 0 is balanced.",
                    "none",
                    [Query(f"stageline_microbatch_imbalance{{{CHOSEN}}}", REPLICA)],
                ),
                Panel(
                    "Time of a micro-batch in a stage",
                    "Busy seconds for each step. The slowest stage sets the pace.",
                    "s",
                    [
                        Query(
                            f"{rate('stageline_stage_busy_seconds_total', BY_STAGE)} / "
                            f"{rate('stageline_stage_steps_total', BY_STAGE)}",
                            STAGE,
                        )
                    ],
                ),
            ),
        ),
        Row(
            "What goes over the boundaries, and what is held?",
            (
                Panel(
                    "Bytes to the next stage",
                    "Hidden states: rows × width × bytes of an element. The last stage sends none.",
                    "Bps",
                    [Query(rate("stageline_boundary_bytes_total", BY_STAGE), STAGE)],
                ),
                Panel(
                    "Rows of a micro-batch",
                    "Tokens that go through the pipeline together: more rows use the weights better.",
                    "none",
                    [
                        Query(
                            f"{rate('stageline_step_rows_total', _BY_REPLICA)} / on ({_BY_REPLICA}) "
                            f"{rate('stageline_stage_steps_total', _BY_REPLICA, _FIRST)}",
                            REPLICA,
                        )
                    ],
                ),
                Panel(
                    "Resident memory of a stage",
                    "Summed over its ranks.",
                    "bytes",
                    [Query(f"stageline_stage_resident_bytes{{{CHOSEN}}}", STAGE)],
                ),
            ),
        ),
    ),
)
