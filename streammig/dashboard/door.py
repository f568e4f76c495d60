"""Where the page is served, and who may see it: this machine, or whoever has the token."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import socket
from dataclasses import dataclass, field

from streammig.address import is_loopback
from streammig.errors import Unusable

TOKEN = "STREAMMIG_TOKEN"  # the name of the environment's variable
SHORTEST = 16  # characters of a token
HOME = "127.0.0.1:8790"
HINT = "Write --{0}=HOST:PORT, as --{0}=127.0.0.1:8790; HOST may be left out."


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, and the token that a request needs. Without a token, a request must name this machine."""

    socket: socket.socket
    token: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def lets_in(self, host: str, authorization: str) -> bool:
        """Whether a request may be answered, by its headers `Host` and `Authorization`.

        A foreign page whose name was made to resolve to this machine (DNS rebinding) names another host.
        """
        if not self.token:
            return is_loopback(re.sub(r":\d+$", "", host).strip("[]"))
        given = _given(authorization)
        return hmac.compare_digest(given.encode(errors="replace"), self.token.encode(errors="replace"))


def opened(text: str, option: str, token: str) -> Door:
    """Listen at HOST:PORT, or raise `Unusable`. `option` is the name of the option that gave `text`."""
    token = token.strip()
    host, port = _address(text, option)
    if token and len(token) < SHORTEST:
        said = f"{TOKEN} has {len(token)} characters; a token has at least {SHORTEST}"
        raise Unusable("token-short", said, "Make one, for example with: openssl rand -hex 16")
    if not token and not is_loopback(host):
        said = f"{host} can be reached from other machines, and there is no token"
        raise Unusable("token-needed", said, f"Set {TOKEN} to a long random text, or serve on 127.0.0.1.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return Door(socket.create_server((host, port), family=family), token)
    except OSError as error:
        said = f"{text}: the page can't be served there: {error.strerror}"
        raise Unusable("port-unusable", said, "Name another port; 0 takes a free one.") from None


def _address(text: str, option: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[\w.-]+):)?(\d{1,5})", text)
    if found is None or int(found[2]) > 65535:
        raise Unusable("address-invalid", f"{text!r} is no HOST:PORT", HINT.format(option))
    return (found[1] or HOME.partition(":")[0]).strip("[]"), int(found[2])


def _given(authorization: str) -> str:
    """The token in a header: a bearer token, or the password of any user; "" without one."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        return base64.b64decode(value).decode().partition(":")[2] if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        return ""
