"""Nothing that can run code on arrival: a convention of the whole engine, kept by reading its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stageline_engine

ENGINE = Path(stageline_engine.__file__).parent
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    # Its queues, pipes, connections and managers pickle what they carry; torch.multiprocessing's too.
    "multiprocessing",
}  # fmt: skip
FORBIDDEN_NAMES = {
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
    # ZeroMQ's own shortcuts to pickle.
    "send_pyobj",
    "recv_pyobj",
    "ProcessPoolExecutor",
    "multiprocessing",
}


def violations(source: str) -> Iterator[str]:
    """What a module does that it must not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if FORBIDDEN_MODULES & set(alias.name.split(".")))
            # Under another name its `load` could not be told from any other.
            yield from (alias.name for alias in node.names if alias.name.startswith("torch") and alias.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from _bad_import(node.module or "", {alias.name for alias in node.names})
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_NAMES:
            yield node.attr
        elif isinstance(node, ast.Call):
            yield from _bad_call(node)


def _bad_import(module: str, names: set[str]) -> Iterator[str]:
    if FORBIDDEN_MODULES & set(module.split(".")):
        yield module
    yield from names & (FORBIDDEN_NAMES | FORBIDDEN_MODULES)
    if module.startswith("torch"):
        yield from names & {"*"}
    if module in ("torch", "torch.serialization"):
        # Called by its bare name it could not be told from any other `load`.
        yield from names & {"load"}


def _bad_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name.endswith(("torch.load", "torch.serialization.load")) and not _is(keywords.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if _is(keywords.get("allow_pickle"), True) or "pickle_module" in keywords:
        yield f"{name} with pickle"
    imported = {ast.unparse(argument).strip("'") for argument in node.args}
    if name in ("importlib.import_module", "__import__"):
        yield from imported & FORBIDDEN_MODULES


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_the_engine_unpickles_nothing() -> None:
    modules = sorted(ENGINE.rglob("*.py"))
    assert len(modules) > 20
    found = {str(path.relative_to(ENGINE)): list(violations(path.read_text())) for path in modules}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as fine",
        "from dill import loads",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch.distributed as d\nd.broadcast_object_list([1])",
        "from torch.distributed import all_gather_object",
        "socket.recv_pyobj()",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import importlib\nimportlib.import_module('pickle')",
        "from torch import load",
        "import multiprocessing",
        "import multiprocessing.connection as harmless",
        "from multiprocessing import Pipe, Queue",
        "from multiprocessing.connection import Client",
        "import torch.multiprocessing as mp",
        "from torch.multiprocessing import Queue",
        "import torch as t",
        "import torch\ntorch.serialization.load('x')",
        "from torch.serialization import load",
        "from torch.distributed import *",
        "import torch\ntorch.multiprocessing.get_context('spawn').SimpleQueue()",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
    ],
)
def test_the_rule_sees(source: str) -> None:
    assert list(violations(source))
