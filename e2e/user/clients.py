"""People who ask for answers from outside the cluster, with the `openai` client."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Self

import httpx
import openai
from openai.types import Completion

from support.kube.waiting import wait_until
from user.kubectl import Kubectl

PROMPT = "Once upon a time there was a small ship."
TIMEOUT_SECONDS = 60.0
PAUSE_SECONDS = 0.2
"""Before each visit, so that pods that start get some of the cores too."""
VISIT = 4
"""Requests of a visitor over one connection; then another one is opened, which may lead to another replica."""
LONGEST_SECONDS = 600.0


def address(kubectl: Kubectl, namespace: str, service: str) -> str:
    """Where a Service of type NodePort is reached: HOST:PORT of a node."""
    [found] = [each for each in kubectl.list("services", namespace) if each["metadata"]["name"] == service]
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    [host] = [each["address"] for each in nodes[0]["status"]["addresses"] if each["type"] == "InternalIP"]
    return f"{host}:{found['spec']['ports'][0]['nodePort']}"


def client(address: str, retries: int = 0) -> openai.OpenAI:
    """A client that tries nothing twice unless it is told to, so that whatever fails is seen."""
    url = f"http://{address}/v1"
    return openai.OpenAI(base_url=url, api_key="unused", max_retries=retries, timeout=TIMEOUT_SECONDS)


def stream(source: openai.OpenAI, model: str, tokens: int) -> openai.Stream[Completion]:
    """A streamed greedy answer of exactly ``tokens`` tokens."""
    return source.completions.create(
        model=model, prompt=PROMPT, max_tokens=tokens, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )


@dataclass
class Load:
    """Inside the block two people ask, one question after another, always the same; afterwards: what they got.

    A visitor opens a connection for a few questions, and tries nothing twice. A regular keeps one client for all
    questions, with the retries that the `openai` client has by itself: a replica that ends has to refuse what comes
    over a connection of its own some time.
    """

    address: str
    model: str
    tokens: int = 200
    answers: list[str] = field(default_factory=list)
    """Texts of streams that came to their end."""
    failures: list[str] = field(default_factory=list)
    """Requests that were refused, and streams that broke off."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._visit), threading.Thread(target=self._stay)]
        self._end = time.monotonic() + LONGEST_SECONDS

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_answers(self, more: int) -> None:
        """Until so many more answers have come, or one request has failed."""
        target = len(self.answers) + more
        wait_until(lambda: len(self.answers) >= target or self.failures, f"{more} more answers", LONGEST_SECONDS)

    def _visit(self) -> None:
        while self._goes_on():
            with client(self.address) as visitor:
                for _ in range(VISIT):
                    self._ask(visitor)

    def _stay(self) -> None:
        with client(self.address, retries=openai.DEFAULT_MAX_RETRIES) as regular:
            while self._goes_on():
                self._ask(regular)

    def _goes_on(self) -> bool:
        return not self._stop.wait(PAUSE_SECONDS) and time.monotonic() < self._end

    def _ask(self, person: openai.OpenAI) -> None:
        begin = time.monotonic()
        pieces: list[str] = []
        ended: str | None = None
        try:
            for chunk in stream(person, self.model, self.tokens):
                for choice in chunk.choices:
                    pieces.append(choice.text)
                    ended = choice.finish_reason or ended
        except (openai.OpenAIError, httpx.HTTPError) as error:
            ended = f"{error!r}, from {error.__cause__!r}"
        if ended == "length":
            self.answers.append("".join(pieces))
        else:
            lasted = time.monotonic() - begin
            self.failures.append(f"{time.strftime('%X')}: {ended} after {lasted:.1f} s and {len(pieces)} pieces")
