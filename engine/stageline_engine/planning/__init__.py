"""How a model is cut, what each rank needs, and what the pipeline will give; before anything is started.

Arithmetic on a ModelProfile: no tensors, no clock; only machine.py, the memory that is free, looks at the system.
The way: feasibility.py (can it work) → costs.py (predicted seconds, with the constants of devices.py) → split.py
(layers per stage) → memory.py (weights, KV) → slots.py (micro-batches in flight) → report.py (all of it for a person,
with the effect of more ranks from scale.py).
"""
