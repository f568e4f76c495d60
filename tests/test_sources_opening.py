"""Opening exports: regular files, plain, gzip and zstd by content, and what stands in the way."""

from __future__ import annotations

import errno
import gzip
import os
import random
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from streammig.errors import BrokenExport, MachineFault, Problem, Unusable
from streammig.model import Place
from streammig.sources import FileSource, Input, Meter, comparable, open_source, parse_input, touched, with_samples
from streammig.sources.handle import LocalFile
from streammig.sources.open import PIECE_BYTES, Stream
from tests.problems import raises
from tests.spans import Slice, records_of

# Random, so that compressed bytes are many and a cut falls where it is aimed at.
RECORDS = [b'{"id":%d,"x":"%s"}' % (index, random.Random(index).randbytes(40).hex().encode()) for index in range(3000)]
DOCUMENT = b"[" + b",\n".join(RECORDS) + b"]\n"
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\x00\x00\x00hello"


def put(folder: Path, data: bytes, name: str = "export.json") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def source_of(folder: Path, data: bytes, **settings: Any) -> FileSource:
    return open_source([Input(put(folder, data))], **settings)


def read(source: FileSource, start: Place = Place()) -> tuple[list[Slice], BrokenExport | None]:  # noqa: B008
    found: list[Slice] = []
    try:
        found.extend(records_of(source, start))
    except BrokenExport as error:
        return found, error
    return found, None


