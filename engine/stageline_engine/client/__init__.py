"""The asyncio side of an engine core."""
