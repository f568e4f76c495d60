"""Check an export before anything is sent: its problems, and the requests and the time that its run will take.

A stage is scanned as a run scans it, then read by the run's own rules, reader and batcher. A record that these refuse
is a problem; the batches that they make are the plan.
"""
