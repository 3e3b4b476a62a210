"""The `stageline-operator` command: run, render, plan, crd, docs."""
