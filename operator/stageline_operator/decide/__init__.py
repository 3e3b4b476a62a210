"""Plan and Observed → actions and Status. Pure: no client, no clock; ``now`` is an argument, in seconds since 1970.

``observed`` and ``actions`` are the values that come in and go out; ``rollout``, ``failures``, ``children`` and
``status`` each decide one thing; ``reconcile`` joins them::

    def decide(spec: Spec, plan: Plan, observed: Observed, now: float) -> Decision

The same inputs give the same decision: a process that dies between two actions is followed by one that goes on.
"""
