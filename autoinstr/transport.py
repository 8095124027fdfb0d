"""Sockets: how payloads leave the process, and how sampling strategies are fetched.

Owns: UDP to an agent, HTTP to a collector, a file, stderr. Must not know: spans, encodings, the environment.
Invariants: used by one thread at a time; every wait has a limit; what a server answers is read up to a limit; network modules
are imported at the first send, never at start-up (gevent must be able to patch them first); ``http.client`` and ``ssl``, the
heavy ones, only for a collector over HTTP; secrets in a URL are not shown.
"""

from __future__ import annotations

from time import monotonic

from autoinstr.trouble import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import http.client
    import socket
    import ssl
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    #: Family, type, protocol and address, as ``socket.getaddrinfo`` gives them.
    Address: TypeAlias = tuple[Any, Any, int, Any]

#: The most bytes of a response that are read; a server that says more loses its connection.
MAX_RESPONSE = 1 << 20
RETRYABLE_STATUS = frozenset({429, 502, 503, 504})
#: Instead of a timeout of 0 (none): a server that never answers must not hold a connection for ever.
LONGEST_WAIT_S = 60.0


class TransportError(Exception):
    """Bytes did not arrive. ``retryable``: the same payload may succeed later, after ``retry_after_s`` if given.

    ``told``: the user has been told in better words already.
    """

    def __init__(
        self, text: str, *, retryable: bool = False, retry_after_s: float | None = None, told: bool = False
    ) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.told = told


