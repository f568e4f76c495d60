"""Whether a machine and a target are fit for a migration, and whether the target behaves as is assumed."""
