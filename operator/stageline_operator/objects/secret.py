"""The Secret with the replica group's keys. It is only ever POSTed: the operator has no verb to read it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

from stageline_operator.api.constants import SECRET_KEY_CURVE, SECRET_KEY_RAY_TOKEN
from stageline_operator.objects.metadata import Body, metadata
from stageline_operator.plan import names
from stageline_operator.plan.spec import Owner

SECRET: Final = ("v1", "Secret")
KEY_BYTES: Final = 32


def group_secret(owner: Owner, random: Callable[[int], bytes]) -> Body:
    """New keys.

    Args:
        random: gives so many unpredictable bytes (``os.urandom``).
    """
    token = random(KEY_BYTES).hex().encode()
    return {
        "apiVersion": SECRET[0],
        "kind": SECRET[1],
        "metadata": metadata(owner, names.group_secret(owner)),
        "type": "Opaque",
        "immutable": True,
        "data": {
            SECRET_KEY_CURVE: base64.b64encode(random(KEY_BYTES)).decode(),
            SECRET_KEY_RAY_TOKEN: base64.b64encode(token).decode(),
        },
    }
