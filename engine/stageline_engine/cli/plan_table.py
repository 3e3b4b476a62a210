"""A plan as tables that fit 100 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from stageline_engine.planning.report import Plan, StagePlan
from stageline_engine.planning.units import show_bytes

WIDTH = 100


def print_plan(plan: Plan) -> None:
    """Print it on standard output; plain text when that is not a terminal."""
    console = Console(highlight=False, soft_wrap=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    for part in (_summary(plan), _stages(plan), _prediction(plan), _scale(plan)):
        console.print(part)


def _table(title: str, *, has_header: bool = True) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=has_header,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _summary(plan: Plan) -> Table:
    table = _table(f"{plan.model}: {plan.architecture}, {plan.num_layers} layers, {plan.dtype}", has_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    how = "as given" if plan.is_split_given else "balanced by predicted time"
    table.add_row("layer split", f"{','.join(map(str, plan.layer_split))} ({how})")
    table.add_row("memory per rank", f"{show_bytes(plan.memory_per_rank_bytes)} ({plan.memory_source})")
    table.add_row(
        "workload",
        f"{plan.workload.prompt_tokens} prompt and {plan.workload.output_tokens} output tokens per request, "
        f"{plan.max_num_seqs} requests at a time, at most {plan.max_model_len:,} tokens each",
    )
    table.add_row("rank", plan.device)
    table.add_row("constants", plan.constants)
    return table


def _stages(plan: Plan) -> Table:
    table = _table("Stages")
    for name in ("stage", "layers", "", "with", "TP", "weights\nper rank", "KV/token\nper rank", "KV tokens"):
        table.add_column(name, justify="left" if name in ("layers", "with") else "right", no_wrap=True)
    for name in ("decode\nstep", "prefill\nper token", "busy"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in plan.stages:
        table.add_row(*_stage_row(stage))
    return table


def _stage_row(stage: StagePlan) -> list[str]:
    return [
        str(stage.stage),
        f"{stage.start}-{stage.end - 1}",
        str(stage.end - stage.start),
        "+".join(stage.holds),
        str(stage.tp),
        show_bytes(stage.weight_bytes_per_rank),
        show_bytes(stage.kv_bytes_per_token_per_rank),
        f"{stage.kv_capacity_tokens:,}",
        _seconds(stage.decode_seconds),
        _seconds(stage.prefill_seconds_per_token),
        f"{stage.busy_share:.0%}",
    ]


def _prediction(plan: Plan) -> Table:
    table = _table("Prediction (proportions are better than absolute figures)", has_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    kv, decode, prefill = plan.kv, plan.decode, plan.prefill
    table.add_row(
        "KV cache",
        f"{kv.blocks:,} blocks of {plan.block_size} = {kv.capacity_tokens:,} tokens, limited by stage "
        f"{kv.limiting_stage}; {kv.sequences_of_full_length:.1f} sequences of full length",
    )
    table.add_row(
        "decode",
        f"{decode.tokens_per_second:,.0f} tokens/s: {decode.micro_batches} micro-batches of "
        f"{decode.rows_per_micro_batch:g} rows, round {_seconds(decode.round_seconds)}",
    )
    table.add_row(
        "", f"bubble {decode.bubble:.1%}, bottleneck stage {decode.bottleneck_stage}"
        f", exposed latency {_seconds(decode.exposed_latency_seconds)}"
    )  # fmt: skip
    table.add_row(
        "prefill",
        f"{prefill.tokens_per_second:,.0f} tokens/s in chunks of {prefill.chunk_tokens}, bubble {prefill.bubble:.1%}, "
        f"bottleneck stage {prefill.bottleneck_stage}",
    )
    table.add_row("workload", f"{plan.output_tokens_per_second:,.0f} output tokens/s, prefill and decode together")
    return table


def _scale(plan: Plan) -> Table:
    table = _table(f"More ranks, each with {show_bytes(plan.memory_per_rank_bytes)}")
    for name in ("ranks", "stages", "TP", "KV blocks", "KV tokens"):
        table.add_column(name, justify="right")
    table.add_column("growth")
    table.add_column("layer split")
    for row in plan.scale:
        growth = row.note
        if row.kv_growth is not None and row.rank_growth is not None and row.rank_growth > 1:
            growth = f"x{row.kv_growth:.2f} for x{row.rank_growth:g} ranks"
        table.add_row(
            str(row.stages * row.tp),
            str(row.stages),
            str(row.tp),
            "-" if row.kv_blocks is None else f"{row.kv_blocks:,}",
            "-" if row.kv_tokens is None else f"{row.kv_tokens:,}",
            growth,
            ",".join(map(str, row.layer_split or ())),
        )
    return table


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
