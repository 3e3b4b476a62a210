"""What joins processes: links for activations, a keyed channel for messages."""
