"""Transformers' modelling code, cut into stages and tensor-parallel ranks."""
