"""What is kept of a failed case: the suite's own way to let somebody look into it later."""

from __future__ import annotations

from pathlib import Path

from user import failure, pods, release, tiny
from user.kubectl import Kubectl


def test_a_failed_cases_objects_events_and_logs_are_kept(
    kubectl: Kubectl, stageline: None, namespace: str, tmp_path: Path
) -> None:
    pods.start(kubectl, namespace, "speaks", tiny.IMAGE.replace("engine", "operator"), *pods.PYTHON, "print('a word')")
    tiny.apply(kubectl, namespace, "never", image="stageline/engine:nowhere")
    kubectl("wait", "-n", namespace, "pod/speaks", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    failure.keep(kubectl, [namespace, release.SYSTEM], tmp_path / "kept")

    kept = {file.name.removeprefix(f"{namespace}-"): file.read_text() for file in (tmp_path / "kept").iterdir()}
    assert "a word" in kept["speaks.log"]
    assert "name: speaks" in kept["pods.yaml"]
    assert "stageline/engine:nowhere" in kept["inferencedeployments.stageline.dev.yaml"]
    assert "Scheduled" in kept["events.txt"]
    assert "Name:" in kept["nodes.txt"]
    operator = [name for name in kept if name.startswith(f"{release.SYSTEM}-stageline-") and name.endswith(".log")]
    assert any(kept[name] for name in operator)
    assert not any("curve.key:" in text for text in kept.values()), "a Secret's content was kept"
