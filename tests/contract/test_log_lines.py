"""What the engine's pods log as JSON is text in a status, for a person reads that."""

from __future__ import annotations

import subprocess
import sys

from stageline_operator.observe.log_lines import readable

PROGRAM = """
import logging
from stageline_engine.core.logs import set_up_logging
set_up_logging("info", "json", "node", stage=1)
logging.getLogger("stageline").error("stage 1: %s\\nlast words", "the process ended")
1 / 0
"""


def test_a_status_shows_the_lines_of_the_engine_as_text() -> None:
    written = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False).stderr
    assert len(written.splitlines()) == 2
    shown = readable("not of ours\n" + written).splitlines()
    assert shown[:3] == ["not of ours", "ERROR stageline: stage 1: the process ended", "last words"]
    assert shown[3].startswith("CRITICAL stageline_engine.core.logs: ZeroDivisionError")
    assert shown[-1] == "ZeroDivisionError: division by zero"


def test_what_is_cut_or_something_else_stays_as_it_is() -> None:
    for line in ('"message": "cut"}', '{"message": "cut', "{}", "{1, 2}", ""):
        assert readable(line) == line
