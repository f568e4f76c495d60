"""Whether what the target accepted is there as it was sent: reading back, comparing, and what was found."""
