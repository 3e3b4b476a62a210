"""Does a decision's actions in order; what a failure leaves undone is decided anew at the next look."""

from __future__ import annotations

from stageline_operator.api.constants import API_VERSION, KIND
from stageline_operator.api.errors import NameTakenError, OperatorError, RefusedError
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.apply import objects
from stageline_operator.apply.context import Context
from stageline_operator.apply.events import Events
from stageline_operator.decide.actions import (
    Action,
    Apply,
    Create,
    CreateGroupSecret,
    Delete,
    EmitEvent,
    ForceDelete,
    Ref,
    WriteStatus,
)
from stageline_operator.kube.kinds import POD, RESOURCE


async def run(actions: tuple[Action, ...], context: Context, events: Events) -> None:
    """Do them.

    A conflict or an API server that is away ends the list: the next look decides with what is true then. A refused
    object, or one whose name is taken, keeps no other from being made; but when that is news, nothing is said of it
    yet, since the next decision knows of it and says it in the status.

    Raises:
        ApiError, NameTakenError: the first action that failed.
        LeaseLostError: at once.
    """
    failure: OperatorError | None = None
    is_news = False
    for action in actions:
        if failure is not None and not _may_follow(action, is_news):
            continue
        try:
            await _do(action, context, events)
        except NameTakenError as error:
            failure, is_news = failure or error, True
        except RefusedError as error:
            ref = _ref(action)
            if ref is None:
                raise
            failure = failure or error
            is_news |= not context.observer.learned.refused(context.owner.uid, ref, str(error))
        else:
            if (ref := _ref(action)) is not None:
                context.observer.learned.succeeded(context.owner.uid, ref)
    if failure is not None:
        raise failure


def _may_follow(action: Action, is_news: bool) -> bool:
    """Whether ``action`` may be done though one before it failed."""
    match action:
        case WriteStatus() | EmitEvent():
            return not is_news
        case Delete():  # its successor may be what could not be made
            return action.ref.kind == POD.kind
        case _:
            return True


def _ref(action: Action) -> Ref | None:
    match action:
        case Create(body=body) | Apply(body=body):
            return Ref(body["apiVersion"], body["kind"], body["metadata"]["name"])
        case Delete(ref=ref) | ForceDelete(ref=ref):
            return ref
        case _:
            return None


async def _do(action: Action, context: Context, events: Events) -> None:
    match action:
        case Create():
            await objects.create(action, context)
        case CreateGroupSecret():
            await objects.create_group_secret(context)
        case Apply():
            await objects.apply(action, context)
        case Delete():
            await objects.delete(action, context)
        case ForceDelete():
            await objects.force_delete(action, context)
        case WriteStatus():
            await _write_status(action.status, context)
        case EmitEvent():
            await events.emit(action, context.owner)


async def _write_status(status: InferenceDeploymentStatus, context: Context) -> None:
    owner = context.owner
    metadata = {"name": owner.name, "namespace": owner.namespace, "resourceVersion": context.resource_version}
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": status.dump()}
    context.observer.store.put(RESOURCE, await context.kube.apply_status(RESOURCE, body))
