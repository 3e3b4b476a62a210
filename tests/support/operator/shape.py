"""The objects of a simulated cluster in a form in which two of them can be compared."""

from __future__ import annotations

import json
import re

from stageline_operator.api.constants import LABEL_EPOCH, LABEL_INCARNATION, LABEL_REPLICA
from support.operator.simulation import Simulation


def shape_of(simulation: Simulation) -> list[str]:
    """All objects, without what may differ between two ways to the same end: numbers, uids, order."""
    numbers = {number: index for index, number in enumerate(sorted({pod.replica for pod in simulation.pods.values()}))}
    found = []
    for body in (
        *(simulation.bodies[name] for name in simulation.pods),
        *(child.body for child in simulation.children.values()),
    ):
        text = json.dumps({key: value for key, value in body.items() if key != "revision"}, sort_keys=True)
        number = body["metadata"]["labels"].get(LABEL_REPLICA)
        if number is not None:
            name = simulation.body["metadata"]["name"]
            text = re.sub(rf'"{name}-{number}(-|")', rf'"{name}-{numbers[int(number)]}\1', text)
            text = re.sub(rf"\br{number}-", f"r{numbers[int(number)]}-", text)
            text = text.replace(f'"{LABEL_REPLICA}": "{number}"', f'"{LABEL_REPLICA}": "{numbers[int(number)]}"')
        text = re.sub(rf'"{LABEL_EPOCH}": "\d+"|"{LABEL_INCARNATION}": "\d+"|"creationTimestamp": "[^"]*"', '""', text)
        found.append(re.sub(r'(-head|-s\d+)-\d+"', r'\1"', text))
    return sorted(found)
