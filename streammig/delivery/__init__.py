"""Delivery of batches: sending, retry, splitting, read-backs, isolation, and the barrier between stages."""
