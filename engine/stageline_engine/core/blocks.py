"""Numbers of KV blocks, as the allocator gives them out and the pools store them."""

SCRATCH_BLOCK = 0
"""Never given to a sequence: padding rows read and write it. Every pool holds it besides the blocks that are given."""

NUM_SCRATCH_BLOCKS = 1
"""What a pool needs more than its sequences use."""
