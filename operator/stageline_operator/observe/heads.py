"""Asks a replica's head for its state: ``GET /state`` on the status port of its pod."""

from __future__ import annotations

import time
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from stageline_operator.api.constants import PATH_STATE, PORT_STATUS
from stageline_operator.api.state import HeadState
from stageline_operator.decide.observed import HeadAnswer, PodSummary

ANSWER_SECONDS = 2.0
"""A head that is alive answers at once: its state is in memory."""
MAX_ANSWER = 256 * 1024
"""Bytes; 64 stages and all settings are 20 KiB."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a head said, as it is kept: as text, which takes a tenth of what it takes when it is parsed.

    Attributes:
        content: JSON of a HeadState; "" when there is none, and ``error`` says why.
    """

    replica: int
    pod_uid: str
    asked_at: float
    content: str
    error: str

    def answer(self) -> HeadAnswer:
        """The same, as decisions read it."""
        state = HeadState.model_validate_json(self.content) if self.content else None
        return HeadAnswer(self.replica, self.pod_uid, self.asked_at, state, self.error)


class Heads:
    """Asks heads; one connection pool. To be made inside the event loop."""

    def __init__(self, port: int = PORT_STATUS) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        # No connection is kept: a head that went away must not be asked through an old one.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
        self._port = port

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, pod: PodSummary) -> Heard:
        """What the head in ``pod`` says now. Never raises for what a pod may do: ``error`` says it."""
        content, error = "", ""
        try:
            content = (await self._get(pod.address)).model_dump_json()
        except ValidationError as invalid:
            error = f"its answer is not as expected: {invalid.errors(include_url=False)[0]['msg']}"
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = str(failure) or type(failure).__name__
        return Heard(replica=pod.replica, pod_uid=pod.uid, asked_at=time.time(), content=content, error=error)

    async def _get(self, address: str) -> HeadState:
        host = f"[{address}]" if ":" in address else address
        async with self._session.get(f"http://{host}:{self._port}{PATH_STATE}", allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"HTTP status {response.status}")
            content = await response.content.read(MAX_ANSWER)
            return HeadState.model_validate_json(content)
