"""A small synchronous client for tests: objects in and out as plain dictionaries.

Not the operator's own client, so that a mistake there cannot hide itself. Resources are named as for kubectl, by
their plural name, with the group where it is not unique ("pods", "deployments.apps"); what is served is discovered.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

Object = dict[str, Any]

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ApiError(Exception):
    """The API server answered with a failure: its HTTP status, machine-readable reason and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class KubeApi:
    """Requests to one API server as one user. Raises ApiError; httpx.TransportError while no server answers."""

    def __init__(self, server: str, tls: ssl.SSLContext, headers: Iterable[tuple[str, str]] = ()) -> None:
        self._http = httpx.Client(base_url=server, verify=tls, headers=list(headers), timeout=30, trust_env=False)
        self._resources: dict[str, tuple[str, bool]] = {}
        self._kinds: dict[tuple[str, str], str] = {}
        self._served: set[tuple[str, str]] = set()

    def close(self) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Whether the API server has started all its parts and reaches etcd."""
        return self._http.get("/readyz").is_success

    def served(self) -> set[tuple[str, str]]:
        """Group and name of every resource that the server has, subresources as "pods/status"."""
        self._discover()
        return self._served

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, resource: str, name: str, namespace: str | None = None) -> Object:
        return self.request("GET", self.path(resource, namespace, name))

    def find(self, resource: str, name: str, namespace: str | None = None) -> Object | None:
        """Like get, but None when there is no such object."""
        try:
            return self.get(resource, name, namespace)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return None

    def list(self, resource: str, namespace: str | None = None, labels: str = "", fields: str = "") -> list[Object]:
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        answer = self.request("GET", self.path(resource, namespace), params={k: v for k, v in selectors.items() if v})
        # The items of a list do not say what they are.
        what = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [what | item for item in answer["items"]]

    # -- writing -------------------------------------------------------------------------------------------------

    def create(self, body: Object) -> Object:
        return self.request("POST", self._path_of(body, named=False), body=body)

    def apply(self, body: Object, manager: str = "test", force: bool = True) -> Object:
        """Server-side apply."""
        params = {"fieldManager": manager, "force": str(force).lower()}
        return self.request("PATCH", self._path_of(body), "application/apply-patch+yaml", params, body)

    def patch(
        self, resource: str, name: str, changes: Object, namespace: str | None = None, subresource: str = ""
    ) -> Object:
        """Merge patch."""
        path = self.path(resource, namespace, name, subresource)
        return self.request("PATCH", path, "application/merge-patch+json", body=changes)

    def replace(self, body: Object) -> Object:
        return self.request("PUT", self._path_of(body), body=body)

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str | None = None,
        grace: int | None = None,
        propagation: str | None = None,
    ) -> Object:
        """``propagation``: Background, Foreground or Orphan; the resource's default when None."""
        options = {"gracePeriodSeconds": grace, "propagationPolicy": propagation}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", **{k: v for k, v in options.items() if v is not None}}
        return self.request("DELETE", self.path(resource, namespace, name), body=body)

    def delete_all(self, resource: str, namespace: str, labels: str = "") -> Object:
        params = {"labelSelector": labels} if labels else {}
        return self.request("DELETE", self.path(resource, namespace), params=params)

    # -- below ---------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> Object:
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": content_type} if body is not None else {}
        response = self._http.request(method, path, params=params, content=content, headers=headers)
        if response.is_success:
            answer: Object = response.json()
            return answer
        try:
            status = response.json()
        except ValueError:
            status = {"message": response.text}
        raise ApiError(response.status_code, status.get("reason", ""), status.get("message", ""))

    def path(self, resource: str, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """URL path of a collection or an object; ``namespace`` is left out for cluster-scoped resources."""
        prefix, namespaced = self._resource(resource)
        plural = resource.partition(".")[0]
        where = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{prefix}{where}/{plural}" + (f"/{name}" if name else "") + (f"/{subresource}" if subresource else "")

    def _path_of(self, body: Object, named: bool = True) -> str:
        key = (body["apiVersion"], body["kind"])
        if key not in self._kinds:
            self._discover()
        if key not in self._kinds:
            raise ApiError(404, "NotFound", f"the server does not know {key[1]} of {key[0]}")
        meta = body["metadata"]
        return self.path(self._kinds[key], meta.get("namespace"), meta["name"] if named else "")

    def _resource(self, name: str) -> tuple[str, bool]:
        if name not in self._resources:
            # Not known yet, or of a definition that was created since.
            self._discover()
        if name not in self._resources:
            raise ApiError(404, "NotFound", f"the server does not know the resource {name}")
        return self._resources[name]

    def _discover(self) -> None:
        for root in ("/api", "/apis"):
            response = self._http.get(root, headers={"Accept": DISCOVERY}).raise_for_status()
            for group in response.json()["items"]:
                self._learn(group)

    def _learn(self, group: Object) -> None:
        group_name = group.get("metadata", {}).get("name", "")
        # The preferred version comes first; later ones do not replace it for a name without version.
        for version in group["versions"]:
            api_version = f"{group_name}/{version['version']}" if group_name else version["version"]
            prefix = f"/apis/{api_version}" if group_name else f"/api/{api_version}"
            for each in version["resources"]:
                place = (prefix, each["scope"] == "Namespaced")
                full = f"{each['resource']}.{group_name}" if group_name else each["resource"]
                self._kinds[api_version, each["responseKind"]["kind"]] = full
                self._resources.setdefault(full, place)
                self._resources.setdefault(each["resource"], place)
                self._served.add((group_name, each["resource"]))
                for below in each.get("subresources", []):
                    self._served.add((group_name, f"{each['resource']}/{below['subresource']}"))


def tls_context(authority: str, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Trusts ``authority`` alone; shows ``certificate`` where one is given. All are paths of PEM files."""
    context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
