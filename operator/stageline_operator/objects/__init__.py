"""Plan → desired objects: one builder per kind, one file each. Pure; a builder takes a plan and gives a body.

A body is ``dict[str, Any]`` as the API server takes it: apiVersion, kind, metadata with name, namespace, labels and
owner reference, and nothing that the server fills in. Labels and the owner reference are made in ``objects.metadata``
alone. Expected signatures, which ``decide`` calls:

- ``pod.head_pod(plan: RevisionPlan, owner: Owner, replica: int, incarnation: int, epoch: int, gang: str) -> Body``
- ``pod.stage_pod(plan: RevisionPlan, owner: Owner, replica: int, stage: int, incarnation: int, epoch: int, gang: str)
-> Body`` - ``shared.shared_objects(plan: Plan, cluster: Cluster) -> tuple[Body, ...]``: ServiceAccount, Services,
PodMonitor - ``replica.replica_objects(plan: Plan, revision: RevisionPlan, replica: int, gang: str) -> tuple[Body,
  ...]``: PDB, NetworkPolicy, the gang's PodGroup
- ``revision.controller_revision(plan: RevisionPlan, owner: Owner) -> Body``
- ``secret.group_secret(owner: Owner, random: Callable[[int], bytes]) -> Body``: only ever POSTed
"""
