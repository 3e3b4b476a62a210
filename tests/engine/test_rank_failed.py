"""What a rank says of its own failure: a person's mistake stays one, on the other side of a socket too."""

from __future__ import annotations

import msgspec
import pytest

from stageline_engine.comm.codec import encode
from stageline_engine.comm.commands import (
    RankFailed,
)
from stageline_engine.core.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelSourceError,
    UnsupportedModelError,
)


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("--tp", 3, "give 1 or 2"),
        ModelSourceError("model", "/x", "fetch it again"),
        UnsupportedModelError("architecture", "X", "give another"),
        ConfigurationError("--layer-split", (1, 2), "give other numbers"),
    ],
)
def test_a_persons_mistake_is_told_again_as_it_was(error: InvalidInputError) -> None:
    told = msgspec.msgpack.decode(encode(RankFailed.of_input(1, error)), type=RankFailed).input_error()
    assert type(told) is type(error)
    assert (told.field, told.remedy) == (error.field, error.remedy)
    assert str(told.value) == str(error.value)


def test_a_lost_neighbour_is_nobodys_mistake() -> None:
    assert RankFailed(1, "link", "gone").input_error() is None
