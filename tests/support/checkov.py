"""The judge of manifests ``checkov``, in an environment of its own: its pins would decide over ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VERSION = "3.3.30"


@dataclass(frozen=True)
class Report:
    """Names of checks, like "CKV_K8S_43".

    Attributes:
        failed: what it finds.
        skipped: what an annotation ``checkov.io/skipN: NAME=REASON`` of an object asks to leave out.
    """

    failed: set[str]
    skipped: set[str]


def checkov_reports(*manifests: Path) -> list[Report]:
    """What is said of the Kubernetes objects in each of the files; it takes ten seconds to start.

    Raises AssertionError when nothing was checked of one, which would look like no findings.
    """
    files = [word for manifest in manifests for word in ("--file", str(manifest))]
    command = [str(_executable()), *files, "--framework", "kubernetes", "--output", "json"]
    # Without --skip-download it asks its maker's service first, and waits long where there is none.
    command += ["--skip-download", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0, report["results"]["parsing_errors"]

    def found(kind: str, manifest: Path) -> set[str]:
        checks = report["results"][f"{kind}_checks"]
        return {each["check_id"] for each in checks if Path(each["file_abs_path"]) == manifest}

    assert all(found("passed", manifest) for manifest in manifests), done.stderr
    return [Report(found("failed", manifest), found("skipped", manifest)) for manifest in manifests]


def _executable() -> Path:
    cache = Path(os.environ.get("STAGELINE_CACHE") or Path.home() / ".cache" / "stageline")
    environment = cache / f"checkov-{VERSION}"
    executable = environment / "bin" / "checkov"
    if not executable.exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--allow-existing", str(environment)], check=True)
        python = str(environment / "bin" / "python")
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, f"checkov=={VERSION}"], check=True)
    return executable
