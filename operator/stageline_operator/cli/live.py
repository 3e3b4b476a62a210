"""What is in a cluster now, for ``plan --live``: read once, with the rights of the person who asks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stageline_operator.api.errors import GoneError
from stageline_operator.decide.observed import Observed
from stageline_operator.kube import config
from stageline_operator.kube.api_client import KubeClient
from stageline_operator.kube.client import Body
from stageline_operator.kube.discovery import discover
from stageline_operator.kube.kinds import RESOURCE, watched_children
from stageline_operator.observe.observed import Observer
from stageline_operator.plan.spec import Owner
from stageline_operator.runtime.sight import SELECTOR


async def look(wanted: Iterable[Body], kubeconfig: Path | None) -> list[tuple[Body | None, Observed]]:
    """For each resource: itself as the cluster has it (None: it is not there), and its children.

    Raises:
        ApiError: the API server did not answer, or refuses to.
    """
    client = KubeClient(await config.load(kubeconfig), "plan")
    try:
        observer = Observer(cluster=await discover(client))
        return [await _look_at(body, client, observer) for body in wanted]
    finally:
        await client.close()


async def _look_at(wanted: Body, client: KubeClient, observer: Observer) -> tuple[Body | None, Observed]:
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    try:
        live = await client.get(RESOURCE, namespace, name)
    except GoneError:
        return None, Observed(observer.cluster)
    observer.store.put(RESOURCE, live)
    for kind in watched_children(observer.cluster):
        async for page in client.list_whole(kind, namespace, SELECTOR):
            for body in page.bodies:
                observer.store.put(kind, body)
    owner = Owner(namespace, name, live["metadata"]["uid"])
    # A person's plan must not depend on whether pods can be reached from where it is made.
    return live, observer.observed(owner)
