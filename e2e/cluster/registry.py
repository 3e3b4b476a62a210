"""A registry on the bridge: nodes pull from it whatever image is named, so manifests stay as users have them."""

from __future__ import annotations

import json

from cluster import daemons, debian
from cluster.layout import HOST, KEPT, REGISTRY, REGISTRY_PORT, STATE, Node


def start() -> None:
    """Starts the registry; what was pushed to it is kept from one cluster to the next."""
    storage = KEPT / "registry"
    storage.mkdir(parents=True, exist_ok=True)
    config = STATE / "registry.yaml"
    # JSON is YAML too.
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
                "http": {"addr": f"{HOST}:{REGISTRY_PORT}"},
            }
        )
    )
    command = [f"{debian.ROOT}/usr/bin/docker-registry", "serve", str(config)]
    daemons.start("registry", command, {"OTEL_TRACES_EXPORTER": "none"})


def mirror_everything(node: Node) -> str:
    """A folder that tells the node's containerd to ask this registry for images of any other."""
    folder = node.folder / "registries"
    (folder / "_default").mkdir(parents=True)
    text = f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "_default/hosts.toml").write_text(text)
    return str(folder)
