"""Which of the namespaces to serve are known: only there anything is decided.

One that is known is so until the API server refuses (403) a list or a watch in it: the namespace was deleted, and its
Role with it, or the Role was taken away. The others are served on. It is asked again for ever, and known again as soon
as everything in it has been listed anew. Any other failure says nothing about a namespace, and is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from stageline_operator.api.errors import ForbiddenError

log = logging.getLogger(__name__)


class Namespaces:
    """The namespaces to serve.

    Args:
        names: (None,) for all of the cluster, which is never refused: without that right nothing can be served.
        admitted: told of one that is known from now on.
        refused: told of one that is not known any more.

    Attributes:
        known: the ones in which everything was seen, and in which lists were not refused since.
    """

    def __init__(
        self, names: tuple[str | None, ...], admitted: Callable[[str | None], None], refused: Callable[[str], None]
    ) -> None:
        self.names = names
        self.known: set[str | None] = set()
        self._refused: set[str] = set()
        self._tell_admitted = admitted
        self._tell_refused = refused

    def is_known(self, namespace: str) -> bool:
        """Whether anything may be decided in ``namespace``."""
        return namespace in self.known or None in self.known

    def admit(self, namespace: str | None) -> None:
        """Everything in it has been seen."""
        if namespace in self.known:
            return
        self.known.add(namespace)
        if namespace in self._refused:
            self._refused.discard(namespace)
            log.info("namespace %s is served again", namespace)
        self._tell_admitted(namespace)

    def refuse(self, namespace: str | None, error: ForbiddenError) -> bool:
        """The API server refused a list or a watch in it.

        Returns:
            False: it is about all of the cluster, and like any other failure.
        """
        if namespace is None:
            return False
        self.known.discard(namespace)
        if namespace not in self._refused:
            self._refused.add(namespace)
            log.warning(
                "namespace %s is not served until its Role is back (it goes with a deleted namespace): %s",
                namespace,
                error,
            )
            self._tell_refused(namespace)
        return True
