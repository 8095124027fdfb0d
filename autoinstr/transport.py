"""Sockets: how payloads leave the process, and how sampling strategies are fetched.

Owns: UDP to an agent, HTTP to a collector, a file, stderr. Must not know: spans, encodings, the environment.
Invariants: used by one thread at a time; every wait has a limit; what a server answers is read up to a limit; network modules
are imported at the first send, never at start-up (gevent must be able to patch them first).
"""

from __future__ import annotations

from time import monotonic

from autoinstr.trouble import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import http.client
    import socket
    from collections.abc import Mapping

#: The most bytes of a response that are read; a server that says more loses its connection.
MAX_RESPONSE = 1 << 20
RETRYABLE_STATUS = frozenset({429, 502, 503, 504})


class TransportError(Exception):
    """Bytes did not arrive. ``retryable``: the same payload may succeed later, after ``retry_after_s`` if given."""

    def __init__(self, text: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class UDPTransport:
    """Datagrams to a Jaeger agent.

    The name is resolved again every ``reconnect_s`` seconds (0: never) and after an error, so that an agent that moved is
    found. The socket is connected, so that the kernel reports a port where nobody listens.
    """

    def __init__(self, host: str, port: int, reconnect_s: float = 30.0) -> None:
        self.host = host
        self.port = port
        self.reconnect_s = reconnect_s
        self._socket: socket.socket | None = None
        self._address: object = None
        self._resolved_at = 0.0

    def send(self, payload: bytes) -> bytes:
        """Send one datagram; tries once more after an error, on a fresh address."""
        try:
            self._connection().send(payload)
        except ConnectionRefusedError:
            # The kernel's word about an *earlier* datagram; this one was not sent, and the error is now cleared.
            name_missing_backend(f"{self.host}:{self.port} (UDP)")
            self._retry(payload)
        except OSError:
            self.close()
            self._retry(payload)
        return b""

    def _retry(self, payload: bytes) -> None:
        try:
            self._connection().send(payload)
        except OSError as error:
            self.close()
            raise TransportError(f"cannot send to {self.host}:{self.port} (UDP): {error}") from error

    def _connection(self) -> socket.socket:
        now = monotonic()
        if self._socket is not None and (not self.reconnect_s or now - self._resolved_at < self.reconnect_s):
            return self._socket
        import socket

        self._resolved_at = now
        try:
            family, kind, proto, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
        except OSError:
            if self._socket is not None:  # The name service is away; the old address may still be good.
                return self._socket
            raise
        if self._socket is None or address != self._address:
            self.close()
            self._socket = socket.socket(family, kind, proto)
            self._address = address
            self._socket.connect(address)
        return self._socket

    def close(self) -> None:
        """Close the socket; the next send opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    abandon = close  # After a fork: closing our copy of a datagram socket does not touch the parent's.


class HTTPTransport:
    """POSTs to a collector over one connection that is kept open.

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
        self.timeout_s = timeout_s
        self.gzip = gzip
        self.certificate = certificate
        self.client_certificate = client_certificate
        self.client_key = client_key
        self._connection: http.client.HTTPConnection | None = None
        self._path = "/"

    def send(self, payload: bytes) -> bytes:
        """POST the payload and return the body of a 2xx answer."""
        headers = self.headers
        if self.gzip:
            import zlib

            squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
            payload = squeeze.compress(payload) + squeeze.flush()
            headers = {**headers, "Content-Encoding": "gzip"}
        return self.request("POST", payload, headers)

    def request(self, method: str, payload: bytes | None, headers: Mapping[str, str], path: str = "") -> bytes:
        """One exchange; a kept connection that the server has closed meanwhile is replaced once."""
        fresh = self._connection is None
        try:
            try:
                return self._exchange(method, payload, headers, path)
            except (ConnectionError, BrokenPipeError):
                if fresh:
                    raise
                self.close()
                return self._exchange(method, payload, headers, path)
        except TransportError:
            raise
        except Exception as error:
            self.close()
            raise TransportError(f"{self.url}: {type(error).__name__}: {error}", retryable=True) from error

    def _exchange(self, method: str, payload: bytes | None, headers: Mapping[str, str], path: str) -> bytes:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        connection.request(method, path or self._path, payload, dict(headers))
        response = connection.getresponse()
        body = response.read(MAX_RESPONSE + 1)
        if len(body) > MAX_RESPONSE or not response.isclosed():
            self.close()  # The rest is not worth reading, and would be taken for the next answer.
        if 200 <= response.status < 300:
            return body
        said = body[:200].decode("utf-8", "replace").strip()
        raise TransportError(
            f"{self.url} answered {response.status} {response.reason}" + (f": {said}" if said else ""),
            retryable=response.status in RETRYABLE_STATUS,
            retry_after_s=parse_retry_after(response.getheader("Retry-After")),
        )

    def _connect(self) -> http.client.HTTPConnection:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not parts.hostname:
            raise TransportError(f"{self.url!r} is not a URL with a host")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout_s or None)
        if parts.scheme != "https":
            raise TransportError(f"{self.url!r} is not an http or https URL")
        import ssl

        context = ssl.create_default_context(cafile=self.certificate or None)
        if self.client_certificate:
            context.load_cert_chain(self.client_certificate, self.client_key or None)
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=self.timeout_s or None, context=context)

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


class FileTransport:
    """Appends each payload as a line to a file, opened at the first one."""

    def __init__(self, path: str) -> None:
        self.path = path

    def send(self, payload: bytes) -> bytes:
        """Append; the file is opened each time, so that it may be rotated."""
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(payload + b"\n")
        except OSError as error:
            raise TransportError(f"cannot write spans to {self.path}: {error}") from error
        return b""

    def close(self) -> None:
        """Nothing is kept open."""

    abandon = close


class StderrTransport:
    """Writes payloads to the process's standard error."""

    def send(self, payload: bytes) -> bytes:
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
    """GET a URL once and return its body, at most ``MAX_RESPONSE`` bytes. Raises ``TransportError``."""
    transport = HTTPTransport(url, timeout_s=timeout_s)
    try:
        return transport.request("GET", None, {"Accept": "application/json"})
    finally:
        transport.close()


def name_missing_backend(where: str) -> None:
    """Tell, once in a while, that nobody takes our spans, and what to do."""
    say(
        f"nothing answers at {where}: traces are lost; start a backend here with `autoinstr serve`, or name one with"
        " JAEGER_AGENT_HOST, JAEGER_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT (`autoinstr doctor` explains)",
        about="no backend",
    )
