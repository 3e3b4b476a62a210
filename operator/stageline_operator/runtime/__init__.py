"""What runs for ever: the queue of dirty keys, the reconcile of one key, the lease, liveness by reads, metrics."""
