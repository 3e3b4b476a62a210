"""Stageline's Kubernetes operator: from an InferenceDeployment to the pods of its pipelines, and back to its status.

The way of a resource, each step a package that may import only those before it::

    body ─▶ Spec ─▶ Plan ─▶ desired objects ─▶ actions ─▶ apply ─▶ Observed ─▶ Status
    api     plan    plan    objects            decide     apply    observe     decide

``api``, ``plan``, ``objects`` and ``decide`` are pure: no client, no clock, no environment; time comes as an argument.
"""
