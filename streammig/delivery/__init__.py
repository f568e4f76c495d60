"""What happens to one batch: permits, retry, splitting, and the gate between stages."""
