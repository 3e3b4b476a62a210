"""The API of the operator: everything that a person, a chart or another program can name.

``constants`` has labels, ports, reasons; every other module has one idea of the resource, as strict pydantic types
whose docstrings become ``kubectl explain``. The CRD is made from these types alone.
"""
