"""`python -m stageline_operator` is `stageline-operator`."""

from __future__ import annotations

from stageline_operator.cli.main import main

if __name__ == "__main__":
    main()
