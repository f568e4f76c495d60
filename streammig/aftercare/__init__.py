"""What is done behind a run: reading out its dead letters, sending them again, deciding what is unknown."""
