"""What this process learned from the answers to its own writes, by the uid of the resource: taken names, refusals, and
children that somebody changes back. None of it survives a restart; all of it is learned again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from stageline_operator.decide.actions import Ref
from stageline_operator.decide.observed import Refusal, Stranger

STRANGER_SECONDS = 60.0
"""A taken name is looked at again after so long: whoever has it may have left."""
FIGHT_SECONDS = 60.0
"""Two corrections of a child to the same body within so long: somebody, or the server itself, changes it back."""
TRUCE_SECONDS = 600.0
"""For so long such a child is left alone."""


@dataclass(slots=True)
class _Corrections:
    body: int
    last: float
    contested_until: float = 0.0


@dataclass(slots=True)
class _Of:
    """What is known of one resource."""

    strangers: dict[Stranger, float] = field(default_factory=dict)
    refusals: dict[Ref, Refusal] = field(default_factory=dict)
    corrections: dict[Ref, _Corrections] = field(default_factory=dict)
    has_secret: bool = False


@dataclass(slots=True)
class Learned:
    """See the module."""

    clock: Callable[[], float] = time.monotonic
    _by_owner: dict[str, _Of] = field(default_factory=dict)

    def forget(self, owner_uid: str) -> None:
        """The resource is gone."""
        self._by_owner.pop(owner_uid, None)

    def met_stranger(self, owner_uid: str, stranger: Stranger) -> None:
        """A name that the resource needs belongs to someone else."""
        self._of(owner_uid).strangers[stranger] = self.clock() + STRANGER_SECONDS

    def strangers(self, owner_uid: str) -> tuple[Stranger, ...]:
        """Taken names, as far as lately known."""
        now = self.clock()
        known = self._peek(owner_uid).strangers
        return tuple(
            sorted((each for each, until in known.items() if until > now), key=lambda each: (each.kind, each.name))
        )

    def look_again_after(self, owner_uid: str) -> float | None:
        """Seconds until a taken name is looked at again: nobody tells when it becomes free. None: none is taken."""
        now = self.clock()
        left = [until - now for until in self._peek(owner_uid).strangers.values() if until > now]
        return min(left, default=None)

    def refused(self, owner_uid: str, ref: Ref, message: str) -> bool:
        """The API server refused an action.

        Returns:
            It had refused it before, in whatever words: some name the moment, and would be news each time.
        """
        refusals = self._of(owner_uid).refusals
        was_known = ref in refusals
        refusals[ref] = Refusal(ref, message)
        return was_known

    def succeeded(self, owner_uid: str, ref: Ref) -> None:
        """An action went well."""
        self._peek(owner_uid).refusals.pop(ref, None)

    def keep_refusals(self, owner_uid: str, tried: Set[Ref]) -> None:
        """Only these objects are still to be made, changed or deleted; what was refused besides is of no interest."""
        refusals = self._peek(owner_uid).refusals
        for ref in refusals.keys() - tried:
            del refusals[ref]

    def refusals(self, owner_uid: str) -> tuple[Refusal, ...]:
        """Actions that the API server refused when they were last tried."""
        return tuple(self._peek(owner_uid).refusals.values())

    def corrected(self, owner_uid: str, ref: Ref, body: int) -> None:
        """A child that was there was applied to become as it should be.

        Args:
            body: hash of what was applied.
        """
        corrections = self._of(owner_uid).corrections
        before, now = corrections.get(ref), self.clock()
        is_fight = before is not None and before.body == body and now - before.last <= FIGHT_SECONDS
        corrections[ref] = _Corrections(body, now, now + TRUCE_SECONDS if is_fight else 0.0)

    def contested(self, owner_uid: str) -> tuple[Ref, ...]:
        """Children that are left alone for now."""
        now = self.clock()
        return tuple(ref for ref, each in self._peek(owner_uid).corrections.items() if each.contested_until > now)

    def made_secret(self, owner_uid: str) -> None:
        """The group Secret was made, or is there."""
        self._of(owner_uid).has_secret = True

    def has_secret(self, owner_uid: str) -> bool:
        """This process made the group Secret, or was told that it is there."""
        return self._peek(owner_uid).has_secret

    def _of(self, owner_uid: str) -> _Of:
        return self._by_owner.setdefault(owner_uid, _Of())

    def _peek(self, owner_uid: str) -> _Of:
        return self._by_owner.get(owner_uid) or _Of()
