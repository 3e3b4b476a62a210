"""Plan → desired objects: one builder per kind, one file each. Pure; a builder takes a plan and gives a body.

A body is ``dict[str, Any]`` as the API server takes it: apiVersion, kind, metadata with name, namespace, labels and
owner reference, and nothing that the server fills in. Labels and the owner reference are made in ``objects.metadata``
alone. ``shared`` and ``replica`` join what a resource has once and what each replica has; ``pod`` has the pods, from
``volumes``, ``placement`` and ``resources``; ``gang`` knows the gang schedulers.
"""
