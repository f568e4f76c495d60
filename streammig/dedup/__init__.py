"""The dedup index: customers whose id or e-mail occurs more than once, and owners that will not be in the target.

`scan` makes rows of a span, `Build` sorts them in a child process, `open_index` gives the finished index, `forget`
deletes it with everything it left; `key_index` does it all for a run.
"""

from pathlib import Path

from streammig.dedup.build import MEMORY_BYTES, Build, fill, key_index, most_customers, room_of_index
from streammig.dedup.lookup import Duplicate, KeyIndex, Policy, absent, forget, open_index, repeated
from streammig.dedup.scan import scan


def dedup_folder(checkpoint: Path) -> Path:
    """Where the index lies: hashes of ids and e-mails under a random key, owner-only, deleted after use."""
    return checkpoint.with_name(checkpoint.name + ".dedup")


__all__ = [
    "MEMORY_BYTES",
    "Build",
    "Duplicate",
    "KeyIndex",
    "Policy",
    "absent",
    "dedup_folder",
    "fill",
    "forget",
    "key_index",
    "most_customers",
    "open_index",
    "repeated",
    "room_of_index",
    "scan",
]
