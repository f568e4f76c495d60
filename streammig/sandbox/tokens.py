"""Issue tokens like those of the target: signed JSON web tokens that expire, and can be revoked all at once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import orjson


class Tokens:
    """Issues and checks tokens. The signing key is made from the API key, so tokens survive a restart."""

    def __init__(self, api_key: str, lifetime: float) -> None:
        self._api_key = api_key.encode()
        self._lifetime = lifetime
        self._secret = hashlib.sha256(b"sandbox token " + self._api_key).digest()
        self._issued = 0
        self._generation = 0

    def issue(self, api_key: str, now: float) -> str | None:
        """Issue a token for the right API key; None for another. `exp` is in whole seconds since the epoch."""
        if not hmac.compare_digest(api_key.encode("utf-8", "surrogateescape"), self._api_key):
            return None
        self._issued += 1
        claims = {"iat": int(now), "exp": int(now + self._lifetime), "jti": self._issued, "gen": self._generation}
        signed = f"{_pack(orjson.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{_pack(orjson.dumps(claims))}"
        return f"{signed}.{self._signature(signed)}"

    def valid(self, authorization: str, now: float) -> bool:
        """Whether this `Authorization` header has a token that was issued here, is not expired and not revoked."""
        scheme, _, token = authorization.partition(" ")
        signed, _, signature = token.rpartition(".")
        given = signature.encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._signature(signed).encode()):
            return False
        claims = orjson.loads(_unpack(signed.partition(".")[2]))
        return bool(claims["gen"] == self._generation and now < claims["exp"])

    def revoke(self) -> None:
        """Revoke every token issued so far."""
        self._generation += 1

    def _signature(self, signed: str) -> str:
        return _pack(hmac.digest(self._secret, signed.encode("utf-8", "surrogateescape"), "sha256"))


def _pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpack(text: str) -> bytes:
    return binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "==")
