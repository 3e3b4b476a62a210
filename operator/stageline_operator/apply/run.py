"""Does a decision's actions in order; what a failure leaves undone is decided anew at the next look."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stageline_operator.api.constants import API_VERSION, KIND
from stageline_operator.api.errors import GoneError, NameTakenError, RefusedError
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
    WriteStatus,
    ref_of,
)
from stageline_operator.kube.kinds import POD, RESOURCE

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Done:
    """What came of a decision's actions.

    Attributes:
        wrote: an object besides the status was written.
        has_news: something was refused, or a name was found taken, that the decision did not know of; the next one
            says it in the status.
        is_taken: such a name was found.
        is_hindered: something was refused, and has to be tried again.
    """

    wrote: bool = False
    has_news: bool = False
    is_taken: bool = False
    is_hindered: bool = False


async def run(actions: tuple[Action, ...], context: Context, events: Events) -> Done:
    """Do them.

    A conflict or an API server that is away ends the list: the next look decides with what is true then. A refused
    object keeps no other from being made, and a taken name none but pods, which may need it; but when that is news,
    nothing is said of it yet, since the next decision knows of it and says it in the status.

    Raises:
        ApiError: the first action that failed, and was not refused.
        LeaseLostError: at once.
    """
    done, learned, uid = Done(), context.observer.learned, context.owner.uid
    learned.keep_refusals(uid, {ref for action in actions if (ref := ref_of(action)) is not None})
    for action in actions:
        if not _may_follow(action, done):
            continue
        ref = ref_of(action)
        try:
            await _do(action, context, events)
        except NameTakenError as error:
            log.warning("%s", error)
            done.has_news = done.is_taken = True
        except (RefusedError, GoneError) as error:  # gone: the API server does not have such objects any more
            if ref is None:
                raise
            log.warning("%s", error)
            done.is_hindered = True
            done.has_news |= not learned.refused(uid, ref, str(error))
        else:
            done.wrote |= not isinstance(action, WriteStatus | EmitEvent)
            if ref is not None:
                learned.succeeded(uid, ref)
    return done


def _may_follow(action: Action, done: Done) -> bool:
    """Whether ``action`` may be done after what happened to those before it."""
    match action:
        case WriteStatus() | EmitEvent():
            return not done.has_news
        case Create():
            return not done.is_taken
        case Delete():  # its successor may be what could not be made
            return action.ref.kind == POD.kind or not (done.has_news or done.is_hindered)
        case _:
            return True


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
