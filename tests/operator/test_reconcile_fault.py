"""A fault of the operator's own in one resource is told in its status."""

from __future__ import annotations

import pytest

from stageline_operator.apply.events import Events
from stageline_operator.decide.reconcile import decide
from stageline_operator.observe.observed import Observer
from stageline_operator.runtime import reconcile
from stageline_operator.runtime.reconcile import Reconciler
from support.operator.memory_kube import MemoryKube
from support.operator.simulation import resource

KEY = ("ns", "demo")


async def test_an_error_that_nobody_foresaw_is_told_once_and_taken_back_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no such number\nand more")

    kube, observer = MemoryKube(), Observer()
    kube.put(resource())
    reconciler = Reconciler(kube.as_kube(), observer, Events(kube.as_kube(), "test"))
    monkeypatch.setattr(reconcile, "decide", fail)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await reconciler.reconcile(KEY)
    (degraded,) = (each for each in kube.status()["conditions"] if each["type"] == "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "OperatorFault")
    assert "ZeroDivisionError: no such number; it tries again" in degraded["message"]
    assert [event["reason"] for event in kube.events] == ["OperatorFault"]

    monkeypatch.setattr(reconcile, "decide", decide)
    await reconciler.reconcile(KEY)
    assert kube.status()["reason"] != "OperatorFault"
