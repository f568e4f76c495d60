"""An object in a store (s3://, gs://, az://) or on a web server (http://, https://), read by ranges through obstore."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from streammig.address import parted
from streammig.errors import MachineFault, Unusable
from streammig.sources.handle import FileIdentity, changed

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

BLOCK_BYTES = 4 * 1024 * 1024  # bytes of one request: so many that the round trip is a small part of it
PART_BYTES = 1  # take bytes as they come: those before a lost connection are kept
CLIENT: ClientConfig = {"allow_http": True, "connect_timeout": "10s", "read_timeout": "60s", "timeout": "10m"}
RETRY: RetryConfig = {
    "max_retries": 6,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 3},
}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class RemoteObject:
    """An object on a server as a `Handle`. Each request names the ETag of the first answer (If-Match).

    Credentials come from the environment. They are never part of an address, which is kept and shown. Raises Unusable
    if the object can't be read, and MachineFault if the server can't be reached.
    """

    def __init__(self, address: str) -> None:
        self._address, self._offset = address, 0
        self._block, self._base = b"", 0  # the last fetch, and its offset
        self._scheme, place, key = parted(address)
        try:
            import obstore
            from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
        except ImportError:
            raise Unusable(
                "extra-missing",
                f"{address}: reading from a server needs the extra object-stores, which is not installed",
                "Install it: pip install 'streammig[object-stores]'",
            ) from None
        self._obstore, self._key = obstore, key
        with self._translated(0):
            match self._scheme:
                case "s3":
                    self._store: ObjectStore = S3Store(place, client_options=CLIENT, retry_config=RETRY)
                case "gs":
                    self._store = GCSStore(place, client_options=CLIENT, retry_config=RETRY)
                case "az":
                    self._store = AzureStore(place, client_options=CLIENT, retry_config=RETRY)
                case _:
                    self._store = HTTPStore(place, client_options=CLIENT, retry_config=RETRY)
            self._identity = self._identity_of(obstore.head(self._store, key))

    def read(self, size: int, /) -> bytes:
        if not self._base <= self._offset < self._base + len(self._block):
            self._block, self._base = self._fetch(self._offset, BLOCK_BYTES), self._offset
        begin = self._offset - self._base
        data = self._block[begin : begin + size]
        self._offset += len(data)
        return data

    def seek(self, offset: int, /) -> None:
        self._offset = offset

    def at(self, offset: int, length: int) -> bytes:
        data = b""
        while len(data) < length and (more := self._fetch(offset + len(data), length - len(data))):
            data += more
        return data

    def identity(self) -> FileIdentity:
        return self._identity

    def close(self) -> None:
        self._block = b""

    def _fetch(self, offset: int, length: int) -> bytes:
        """Return 1 to `length` bytes, none after the end.

        After a lost connection, returns the bytes before; the next request goes on from there.
        """
        end = min(offset + length, self._identity.size)
        if offset >= end:
            return b""
        options: GetOptions = {"range": (offset, end)}
        if self._identity.etag and not self._identity.etag.startswith("W/"):  # a weak one never matches
            options["if_match"] = self._identity.etag
        parts: list[bytes] = []
        with self._translated(offset):
            found = self._obstore.get(self._store, self._key, options=options)
            # A server may ignore If-Match.
            self._identity.check(self._address, self._identity_of(found.meta))
            try:
                parts.extend(map(bytes, found.stream(min_chunk_size=PART_BYTES)))
            except self._obstore.exceptions.BaseError:
                if not parts:
                    raise
        return b"".join(parts)

    def _identity_of(self, meta: ObjectMeta) -> FileIdentity:
        etag = meta["e_tag"] or ""
        name = int.from_bytes(hashlib.sha256(self._address.encode()).digest()[:7], "big")
        modified = 0 if etag else int(meta["last_modified"].timestamp()) * 10**9
        return FileIdentity(-1, name, meta["size"], modified, 0, etag)

    @contextmanager
    def _translated(self, offset: int) -> Iterator[None]:
        """Turn errors of obstore into problems. Its messages may hold a signed address, so they are not shown."""
        kinds = self._obstore.exceptions
        refused = kinds.PermissionDeniedError, kinds.UnauthenticatedError
        where, hint = f"{self._address}: the export can't be read: ", ""
        if self._scheme in CREDENTIALS:
            hint = f"Set the credentials in the environment: {CREDENTIALS[self._scheme]}."
        try:
            yield
        except FileNotFoundError:
            raise Unusable("export-unreadable", where + "the server has no such object", "Check the address.") from None
        except refused:
            raise Unusable("export-unreadable", where + "the server refuses access to it", hint) from None
        except kinds.PreconditionError:
            raise changed(self._address, "the object was replaced on the server") from None
        except kinds.NotSupportedError:
            said = "the server does not support ranges"
            raise Unusable("export-unreadable", where + said, "Download it, and name the file.") from None
        except (kinds.BaseError, OSError, ValueError):
            raise MachineFault(
                "export-io",
                f"{self._address}: reading at byte {offset} failed: the server gives no usable answer",
                f"Check the address and the network, then run the same command: it goes on from there. {hint}".strip(),
            ) from None
