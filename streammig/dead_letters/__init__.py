"""Dead letters: export them with their records, and send them again."""