def texts(source: FileSource) -> list[bytes]:
    found, broken = read(source)
    assert broken is None
    return [it.data for it in found]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("", DOCUMENT),
        ("gzip", gzip.compress(DOCUMENT)),
        ("gzip", b"".join(gzip.compress(DOCUMENT[at : at + 1000]) for at in range(0, len(DOCUMENT), 1000))),
        ("gzip", gzip.compress(DOCUMENT) + b"\0" * 200_000),
        ("gzip", gzip.compress(DOCUMENT[:10]) + b"\0" * 3 + gzip.compress(DOCUMENT[10:])),
        ("zstd", zstd.compress(DOCUMENT)),
        ("zstd", SKIPPABLE + zstd.compress(DOCUMENT[:5000]) + SKIPPABLE + zstd.compress(DOCUMENT[5000:])),
    ],
)
def test_compression_is_told_by_content_and_all_members_and_frames_are_read(
    kind: str, data: bytes, tmp_path: Path
) -> None:
    source = source_of(tmp_path, data)
    assert source.fingerprints()[0]["compression"] == kind
    found, broken = read(source)
    assert broken is None
    assert [it.data for it in found] == RECORDS
    assert all(DOCUMENT[it.offset : it.offset + it.length] == it.data for it in found)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_cut_file_yields_all_before_the_cut_and_names_the_byte(kind: str, tmp_path: Path) -> None:
    data = gzip.compress(DOCUMENT) if kind == "gzip" else zstd.compress(DOCUMENT)
    cut = data[: len(data) * 2 // 3]
    source = source_of(tmp_path, cut)
    found, broken = read(source)
    assert broken is not None
    assert [it.data for it in found] == RECORDS[: len(found)]
    assert broken.path.endswith("export.json")
    assert f"the compressed file is cut: it ends at byte {len(cut)}" in str(broken)
    # Nothing was kept back: what is left is less than a record.
    assert 0 <= broken.offset - (found[-1].offset + found[-1].length) < 110


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bad_check_sum_breaks_off_behind_a_whole_record(kind: str, tmp_path: Path) -> None:
    checked = zstd.compress(DOCUMENT, options={zstd.CompressionParameter.checksum_flag: 1})
    data = bytearray(gzip.compress(DOCUMENT) if kind == "gzip" else checked)
    data[-8 if kind == "gzip" else -1] ^= 1
    found, broken = read(source_of(tmp_path, bytes(data)))
    assert broken is not None
    assert f"{kind} data is damaged" in str(broken)
    assert [it.data for it in found] == RECORDS[: len(found)]
    assert 0 <= broken.offset - (found[-1].offset + found[-1].length) < 110


def test_damage_in_a_later_frame_keeps_what_stands_before_it(tmp_path: Path) -> None:
    first, second = zstd.compress(DOCUMENT[:100_000]), bytearray(zstd.compress(DOCUMENT[100_000:]))
    second[len(second) // 2] ^= 0xFF
    found, broken = read(source_of(tmp_path, first + bytes(second)))
    assert broken is not None
    assert broken.offset >= 100_000
    assert [it.data for it in found[:900]] == RECORDS[:900]


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_garbage_behind_compressed_data_is_named_after_every_record(compress: Any, tmp_path: Path) -> None:
    data = compress(DOCUMENT)
    found, broken = read(source_of(tmp_path, data + b"garbage"))
    assert [it.data for it in found] == RECORDS
    assert broken is not None
    assert broken.offset == len(DOCUMENT)
    assert f"at byte {len(data)} of the compressed file" in str(broken)


def test_a_cut_ndjson_file_does_not_take_half_a_line_for_a_record(tmp_path: Path) -> None:
    lines = b"\n".join(RECORDS)
    found, broken = read(source_of(tmp_path, gzip.compress(lines)[:-20_000]))
    assert broken is not None
    assert found
    assert [it.data for it in found] == RECORDS[: len(found)]


def test_little_that_inflates_to_much_is_read_in_small_pieces(tmp_path: Path) -> None:
    bomb = gzip.compress(b'[{"a":1},' + b" " * 50_000_000 + b'{"a":2}]')
    meter = Meter()
    stream = Stream(put(tmp_path, bomb), meter)
    sizes = set()
    while data := stream.read(1 << 30):
        sizes.add(len(data))
    stream.close()
    assert max(sizes) <= PIECE_BYTES
    assert meter.read == len(bomb)


def test_a_byte_order_mark_is_skipped_and_counted(tmp_path: Path) -> None:
    found, _ = read(source_of(tmp_path, b'\xef\xbb\xbf{"a":1}\n{"a":2}\n'))
    assert [(it.offset, it.data) for it in found] == [(3, b'{"a":1}'), (11, b'{"a":2}')]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf_16_and_32_are_refused_with_what_to_do(encoding: str, tmp_path: Path) -> None:
    with raises(Unusable, "export-not-utf8"):
        source_of(tmp_path, '[{"a":1}]'.encode(encoding))


class Failing(LocalFile):
    """A file whose disk fails behind a byte."""

    good = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.good:
            raise OSError(errno.EIO, "")
        return super().read(min(size or 0, self.good - self.tell())) or b""


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_disk_that_fails_is_the_machines_fault_and_no_broken_export(
    compress: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = compress(DOCUMENT)
    source = source_of(tmp_path, data, read_bytes=1000)
    monkeypatch.setattr("streammig.sources.open.open_file", lambda file: Failing(file, "r"))
    monkeypatch.setattr(Failing, "good", len(data) // 2)
    with raises(MachineFault, "export-io"):
        read(source)
    monkeypatch.setattr(Failing, "good", len(data) + 1)
    assert texts(source) == RECORDS


def test_fingerprints_tell_files_apart_and_cost_no_reading(tmp_path: Path) -> None:
    big = b"[" + b",".join(RECORDS * 20) + b"]"
    source = source_of(tmp_path, big)
    before = source.meter.read
    (mark,) = source.fingerprints()
    assert source.meter.read == before
    assert (mark["size"], mark["format"], mark["path"]) == (len(big), "json", "")
    assert mark["file"].endswith("export.json")
    # Each sampled place counts: the head, the tail, the spots between.
    for at in [30, len(big) - 30, len(big) // 17 * 5 + 100]:
        changed = bytearray(big)
        changed[at] = 32
        assert source_of(tmp_path, bytes(changed)).fingerprints()[0]["sha256"] != mark["sha256"]
    assert comparable(source_of(tmp_path, big).fingerprints()) == comparable([mark])


@pytest.mark.parametrize("dated_back", [False, True])
def test_a_file_that_may_have_been_written_to_takes_many_samples_and_an_untouched_one_none(
    dated_back: bool, tmp_path: Path
) -> None:
    data = b"[" + b",".join(RECORDS * 20) + b"]"
    source = source_of(tmp_path, data)
    then = with_samples({"c": source.fingerprints()}, lambda: False)["c"]
    assert touched(source_of(tmp_path, data).fingerprints(), then) == []
    # Between the few samples, in one of the many.
    at = len(data) * 500 // 1001 + 10
    file, modified = Path(then[0]["file"]), then[0]["modified"]
    assert touched(then, [{**then[0], "samples": "never taken again"}]) == []
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    if dated_back:
        os.utime(file, ns=(modified, modified))
    now = open_source([Input(str(file), ())]).fingerprints()
    assert comparable(now) == comparable(then)
    assert touched(now, then) == [str(file)]


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, lambda data: data])
@pytest.mark.parametrize("size", [100_000, 6_000_000])
def test_how_long_a_file_is_decompressed_is_told_by_what_it_begins_with(
    tmp_path: Path, compress: Any, size: int
) -> None:
    text = random.Random(1).randbytes(size).hex().encode()
    data = b"[" + b",".join(b'{"id":"%s"}' % text[at : at + 1000] for at in range(0, len(text), 1000)) + b"]"
    (mark,) = source_of(tmp_path, compress(data)).fingerprints()
    assert mark["length"] == pytest.approx(len(data), rel=0.02 if size > 1_000_000 else 0)


def test_a_fingerprint_that_cant_be_read_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("streammig.sources.handle.os.pread", fail)
    with raises(MachineFault, "export-io"):
        source_of(tmp_path, DOCUMENT)


def test_an_ijson_without_its_c_backend_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.sources.locate.ijson.backend", "python")
    with raises(Problem, "ijson-backend"):
        source_of(tmp_path, DOCUMENT)


def test_a_hash_sign_divides_file_and_path_unless_the_file_has_it(tmp_path: Path) -> None:
    assert parse_input("x.json") == Input("x.json")
    assert parse_input("x.json#") == Input("x.json", ())
    assert parse_input("x.json#a.b") == Input("x.json", ("a", "b"))
    assert parse_input('x.json#a."b.c"."#\\"".0') == Input("x.json", ("a", "b.c", '#"', "0"))
    odd = put(tmp_path, DOCUMENT, "export#1.json")
    assert parse_input(odd) == Input(odd)
    assert parse_input(odd + "#a.b") == Input(odd, ("a", "b"))
    assert parse_input(odd + '#a."#"') == Input(odd, ("a", "#"))


@pytest.mark.parametrize("path", [".", "a.", ".a", "a..b", '"a', '"a"b', 'a."\\x"', '"\udc80"'])
def test_a_path_that_cant_be_read_is_refused(path: str) -> None:
    with pytest.raises(Unusable):
        parse_input(f"x.json#{path}")


@pytest.mark.parametrize("how", ["the same name", "another name of it", "symlink", "hard link", "copy"])
def test_an_array_that_is_named_twice_is_refused(tmp_path: Path, how: str) -> None:
    file = Path(put(tmp_path, b'{"c":' + DOCUMENT + b',"d":[{"id":1}]}'))
    again = Input(str(tmp_path / "again"), ("c",))
    if how == "symlink":
        (tmp_path / "again").symlink_to(file)
    elif how == "hard link":
        os.link(file, tmp_path / "again")
    elif how == "copy":
        (tmp_path / "again").write_bytes(file.read_bytes())
    else:
        again = Input(str(tmp_path / ".." / tmp_path.name / file.name if how == "another name of it" else file), ("c",))
    with raises(Unusable, "export-twice"):
        open_source([Input(str(file), ("c",)), again])


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
@pytest.mark.parametrize("data", [DOCUMENT, b"[" + b",".join(RECORDS * 10) + b"]"])
def test_an_export_that_is_named_as_it_is_and_compressed_is_refused(tmp_path: Path, compress: Any, data: bytes) -> None:
    names = [put(tmp_path, data), put(tmp_path, compress(data), "packed")]
    for pair in (names, names[::-1], [names[1], put(tmp_path, compress(data) + compress(b" "), "again")]):
        with raises(Unusable, "export-twice"):
            open_source([parse_input(name) for name in pair])
    other = put(tmp_path, compress(b"[" + RECORDS[0] + b"]"), "other")
    assert len(texts(open_source([Input(names[0]), Input(other)]))) > len(RECORDS)
    both = put(tmp_path, compress(b'{"c":[{"id":1}],"d":[{"id":2}]}'), "both")
    assert len(texts(open_source([parse_input(f"{both}#{path}") for path in "cd"]))) == 2


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_shards_that_hold_no_record_may_be_alike(tmp_path: Path, pack: Any) -> None:
    for number, data in enumerate([b'{"c":[]}', b'{"exported_at":"%b",\n"c":[]}' % (b"2020" * 50)]):
        names = [put(tmp_path, pack(data), f"{number}-{shard}") for shard in range(3)]
        assert texts(open_source(list(map(Input, names)))) == []
        with raises(Unusable, "export-twice"):
            open_source([Input(names[0]), Input(names[0])])


def test_a_compressed_file_that_is_cut_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    cut = gzip.compress(b"[" + b",".join(RECORDS[:1000]) + b"]")[:-20]
    found, broken = read(open_source([Input(put(tmp_path, DOCUMENT)), Input(put(tmp_path, cut, "cut"))]))
    assert broken is not None
    assert len(found) > len(RECORDS)


def test_several_arrays_of_one_file_and_files_whose_samples_differ_are_no_repeat(tmp_path: Path) -> None:
    file = put(tmp_path, b'{"c":[{"id":1}],"d":[{"id":2}]}')
    assert texts(open_source([Input(file, ("c",)), Input(file, ("d",))])) == [b'{"id":1}', b'{"id":2}']
    data = b"[" + b",".join(RECORDS * 20) + b"]"
    two = [put(tmp_path, data, "one"), put(tmp_path, data.replace(b"0", b"1"), "two")]
    assert len(texts(open_source([Input(name) for name in two]))) == 2 * len(RECORDS) * 20
