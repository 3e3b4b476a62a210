"""docs/api.md and /docs say what the server does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from stageline_engine.core import request
from stageline_engine.server import limits
from stageline_engine.server.app import create_app
from stageline_engine.server.chat_request import ChatRequest, Message
from stageline_engine.server.completion_request import CompletionRequest
from stageline_engine.server.fields import StrictModel
from stageline_engine.server.settings import ServerSettings
from stageline_engine.server.tokenize_request import DetokenizeRequest, TokenizeChat, TokenizeText
from stageline_engine.text.tokenizer import Tokenizer
from support.scripted_engine import ScriptedEngine
from support.tiny_tokenizer import byte_level_tokenizer

DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    tokenizer = Tokenizer(byte_level_tokenizer(tmp_path))
    return create_app(ScriptedEngine(lambda prompt, params: []), tokenizer, ServerSettings(served_model_name="tiny"))


def test_every_documented_limit_has_its_value() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)`: .* \| (\d+) \|$", DOCS, re.MULTILINE)
    assert len(rows) == 11
    for name, value in rows:
        assert getattr(limits, name) == int(value), name
    assert "| 128, 16, 16, 1024, 20 |" in DOCS
    assert (request.MAX_CHOICES, request.MAX_STOP, request.MAX_LOGIT_BIAS, request.MAX_LOGPROBS) == (128, 16, 1024, 20)


@pytest.mark.parametrize(
    "model", [ChatRequest, CompletionRequest, Message, TokenizeText, TokenizeChat, DetokenizeRequest]
)
def test_every_field_is_documented(model: type[StrictModel]) -> None:
    for field in [*model.model_fields, *model.unsupported]:
        assert f"`{field}`" in DOCS, field


async def test_every_route_is_documented(app: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        description: dict[str, Any] = (await client.get("/openapi.json")).json()
        page = await client.get("/docs")
    assert page.status_code == 200
    assert "swagger" in page.text.lower()
    for path in description["paths"]:
        assert path.replace("/v1/models/{model}", "/v1/models/{id}") in DOCS
    body = description["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(ChatRequest.model_fields)
    assert "$ref" not in str(body)
