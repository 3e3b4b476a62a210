"""The chart's alerts: promtool fires each of them, and keeps each silent; each has a page to go to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stageline_engine.server.metric_names import ENGINE_METRICS, REQUEST_METRICS
from stageline_operator.runtime.metrics import Metrics
from support.kube.parts import obtain_prometheus

ROOT = Path(__file__).parents[2]
FILE = ROOT / "charts/stageline/files/alerts.yaml"
TESTS = Path(__file__).parent / "alerts.test.yaml"
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> str:
    run = subprocess.run([obtain_prometheus() / "promtool", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_rules_are_valid() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(FILE))


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_and_leads_to_a_runbook(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    fired = [
        test["exp_alerts"]
        for case in yaml.safe_load(TESTS.read_text())["tests"]
        for test in case["alert_rule_test"]
        if test["alertname"] == name and test["exp_alerts"]
    ]
    assert fired
    assert rule["annotations"]["runbook_url"] == f"RUNBOOKS#{name.lower()}"
    assert f"\n## {name}\n" in (ROOT / "docs/runbooks.md").read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    exported = {f"stageline_{metric.name}" for metric in (*ENGINE_METRICS, *REQUEST_METRICS)}
    for family in Metrics().registry.collect():
        exported |= {family.name, f"{family.name}_total", f"{family.name}_count"}
    labels = {"stageline_dev_name", "stageline_dev_replica"}
    assert set(re.findall(r"stageline_\w+", rule["expr"])) - labels <= exported
