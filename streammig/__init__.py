"""Moves a very large JSON export into a rate-limited HTTP API, exactly once in the books."""
