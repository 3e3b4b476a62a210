"""What the answers to writes taught: taken names, refusals, children that are changed back."""

from __future__ import annotations

from stageline_operator.decide.actions import Ref
from stageline_operator.decide.observed import Refusal, Stranger
from stageline_operator.observe.learned import FIGHT_SECONDS, STRANGER_SECONDS, TRUCE_SECONDS, Learned

CHILD = Ref("v1", "Service", "demo")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_taken_name_is_looked_at_again_after_a_while() -> None:
    clock = Clock()
    learned = Learned(clock)
    stranger = Stranger("Service", "demo", "")
    learned.met_stranger("owner", stranger)
    assert learned.strangers("owner") == (stranger,)
    assert learned.strangers("other") == ()
    clock.now = STRANGER_SECONDS
    assert learned.strangers("owner") == ()


def test_a_refusal_is_forgotten_when_its_object_is_not_wanted_any_more() -> None:
    learned = Learned()
    learned.refused("owner", CHILD, "quota")
    learned.keep_refusals("owner", {CHILD})
    assert learned.refusals("owner") == (Refusal(CHILD, "quota"),)
    learned.keep_refusals("owner", {Ref("v1", "Pod", "demo-0-head-0")})
    assert learned.refusals("owner") == ()
    assert learned.refused("owner", CHILD, "quota") is False, "it is news again"


def test_a_refusal_is_known_until_the_action_succeeds() -> None:
    learned = Learned()
    assert learned.refused("owner", CHILD, "quota") is False
    assert learned.refused("owner", CHILD, "quota") is True
    assert learned.refused("owner", CHILD, "policy") is True, "other words are no other refusal"
    assert learned.refusals("owner") == (Refusal(CHILD, "policy"),)
    learned.succeeded("owner", CHILD)
    assert learned.refusals("owner") == ()


def test_a_child_that_is_changed_back_at_once_is_left_alone_for_a_while() -> None:
    clock = Clock()
    learned = Learned(clock)
    learned.corrected("owner", CHILD, body=1)
    assert learned.contested("owner") == ()
    clock.now = FIGHT_SECONDS
    learned.corrected("owner", CHILD, body=1)
    assert learned.contested("owner") == (CHILD,)
    clock.now += TRUCE_SECONDS
    assert learned.contested("owner") == ()


def test_corrections_to_different_bodies_are_no_fight() -> None:
    learned = Learned(Clock())
    learned.corrected("owner", CHILD, body=1)
    learned.corrected("owner", CHILD, body=2)
    assert learned.contested("owner") == ()


def test_a_resource_that_is_gone_is_forgotten() -> None:
    learned = Learned()
    learned.made_secret("owner")
    assert learned.has_secret("owner")
    learned.forget("owner")
    assert not learned.has_secret("owner")
