"""``python -m stageline_engine.models.profile_process FOLDER 0|1``: computes a model's profile for the head.

The child of :mod:`stageline_engine.sources.profile_cache`; the last argument is 1 for unverified architectures too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stageline_engine.core.deployment import ModelProfile
from stageline_engine.models.profile import build_profile
from stageline_engine.sources import child


def work(arguments: Sequence[str], report: child.Reporter) -> ModelProfile:
    """Compute the profile of the model in a canonical folder."""
    folder, allow_unverified = arguments
    return build_profile(folder, allow_unverified == "1")


if __name__ == "__main__":
    sys.exit(child.main(work))
