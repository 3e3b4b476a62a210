"""One definition of each flag that several commands have: its name, group and help.

Help texts are the docstrings of core.config, so that each is written once.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter

from stageline_engine.core.config import (
    CacheConfig,
    ControlConfig,
    EngineConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
)

MODEL = Group.create_ordered("Model")
PARALLEL = Group.create_ordered("Parallelism")
CACHE = Group.create_ordered("KV cache")
SCHEDULER = Group.create_ordered("Scheduler")
LIMITS = Group.create_ordered("Time limits")
LOGGING = Group.create_ordered("Logging")
SERVER = Group.create_ordered("Server")
CONTROL = Group.create_ordered("Stages on other machines")
PLAN = Group.create_ordered("Plan")
TOP = Group.create_ordered("Top")


@functools.cache
def field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring below each field of a struct of core.config, as one line of plain text."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for assignment, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(assignment, ast.AnnAssign)
            and isinstance(assignment.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            texts[assignment.target.id] = re.sub(r"\s+", " ", str(text.value.value)).replace("``", "").strip()
    return texts


def _flag(
    struct: type[msgspec.Struct], name: str, group: Group, *aliases: str, has_negative: bool = False
) -> Parameter:
    text = field_texts(struct)[name]
    return Parameter(
        group=group,
        help=text,
        alias=aliases or None,
        negative=None if has_negative else "",
        # Where None means "decided at start", the text itself says what the default is.
        show_default=False if "default:" in text else None,
    )


MODEL_HELP = field_texts(ModelConfig)["model"]
ModelName = Annotated[str, Parameter(help=MODEL_HELP, show_default=False)]

ServedModelName = Annotated[str | None, _flag(ModelConfig, "served_model_name", MODEL)]
Dtype = Annotated[str, _flag(ModelConfig, "dtype", MODEL)]
MaxModelLen = Annotated[int | None, _flag(ModelConfig, "max_model_len", MODEL)]
AllowUnverified = Annotated[bool, _flag(ModelConfig, "allow_unverified_architecture", MODEL)]
Seed = Annotated[int, _flag(ModelConfig, "seed", MODEL)]

Stages = Annotated[int, _flag(ParallelConfig, "stages", PARALLEL, "--pipeline-parallel-size")]
Tp = Annotated[str, _flag(ParallelConfig, "tp", PARALLEL, "--tensor-parallel-size")]
LayerSplit = Annotated[str | None, _flag(ParallelConfig, "layer_split", PARALLEL)]
Threads = Annotated[int | None, _flag(ParallelConfig, "threads", PARALLEL)]
Device = Annotated[str, _flag(ParallelConfig, "device", PARALLEL)]
Executor = Annotated[str, _flag(ParallelConfig, "executor", PARALLEL)]

BlockSize = Annotated[int, _flag(CacheConfig, "block_size", CACHE)]
KvMemory = Annotated[str | None, _flag(CacheConfig, "kv_memory", CACHE)]
EnablePrefixCaching = Annotated[bool, _flag(CacheConfig, "enable_prefix_caching", CACHE, has_negative=True)]

MaxNumSeqs = Annotated[int, _flag(SchedulerConfig, "max_num_seqs", SCHEDULER)]
MaxNumBatchedTokens = Annotated[int | None, _flag(SchedulerConfig, "max_num_batched_tokens", SCHEDULER)]
MicroBatches = Annotated[int | None, _flag(SchedulerConfig, "micro_batches", SCHEDULER)]
MaxWaiting = Annotated[int, _flag(SchedulerConfig, "max_waiting", SCHEDULER)]

ControlPort = Annotated[int | None, _flag(ControlConfig, "control_port", CONTROL)]
Keys = Annotated[Path | None, _flag(ControlConfig, "keys", CONTROL)]
RayAddress = Annotated[str | None, _flag(ControlConfig, "ray_address", CONTROL)]

StartTimeout = Annotated[float, _flag(EngineConfig, "start_timeout", LIMITS)]
HangTimeout = Annotated[float, _flag(EngineConfig, "hang_timeout", LIMITS)]

LogLevel = Annotated[str, _flag(EngineConfig, "log_level", LOGGING)]
LogFormat = Annotated[str, _flag(EngineConfig, "log_format", LOGGING)]
