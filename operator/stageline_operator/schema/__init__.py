"""From the API's types to the files that are made of them: the CRD, and docs/infdep.md. Nothing is said twice."""
