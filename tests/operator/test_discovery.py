"""What the API server offers is found by asking it, never by its version."""

from __future__ import annotations

import pytest

from stageline_operator.api.errors import GoneError
from stageline_operator.kube.client import Body
from stageline_operator.kube.discovery import discover
from stageline_operator.kube.kinds import watched_children
from stageline_operator.plan.cluster import Cluster

OURS = "stageline.dev/v1alpha1"


class Server:
    """Serves discovery of some groups: resources by group and version."""

    def __init__(self) -> None:
        self.served = {OURS: ["inferencedeployments"]}

    async def get_path(self, path: str) -> Body:
        if path == "/apis":
            groups: dict[str, list[dict[str, str]]] = {}
            for each in self.served:
                group, _, version = each.partition("/")
                groups.setdefault(group, []).append({"version": version})
            return {"groups": [{"name": name, "versions": versions} for name, versions in groups.items()]}
        api_version = path.removeprefix("/apis/")
        if api_version not in self.served:
            raise GoneError(f"{path} is not there", 404)
        return {"resources": [{"name": name} for name in self.served[api_version]]}


async def test_a_plain_cluster_has_nothing_optional() -> None:
    assert await discover(Server()) == Cluster()


async def test_without_our_definition_there_is_nothing_to_serve() -> None:
    server = Server()
    del server.served[OURS]
    with pytest.raises(GoneError, match=r"stageline\.dev"):
        await discover(server)


async def test_the_best_version_that_has_pod_groups_is_taken() -> None:
    server = Server()
    server.served |= {
        "scheduling.k8s.io/v1": ["priorityclasses"],
        "scheduling.k8s.io/v1alpha2": ["podgroups", "workloads"],
        "scheduling.k8s.io/v1alpha3": ["podgroups", "workloads"],
    }
    assert (await discover(server)).native_gang == "v1alpha3"


@pytest.mark.parametrize(
    ("api_version", "plural", "expected"),
    [
        ("scheduling.volcano.sh/v1beta1", "podgroups", Cluster(volcano=True)),
        ("scheduling.x-k8s.io/v1alpha1", "podgroups", Cluster(coscheduling=True)),
        ("kueue.x-k8s.io/v1beta1", "workloads", Cluster(kueue=True)),
        ("monitoring.coreos.com/v1", "podmonitors", Cluster(pod_monitor=True)),
    ],
)
async def test_each_optional_api_is_found(api_version: str, plural: str, expected: Cluster) -> None:
    server = Server()
    server.served[api_version] = [plural]
    found = await discover(server)
    assert found == expected
    watched = {(kind.api_version, kind.plural) for kind in watched_children(found)}
    assert ((api_version, plural) in watched) is not expected.kueue  # kueue is asked by labels of pods alone


async def test_a_group_without_the_kind_that_we_use_does_not_count() -> None:
    server = Server()
    server.served["monitoring.coreos.com/v1"] = ["prometheuses"]
    assert not (await discover(server)).pod_monitor
