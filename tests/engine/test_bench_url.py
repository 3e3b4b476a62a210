"""`stageline bench URL`: a server of ours, and servers that do not do what they should."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stageline_engine.cli.bench import BenchOptions, bench_command
from stageline_engine.cli.options import EngineOptions
from stageline_engine.core.errors import ConfigurationError, EngineFailedError
from support.serving import Served, serving
from support.tiny_models import tiny_model

W3 = BenchOptions(workloads="W3")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("the-key\n")
    with serving(tiny_model("llama"), "--threads", "1", "--kv-memory", "8MiB", "--api-key-file", str(keys)) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("the-key\nanother\n")
    return path


def test_a_server_gets_the_same_workloads(
    served: Served, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    bench = BenchOptions(workloads="W3,W1", rounds=2, json=path, api_key_file=key_file)
    assert bench_command(f"{served.url}/v1/", bench=bench) == 0
    found = json.loads(path.read_text())
    assert (found["model"], found["url"], found["ratios"]) == (served.model, served.url, {})
    only = found["configurations"]["A"]
    assert (only["engine"], only["memory"]) == (None, {})
    for name, requests in (("W3", 1), ("W1", 32)):
        for one in only["workloads"][name]["rounds"]:
            assert one["requests"] == requests
            assert one["prompt_tokens"] == 64 * requests
            assert one["output_tokens"] == 128 * requests
            assert one["cached_tokens"] == 0
            assert one["preemptions"] is None
            assert one["figures"]["throughput"] > 0
    assert "prefix cache" not in capsys.readouterr().out


def test_prompts_that_the_server_knows_already_are_told(
    served: Served, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = BenchOptions(workloads="W3", prompt_seed=7, api_key_file=key_file)
    bench_command(served.url, bench=bench)
    assert "prefix cache" not in capsys.readouterr().out
    bench_command(served.url, bench=bench)
    assert "W3 found 48 prompt tokens in a prefix cache" in capsys.readouterr().out


def test_a_missing_key_and_an_unknown_model_are_told(served: Served, key_file: Path) -> None:
    with pytest.raises(EngineFailedError, match="answered HTTP 401"):
        bench_command(served.url, bench=W3)
    with pytest.raises(EngineFailedError, match=r"answered HTTP 404: .*another"):
        bench_command(
            served.url,
            engine=EngineOptions(served_model_name="another"),
            bench=BenchOptions(workloads="W3", api_key_file=key_file),
        )


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConfigurationError, match="nothing answers there"):
        bench_command(f"http://127.0.0.1:{port}", bench=W3)


@pytest.mark.parametrize(
    ("engine", "bench", "flag"),
    [
        (EngineOptions(stages=2, tp="2"), W3, "--stages='--stages, --tp'"),
        (EngineOptions(), BenchOptions(compare=("--stages 2", "")), "--compare"),
    ],
)
def test_flags_without_effect_on_a_server_are_refused(engine: EngineOptions, bench: BenchOptions, flag: str) -> None:
    with pytest.raises(ConfigurationError, match=flag):
        bench_command("http://127.0.0.1:9", engine=engine, bench=bench)


MODELS = (200, b'{"data": [{"id": "m"}]}')


def events(*data: str) -> tuple[int, bytes]:
    return 200, "".join(f"data: {one}\n\n" for one in data).encode()


TOKEN = '{"choices": [{"text": "x"}]}'


@contextlib.contextmanager
def answering(models: tuple[int, bytes], completions: tuple[int, bytes]) -> Iterator[str]:
    """A server that always says the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(models)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(completions)

        def _answer(self, answer: tuple[int, bytes]) -> None:
            self.send_response(answer[0])
            self.send_header("Content-Type", "text/event-stream" if answer[1].startswith(b"data:") else "text/plain")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            # The client leaves when another of its requests has failed.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(answer[1])

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("models", "completions", "message"),
    [
        ((200, b"<html>"), (200, b""), "/v1/models does not answer as an OpenAI-compatible server does"),
        ((200, b'{"data": []}'), (200, b""), "lists no model"),
        ((404, b"nothing here"), (200, b""), "/v1/models answered HTTP 404: nothing here"),
        (MODELS, (500, b'{"error": {"message": "out of order"}}'), "/v1/completions answered HTTP 500: out of order"),
        (MODELS, events(TOKEN, '{"error": {"message": "lost a stage"}}'), "ended a stream with an error: lost a stage"),
        (MODELS, events(TOKEN, "{"), "/v1/completions does not answer as an OpenAI-compatible server does"),
        (MODELS, (200, b"hello"), "/v1/completions does not answer as an OpenAI-compatible server does"),
        (MODELS, events(TOKEN, TOKEN), "a stream ended without"),
        (MODELS, events(TOKEN, TOKEN, "[DONE]"), "ended after 2 of 16 tokens"),
        (MODELS, events('{"choices": [{"text": "a\u2028b\x85c\u2029"}]}', "[DONE]"), "ended after 1 of 16 tokens"),
    ],
)
def test_a_server_that_misbehaves_is_told(
    models: tuple[int, bytes], completions: tuple[int, bytes], message: str
) -> None:
    with answering(models, completions) as url, pytest.raises(EngineFailedError) as failed:
        bench_command(url, bench=W3)
    assert message in str(failed.value)


def test_tokens_without_a_text_of_their_own_count_by_the_final_usage() -> None:
    usage = '{"choices": [], "usage": {"completion_tokens": 16}}'
    with answering(MODELS, events(TOKEN, TOKEN, usage, "[DONE]")) as url, pytest.raises(EngineFailedError) as failed:
        bench_command(url, bench=W3)
    # The warm-up had its 16; this server says so of W3's request for 128 too.
    assert "ended after 16 of 128 tokens" in str(failed.value)
