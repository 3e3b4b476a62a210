"""Says at once that there is nothing to check on; only when this folder is what pytest was asked for."""

from __future__ import annotations

import pytest
import torch


def pytest_sessionstart() -> None:
    if not torch.cuda.device_count():
        raise pytest.UsageError("gpu-check needs an NVIDIA GPU, and PyTorch sees none on this machine")
