"""Who hosts the ranks."""
