"""A rank's process: takes set-up commands from the engine core, then runs steps, until its parent ends it.

    InitRank → Allocate → Connect → WarmUp → steps … → InitRank of the next epoch → …

InitRank can come at any time: it abandons links and KV, and keeps the weights when they are the wanted ones. So start,
recovery and a warm spare are one way. A neighbour's death ends the epoch, not this process.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from typing import NoReturn

from stageline_engine.comm import nccl
from stageline_engine.comm.channel import RankChannel
from stageline_engine.comm.commands import (
    LINK_FAILED,
    Allocate,
    Connect,
    Connected,
    Hello,
    InitRank,
    Loaded,
    Opened,
    RankBoot,
    RankFailed,
    Warm,
    WarmUp,
)
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.rank_counters import RankCounters
from stageline_engine.comm.tensor_group import RankGroup
from stageline_engine.core.errors import InvalidInputError, LinkFailedError
from stageline_engine.core.logs import JSON, set_fields, set_up_logging
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.stage.rank_inbox import EpochEnded, Inbox, SetUpCommand
from stageline_engine.stage.rank_joints import Joints
from stageline_engine.stage.rank_steps import StepLoop
from stageline_engine.stage.runner import StageRunner

_log = logging.getLogger(__name__)


def run_rank(boot: RankBoot, counters: RankCounters) -> int:
    """Be the rank of ``boot``; returns only by an exception. Whoever made the process ends it."""
    # The agent reads it, and formats it for all.
    set_up_logging(boot.log_level, JSON, "rank", stage=boot.stage, rank=boot.rank)
    faulthandler.enable()
    nccl.prepare_process()
    context = KeyedContext(boot.keys)
    return RankProcess(boot, context, counters).serve()


class RankProcess:
    """The state that outlives an epoch: the channel, and the runner with its weights."""

    def __init__(self, boot: RankBoot, context: KeyedContext, counters: RankCounters) -> None:
        self._boot = boot
        self._context = context
        self._counters = counters
        self._channel = RankChannel(context, boot)
        self._inbox = Inbox(self._channel)
        self._runner: StageRunner | None = None
        self._group: RankGroup | None = None
        self._joints: Joints | None = None
        self._tp_of_stages: tuple[int, ...] = ()

    def serve(self) -> NoReturn:
        """The loop of epochs."""
        self._channel.send(Hello(os.getpid()))
        while True:
            command = self._inbox.wait_command()
            try:
                self._obey(command)
            except EpochEnded:
                continue
            except InvalidInputError as error:
                self._fail(RankFailed.of_input(command.epoch, error))
            except LinkFailedError as error:
                self._fail(RankFailed(command.epoch, LINK_FAILED, str(error)))

    def _obey(self, command: SetUpCommand) -> None:
        if isinstance(command, InitRank):
            self._init(command)
        elif isinstance(command, Allocate):
            self._allocate(command)
        elif isinstance(command, Connect):
            self._connect(command)
        else:
            self._warm_up(command)

    def _init(self, command: InitRank) -> None:
        self._abandon()
        self._inbox.begin_epoch(command.epoch)
        set_fields(epoch=command.epoch)
        kept = self._runner is not None and self._runner.settings == command.settings
        if not kept:
            self._load(command)
        runner = self._loaded_runner()
        runner.begin_epoch(command.epoch)
        loaded = runner.loaded
        self._counters.set(
            epoch=command.epoch, weight_bytes=loaded.weight_bytes, load_seconds=loaded.load_seconds, kv_bytes=0
        )
        self._tp_of_stages = command.tp_of_stages
        self._channel.send(Loaded(command.epoch, runner.loaded, kept))

    def _load(self, command: InitRank) -> None:
        # The old weights go before the new ones come: both may not fit.
        self._runner = None
        spec, rank = command.settings.spec, self._boot.rank
        self._group = RankGroup(f"tensor-{spec.stage}", rank, spec.tp, self._boot.address) if spec.tp > 1 else None
        self._runner = StageRunner(command.settings, rank, self._group or SoloGroup(), command.epoch)

    def _allocate(self, command: Allocate) -> None:
        runner, member = self._loaded_runner(), (self._boot.stage, self._boot.rank)
        runner.allocate(command.num_blocks)
        self._counters.set(kv_bytes=command.num_blocks * runner.loaded.kv_block_bytes)
        joints = Joints(
            member,
            self._tp_of_stages,
            command.epoch,
            self._context,
            self._group,
            runner.model.device,
            self._inbox.notify,
            self._boot.address,
        )
        self._joints = joints
        if joints.feedback is not None:
            self._inbox.listen_to(joints.feedback)
        address = joints.feedback.address if joints.feedback is not None else ""
        self._channel.send(Opened(command.epoch, joints.values, address))

    def _connect(self, command: Connect) -> None:
        model, joints = self._loaded_runner().model, self._opened_joints()
        joints.supply(command.ends)
        # Waited for in the inbox: a member may be gone, and another epoch the way out.
        self._inbox.wait_until(joints.is_settled)
        joints.join(command.feedback, model.hidden_size, model.dtype)
        self._channel.send(Connected(command.epoch))

    def _warm_up(self, command: WarmUp) -> None:
        began = time.monotonic()
        runner, joints = self._loaded_runner(), self._opened_joints()
        runner.warm_up()
        steps = StepLoop(runner, self._inbox, joints, self._channel, self._counters)
        seconds = time.monotonic() - began
        self._counters.set(warm_up_seconds=seconds)
        self._channel.send(Warm(command.epoch, seconds))
        steps.run()

    def _fail(self, failure: RankFailed) -> None:
        _log.error("%s", failure.message)
        self._abandon()
        self._inbox.end_epoch()
        self._channel.send(failure)

    def _abandon(self) -> None:
        if self._joints is not None:
            self._joints.close()
            self._joints = None

    def _loaded_runner(self) -> StageRunner:
        assert self._runner is not None, "InitRank comes first"
        return self._runner

    def _opened_joints(self) -> Joints:
        assert self._joints is not None, "Allocate comes first"
        return self._joints
