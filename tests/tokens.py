"""Tokens as Clerk mints them, and a key server on loopback that can misbehave."""

import json
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from tests.within import PATIENCE_S

__all__ = [
    "AZP", "ISSUER", "KID", "KeyServer", "jwk", "jwks", "key_pair", "mint",
    "public_pem",
]  # fmt: skip

KID = "ins_test1"
ISSUER = "https://clerk.example.com"
AZP = "https://app.example.com"


def key_pair(name: str = "clerk", bits: int = 2048) -> RSAPrivateKey:
    """An RSA key pair; the same name is the same pair for the whole run."""
    return _generated(name, bits)


@cache
def _generated(_name: str, bits: int) -> RSAPrivateKey:
    # Apart from `key_pair`: the cache would take a default for another call.
    return generate_private_key(public_exponent=65537, key_size=bits)


def public_pem(key: RSAPrivateKey | None = None) -> str:
    """The public half in PEM, as CLERK_JWT_KEY holds it."""
    public = (key or key_pair()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(
    key: RSAPrivateKey | None = None, kid: str | None = KID, **fields: Any
) -> dict[str, Any]:
    """The public half as one entry of a JWK set; `fields` are added or replaced."""
    public = RSAAlgorithm.to_jwk((key or key_pair()).public_key(), as_dict=True)
    entry: dict[str, Any] = {"kty": "RSA", "use": "sig", "alg": "RS256"}
    entry |= {"n": public["n"], "e": public["e"]}
    if kid is not None:
        entry["kid"] = kid
    return entry | fields


def jwks(*entries: Mapping[str, Any]) -> bytes:
    """A JWK set; without entries the usual key."""
    return json.dumps({"keys": list(entries or [jwk()])}).encode()


def mint(
    user: str = "user_1",
    *,
    key: Any = None,
    sid: str | None = "sess_1",
    expires_in: float = 60.0,
    now: float | None = None,
    kid: str | None = KID,
    algorithm: str = "RS256",
    headers: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
) -> str:
    """A session token of `user`, signed by `key` (default: `key_pair()`).

    `now` is the time of issue (default: now), `claims` and `headers` are added or
    replaced, `without` are claims left out.
    """
    issued = int(time.time()) if now is None else now
    body: dict[str, Any] = {
        "azp": AZP,
        "exp": issued + expires_in,
        "fva": [1, -1],
        "iat": issued,
        "iss": ISSUER,
        "jti": "5f0c4d1a6c0e",
        "nbf": issued - 10,
        "sub": user,
        "v": 2,
    }
    if sid is not None:
        body["sid"] = sid
    body |= claims or {}
    for name in without:
        del body[name]
    head: dict[str, Any] = {"cat": "cl_B7d4PD111AAA"}
    if kid is not None:
        head["kid"] = kid
    return jwt.api_jws.encode(
        json.dumps(body).encode(),
        key_pair() if key is None else key,
        algorithm,
        head | dict(headers or {}),
    )


class KeyServer:
    """A JWKS endpoint over real HTTP; change the attributes while it runs.

    `body` what is answered (`jwks(...)`), `status` with which code, `location` to
    which other path to redirect, `delay` seconds before the answer. `hold()` keeps
    requests waiting until `release()`. `requests` has the path and headers of each
    request so far.
    """

    def __init__(self, body: bytes | None = None, *, delay: float = 0.0) -> None:
        self.body = jwks() if body is None else body
        self.status = 200
        self.location = ""
        self.delay = delay
        self.requests: list[dict[str, str]] = []
        self._stopping = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """For `auth.jwks_url`; the Backend API's form is `origin` + "/v1"."""
        return f"{self.origin}/.well-known/jwks.json"

    @property
    def count(self) -> int:
        return len(self.requests)

    def serve_keys(self, *entries: Mapping[str, Any]) -> None:
        """Answer with these keys from now on."""
        self.body, self.status, self.location = jwks(*entries), 200, ""

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._open.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append({"path": request.path} | dict(request.headers.items()))
        self._open.wait(PATIENCE_S)
        if self.delay:
            self._stopping.wait(self.delay)
        body = self.body
        elsewhere = self.location and urlsplit(self.location).path != request.path
        request.send_response(302 if elsewhere else self.status)
        if elsewhere:
            request.send_header("Location", self.location)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    answer(self)
                except OSError:
                    self.close_connection = True  # the client has gone

            def log_message(self, format: str, *args: object) -> None:
                """Silent: tests say what they need to say."""

        return Handler
