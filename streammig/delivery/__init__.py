"""What happens to one batch: slots, retry, splitting, and the gate between stages."""
