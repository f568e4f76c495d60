"""The check of an export: what is wrong with it, and what its run will take, before any of it is sent.

A stage is scanned as a run scans it, then read by the run's own rules, reader and batcher. What these refuse is a
problem here, and the batches that they make are the plan.
"""
