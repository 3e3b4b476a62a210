"""body → Spec → Plan: what a resource asks for, with everything resolved that can be without looking at the cluster.

``spec`` reads and validates the body; ``merge`` joins pod settings; ``revision`` hashes and restores what a replica's
pods depend on; ``names`` makes every name of a child; ``engine_flags`` turns the spec into the engine's arguments;
``plan`` puts them together. Pure: no client, no clock. The values are frozen dataclasses and not pydantic or msgspec
types: only our own code makes them, so there is nothing to validate, decode or describe, and the standard library is
enough.
"""