class UDPTransport:
    """Datagrams to a Jaeger agent.

    The name is resolved again every ``reconnect_s`` seconds (0: never) and after an error, so that an agent that moved is
    found. The socket is connected, so that the kernel reports a port where nobody listens: at once on this host, later from
    another one. Where a name has several addresses (``localhost`` is often ``::1`` first), the next one is tried then.
    """

    def __init__(self, host: str, port: int, reconnect_s: float = 30.0) -> None:
        self.host = host
        self.port = port
        self.reconnect_s = reconnect_s
        self._socket: _socket.socket | None = None
        self._addresses: list[Address] = []
        self._resolved_at = 0.0

    def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
        """Send one datagram; tries once more after an error, on a fresh address. Never waits, but for the name service."""
        try:
            delivered = self._deliver(payload)
        except OSError:
            self.close()
            try:
                delivered = self._deliver(payload)
            except OSError as error:
                self.close()
                raise TransportError(f"cannot send to {self._where}: {self._explain(error, payload)}") from error
        if not delivered:
            name_missing_backend(self._where)
            raise TransportError(f"nothing answers at {self._where}", told=True)
        return b""

    def _deliver(self, payload: bytes) -> bool:
        """Send to the first address that does not refuse; False when all of them do."""
        for _ in range(self._resolve()):
            connection = self._socket or self._connect()
            if _take_error(connection):  # About an earlier datagram, from a host that takes time to answer.
                name_missing_backend(self._where)
            connection.send(payload)
            if not _take_error(connection):
                return True
            self.close()
            self._addresses.append(self._addresses.pop(0))
        return False

    def _resolve(self) -> int:
        """Look the name up if it is time; how many addresses it has."""
        now = monotonic()
        is_due = self.reconnect_s and now - self._resolved_at >= self.reconnect_s
        if self._socket is not None and not is_due:
            return len(self._addresses)
        self._resolved_at = now
        try:
            found = _look_up(self.host, self.port)
        except OSError:
            if not self._addresses:
                raise
            return len(self._addresses)  # The name service is away; the old addresses may still be good.
        addresses: list[Address] = [(family, kind, proto, address) for family, kind, proto, _, address in found]
        if set(addresses) != set(self._addresses):
            self.close()
            self._addresses = addresses
        return len(self._addresses)

    def _connect(self) -> _socket.socket:
        """A socket to the first address that this host has a way to.

        A plain one, that gevent has not patched: a datagram makes nobody wait, and gevent's need a thread for each address.
        """
        import _socket

        trouble: OSError | None = None
        for family, kind, proto, address in self._addresses:
            opened = None
            try:
                opened = _socket.socket(family, kind, proto)
                opened.connect(address)
            except OSError as error:
                trouble = error
                if opened is not None:
                    opened.close()
            else:
                self._socket = opened
                return opened
        raise trouble or OSError("the name has no address")

    @property
    def _where(self) -> str:
        return f"{self.host}:{self.port} (UDP)"

    @staticmethod
    def _explain(error: OSError, payload: bytes) -> str:
        from errno import EMSGSIZE

        if error.errno == EMSGSIZE:
            return f"{error}: {len(payload)} bytes; lower AUTOINSTR_MAX_PACKET_SIZE (9216 on macOS)"
        return str(error)

    def close(self) -> None:
        """Close the socket; the next send opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    abandon = close  # After a fork: closing our copy of a datagram socket does not touch the parent's.


def _look_up(host: str, port: int) -> list[Any]:
    """The addresses of a name, for datagrams."""
    import socket

    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except RuntimeError:
        # gevent asks on a thread, and from Python 3.12 on there is none to be had while the process ends.
        import _socket

        return _socket.getaddrinfo(host, port, type=_socket.SOCK_DGRAM)


def _take_error(connection: _socket.socket) -> int:
    """The error number that the kernel holds for a socket, which is thereby cleared."""
    import socket

    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class HTTPTransport:
    """POSTs to a collector over one connection that is kept open. Redirects are not followed, proxies not used.

    ``url`` is complete; ``headers`` go with every request; ``timeout_s`` limits each wait on the socket. ``certificate`` is a
    file of trusted CAs, ``client_certificate`` and ``client_key`` are ours.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        gzip: bool = False,
        certificate: str = "",
        client_certificate: str = "",
        client_key: str = "",
    ) -> None:
        self.url = url
        self.headers = dict(headers or {})
        self.timeout_s = timeout_s or LONGEST_WAIT_S
        self.gzip = gzip
        self.certificate = certificate
        self.client_certificate = client_certificate
        self.client_key = client_key
        self._connection: http.client.HTTPConnection | None = None
        self._context: ssl.SSLContext | None = None
        self._path = "/"

    def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
        """POST the payload and return the body of a 2xx answer."""
        headers = self.headers
        if self.gzip:
            import zlib

            squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
            payload = squeeze.compress(payload) + squeeze.flush()
            headers = {**headers, "Content-Encoding": "gzip"}
        limit_s = self.timeout_s if timeout_s is None else min(timeout_s, self.timeout_s)
        return self.request("POST", payload, headers, limit_s)

    def request(self, method: str, payload: bytes | None, headers: Mapping[str, str], limit_s: float = 0.0) -> bytes:
        """One exchange; a kept connection that the server has closed meanwhile is replaced once."""
        fresh = self._connection is None
        try:
            try:
                return self._exchange(method, payload, headers, limit_s or self.timeout_s)
            except ConnectionError:
                if fresh:
                    raise
                self.close()
                return self._exchange(method, payload, headers, limit_s or self.timeout_s)
        except TransportError:
            raise
        except Exception as error:
            self.close()
            text = f"{shown_url(self.url)}: {type(error).__name__}: {error}{self._advice(error)}"
            raise TransportError(text, retryable=_may_pass(error)) from error

    def _exchange(self, method: str, payload: bytes | None, headers: Mapping[str, str], limit_s: float) -> bytes:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        connection.timeout = limit_s
        if connection.sock is not None:
            connection.sock.settimeout(limit_s)
        connection.request(method, self._path, payload, dict(headers))
        response = connection.getresponse()
        body = response.read(MAX_RESPONSE + 1)
        if len(body) > MAX_RESPONSE or not response.isclosed():
            self.close()  # The rest is not worth reading, and would be taken for the next answer.
        if 200 <= response.status < 300:
            return body
        raise refusal(self.url, response.status, response.reason, body, response.getheader("Retry-After"))

    def _connect(self) -> http.client.HTTPConnection:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not parts.hostname or parts.scheme not in {"http", "https"}:
            raise TransportError(f"{shown_url(self.url)!r} is not an http or https URL with a host")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port)
        if self._context is None:
            self._context = self._make_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, context=self._context)

    def _make_context(self) -> ssl.SSLContext:
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.certificate or None)
            if self.client_certificate:
                context.load_cert_chain(self.client_certificate, self.client_key or None)
        except OSError as error:  # Python's message does not say which file it means.
            files = ", ".join(filter(None, (self.certificate, self.client_certificate, self.client_key)))
            raise TransportError(f"cannot use the certificates ({files}): {error}") from error
        return context

    def _advice(self, error: Exception) -> str:
        if type(error).__name__ != "SSLCertVerificationError":
            return ""
        return f"; trusted are the certificates in {self.certificate or 'the store of this system'}"

    def close(self) -> None:
        """Close the connection; the next send opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abandon(self) -> None:
        """After a fork, in the child: forget the connection without closing it, because it is the parent's."""
        from os import close

        connection, self._connection = self._connection, None
        if connection is not None and connection.sock is not None:
            # Only the descriptor: a TLS close would send an alert over the connection that the parent still uses.
            try:
                close(connection.sock.detach())
            except OSError:
                return


def _may_pass(error: Exception) -> bool:
    """Whether trying again later can help: trouble on the network may pass, a wrong certificate or header does not."""
    from http.client import HTTPException, InvalidURL

    if type(error).__name__ == "SSLCertVerificationError":
        return False
    return isinstance(error, (OSError, HTTPException)) and not isinstance(error, InvalidURL)


