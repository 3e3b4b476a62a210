"""Owns the rank processes of a stage."""
