"""The only client of the API server: typed calls over ``kubernetes.aio``, its errors turned into api.errors.

Nothing here decides. A call has a deadline; a write checks the lease first. Seam (``kube.client.Kube``), which tests
with faults replace: ``get``, ``list_seen``, ``list_whole``, ``watch``, ``create``, ``apply``, ``apply_status``,
``patch``, ``replace`` and ``delete``.
"""
