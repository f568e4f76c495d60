"""Whether a file of the export is what it was: while a run reads it, and when a run goes on.

An export is told by its size and by hashes of its head, its tail and samples between them: cheap at any size. A file
that is untouched since the checkpoint saw it takes 16 samples, any other one 1,000. The rest is not looked at. An
object on a server is told by its ETag instead, where it has one: another ETag is another export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from streammig.sources.handle import Standing, open_file, read_failed

HEAD_BYTES, SAMPLE_BYTES = 64 * 1024, 4 * 1024
FEW, MANY = 16, 1000  # samples
# By what of a fingerprint a file is taken for untouched. A copy that was put back has others, and may be the same.
STANDING = ("modified", "changed", "inode")

Mark = Mapping[str, Any]


def sampled(file: str, samples: int, stopped: Callable[[], bool] = lambda: False) -> str:
    """A SHA-256 over the file's head, its tail and samples between them; "" if it was stopped."""
    digest = hashlib.sha256()
    with closing(open_file(file)) as handle:
        size = handle.standing().size
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


def hash_before(mark: Mark, offset: int, standing: Standing | None = None) -> str:
    """A SHA-256 over the 64 KB of a file before a byte: what was read last. "" of a compressed file, whose bytes do not
    stand there. Raises `Unusable` where the file is not as it was standing."""
    if mark["compression"] or not offset:
        return ""
    begin = max(offset - HEAD_BYTES, 0)
    with closing(open_file(mark["file"])) as handle:
        try:
            data = handle.at(begin, offset - begin)
        except OSError as error:
            raise read_failed(mark["file"], begin, error) from None
        if standing is not None:
            standing.check(mark["file"], handle.standing())
    return hashlib.sha256(data).hexdigest()


def with_samples(marks: Mapping[str, Sequence[Mark]], stopped: Callable[[], bool]) -> dict[str, list[dict[str, Any]]]:
    """The fingerprints of each stage as a checkpoint keeps them: with the hash over many `samples` of each file, taken
    once also where it is that of several stages. Incomplete if it was stopped."""
    etags = {mark["file"]: mark.get("etag") for stage in marks.values() for mark in stage}
    found = {file: "" if etag else sampled(file, MANY, stopped) for file, etag in etags.items()}
    return {name: [{**mark, "samples": found[mark["file"]]} for mark in stage] for name, stage in marks.items()}


def comparable(marks: Sequence[Mark]) -> dict[str, Any]:
    """Fingerprints of several files as one flat mapping, without where they lie and when they were written: a copy
    that was put back is the same export. An estimate is no mark either."""
    return {
        f"file {number}'s {key}": value
        for number, mark in enumerate(marks, 1)
        for key, value in mark.items()
        if key not in ("file", *STANDING, "samples", "length")
    }


def touched(now: Sequence[Mark], then: Sequence[Mark], stopped: Callable[[], bool] = lambda: False) -> list[str]:
    """The files, of fingerprints that compare as equal, of which many samples are not what a checkpoint has of them.

    They are taken only where a file may have been written to since."""
    return [
        mark["file"]
        for mark, before in zip(now, then, strict=True)
        if any(mark[key] != before.get(key) for key in STANDING)
        and sampled(mark["file"], MANY, stopped) != before.get("samples")
    ]
