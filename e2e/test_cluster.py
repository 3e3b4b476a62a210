"""The cluster of `make cluster`: what pods can do on it, and that it leaves nothing behind."""

from __future__ import annotations

from cluster import daemons, images, leftovers, life
from cluster.layout import KUBECONFIG, NODES
from support.kube.parts import obtain_clients
from user import pods
from user.kubectl import Kubectl

SERVER = "from http.server import *; HTTPServer(('', 8080), SimpleHTTPRequestHandler).serve_forever()"
CLIENT = "import urllib.request as r; print(r.urlopen('http://server:8080', timeout=5).status)"


def test_pods_on_two_nodes_reach_each_other_by_a_services_name(kubectl: Kubectl, namespace: str) -> None:
    _run(kubectl, namespace, "server", NODES[0].name, SERVER)
    kubectl("expose", "-n", namespace, "pod", "server", "--port=8080")
    _run(kubectl, namespace, "client", NODES[1].name, "import time; time.sleep(3600)")
    kubectl("wait", "-n", namespace, "pod", "--all", "--for=condition=Ready", "--timeout=120s")
    # The Service has no end point until the endpoint controller has seen the pod ready.
    answer = kubectl("exec", "-n", namespace, "client", "--", "python3", "-c", _insisting(CLIENT))
    assert answer.strip() == "200"
    assert '"GET / HTTP/1.1" 200' in kubectl("logs", "-n", namespace, "server")


def test_up_twice_is_up_once(kubectl: Kubectl) -> None:
    before = _pids()
    life.up()
    assert _pids() == before


def test_down_leaves_nothing_of_it_on_the_machine() -> None:
    life.down()
    before = leftovers.machine()
    assert not any(leftovers.found().values()), leftovers.found()
    life.up()
    assert all(leftovers.found().values()), "a kind of trace is not looked for where it is"
    kubectl = Kubectl(obtain_clients().kubectl, KUBECONFIG)
    kubectl("create", "namespace", "left")
    for node in NODES:
        _run(kubectl, "left", node.name, node.name, "import time; time.sleep(3600)")
    kubectl("wait", "-n", "left", "pod", "--all", "--for=condition=Ready", "--timeout=120s")
    life.down()
    assert not any(leftovers.found().values()), leftovers.found()
    assert leftovers.machine() == before


def _run(kubectl: Kubectl, namespace: str, name: str, node: str, code: str) -> None:
    """A pod that runs Python ``code`` on ``node``."""
    pods.start(kubectl, namespace, name, images.image("operator"), *pods.PYTHON, code, node=node)


def _insisting(code: str) -> str:
    """Code that runs ``code`` until it works, for half a minute."""
    return (
        "import time\nend = time.monotonic() + 30\nwhile True:\n"
        f" try:\n  exec({code!r})\n  break\n"
        " except OSError:\n  if time.monotonic() > end: raise\n  time.sleep(0.2)\n"
    )


def _pids() -> dict[str, int | None]:
    return {name: daemons.pid(name) for name in daemons.names()}
