"""Who may ask: host names, passwords and tokens, pages of other sites, headers against script in the browser.

Owns: the checks that stand before every HTTP port, as plain ASGI middleware.
Must not know: what is behind them.
Invariants: a request that is refused never reaches the application; secrets are compared in constant time and never logged.

Why a server on loopback needs this: any page that a developer opens can send requests to 127.0.0.1, and, by a name that it
points there (DNS rebinding), read the answers. It cannot set the ``Host`` and ``Origin`` headers, so these tell.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Scripts, styles and data from here alone; no frames, no plug-ins. Pictures may also be made in the page.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
#: Probes have no password, and learn nothing but "yes" or "no".
OPEN_PATHS = ("/health", "/ready")

PREFLIGHT_SECONDS = "7200"


@dataclass(frozen=True)
class Credentials:
    """What a request has to bring: one of ``users`` (``name:password``) or of ``tokens``. Without both, nothing."""

    users: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.users or self.tokens)

    def __repr__(self) -> str:
        return f"Credentials({len(self.users)} users, {len(self.tokens)} tokens)"

    def accept(self, authorization: str) -> bool:
        """Whether the value of an ``Authorization`` header will do."""
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return _is_one_of(rest.strip().encode("utf-8", "replace"), self.tokens)
        if scheme.lower() == "basic":
            try:
                return _is_one_of(base64.b64decode(rest.strip(), validate=True), self.users)
            except (binascii.Error, ValueError):
                return False
        return False


def _is_one_of(given: bytes, wanted: Iterable[str]) -> bool:
    # All of them are compared, so that the time does not tell which one was nearly right.
    return sum(hmac.compare_digest(given, each.encode()) for each in wanted) > 0


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_host(app: ASGIApp, allowed: Collection[str] = ()) -> ASGIApp:
    """Refuse requests that were meant for another name than this machine's, or one of ``allowed``."""
    names = {name.lower() for name in allowed}

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = host_name(_header(scope, b"host"))
            if not is_loopback(name) and name not in names:
                text = f"The Host header names {name[:100]!r}: ask for 127.0.0.1 or localhost, or start with --host.\n"
                return await _refuse(send, 403, text)
        return await app(scope, receive, send)

    return checked


def host_name(header: str) -> str:
    """The name in a ``Host`` header, without the port, in lower case."""
    if header.startswith("["):
        return header.partition("]")[0].lstrip("[").lower()
    return header.partition(":")[0].strip().lower()


def check_credentials(app: ASGIApp, credentials: Credentials, open_paths: Collection[str] = OPEN_PATHS) -> ASGIApp:
    """Refuse requests without a password or token that is right; none is needed for ``open_paths``."""
    ways = [b'Basic realm="autoinstr", charset="UTF-8"'] if credentials.users else []
    ways += [b'Bearer realm="autoinstr"'] if credentials.tokens else []
    challenges = [(b"www-authenticate", way) for way in ways]

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"] in open_paths
        if is_open or credentials.accept(_header(scope, b"authorization")):
            return await app(scope, receive, send)
        return await _refuse(send, 401, "A password or a token is needed.\n", challenges)

    return checked


def check_origin(app: ASGIApp) -> ASGIApp:
    """Refuse changes (POST, PUT, DELETE) that a page of another site asks for. Programs send neither header."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and _is_foreign(scope):
            return await _refuse(send, 403, "A page of another site may not change anything here.\n")
        return await app(scope, receive, send)

    return checked


def _is_foreign(scope: Scope) -> bool:
    site = _header(scope, b"sec-fetch-site")
    if site and site not in ("same-origin", "none"):
        return True
    origin = _header(scope, b"origin")
    return bool(origin) and urlsplit_netloc(origin) != _header(scope, b"host").lower()


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an origin, in lower case; empty for ``null`` and what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Take spans from pages of ``origins`` (``*``: of any), and from no others; programs send no ``Origin``."""
    allowed = {origin.rstrip("/").lower() for origin in origins}

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        origin = _header(scope, b"origin") if scope["type"] == "http" else ""
        if not origin:
            return await app(scope, receive, send)
        if "*" not in allowed and origin.lower() not in allowed:
            return await _refuse(send, 403, "Pages of this origin may not send spans: see --cors-origin.\n")
        headers = [(b"access-control-allow-origin", origin.encode("latin-1", "replace")), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS":
            return await _answer_preflight(scope, send, headers)
        return await app(scope, receive, _adding(send, headers))

    return checked


async def _answer_preflight(scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    wanted = _header(scope, b"access-control-request-headers").encode("latin-1", "replace")
    more = [
        (b"access-control-allow-methods", b"POST"),
        (b"access-control-allow-headers", wanted or b"content-type"),
        (b"access-control-max-age", PREFLIGHT_SECONDS.encode()),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers + more})
    await send({"type": "http.response.body", "body": b""})


def add_security_headers(app: ASGIApp) -> ASGIApp:
    """Have every answer forbid what a span's text could otherwise do in a browser."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, _adding(send, SECURITY_HEADERS) if scope["type"] == "http" else send)

    return guarded


def _adding(send: Send, headers: Iterable[tuple[bytes, bytes]]) -> Send:
    """``send`` that puts headers on an answer, unless the application set them itself."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            names = {name.lower() for name, _ in own}
            message = {**message, "headers": own + [pair for pair in headers if pair[0] not in names]}
        await send(message)

    return send_with


async def _refuse(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = text.encode("utf-8", "replace")
    own = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    # The body of the request was not read: what follows on this connection would be taken for a request.
    own += [(b"connection", b"close"), *headers, *SECURITY_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
