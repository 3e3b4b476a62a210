"""Measures an engine with fixed synthetic workloads."""
