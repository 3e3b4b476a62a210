"""The loop of the engine core."""
