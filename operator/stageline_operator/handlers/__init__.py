"""kopf's part, and its only import: ``on.event`` stores a summary and marks a key dirty. Nothing is decided here."""
