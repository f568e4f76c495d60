"""Identity of an export's files: whether a file has changed while a run reads it, or before it is resumed.

A file is identified by its size and by hashes of its head, its tail and samples between them: cheap at any size. A file
with the same times and inode as in the checkpoint takes 16 samples, any other one 1,000. The rest is not read. An
object on a server is identified by its ETag instead, if it has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from streammig.sources.handle import FileIdentity, open_file, read_failed

HEAD_BYTES, SAMPLE_BYTES = 64 * 1024, 4 * 1024
FEW, MANY = 16, 1000  # samples
# If these are equal in two fingerprints, the file is untouched. A restored copy has others, and may be the same.
TIMES_AND_INODE = ("modified", "changed", "inode")

Mark = Mapping[str, Any]


def sampled(file: str, samples: int, stopped: Callable[[], bool] = lambda: False) -> str:
    """Return a SHA-256 over the file's head, its tail and samples between them; "" if it was stopped."""
    digest = hashlib.sha256()
    with closing(open_file(file)) as handle:
        size = handle.identity().size
        spots = [(0, HEAD_BYTES), (max(size - HEAD_BYTES, 0), HEAD_BYTES)]
        spots += [(size * index // (samples + 1), SAMPLE_BYTES) for index in range(1, samples + 1)]
        for offset, length in spots:
            if stopped():
                return ""
            try:
                digest.update(handle.at(offset, length))
            except OSError as error:
                raise read_failed(file, offset, error) from None
    return digest.hexdigest()


def hash_before(mark: Mark, offset: int, identity: FileIdentity | None = None) -> str:
    """Return a SHA-256 over the 64 KB of a file before an offset; "" if it is compressed.

    Raises `Unusable` if the file has changed since `identity`.
    """
    if mark["compression"] or not offset:
        return ""
    begin = max(offset - HEAD_BYTES, 0)
    with closing(open_file(mark["file"])) as handle:
        try:
            data = handle.at(begin, offset - begin)
        except OSError as error:
            raise read_failed(mark["file"], begin, error) from None
        if identity is not None:
            identity.check(mark["file"], handle.identity())
    return hashlib.sha256(data).hexdigest()


def with_samples(marks: Mapping[str, Sequence[Mark]], stopped: Callable[[], bool]) -> dict[str, list[dict[str, Any]]]:
    """Add to the fingerprints of each stage the hash over 1,000 `samples`, as a checkpoint keeps them.

    A file of several stages is read once. The hashes are "" after a stop.
    """
    etags = {mark["file"]: mark.get("etag") for stage in marks.values() for mark in stage}
    found = {file: "" if etag else sampled(file, MANY, stopped) for file, etag in etags.items()}
    return {name: [{**mark, "samples": found[mark["file"]]} for mark in stage] for name, stage in marks.items()}


def comparable(marks: Sequence[Mark]) -> dict[str, Any]:
    """Return the fingerprints of several files as one flat mapping, for a comparison."""
    return {
        f"file {number}'s {key}": value
        for number, mark in enumerate(marks, 1)
        for key, value in content_of(mark).items()
    }


def content_of(mark: Mark) -> dict[str, Any]:
    """Return the part of a fingerprint that tells the content of its file.

    Names, times and inodes are left out: a restored copy is the same export. So is the estimated length.
    """
    return {key: value for key, value in mark.items() if key not in ("file", *TIMES_AND_INODE, "samples", "length")}


def touched(now: Sequence[Mark], then: Sequence[Mark], stopped: Callable[[], bool] = lambda: False) -> list[str]:
    """Return the files with other samples than in the checkpoint; `comparable` finds `now` and `then` equal.

    Samples are taken only of files that may have been written to since.
    """
    return [
        mark["file"]
        for mark, before in zip(now, then, strict=True)
        if any(mark[key] != before.get(key) for key in TIMES_AND_INODE)
        and sampled(mark["file"], MANY, stopped) != before.get("samples")
    ]
