"""What several of the engine's test files take: a tokenizer, and a model that is driven by hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stageline_engine.comm.commands import ReplicaKeys
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.text.tokenizer import Tokenizer
from support.hand_pipeline import HandPipeline, fresh_pipeline, greedy_tokens, known_prompts
from support.namespaces import Network, joined_machines
from support.nodes import Nodes, make_keys
from support.processes import nothing_left
from support.tiny_tokenizer import byte_level_tokenizer


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with interrupts ignored, and programs hand that on to their children;
    tests that interrupt need them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A token for each byte, and special ones."""
    return Tokenizer(byte_level_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def contexts() -> Iterator[Callable[[ReplicaKeys], KeyedContext]]:
    """Makes contexts, which are closed at the end."""
    made: list[KeyedContext] = []

    def make(keys: ReplicaKeys) -> KeyedContext:
        made.append(KeyedContext(keys))
        return made[-1]

    yield make
    for context in reversed(made):
        context.close()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two machines."""
    with joined_machines(2) as made:
        yield made


@pytest.fixture
def nodes(network: Network, tmp_path: Path) -> Iterator[Nodes]:
    """Whoever starts `stageline node` on these machines; nothing is left at the end."""
    with nothing_left():
        made = Nodes(network, make_keys(tmp_path / "keys"))
        yield made
        made.end()


@pytest.fixture
def pipeline() -> HandPipeline:
    """The tiny Llama as one stage."""
    return fresh_pipeline()


@pytest.fixture
def prompts() -> list[list[int]]:
    """Prompts of 11, 5 and 7 tokens."""
    return known_prompts()


@pytest.fixture
def expected() -> list[list[int]]:
    """What transformers goes on with after each of ``prompts``: 8 tokens."""
    return greedy_tokens()
