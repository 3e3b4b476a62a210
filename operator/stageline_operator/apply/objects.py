"""The writes of children: create, apply, delete, delete by force. Each is safe to do late or twice."""

from __future__ import annotations

import contextlib
import json
import os

from stageline_operator.api.errors import ConflictError, GoneError
from stageline_operator.apply.context import Context, changed_meanwhile
from stageline_operator.decide.actions import Apply, Create, Delete, ForceDelete, Ref
from stageline_operator.kube.kinds import SECRET, kind_of
from stageline_operator.objects.secret import group_secret


async def create(action: Create, context: Context) -> None:
    """POST.

    Raises:
        ConflictError: it is there already and ours; the next decision knows it.
        NameTakenError: it is someone else's.
    """
    body = action.body
    kind, name = kind_of(body["apiVersion"], body["kind"]), body["metadata"]["name"]
    try:
        context.keep(await context.kube.create(kind, body))
    except ConflictError:
        await context.look(kind, name)
        raise


async def create_group_secret(context: Context) -> None:
    """POST with new keys. One that is there stays as it is: its name has the resource's uid, so it is ours."""
    with contextlib.suppress(ConflictError):
        await context.kube.create(SECRET, group_secret(context.owner, os.urandom))
    context.observer.learned.made_secret(context.owner.uid)


async def apply(action: Apply, context: Context) -> None:
    """Server-side apply, unless the object that has the name is not ours.

    Raises:
        ConflictError: it was not known, but is there and ours; the next decision compares it.
        NameTakenError: it is someone else's.
    """
    body = action.body
    kind, name = kind_of(body["apiVersion"], body["kind"]), body["metadata"]["name"]
    is_known = context.knows(kind, name)
    if not is_known and await context.look(kind, name):
        raise changed_meanwhile(f"{kind.kind} {name}")
    context.keep(await context.kube.apply(kind, body))
    if is_known:
        digest = hash(json.dumps(body, sort_keys=True))
        context.observer.learned.corrected(context.owner.uid, Ref(kind.api_version, kind.kind, name), digest)


async def delete(action: Delete, context: Context) -> None:
    """DELETE, after a look whether the object is still as it was when it was decided.

    Raises:
        ConflictError: it is not, and stays; the next decision knows it as it is.
    """
    kind = kind_of(action.ref.api_version, action.ref.kind)
    try:
        read = await context.kube.get(kind, context.owner.namespace, action.ref.name)
    except GoneError:
        context.observer.store.drop(action.uid)
        return
    meta = read["metadata"]
    if meta["uid"] != action.uid or meta["resourceVersion"] != action.resource_version:
        context.keep(read)
        raise changed_meanwhile(f"{kind.kind} {action.ref.name}")
    await _delete(action, context, action.resource_version, grace=None)


async def force_delete(action: ForceDelete, context: Context) -> None:
    """DELETE at once, by uid alone: nobody will say that it ended."""
    await _delete(action, context, "", grace=0)


async def _delete(action: Delete | ForceDelete, context: Context, resource_version: str, grace: int | None) -> None:
    kind = kind_of(action.ref.api_version, action.ref.kind)
    try:
        answer = await context.kube.delete(
            kind,
            context.owner.namespace,
            action.ref.name,
            uid=action.uid,
            resource_version=resource_version,
            grace=grace,
        )
    except GoneError:
        context.observer.store.drop(action.uid)
        return
    if answer.get("kind") == kind.kind and "deletionTimestamp" in answer["metadata"]:
        context.keep(answer)
    else:  # it went at once: the answer is a Status, or the object's last state
        context.observer.store.drop(action.uid)
