"""Every dashboard of the chart."""

from __future__ import annotations

from typing import Final

from dashboards import operating, overview, pipeline
from dashboards.board import Board

BOARDS: Final[tuple[Board, ...]] = (overview.BOARD, pipeline.BOARD, operating.BOARD)
