"""Whether a file of the export is what it was: while a run reads it, and when a run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from streammig.errors import MachineFault, Unusable
from streammig.sources.opening import open_file

HEAD_BYTES, SAMPLES, SAMPLE_BYTES = 64 * 1024, 16, 4 * 1024
PIECE_BYTES = 4 * 1024 * 1024
# By what of a fingerprint a file is taken for untouched. A copy that was put back has others, and may be the same.
STANDING = ("modified", "changed", "inode")

Mark = Mapping[str, Any]


class Standing(NamedTuple):
    """What the file system says of an open file. Whoever writes to it, or puts another in its place, changes it."""

    device: int
    inode: int
    size: int
    modified: int  # in nanoseconds, as is
    changed: int  # when its content, times, name or rights were changed last: nobody can set it back

    @classmethod
    def of(cls, descriptor: int) -> Standing:
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def check(self, file: str, now: Standing) -> None:
        """Raise `Unusable` unless the file is still what it was; its name and rights may have changed."""
        if now._replace(changed=self.changed) == self:
            return
        if now.size != self.size:
            how = f"it had {self.size:,} bytes and has {now.size:,} now"
        elif now[:2] != self[:2]:
            how = "another file was put in its place"
        else:
            how = "something was written to it"
        raise Unusable(
            "export-changed",
            f"{file}: the export changed while it was read: {how}",
            "What was sent before stands in the checkpoint. Put the file back as it was, see to it that nobody writes"
            " to it, and run the same command: it goes on from there.",
        )


def sampled(file: str, was: Standing) -> str:
    """A SHA-256 over the file's head, tail and samples between them: cheap at any size."""
    digest, size = hashlib.sha256(), was.size
    with open_file(file) as handle:
        was.check(file, Standing.of(handle.fileno()))
        spots = [(0, HEAD_BYTES), (max(size - HEAD_BYTES, 0), HEAD_BYTES)]
        spots += [(size * index // (SAMPLES + 1), SAMPLE_BYTES) for index in range(1, SAMPLES + 1)]
        for offset, length in spots:
            try:
                digest.update(os.pread(handle.fileno(), length, offset))
            except OSError as error:
                raise _unreadable(file, offset, error) from None
    return digest.hexdigest()


class Sameness:
    """Tells whether files hold the same; looks into each once, however many it is compared with."""

    def __init__(self) -> None:
        self._sampled, self._content = cache(sampled), cache(content_of)

    def same(self, file: str, standing: Standing, other: str, its: Standing) -> bool:
        """Whether two names stand for one file, or for files that hold the same. Reads them wholly only if all that is
        cheap to see of them is equal."""
        if standing[:2] == its[:2]:
            return True
        if standing.size != its.size or self._sampled(file, standing) != self._sampled(other, its):
            return False
        return self._content(file) == self._content(other)


def content_of(file: str, stopped: Callable[[], bool] = lambda: False) -> str:
    """A SHA-256 over all of the file as it lies there, read at some GB/s; "" if it was stopped."""
    digest, offset = hashlib.sha256(), 0
    with open_file(file) as handle:
        while not stopped():
            try:
                piece = os.pread(handle.fileno(), PIECE_BYTES, offset)
            except OSError as error:
                raise _unreadable(file, offset, error) from None
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
            offset += len(piece)
    return ""


def _unreadable(file: str, offset: int, error: OSError) -> MachineFault:
    return MachineFault("export-io", f"{file}: reading at byte {offset} failed: {os.strerror(error.errno or 0)}")


def with_content(marks: Mapping[str, Sequence[Mark]], stopped: Callable[[], bool]) -> dict[str, list[dict[str, Any]]]:
    """The fingerprints of each stage as a checkpoint keeps them: with the `content` of each file, read once also where
    it is that of several stages. Incomplete if it was stopped."""
    files = dict.fromkeys(mark["file"] for stage in marks.values() for mark in stage)
    contents = {file: content_of(file, stopped) for file in files}
    return {name: [{**mark, "content": contents[mark["file"]]} for mark in stage] for name, stage in marks.items()}


def comparable(marks: Sequence[Mark]) -> dict[str, Any]:
    """Fingerprints of several files as one flat mapping, without where they lie and when they were written: a copy
    that was put back is the same export. An estimate is no mark either."""
    return {
        f"file {number}'s {key}": value
        for number, mark in enumerate(marks, 1)
        for key, value in mark.items()
        if key not in ("file", *STANDING, "content", "length")
    }


def touched(now: Sequence[Mark], then: Sequence[Mark], stopped: Callable[[], bool] = lambda: False) -> list[str]:
    """The files, of fingerprints that compare as equal, whose content is not what a checkpoint has of it all the same.

    The samples miss most of a file, so one that may have been written to since is read wholly.
    """
    return [
        mark["file"]
        for mark, before in zip(now, then, strict=True)
        if any(mark[key] != before.get(key) for key in STANDING)
        and content_of(mark["file"], stopped) != before.get("content")
    ]
