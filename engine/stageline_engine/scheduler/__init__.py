"""Decides, purely, which rows the next micro-batch holds."""
