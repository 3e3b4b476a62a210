"""Ranks as processes of this machine, children of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.curve import KeyedContext, new_keys
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.messages import STAGE_LOADING
from stageline_engine.executor.processes import ProcessExecutor
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.roster import Roster
from stageline_engine.executor.this_machine import ThisMachine


class LocalExecutor(ProcessExecutor):
    """See :class:`executor.base.Executor`. The end of the thread that uses it is the end of the ranks."""

    def make_host(self, settings: Sequence[RankSettings], progress: Callable[[str], None], roster: Roster) -> RankHost:
        """See :class:`ProcessExecutor`."""
        for stage in settings:
            roster.set(stage.spec.stage, STAGE_LOADING)
        return local_host(settings)


def local_host(settings: Sequence[RankSettings]) -> RankHost:
    """Ranks of this machine, reachable, with keys of their own."""
    context = KeyedContext(new_keys())
    return RankHost(settings, context, HeadChannel(context), ThisMachine(settings))
