"""What happens to one batch: permits, retry, splitting, and the barrier between stages."""
