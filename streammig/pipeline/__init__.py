"""One stage from its frontier to its last receipt: producer, bounded queue, workers, drain and abort."""
