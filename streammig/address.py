"""Addresses: of remote objects (s3, gs, az, http), used instead of a file's path, and of this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from streammig.errors import Unusable

_ADDRESS = re.compile(r"(s3|gs|az|https?)://", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a name is the address of a remote object, not a path."""
    return _ADDRESS.match(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parted(address: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of an address. For http(s) the second part is the whole address and the key is empty.

    Raises `Unusable` for a user name, password or query. Each may be a secret, and addresses are stored and shown.
    """
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    host, _, key = rest.partition("/")
    web = scheme.startswith("http")
    if "@" in host or (web and urlsplit(address).query):
        shown = f"{scheme}://{host.rpartition('@')[2]}/{key.partition('?')[0] if web else key}"
        raise Unusable(
            "address-with-secret",
            f"{shown}: the address has a name, a password or a query, which may be a secret",
            "Name the object as s3://, gs:// or az:// with the credentials in the environment, or download it.",
        )
    return (scheme, address, "") if web else (scheme, host, key)
