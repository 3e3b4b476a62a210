"""A message of each kind that goes over the control channel."""

from __future__ import annotations

import msgspec

from stageline_engine.comm.commands import (
    Allocate,
    Connect,
    Connected,
    Hello,
    InitRank,
    Loaded,
    Opened,
    RankFailed,
    Warm,
    WarmUp,
)
from stageline_engine.comm.node_commands import (
    EpochBegan,
    HeadBeat,
    MayEnd,
    NodeBeat,
    NodeFailed,
    NodeJoin,
    NodeLeft,
    NodePrepared,
    NodeProgress,
    NodeRefused,
    NodeToldToEnd,
    RankEnded,
    ReplicaOver,
    RunStage,
)
from stageline_engine.core.deployment import RankLoaded, RankSettings, StageSpec
from stageline_engine.core.messages import (
    AdmitSequence,
    PromptLogprobs,
    SampledToken,
    Segment,
    StepPlan,
    StepReport,
    StepResult,
    TokenLogprobs,
)
from stageline_engine.core.request import SamplingParams

SETTINGS = RankSettings(
    model_folder="/models/x",
    spec=StageSpec(stage=1, num_stages=2, start=3, end=5, tp=2),
    dtype="float32",
    device="cpu",
    threads=1,
    block_size=16,
    max_model_len=2048,
    max_num_batched_tokens=256,
    max_num_seqs=64,
)
LOADED = RankLoaded(stage=1, rank=0, weight_bytes=1, bytes_read=2, kv_block_bytes=3, free_bytes=4, load_seconds=0.5)
PLAN = StepPlan(3, 7, 1, [Segment(1, 4, 1, True), Segment(2, 0, 9, False)], [(2, [5, 6])], [8], 6)
RESULT = StepResult(
    3,
    7,
    1,
    [SampledToken(1, 42, TokenLogprobs(-0.5, 1, [42, 3], [-0.5, -2.0])), SampledToken(2, 7)],
    [PromptLogprobs(2, 1, [TokenLogprobs(-3.0, 5, [], [])])],
)
COMMANDS: list[msgspec.Struct] = [
    InitRank(3, SETTINGS, (1, 2)),
    Allocate(3, 100),
    Connect(3, {"boundary-1-0": {0: b"\0\1", 1: b"\2"}}, ["tcp://127.0.0.1:1"]),
    WarmUp(3),
    AdmitSequence(3, 1, [1, 2, 3], 2, SamplingParams(temperature=0.5, logit_bias={3: -1.0}, stop=("a",)), 0, (9,)),
    PLAN,
]
REPLIES: list[msgspec.Struct] = [
    Hello(123),
    Loaded(3, LOADED, False),
    Opened(3, {"tensor-1": b"\xff" * 200}, "tcp://127.0.0.1:2"),
    Connected(3),
    Warm(3, 0.25),
    RankFailed(3, "link", "boundary-1-0: reset"),
    RESULT,
    StepReport(3, 7, 1, 0.1, 0.2, 0.3, 0.4, 0.5, 600),
]
NODE_MESSAGES: list[msgspec.Struct] = [
    NodeJoin(1, 2, "pod", "192.0.2.1"),
    NodeBeat(5),
    NodePrepared("/models/x", 3),
    NodeProgress("line"),
    RankEnded(1, 7, -9, "killed", "last words"),
    NodeFailed(RankFailed(0, "model-source", "m", "model", "x", "fetch it")),
    NodeToldToEnd(),
    NodeLeft("told to"),
]
NODE_COMMANDS: list[msgspec.Struct] = [
    RunStage("head", "hf://a/b@c", "LlamaForCausalLM", SETTINGS.spec, 0, 3, 20),
    NodeRefused("no", "--tp", 3),
    EpochBegan(2),
    MayEnd(),
    HeadBeat("head", asks_to_join=True),
    ReplicaOver("over", comes_back=True),
]
