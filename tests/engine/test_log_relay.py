"""A child's JSON lines become records of the process that reads its pipe, whatever else the child prints."""

from __future__ import annotations

import json
import logging
import os

import pytest

from stageline_engine.agent.rank_log import MAX_LINE_BYTES, RankLog

NAME = "stageline_engine.stage.rank"
RECORD = {"time": "2026-01-31T09:30:00.250000+00:00", "level": "WARNING", "logger": NAME, "message": "late"}


def read(*lines: bytes) -> str:
    """What a rank wrote, as it stands in the tail."""
    log = RankLog("stage 1 rank 0", stage=1, rank=0)
    os.write(log.write_end, b"".join(line + b"\n" for line in lines))
    log.release_write_end()
    while log.read():
        pass
    log.close()
    return log.tail()


def test_a_record_keeps_what_its_writer_said(caplog: pytest.LogCaptureFixture) -> None:
    line = {**RECORD, "exception": "Traceback\nValueError", "stage": 1, "role": "rank", "request_id": "mine"}
    with caplog.at_level(logging.INFO):
        tail = read(json.dumps(line).encode())
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == (NAME, "WARNING", "late")
    assert {name: getattr(record, name) for name in ("stage", "role", "request_id")} == {
        "stage": 1,
        "role": "rank",
        "request_id": "mine",
    }
    assert record.created == pytest.approx(1769851800.25)
    assert tail.split("\n")[:3] == [f"WARNING {NAME}: late", "Traceback", "ValueError"]


def test_a_field_cannot_take_the_place_of_what_every_record_has(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read(json.dumps({**RECORD, "args": [1], "levelno": 50, "msg": "forged"}).encode())
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == ("late", logging.WARNING)


def test_a_percent_sign_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    read(json.dumps({**RECORD, "message": "100 %d %s"}).encode())
    assert caplog.messages == ["100 %d %s"]


def test_lines_below_the_level_are_kept_for_the_tail_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert read(json.dumps(RECORD).encode()) == f"WARNING {NAME}: late"
    assert caplog.records == []


@pytest.mark.parametrize("line", [b"{", b"{}", b'{"time": 1}', b"[1]", b"\xff{", b'{"message": "no time"}'])
def test_what_is_no_record_is_a_line_of_text(caplog: pytest.LogCaptureFixture, line: bytes) -> None:
    with caplog.at_level(logging.DEBUG):
        read(line)
    text = line.decode(errors="replace")
    assert (caplog.records[0].levelname, caplog.messages[0]) == ("DEBUG", f"stage 1 rank 0: {text}")
    assert (caplog.records[0].stage, caplog.records[0].rank) == (1, 0)  # type: ignore[attr-defined]


def test_a_record_may_be_longer_than_a_line_of_text(caplog: pytest.LogCaptureFixture) -> None:
    message = "x" * 3 * MAX_LINE_BYTES
    read(json.dumps({**RECORD, "message": message}).encode())
    assert caplog.messages == [message]
