"""The engine core process: `python -m stageline_engine.engine.process`, with a CoreSetup as JSON on standard input.

It ends when told so, when a stage fails, when its launcher closes its standard input, or with its launcher, by whatever
cause that dies. It imports neither torch nor transformers as long as the executor's ranks are processes of their own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import msgspec
import zmq

from stageline_engine.agent.death_signal import die_with_parent
from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.core.blocks import NUM_SCRATCH_BLOCKS
from stageline_engine.core.deployment import RankLoaded
from stageline_engine.core.errors import (
    EXIT_COMMUNICATION,
    EngineFailedError,
    InvalidInputError,
    StageFailedError,
    StagelineError,
)
from stageline_engine.core.logs import set_up_logging
from stageline_engine.core.messages import (
    CoreCommand,
    CoreEvent,
    Drain,
    EngineFailed,
    EngineProgress,
    EngineReady,
    Shutdown,
)
from stageline_engine.engine.loop import EngineLoop
from stageline_engine.engine.setup import CoreSetup, rank_settings
from stageline_engine.engine.stats import StatsBook
from stageline_engine.executor.base import Executor, Started
from stageline_engine.executor.registry import make_executor
from stageline_engine.planning.memory import kv_blocks
from stageline_engine.planning.slots import predicted_slots
from stageline_engine.scheduler.predictor import StepTimePredictor
from stageline_engine.scheduler.scheduler import Scheduler, SchedulerLimits

STATS_SECONDS = 0.5
"""Between two EngineStats, and between two looks at readiness and hangs."""
EPOCH = 1
"""Epochs count from 1; a process that ends with its first failure never sees a second."""


class CoreProcess:
    """One engine core with its socket to the client and its executor."""

    def __init__(self, setup: CoreSetup) -> None:
        self._setup = setup
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.linger = 1000
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.connect(setup.endpoint)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(CoreCommand)
        self._poller = zmq.Poller()
        self._executor: Executor = make_executor(setup.config)
        self._stopping = False

    def emit(self, event: CoreEvent) -> None:
        """Send an event to the client; never blocks."""
        self._socket.send(self._encoder.encode(event), zmq.NOBLOCK)

    def run(self) -> int:
        """Start, serve until told to stop, and end every rank; returns the exit code."""
        try:
            loop, stats, scheduler = self._start()
            self._serve(loop, stats, scheduler)
            return 0
        except InvalidInputError as error:
            self._fail(error, 2)
            return 2
        except StagelineError as error:
            # Ranks on other machines are peers: what befalls them is told of them.
            is_peer = isinstance(error, StageFailedError) and self._setup.config.control is not None
            code = EXIT_COMMUNICATION if is_peer else 1
            self._fail(error, code)
            return code
        finally:
            self._executor.close()
            self._socket.close()
            self._context.term()

    def _fail(self, error: StagelineError, exit_code: int) -> None:
        self.emit(EngineFailed(message=str(error), exit_code=exit_code))
        self._executor.close(str(error))

    def _start(self) -> tuple[EngineLoop, StatsBook, Scheduler]:
        setup, config = self._setup, self._setup.config

        def choose_blocks(loaded: list[RankLoaded]) -> int:
            return kv_blocks(loaded, config, setup.max_model_len)

        def progress(message: str) -> None:
            self.emit(EngineProgress(message=message))

        started = self._executor.start(rank_settings(setup), choose_blocks, progress, EPOCH, self.emit)
        num_stages = len(setup.specs)
        slots = predicted_slots(setup.profile, setup.specs, config)
        scheduler = Scheduler(
            SchedulerLimits(
                max_num_seqs=config.scheduler.max_num_seqs,
                max_num_batched_tokens=setup.token_budget,
                max_model_len=setup.max_model_len,
                slots=slots,
                max_waiting=config.scheduler.max_waiting,
            ),
            BlockAllocator(
                started.num_blocks, config.cache.block_size, enable_prefix_caching=config.cache.enable_prefix_caching
            ),
            StepTimePredictor(num_stages),
            epoch=EPOCH,
            num_stages=num_stages,
        )
        stats = StatsBook(num_stages, time.monotonic())
        loop = EngineLoop(
            scheduler,
            self._executor,
            stats,
            self.emit,
            setup.eos_token_ids,
            config.model.seed,
            config.hang_timeout,
            setup.profile.vocab_size,
        )
        self._announce(started, slots)
        return loop, stats, scheduler

    def _announce(self, started: Started, slots: int) -> None:
        setup = self._setup
        self.emit(
            EngineReady(
                epoch=EPOCH,
                max_model_len=setup.max_model_len,
                num_blocks=started.num_blocks - NUM_SCRATCH_BLOCKS,
                block_size=setup.config.cache.block_size,
                slots=slots,
                layer_split=tuple(spec.end - spec.start for spec in setup.specs),
                tp=tuple(spec.tp for spec in setup.specs),
                dtype=setup.config.model.dtype,
                kv_memory=started.num_blocks * max(rank.kv_block_bytes for rank in started.loaded),
                rank_pids=started.rank_pids,
            )
        )

    def _serve(self, loop: EngineLoop, stats: StatsBook, scheduler: Scheduler) -> None:
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(sys.stdin.fileno(), zmq.POLLIN)
        sockets = self._executor.sockets()
        for socket in sockets:
            self._poller.register(socket, zmq.POLLIN)
        next_stats = 0.0
        was_busy = False
        while not self._stopping:
            now = time.monotonic()
            worked = loop.turn(now)
            is_busy = scheduler.has_work
            if now >= next_stats or (was_busy and not is_busy):
                loop.check(now)
                self.emit(stats.snapshot(scheduler, self._executor.resident_bytes(), loop.draining, now))
                next_stats = now + STATS_SECONDS
            was_busy = is_busy
            # An executor without sockets completes a step inside submit(): its result waits for the next turn.
            wait = 0.0 if worked and not sockets else max(0.0, next_stats - now)
            self._take(loop, dict(self._poller.poll(int(wait * 1000))))

    def _take(self, loop: EngineLoop, readable: dict[object, int]) -> None:
        if sys.stdin.fileno() in readable:
            self._stopping = True
            return
        if self._socket not in readable:
            return
        while True:
            try:
                command = self._decoder.decode(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            if isinstance(command, Shutdown):
                self._stopping = True
                return
            if isinstance(command, Drain):
                self._executor.drain()
            loop.handle(command)


def _read_setup() -> CoreSetup:
    """Read one line: standard input stays open, and its end later means that the launcher is gone."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            raise EngineFailedError("the launcher went away before it sent the set-up")
        line += piece
    return msgspec.json.decode(bytes(line), type=CoreSetup)


def main(read_setup: Callable[[], CoreSetup] = _read_setup) -> int:
    """Entry point of the process."""
    # Standard input is looked at only when every rank is there.
    die_with_parent(os.getppid())
    # A terminal sends Ctrl-C to the whole group; the launcher decides when the core ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setup = read_setup()
    set_up_logging(setup.config.log_level, setup.config.log_format, "engine-core", epoch=EPOCH)
    return CoreProcess(setup).run()


if __name__ == "__main__":
    sys.exit(main())
