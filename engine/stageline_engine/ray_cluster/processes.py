"""Ray on this machine: its head beside the engine core, or a node beside a stage. Each is a supervised child.

A node that loses its head looks for it and joins anew, by itself. A head that has ended is for its owner to replace,
together with the driver (StageActors): Ray does not tell a driver that its head is another one.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from stageline_engine.agent.rank_log import RankLog
from stageline_engine.ray_cluster import settings
from stageline_engine.ray_cluster.supervisor import POLITE_SECONDS

CLOSE_SECONDS = POLITE_SECONDS + 0.6
"""So long a supervisor may take to end its command and the rest."""
HEAD_START_SECONDS = 120.0
"""Ray's head takes 3 s; much longer, and several tries, on a machine that is pulling images or loading weights."""


class Supervised:
    """A command under a supervisor. Make it in a thread that lives as long: the kernel ties it to that thread.

    Args:
        command: what to run.
        environment: all of its environment variables.
        folder: private to it; removed at its end.
        options: more options of the supervisor.
        name: for its log lines, at debug level.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        options: Sequence[str] = (),
        name: str = "ray",
    ) -> None:
        self.folder = folder
        self._log = RankLog(name)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "stageline_engine.ray_cluster.supervisor",
                f"--parent={os.getpid()}",
                f"--folder={folder}",
                *options,
                "--",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log.write_end,
            stderr=self._log.write_end,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # an interrupt at the terminal is for us; we tell it in our order
        )
        self._log.release_write_end()

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self._process.pid

    def poll(self) -> int | None:
        """Take what was written, without waiting; the exit code once everything has ended, in the form of a shell."""
        self._log.read()
        return self._process.poll()

    def wait(self) -> int:
        """Read until everything has ended; the exit code."""
        while self._log.read():
            select.select([self._log], [], [])
        return self._process.wait()

    def log_tail(self) -> str:
        """The last lines that were written."""
        return self._log.tail()

    def stop(self) -> None:
        """Ask for the end; does not wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the command and whatever came of it, within 2 s. May be called twice."""
        self.stop()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
        self._log.close()


class RayHead:
    """Ray's head on this machine's ``address``; returns at once.

    Raises:
        ConfigurationError: Ray's token is missing.
    """

    def __init__(self, address: str) -> None:
        variables = settings.environment(os.environ)
        folder = make_folder()
        self.address = f"{address}:{settings.PORT_GCS}"
        # On a machine that is very busy a part of Ray may time out while it starts.
        until_up = [f"--again-unless={settings.ADDRESS_FILE}"]
        self._ray = Supervised(settings.head_command(address, folder), variables, folder, until_up, "ray head")

    def has_ended(self) -> bool:
        """Whether it, or a part of it, has died after it was up: all of it has ended then."""
        return self._ray.poll() is not None

    def log_tail(self) -> str:
        """Ray's last words."""
        return self._ray.log_tail()

    def is_up(self) -> bool:
        """Whether nodes can join."""
        return self._ray.poll() is None and (self._ray.folder / settings.ADDRESS_FILE).exists()

    def close(self) -> None:
        """End all of Ray on this machine within 2 s. May be called twice."""
        self._ray.close()


class RayNode:
    """This machine, ``address``, as the Ray node of a stage; joins the Ray of host ``head`` when that is there.

    Args:
        node_socket: where the process that owns the stage's ranks listens; the stage's actor finds it by this.

    Raises:
        ConfigurationError: Ray's token is missing.
    """

    def __init__(self, head: str, stage: int, address: str, node_socket: str) -> None:
        variables = {**settings.environment(os.environ), settings.NODE_SOCKET_VARIABLE: node_socket}
        folder = make_folder()
        command = settings.stage_command(head, stage, address, folder)
        self._ray = Supervised(
            command, variables, folder, ["--again", f"--wait-for={head}:{settings.PORT_GCS}"], "ray node"
        )

    def is_up(self) -> bool:
        """Whether it has joined."""
        return self._ray.poll() is None and (self._ray.folder / settings.ADDRESS_FILE).exists()

    def close(self) -> None:
        """End all of Ray on this machine within 2 s. May be called twice."""
        self._ray.close()


def make_folder() -> Path:
    """A private folder in which Ray's sockets have paths that a Unix socket can have."""
    folder = Path(tempfile.mkdtemp(prefix="sl-"))
    if len(os.fsencode(folder)) <= settings.MAX_TEMP_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
