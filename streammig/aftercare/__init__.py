"""What is done behind a run: reading out its dead letters."""
