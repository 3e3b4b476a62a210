"""The image of pods' first container: one static program, packed as `docker load` and containerd take it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

from cluster.commands import run
from cluster.layout import KEPT, PAUSE_IMAGE

SOURCE = Path(__file__).parent / "pause.c"
ARCHIVE = KEPT / "pause.tar"


def build(target: Path) -> None:
    """Writes the image as an archive."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        program = Path(scratch) / "pause"
        run("gcc", "-Os", "-static", "-s", "-o", str(program), str(SOURCE))
        layer = _archive({"pause": program.read_bytes()}, mode=0o755)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
        files = {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
        archive = Path(scratch) / "archive"
        archive.write_bytes(_archive(files, mode=0o644))
        archive.rename(target)


def _archive(files: dict[str, bytes], mode: int) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()
