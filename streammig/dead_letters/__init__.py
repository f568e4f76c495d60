"""Dead letters: written out with their records, and sent again."""