def refusal(url: str, status: int, reason: str, body: bytes, retry_after: str | None) -> TransportError:
    """The error for an answer that is not 2xx; which ones to try again is OTLP's rule (OTLP/HTTP, retryable responses)."""
    said = body[:200].decode("utf-8", "replace").strip()
    return TransportError(
        f"{shown_url(url)} answered {status} {reason}".rstrip() + (f": {said}" if said else ""),
        retryable=status in RETRYABLE_STATUS,
        retry_after_s=parse_retry_after(retry_after),
    )


def shown_url(url: str) -> str:
    """The URL without what may be secret: user, password, query."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    if not separator:
        return scheme
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


class FileTransport:
    """Appends each payload as a line to a file, opened at the first one."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Whether the disk was full in the middle of a line, which would spoil the next one, too.
        self._is_torn = False

    def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
        """Append; the file is opened each time, so that it may be rotated."""
        try:
            with open(self.path, "ab", buffering=0) as file:
                line = b"\n" * self._is_torn + payload + b"\n"
                written = file.write(line)
                self._is_torn = written < len(line)
                if self._is_torn:
                    raise OSError("no room for all of a line")
        except OSError as error:
            raise TransportError(f"cannot write spans to {self.path}: {error}") from error
        return b""

    def close(self) -> None:
        """Nothing is kept open."""

    abandon = close


class StderrTransport:
    """Writes payloads to the process's standard error."""

    def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
        """Write all of it."""
        from os import write

        try:
            while payload:
                payload = payload[write(2, payload) :]
        except OSError as error:
            raise TransportError(f"cannot write spans to stderr: {error}") from error
        return b""

    def close(self) -> None:
        """Standard error is not ours to close."""

    abandon = close


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header in its form with seconds (RFC 9110, 10.2.3); dates are not needed."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def fetch(url: str, timeout_s: float = 5.0) -> bytes:
    """GET a URL once and return its body, at most ``MAX_RESPONSE`` bytes. Raises ``TransportError``.

    Plain HTTP is spoken by hand: ``http.client`` brings ``email`` and ``ssl``, four megabytes and up to a tenth of a second,
    for which the first sampling decision of a program would have to wait.
    """
    if url.lower().startswith("http://"):
        try:
            answer = _get_by_hand(url, timeout_s)
        except (OSError, ValueError) as error:
            raise TransportError(f"{shown_url(url)}: {type(error).__name__}: {error}", retryable=True) from error
        if answer is not None:
            return answer
    transport = HTTPTransport(url, timeout_s=timeout_s)
    try:
        return transport.request("GET", None, {"Accept": "application/json"})
    finally:
        transport.close()


def _get_by_hand(url: str, timeout_s: float) -> bytes | None:
    """One GET over a connection of its own; ``None`` for a body in chunks, which is left to ``http.client``.

    Raises ``TransportError`` for an answer other than 2xx, ``ValueError`` for one that is not HTTP, ``OSError``.
    """
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("not a URL with a host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = parts.netloc.rpartition("@")[2]
    deadline = monotonic() + timeout_s
    with socket.create_connection((parts.hostname, parts.port or 80), timeout_s) as connection:
        ask = f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
        connection.sendall(ask.encode("utf-8"))
        return _read_answer(url, connection, deadline)


def _read_answer(url: str, connection: socket.socket, deadline: float) -> bytes | None:
    received = bytearray()
    head: list[str] = []
    end_of_head = -1
    wanted = MAX_RESPONSE
    while len(received) < wanted and (chunk := connection.recv(65536)):
        received += chunk
        if end_of_head < 0 and (end_of_head := received.find(b"\r\n\r\n")) >= 0:
            head = received[:end_of_head].decode("latin-1").split("\r\n")
            length = _header(head, "content-length")
            wanted = min(end_of_head + 4 + (int(length) if length else MAX_RESPONSE), MAX_RESPONSE)
        left_s = deadline - monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer took too long")
        connection.settimeout(left_s)
    version, _, rest = (head or [""])[0].partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/") or not status.isdigit():
        raise ValueError("the answer is not HTTP")
    if "chunked" in _header(head, "transfer-encoding").lower():
        return None
    body = bytes(received[end_of_head + 4 :])
    if not 200 <= int(status) < 300:
        raise refusal(url, int(status), reason, body, _header(head, "retry-after") or None)
    return body


def _header(head: list[str], name: str) -> str:
    for line in head[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def name_missing_backend(where: str) -> None:
    """Tell, once in a while, that nobody takes our spans, and what to do."""
    say(
        f"nothing answers at {where}: traces are lost; start a backend here with `autoinstr serve`, or name one with"
        " JAEGER_AGENT_HOST, JAEGER_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT (`autoinstr doctor` explains)",
        about="no backend",
    )
