"""From a model's name to a canonical folder on this machine: config.json, tokenizer.json, safetensors.

The way: resolve.py (what a name means) → local.py, hub.py, pip_package.py (where it comes from) → store.py (made once,
whole or not at all) → integrity.py (is it complete). profile_cache.py: what planning must know of the model.
The head calls this, so nothing here imports torch or transformers: convert.py, which does, runs as a process of its
own (child.py), and so does the hub's download.
"""
