"""A user asks for more than there is room for: the answer has the number that is missing."""

from __future__ import annotations

import re

from support.kube.waiting import wait_until
from user import pods, resources, tiny
from user.kubectl import Kubectl

MISSING = re.compile(r"stage \d misses [\d.,]+ KiB per rank")
NEEDED = re.compile(r"--kv-memory=65536: stage \d needs [\d.,]+ KiB per rank")


def test_a_plan_says_how_much_memory_is_missing(kubectl: Kubectl, namespace: str) -> None:
    tiny.give(kubectl, namespace)
    command = ("stageline", "plan", tiny.PLACE, "--stages", "2", "--memory", "100KiB")
    files = {tiny.PLACE: tiny.config_map()}
    code, said = pods.outcome(kubectl, namespace, tiny.IMAGE, *command, files=files)
    assert code == 2
    assert MISSING.search(" ".join(said.split())), said


def test_a_resource_says_how_much_kv_memory_it_needs(kubectl: Kubectl, stageline: None, namespace: str) -> None:
    tiny.apply(kubectl, namespace, "tiny", engine={"kvMemory": "64Ki"})

    def failed() -> bool:
        return bool(resources.get(kubectl, namespace, "tiny").get("status", {}).get("phase") == "Failed")

    wait_until(failed, "the resource to be given up", 300, interval=0.5)
    failure = resources.get(kubectl, namespace, "tiny")["status"]["lastFailure"]
    assert failure["cause"] == "Configuration"
    said = " ".join(failure["logTail"].split())
    assert NEEDED.search(said), said
