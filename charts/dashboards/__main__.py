"""``python charts/dashboards``: writes the dashboards into the chart (``make generate``)."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = HERE.parent / "stageline" / "files" / "dashboards"

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from dashboards.all_boards import BOARDS
    from dashboards.board import render

    FILES.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (FILES / f"{board.uid}.json").write_text(render(board))
