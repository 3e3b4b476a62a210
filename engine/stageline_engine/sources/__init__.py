"""From a model's name to a canonical folder on this machine: config.json, tokenizer.json, safetensors.

The way: resolve.py (what a name means) → local.py, hub.py, pip_package.py (where it comes from) → store.py (made once,
whole or not at all) → integrity.py (is it complete). profile_cache.py: what planning must know of the model.

Weights of a hub's model are fetched later, by whoever runs a stage: fetch.py begins; stage_bytes.py says what a stage
reads, hub_ranges.py asks for it, sparse_file.py keeps it, and lets ranks wait for it.

The head calls this, so nothing here imports torch or transformers: convert.py, which does, runs as a process of its
own (child.py), and so does what asks the hub (hub_outline.py, hub_fetch.py).
"""
