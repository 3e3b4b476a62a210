"""Weights of a hub's model: each stage's bytes come once to a machine, whatever breaks on the way."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.models.stage_model import load_stage_model
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.sources import hub_errors, spans
from stageline_engine.sources.fetch import Fetch, begin, fetch, missing_bytes
from stageline_engine.sources.integrity import read_header, weight_files
from stageline_engine.sources.resolve import resolve
from stageline_engine.sources.sparse_file import record_of
from stageline_engine.sources.stage_bytes import stage_bytes
from support.hub_server import COMMIT, Hub, be_a_machine, our_hub
from support.stage_pipeline import rank_settings
from support.tiny_models import LAYERS, VOCAB, tiny_model

RANGES = [(0, 2), (2, LAYERS)]
SPECS = [StageSpec(stage=n, num_stages=2, start=start, end=end, tp=1) for n, (start, end) in enumerate(RANGES)]
PATIENCE_SECONDS = 60.0
"""A test that waits so long has found a hang."""


@pytest.fixture(params=["llama"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in tiny_model(request.param).iterdir()}
    with our_hub(files, tmp_path / "first", monkeypatch) as running:
        yield running


sharded_and_single = pytest.mark.parametrize("hub", ["llama", "llama-tied"], indirect=True)


def outline(hub: Hub, model: str = "hf://org/tiny") -> Path:
    """The folder before any weights have come; from here on the hub counts anew."""
    folder = resolve(model, progress=print).path
    hub.forget()
    return folder


def data_bytes(folder: Path) -> int:
    """All weights, without headers."""
    return sum(file.stat().st_size - read_header(file).length for file in weight_files(folder))


def needed(folder: Path, spec: StageSpec) -> int:
    return sum(map(spans.length, stage_bytes(folder, spec).values()))


def holds_what_the_hub_has(folder: Path, hub: Hub) -> bool:
    return all(file.read_bytes() == hub.files[file.name] for file in weight_files(folder))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@sharded_and_single
def test_stages_of_one_machine_fetch_every_byte_once(hub: Hub) -> None:
    folder = outline(hub)
    fetch(folder, SPECS, print)
    # A tied embedding, too, which both of them read.
    assert hub.sent_weights() == data_bytes(folder)
    assert holds_what_the_hub_has(folder, hub)


@sharded_and_single
def test_stages_of_two_machines_fetch_their_own_bytes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = resolve("hf://org/tiny", progress=print).pinned
    is_tied = len([name for name in hub.files if name.endswith(".safetensors")]) == 1
    sent = []
    for spec in SPECS:
        be_a_machine(tmp_path / f"node-{spec.stage}", monkeypatch)
        folder = outline(hub, pinned)
        fetch(folder, [spec], print)
        assert hub.sent_weights() == needed(folder, spec)
        sent.append(hub.sent_weights())
        settings = rank_settings(folder, stage=spec.stage, ranges=RANGES)
        assert load_stage_model(settings, 0, SoloGroup()).bytes_read == sent[-1]
    hidden = 36
    assert sum(sent) == data_bytes(folder) + (VOCAB * hidden * 4 if is_tied else 0)


def test_the_second_time_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = outline(hub)
    fetch(folder, SPECS, print)
    hub.forget()
    assert begin(folder, SPECS, print) is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert begin(resolve("hf://org/tiny", progress=print).path, SPECS, print) is None
    assert hub.requests == []


def test_another_split_fetches_only_what_it_adds(hub: Hub) -> None:
    folder = outline(hub)
    fetch(folder, [SPECS[0]], print)
    before = hub.sent_weights()
    whole = StageSpec(stage=0, num_stages=1, start=0, end=LAYERS, tp=1)
    fetch(folder, [whole], print)
    assert 0 < before < hub.sent_weights() == data_bytes(folder)


def test_offline_it_is_told_which_part_is_missing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = outline(hub)
    fetch(folder, [SPECS[0]], print)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch(folder, [SPECS[0]], print)
    with pytest.raises(ModelSourceError) as caught:
        fetch(folder, SPECS, print)
    message = str(caught.value)
    assert message.startswith(f"model='hf://org/tiny@{COMMIT}': HF_HUB_OFFLINE is set")
    for file in missing_bytes(folder, SPECS):
        assert file.name in message


def test_the_commit_that_was_found_is_fetched_whatever_is_newer(hub: Hub) -> None:
    folder = outline(hub)
    old = dict(hub.files)
    hub.push("f" * 40, {name: content[::-1] for name, content in hub.files.items()})
    fetch(folder, SPECS, print)
    assert all(file.read_bytes() == old[file.name] for file in weight_files(folder))


def test_weights_that_come_from_elsewhere_are_those_that_the_hub_names(hub: Hub) -> None:
    hub.redirects = True
    folder = outline(hub)
    fetch(folder, SPECS, print)
    assert holds_what_the_hub_has(folder, hub)


def test_what_breaks_off_goes_on_where_it_stopped(hub: Hub) -> None:
    folder = outline(hub)
    hub.cut_once = weight_files(folder)[0].name
    said: list[str] = []
    fetch(folder, SPECS, said.append)
    assert any(f"broke off: trying {weight_files(folder)[0].name} again" in line for line in said)
    assert holds_what_the_hub_has(folder, hub)
    assert hub.sent_weights() == data_bytes(folder)


def begun(folder: Path, said: list[str]) -> Fetch:
    started = begin(folder, SPECS, said.append)
    assert started is not None
    return started


def is_whole(file: Path) -> bool:
    record = record_of(file)
    return record is not None and record.present == [(0, record.size)]


def test_what_a_killed_fetch_has_brought_is_kept(hub: Hub) -> None:
    folder = outline(hub)
    first, *_, last = weight_files(folder)
    hub.held[last.name] = threading.Event()
    killed = begun(folder, [])
    wait_until(lambda: is_whole(first))
    killed.close()
    whole = {file.name for file in weight_files(folder) if is_whole(file)}
    assert last.name not in whole
    hub.held.pop(last.name).set()
    hub.forget()
    fetch(folder, SPECS, print)
    assert whole.isdisjoint(hub.sent)
    assert holds_what_the_hub_has(folder, hub)


def test_two_at_once_fetch_it_once(hub: Hub) -> None:
    folder = outline(hub)
    name = weight_files(folder)[0].name
    hub.held[name] = threading.Event()
    said: list[str] = []
    both = [begun(folder, said), begun(folder, said)]

    def one_waits() -> bool:
        for one in both:
            one.poll()
        return any("waiting for another process" in line for line in said)

    try:
        wait_until(one_waits)
        hub.held[name].set()
        for one in both:
            one.wait()
    finally:
        for one in both:
            one.close()
    assert hub.sent_weights() == data_bytes(folder)


def test_a_rank_loads_while_its_weights_come(hub: Hub) -> None:
    folder = outline(hub)
    settings = rank_settings(folder, stage=1, ranges=RANGES)
    last = [file for file, spans_of in stage_bytes(folder, SPECS[1]).items() if spans_of][-1]
    hub.held[last.name] = threading.Event()
    coming = begun(folder, [])
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(load_stage_model, settings, 0, SoloGroup())
        others = [file for file in weight_files(folder) if file != last]
        wait_until(lambda: all(map(is_whole, others)))
        assert not loading.done()
        hub.held[last.name].set()
        coming.wait()
        assert loading.result().bytes_read == needed(folder, SPECS[1])
    coming.close()


def test_a_rank_never_reads_what_was_not_fetched(hub: Hub) -> None:
    folder = outline(hub)
    fetch(folder, [SPECS[0]], print)
    with pytest.raises(ModelSourceError, match=r"model\.layers\.2\..* was not fetched for this stage"):
        load_stage_model(rank_settings(folder, stage=1, ranges=RANGES), 0, SoloGroup())


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, status: int) -> None:
    folder = outline(hub)
    name = weight_files(folder)[0].name
    hub.statuses[name] = [status]
    said: list[str] = []
    fetch(folder, SPECS, said.append)
    assert any(f"busy (status {status}): trying {name} again" in line for line in said)
    assert holds_what_the_hub_has(folder, hub)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "refuses .* set HF_TOKEN"),
        (403, "refuses .* set HF_TOKEN"),
        (404, "has no .* name another revision"),
        (429, "limits requests .* HF_TOKEN"),
        (500, "with status 500: start again"),
    ],
)
def test_what_a_hub_refuses_is_told_with_a_remedy(hub: Hub, status: int, told: str) -> None:
    folder = outline(hub)
    hub.statuses[weight_files(folder)[0].name] = [status] * 5
    with pytest.raises(ModelSourceError, match=told) as caught:
        fetch(folder, SPECS, print)
    assert "\n" not in str(caught.value)


def test_a_hub_that_went_away_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = outline(hub)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ModelSourceError, match="broke off .*: start again, what came so far is kept"):
            fetch(folder, SPECS, print)


def test_a_mirror_that_ignores_ranges_is_refused(hub: Hub) -> None:
    folder = outline(hub)
    hub.ignores_ranges = True
    with pytest.raises(ModelSourceError, match="ignores byte ranges .*hf download org/tiny --revision"):
        fetch(folder, SPECS, print)
    shutil.rmtree(folder)
    with pytest.raises(ModelSourceError, match="ignores byte ranges"):
        resolve("hf://org/tiny", progress=print)


@pytest.mark.parametrize("change", [lambda content: content[:-4] + b"abcd", lambda content: content + b"more"])
def test_content_that_changed_since_its_header_was_read_is_refused(hub: Hub, change: Callable[[bytes], bytes]) -> None:
    folder = outline(hub)
    name = weight_files(folder)[0].name
    hub.files[name] = change(hub.files[name])
    with pytest.raises(ModelSourceError, match=f"another content of {name} .*remove {folder}"):
        fetch(folder, SPECS, print)


def test_too_small_a_disk_is_told_before_anything_comes(hub: Hub, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    elements = 2 * free // 4
    header = b'{"model.layers.0.w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (elements, elements * 4)
    content = len(header).to_bytes(8, "little") + header
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    hub.files["model.safetensors"] = content
    hub.sizes["model.safetensors"] = len(content) + elements * 4
    folder = outline(hub)
    with pytest.raises(ModelSourceError, match="still to be fetched, and .* has room for .*STAGELINE_CACHE"):
        fetch(folder, SPECS, print)
    assert hub.requests == []


def test_a_disk_that_fills_up_is_told() -> None:
    # A full disk cannot be had without the right to mount one.
    error = hub_errors.broke_off("hf://org/tiny", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "the disk is full: free room in it, and start again" in str(error)
