"""``Kube`` over the dynamic client of ``kubernetes.aio``, which has server-side apply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import ClientResponse, ClientTimeout
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.dynamic import DynamicClient, Resource
from pydantic_core import from_json

from stageline_operator.api.constants import FIELD_MANAGER
from stageline_operator.api.errors import LeaseLostError
from stageline_operator.kube.client import REQUEST_SECONDS, STREAM_SECONDS, Body, Change, Page, Seen
from stageline_operator.kube.errors import of_status, translated
from stageline_operator.kube.kinds import Kind

CHUNK = 100
"""Objects of one chunk of a list of metadata: a quarter of a megabyte."""
PAGE = 50
"""Objects of one page of a list of whole objects: half a megabyte, which takes several when it is parsed."""
SILENT_SECONDS = 150.0
"""A stream on which not even a bookmark came for so long (there is one each minute) is taken for dead."""
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Writing = Callable[[str, str], None]
"""Told of each write that was made, by verb and kind (metrics)."""


class KubeClient:
    """One connection pool. Not to be shared by event loops.

    Args:
        identity: of this process: in the user agent, so that the audit log tells which one it was.
        may_write: seconds for which this process may still write; 0 or less: LeaseLostError before anything is sent.
            A write that is not answered within them is given up.
        wrote: see ``Writing``.
        seconds: longest that a call may take.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: str,
        *,
        may_write: Callable[[], float] = lambda: REQUEST_SECONDS,
        wrote: Writing = lambda verb, kind: None,
        seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._client = ApiClient(configuration)
        self._client.user_agent = f"{FIELD_MANAGER}/{identity}"
        # Not awaited: its discovery, with a cache file, is not needed, since our kinds' paths are known.
        self._dynamic = DynamicClient(self._client)
        self._may_write = may_write
        self._wrote = wrote
        self._seconds = seconds
        self._resources: dict[Kind, Resource] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Body:
        """See Kube."""
        return await self._request("get", self._path(kind, namespace, name), f"get {kind.kind} {namespace}/{name}")

    async def get_path(self, path: str) -> Body:
        """Read what is not an object: discovery."""
        return await self._request("get", path, f"get {path}")

    async def list_seen(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[list[Seen]]:
        """See Kube."""
        async for answer in self._list(kind, namespace, selector, CHUNK, _METADATA):
            yield [_seen(item["metadata"]) for item in answer["items"] or ()]

    async def list_whole(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[Page]:
        """See Kube."""
        named = {"apiVersion": kind.api_version, "kind": kind.kind}  # which items of a list lack
        async for answer in self._list(kind, namespace, selector, PAGE, "application/json"):
            yield Page([named | item for item in answer["items"] or ()], answer["metadata"]["resourceVersion"])

    async def watch(self, kind: Kind, namespace: str | None, selector: str, since: str) -> AsyncIterator[Change]:
        """See Kube."""
        what = f"watch {kind.plural} in {namespace or 'all namespaces'}"
        with translated(what):
            async with asyncio.timeout(self._seconds):
                response: ClientResponse = await self._dynamic.request(
                    "get",
                    self._path(kind, namespace),
                    serialize=False,
                    query_params=[("allowWatchBookmarks", "true")],
                    watch="true",
                    label_selector=selector or None,
                    resource_version=since,
                    timeout_seconds=STREAM_SECONDS,
                    _request_timeout=ClientTimeout(total=None, sock_read=SILENT_SECONDS),
                )
            async with response:
                async for line in response.content:
                    yield _change(what, from_json(line))

    async def create(self, kind: Kind, body: Body) -> Body:
        """See Kube."""
        path = self._path(kind, body["metadata"]["namespace"])
        return await self._write("create", "post", kind, path, body, field_manager=FIELD_MANAGER)

    async def apply(self, kind: Kind, body: Body) -> Body:
        """See Kube."""
        return await self._apply(kind, body, self._path_of(kind, body))

    async def apply_status(self, kind: Kind, body: Body) -> Body:
        """See Kube."""
        return await self._apply(kind, body, self._path_of(kind, body) + "/status")

    async def patch(self, kind: Kind, namespace: str, name: str, changes: Body) -> Body:
        """See Kube."""
        path = self._path(kind, namespace, name)
        kind_of_patch = "application/merge-patch+json"
        return await self._write(
            "patch", "patch", kind, path, changes, content_type=kind_of_patch, field_manager=FIELD_MANAGER
        )

    async def replace(self, kind: Kind, body: Body) -> Body:
        """See Kube."""
        return await self._write("update", "put", kind, self._path_of(kind, body), body, field_manager=FIELD_MANAGER)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, resource_version: str = "", grace: int | None = None
    ) -> Body:
        """See Kube."""
        conditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        return await self._write("delete", "delete", kind, self._path(kind, namespace, name), options)

    async def _list(
        self, kind: Kind, namespace: str | None, selector: str, limit: int, accept: str
    ) -> AsyncIterator[Body]:
        token = ""
        while True:
            answer = await self._request(
                "get",
                self._path(kind, namespace),
                f"list {kind.plural} in {namespace or 'all namespaces'}",
                label_selector=selector or None,
                limit=limit,
                _continue=token or None,
                header_params={"Accept": accept},
            )
            yield answer
            token = answer["metadata"].get("continue", "")
            if not token:
                return

    async def _apply(self, kind: Kind, body: Body, path: str) -> Body:
        return await self._write(
            "apply",
            "patch",
            kind,
            path,
            body,
            content_type="application/apply-patch+yaml",
            field_manager=FIELD_MANAGER,
            force_conflicts="true",
        )

    async def _write(self, verb: str, method: str, kind: Kind, path: str, body: Body, **params: Any) -> Body:
        left = self._may_write()
        what = f"{verb} {kind.kind} {path.removeprefix('/')}"
        if left <= 0:
            raise LeaseLostError(f"{what}: not sent, since the Lease may be another's by now")
        try:
            return await self._request(method, path, what, body=body, seconds=min(left, self._seconds), **params)
        finally:
            self._wrote(verb, kind.kind)

    async def _request(self, method: str, path: str, what: str, seconds: float | None = None, **params: Any) -> Body:
        timeout = ClientTimeout(total=seconds or self._seconds)
        with translated(what):
            response = await self._dynamic.request(method, path, serialize=False, _request_timeout=timeout, **params)
            answer: Body = from_json(await response.read())
            return answer

    def _path_of(self, kind: Kind, body: Body) -> str:
        return self._path(kind, body["metadata"]["namespace"], body["metadata"]["name"])

    def _path(self, kind: Kind, namespace: str | None, name: str | None = None) -> str:
        if kind not in self._resources:
            self._resources[kind] = Resource(
                prefix="apis" if kind.group else "api",
                group=kind.group,
                api_version=kind.version,
                kind=kind.kind,
                name=kind.plural,
                namespaced=True,
                client=self._dynamic,
            )
        path: str = self._resources[kind].path(name=name, namespace=namespace)
        return path


def _seen(metadata: Body) -> Seen:
    return Seen(metadata["uid"], metadata["resourceVersion"], metadata["name"], metadata["namespace"])


def _change(what: str, event: Body) -> Change:
    """A line of a watch.

    Raises:
        ApiError: it says that the watch cannot go on, and why.
    """
    body = event["object"]
    if event["type"] == "ERROR":
        raise of_status(what, body.get("code", 0), json.dumps(body), {})
    version: str = body["metadata"]["resourceVersion"]
    return Change(None if event["type"] == "BOOKMARK" else body, event["type"] == "DELETED", version)
