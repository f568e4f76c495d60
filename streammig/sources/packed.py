"""File formats by their first bytes: compressions that are read, and archives that must be unpacked first."""

from __future__ import annotations

import shlex

from streammig.errors import Unusable

PLAIN, GZIP, ZSTD, XZ, BZIP2 = "", "gzip", "zstd", "xz", "bzip2"
UNPACK = {GZIP: "gunzip -c", ZSTD: "zstd -dc", XZ: "xz -dc", BZIP2: "bzip2 -dc", PLAIN: "cat"}
TAR_OPTION = {GZIP: "z", ZSTD: " --zstd", XZ: "J", BZIP2: "j", PLAIN: ""}
ENDING = r"(\.(gz|zst|zstd|xz|bz2))?$"  # of a file's name, after .json, .csv and so on
FOLDER = "Unpack it into a folder and name that: "
AS_CSV = "Save each sheet as CSV in UTF-8, and name that file."
OTHERS = (  # the offset of the magic bytes, these bytes, the kind of file, and the hint
    (257, b"ustar", "a tar archive of files, not a file of records",
     FOLDER + "mkdir EXPORT && tar -x{option} -f {name} -C EXPORT"),
    (0, b"PK\x03\x04", "a zip archive", FOLDER + "unzip {name} -d EXPORT"),
    (0, b"PK\x05\x06", "a zip archive", FOLDER + "unzip {name} -d EXPORT"),
    (0, b"7z\xbc\xaf", "a 7z archive", FOLDER + "7z x {name} -oEXPORT"),
    (0, b"\xd0\xcf\x11\xe0", "an old workbook, or another office document", AS_CSV),
    (0, b"PAR1", "a Parquet file", "Convert it, say with DuckDB: COPY (FROM 'FILE.parquet') TO 'EXPORT.ndjson'"),
)  # fmt: skip
MOST_WINDOW = 128 << 20  # bytes of zstd's default limit; a run must not use more memory for a file


def compression(magic: bytes) -> str:
    """Return the compression of a file with these first bytes."""
    if magic[:2] == b"\x1f\x8b":
        return GZIP
    # The second is a skippable frame: pzstd and seekable archives may begin with one.
    if magic[:4] == b"\x28\xb5\x2f\xfd" or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        return ZSTD
    if magic[:4] == b"\xfd7zX":
        return XZ
    return BZIP2 if magic[:3] == b"BZh" else PLAIN


def refuse_frame(file: str, head: bytes) -> None:
    """Raise `Unusable` for a zstd frame that needs a dictionary, or more memory than a run may use.

    The header of a frame is a descriptor byte, a byte for the window (not if the frame is a single segment), and the
    id of the dictionary.
    """
    if len(head) < 14 or head[:4] != b"\x28\xb5\x2f\xfd":
        return
    descriptor, single = head[4], bool(head[4] & 0x20)
    size = (0, 1, 2, 4)[descriptor & 3]
    at = 5 if single else 6
    dictionary = int.from_bytes(head[at : at + size], "little")
    name = shlex.quote(file)
    if dictionary:
        raise Unusable(
            "export-packed",
            f"{file}: the zstd data needs the dictionary {dictionary}",
            f"Decompress it first: zstd -D DICTIONARY -dc {name} > EXPORT",
        )
    exponent, mantissa = head[5] >> 3, head[5] & 7
    window = 0 if single else (1 << (10 + exponent)) * (8 + mantissa) // 8
    if window > MOST_WINDOW:
        raise Unusable(
            "export-packed",
            f"{file}: the zstd data needs a window of {window >> 20} MB of memory; the limit is {MOST_WINDOW >> 20} MB",
            f"Decompress it first: zstd --long={10 + exponent} -dc {name} > EXPORT",
        )


def refuse_archive(file: str, head: bytes, packed: str) -> None:
    """Raise `Unusable` for an archive or a workbook, and for data that is compressed twice.

    `head` are the first bytes, after decompression; `packed` is the compression.
    """
    name, unpack = shlex.quote(file), UNPACK[packed]
    kind, hint = next(((kind, hint) for at, magic, kind, hint in OTHERS if head[at:].startswith(magic)), ("", ""))
    if head[30:].startswith((b"[Content_Types].xml", b"_rels/", b"mimetype")):  # the first file in a zip
        kind, hint = "a workbook of a spreadsheet program", AS_CSV
    elif packed and not kind and (again := compression(head[:4])):
        kind, hint = f"compressed twice: {again} within {packed}", f"Unpack it once: {unpack} {{name}} > EXPORT"
    if kind:
        raise Unusable("export-packed", f"{file}: this is {kind}", hint.format(name=name, option=TAR_OPTION[packed]))
