"""The depth of a JSON text, measured without parsing it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stageline_engine.server import limits


@given(
    st.recursive(
        st.text('[]{}"\\ab', max_size=6) | st.integers(0, 9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3),
        max_leaves=12,
    )
)
def test_the_measured_depth_is_that_of_the_value(value: object) -> None:
    def depth(one: object) -> int:
        if isinstance(one, dict):
            one = list(one.values())
        return 1 + max(map(depth, one), default=0) if isinstance(one, list) else 0

    body = json.dumps(value).encode()
    for limit in range(6):
        assert limits.exceeds_json_depth(body, limit) == (depth(value) > limit)
