"""`python -m stageline_engine` is `stageline`."""

from __future__ import annotations

from stageline_engine.cli.main import main

if __name__ == "__main__":
    main()
