"""Addresses for pods: a block of 127.0.0.0/8 for each test session, so that sessions side by side never share one."""

from __future__ import annotations

import random
import socket

CLAIM_PORT = 19999
"""A UDP port of the block's last address; bound as long as the block is in use."""


class PodAddresses:
    """Hands out each address of its block once."""

    def __init__(self) -> None:
        self._claim, self._block = _claim_block()
        self._count = 0

    def next(self) -> str:
        self._count += 1
        if self._count >= 250 * 250:
            raise OSError(f"{self._block}.0.0/16: all pod addresses of this session were used")
        return f"{self._block}.{self._count // 250}.{self._count % 250 + 1}"

    def close(self) -> None:
        self._claim.close()


def _claim_block() -> tuple[socket.socket, str]:
    candidates = list(range(16, 250))
    random.shuffle(candidates)
    for number in candidates:
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((f"127.{number}.255.254", CLAIM_PORT))
        except OSError:
            claim.close()
            continue
        return claim, f"127.{number}"
    raise OSError("every block of pod addresses is in use: end the test sessions that hold them")
