"""Transports against real sockets, and servers that misbehave."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoinstr import transport, trouble
from autoinstr.transport import (
    FileTransport,
    HTTPTransport,
    StderrTransport,
    TransportError,
    UDPTransport,
    fetch,
    parse_retry_after,
    shown_url,
)
from fakes import DEADLINE_S, Collector, Server, read_request, response


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "_last_said", {})
    monkeypatch.setattr(trouble, "_held_back", {})


# ---- UDP -----------------------------------------------------------------------------------------


def agent(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens like an agent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_DGRAM)
    listening.bind((host, port))
    listening.settimeout(DEADLINE_S)
    return listening


@pytest.fixture
def udp() -> Iterator[Callable[..., UDPTransport]]:
    made: list[UDPTransport] = []

    def make(port: int, host: str = "127.0.0.1", **options: Any) -> UDPTransport:
        made.append(UDPTransport(host, port, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def free_port() -> int:
    with agent() as unused:
        return int(unused.getsockname()[1])


def test_datagram_arrives_whole(udp: Callable[..., UDPTransport]) -> None:
    """Nothing would arrive at a Jaeger agent."""
    with agent() as listening:
        payload = os.urandom(65000)
        assert udp(listening.getsockname()[1]).send(payload) == b""
        assert listening.recv(70000) == payload


def test_agent_that_restarts_gets_spans_again(
    udp: Callable[..., UDPTransport], capfd: pytest.CaptureFixture[str]
) -> None:
    """One restart of the agent would end tracing; the spans meanwhile would count as sent."""
    port = free_port()
    sender = udp(port)
    for _ in range(3):
        with pytest.raises(TransportError) as caught:
            sender.send(b"lost")
        assert caught.value.told
    with agent(port) as listening:
        sender.send(b"first")
        assert listening.recv(100) == b"first"
    with pytest.raises(TransportError):
        sender.send(b"lost")
    with agent(port) as listening:
        sender.send(b"second")
        assert listening.recv(100) == b"second"
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    for name in ("autoinstr serve", "JAEGER_AGENT_HOST", f"127.0.0.1:{port}"):
        assert name in said


def addresses(*hosts: str) -> Callable[..., list[Any]]:
    """A ``getaddrinfo`` that knows only these."""

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_DGRAM, 17, "", (one, port)) for one in hosts
        ]

    return getaddrinfo


def test_agent_that_moved_is_found(udp: Callable[..., UDPTransport], monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is scheduled on another machine would get no spans until the program restarts."""
    with agent() as old:
        port = old.getsockname()[1]
        with agent(port, "127.0.0.2") as new:
            monkeypatch.setattr(socket, "getaddrinfo", addresses("127.0.0.1"))
            sender = udp(port, "agent.invalid", reconnect_s=30.0)
            clock = [1000.0]
            monkeypatch.setattr(transport, "monotonic", lambda: clock[0])
            sender.send(b"1")
            monkeypatch.setattr(socket, "getaddrinfo", addresses("127.0.0.2"))
            sender.send(b"2")
            clock[0] += 31
            sender.send(b"3")
            assert [old.recv(9), old.recv(9), new.recv(9)] == [b"1", b"2", b"3"]


def test_name_service_that_is_away(udp: Callable[..., UDPTransport], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble with names would cost spans although the agent's address is known."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    with agent() as listening:
        sender = udp(listening.getsockname()[1], reconnect_s=0.000001)
        sender.send(b"1")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", fail)
            sender.send(b"2")
            with pytest.raises(TransportError, match="Temporary failure"):
                udp(1).send(b"x")
        assert [listening.recv(9), listening.recv(9)] == [b"1", b"2"]


def test_second_address_is_tried_when_the_first_refuses(
    udp: Callable[..., UDPTransport], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``localhost`` is ``::1`` first on many machines: an agent that listens on 127.0.0.1 only would get nothing."""
    monkeypatch.setattr(socket, "getaddrinfo", addresses("127.0.0.3", "127.0.0.1"))
    with agent() as listening:
        sender = udp(listening.getsockname()[1], "localhost")
        for payload in (b"1", b"2"):
            sender.send(payload)
            assert listening.recv(9) == payload
    assert capfd.readouterr().err == ""


def test_ipv6(udp: Callable[..., UDPTransport]) -> None:
    """An agent on ``::1`` could not be reached."""
    try:
        listening = agent(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with listening:
        udp(listening.getsockname()[1], "::1").send(b"six")
        assert listening.recv(9) == b"six"


def test_datagram_that_is_too_long_names_the_variable(udp: Callable[..., UDPTransport]) -> None:
    """On macOS nothing would arrive, and nobody would know why; and the socket must work afterwards."""
    with agent() as listening:
        sender = udp(listening.getsockname()[1])
        with pytest.raises(TransportError, match="70000 bytes; lower AUTOINSTR_MAX_PACKET_SIZE"):
            sender.send(bytes(70000))
        sender.send(b"short")
        assert listening.recv(9) == b"short"


# ---- HTTP ----------------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Callable[..., Collector]]:
    made: list[Collector] = []

    def make(*answers: bytes, context: Any = None) -> Collector:
        made.append(Collector(*answers, context=context))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def http() -> Iterator[Callable[..., HTTPTransport]]:
    made: list[HTTPTransport] = []

    def make(port: int, path: str = "/api/traces", scheme: str = "http", **options: Any) -> HTTPTransport:
        made.append(HTTPTransport(f"{scheme}://localhost:{port}{path}", **{"timeout_s": float(DEADLINE_S), **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_connection_is_reused(collector: Callable[..., Collector], http: Callable[..., HTTPTransport]) -> None:
    """Each batch would cost a new connection, and with TLS ten times the CPU."""
    there = collector(response("202 Accepted"), response(body=b"answer"), response("204 No Content"))
    sender = http(there.port, "/v1/traces?key=1", headers={"Content-Type": "x/y", "Authorization": "Bearer t"})
    assert [sender.send(b"1"), sender.send(b"22"), sender.send(b"333")] == [b"", b"answer", b""]
    assert there.connections == 1
    assert [request.body for request in there.requests] == [b"1", b"22", b"333"]
    request = there.requests[0]
    assert (request.method, request.target) == ("POST", "/v1/traces?key=1")
    assert (request.headers["content-type"], request.headers["authorization"]) == ("x/y", "Bearer t")


def test_connection_that_went_stale_is_replaced(http: Callable[..., HTTPTransport]) -> None:
    """A collector closes idle connections: after each quiet minute a batch would be late or lost."""
    bodies: list[bytes] = []

    def talk(connection: Any, number: int) -> None:
        request = read_request(connection)
        assert request is not None
        bodies.append(request.body)
        connection.sendall(response())  # It does not say that it closes, as a server that times out.

    there = Server(talk)
    sender = http(there.port)
    for body in (b"1", b"2", b"3"):
        sender.send(body)
    there.close()
    assert (bodies, there.connections) == ([b"1", b"2", b"3"], 3)


def test_body_is_compressed(collector: Callable[..., Collector], http: Callable[..., HTTPTransport]) -> None:
    """OTEL_EXPORTER_OTLP_COMPRESSION=gzip would send what no collector can read."""
    there = collector()
    http(there.port, gzip=True).send(b"x" * 1000)
    request = there.requests[0]
    assert request.headers["content-encoding"] == "gzip"
    assert gzip.decompress(request.body) == b"x" * 1000
    assert len(request.body) < 100


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_statuses_worth_another_try(
    collector: Callable[..., Collector], http: Callable[..., HTTPTransport], status: int
) -> None:
    """A collector that is only busy would lose spans (OTLP/HTTP, retryable response codes)."""
    there = collector(response(f"{status} Later", b"", "Retry-After: 7"), response())
    sender = http(there.port)
    with pytest.raises(TransportError, match=f"answered {status} Later") as caught:
        sender.send(b"x")
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 7.0)
    sender.send(b"x")
    assert there.connections == 1


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 413, 500, 501])
def test_statuses_that_stay(
    collector: Callable[..., Collector], http: Callable[..., HTTPTransport], status: int
) -> None:
    """The same payload would be refused for half a minute; or follow a redirect to whoever, with our token."""
    there = collector(response(f"{status} Odd", b"because\nof that", "Location: http://127.0.0.1:1/elsewhere"))
    with pytest.raises(TransportError, match=f"answered {status} Odd: because\nof that") as caught:
        http(there.port).send(b"x")
    assert not caught.value.retryable
    assert len(there.requests) == 1


@pytest.mark.parametrize(
    "garbage", [b"garbage\r\n\r\n", b"\x00\xff" * 50, b"", b"HTTP/1.1 999999 x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"]
)
def test_answer_that_is_not_http(http: Callable[..., HTTPTransport], garbage: bytes) -> None:
    """Something else that listens there would break the worker, or every later send."""
    answers = [garbage, garbage]

    def talk(connection: Any, number: int) -> None:
        read_request(connection)
        connection.sendall(answers.pop() if answers else response(body=b"fine"))

    there = Server(talk)
    sender = http(there.port)
    for _ in range(2):
        try:
            sender.send(b"x")
        except TransportError as error:
            assert error.retryable
    assert sender.send(b"x") == b"fine"
    there.close()


def test_answer_of_ten_megabytes(http: Callable[..., HTTPTransport]) -> None:
    """A wrong URL (a web page, a video) would fill the program's memory, or be taken for the next answer."""

    def talk(connection: Any, number: int) -> None:
        read_request(connection)
        connection.sendall(response(body=b"x" * (10 << 20)))

    there = Server(talk)
    sender = http(there.port)
    for _ in range(2):
        assert len(sender.send(b"x")) <= transport.MAX_RESPONSE + 1
    there.close()
    assert there.connections == 2


def test_server_that_never_answers(http: Callable[..., HTTPTransport]) -> None:
    """The worker would hang for ever, and no span arrive any more."""
    there = Server(lambda connection, number: time.sleep(1))
    for sender, limit in ((http(there.port, timeout_s=0.05), None), (http(there.port), 0.05)):
        started = time.monotonic()
        with pytest.raises(TransportError, match="timed out") as caught:
            sender.send(b"x", limit)
        assert caught.value.retryable
        assert time.monotonic() - started < DEADLINE_S / 2
    there.close()


def test_connection_reset(http: Callable[..., HTTPTransport]) -> None:
    """As above, for a collector that crashes."""

    def talk(connection: Any, number: int) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    there = Server(talk)
    with pytest.raises(TransportError, match="ConnectionResetError|RemoteDisconnected") as caught:
        http(there.port).send(b"x" * 100_000)
    assert caught.value.retryable
    there.close()


def test_nobody_listens(http: Callable[..., HTTPTransport]) -> None:
    """A collector that is down would raise something else than ``TransportError``."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(TransportError, match="ConnectionRefusedError") as caught:
        http(port).send(b"x")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://x/y", {}),
        ("localhost:4318", {}),
        ("http:///x", {}),
        ("http://h:99999/", {}),
        ("http://127.0.0.1:1/", {"A": "b\nc"}),
    ],
)
def test_setting_that_cannot_work_is_not_tried_again(url: str, headers: dict[str, str]) -> None:
    """A typing mistake would look like trouble on the network."""
    with pytest.raises(TransportError) as caught:
        HTTPTransport(url, headers=headers).send(b"x")
    assert not caught.value.retryable


def test_secrets_in_a_url_are_not_shown() -> None:
    """A password would stand in the program's log."""
    assert shown_url("https://user:pass@host:1/a/b?token=1") == "https://host:1/a/b"
    assert shown_url("nonsense") == "nonsense"
    with pytest.raises(TransportError) as caught:
        HTTPTransport("http://user:pass@127.0.0.1:1/?token=secret").send(b"x")
    assert "pass" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_retry_after() -> None:
    """A senseless header would stop the exports, or be an exception."""
    assert [parse_retry_after(text) for text in ("3", "0.5", "-1", "inf", "nan", "Wed, 21 Oct 2015", "", None)] == [
        *(3.0, 0.5),
        *(None,) * 6,
    ]


def test_child_leaves_the_connection_alone(
    collector: Callable[..., Collector], http: Callable[..., HTTPTransport]
) -> None:
    """A forked worker would end its parent's connection, or answers would get mixed up."""
    there = collector()
    sender = http(there.port)
    sender.send(b"1")
    if (child := os.fork()) == 0:
        sender.abandon()
        sender.send(b"child")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sender.send(b"2")
    assert there.connections == 2
    assert sorted(request.body for request in there.requests) == [b"1", b"2", b"child"]


# ---- TLS -----------------------------------------------------------------------------------------


class Authority:
    """A CA of our own, and what it signed for ``localhost`` and for a client."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        now = datetime.datetime.now(datetime.timezone.utc)

        def issue(name: str, signer: Any = None) -> Any:
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
            issuer, issuer_key = signer or (subject, key)
            builder = (
                x509.CertificateBuilder(issuer, subject, key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
                .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
                # Python 3.13 is strict: it wants to be told which key has signed.
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
                )
            )
            if signer is None:
                usage = {"key_cert_sign": True, "crl_sign": True, "digital_signature": True}
                others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
                others += ("encipher_only", "decipher_only")
                builder = builder.add_extension(
                    x509.KeyUsage(**usage, **dict.fromkeys(others, False)), critical=True
                )
            certificate = builder.sign(issuer_key, hashes.SHA256())
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            (folder / f"{name}.key").write_bytes(pem)
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            return subject, key

        ca = issue("ca")
        issue("other")
        issue("server", ca)
        issue("client", ca)
        self.folder = folder

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def server(self, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.pem"), self.path("server.key"))
        if asks_for_certificate:
            context.load_verify_locations(self.path("ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_tls_with_a_ca_of_ones_own(
    authority: Authority, collector: Callable[..., Collector], http: Callable[..., HTTPTransport]
) -> None:
    """A collector inside a company could not be reached."""
    there = collector(context=authority.server())
    sender = http(there.port, scheme="https", certificate=authority.path("ca.pem"))
    sender.send(b"1")
    sender.send(b"2")
    assert ([request.body for request in there.requests], there.connections) == ([b"1", b"2"], 1)


@pytest.mark.parametrize("trusted", ["other.pem", ""])
def test_wrong_ca_is_a_clear_line(
    authority: Authority, collector: Callable[..., Collector], http: Callable[..., HTTPTransport], trusted: str
) -> None:
    """Spans and tokens would go to whoever listens there; or nobody would know why nothing arrives."""
    there = collector(context=authority.server())
    sender = http(there.port, scheme="https", certificate=trusted and authority.path(trusted))
    with pytest.raises(TransportError, match="certificate verify failed") as caught:
        sender.send(b"x")
    assert (authority.path(trusted) if trusted else "the store of this system") in str(caught.value)
    assert not caught.value.retryable
    assert there.requests == []


def test_client_certificate(
    authority: Authority, collector: Callable[..., Collector], http: Callable[..., HTTPTransport]
) -> None:
    """OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE would be without effect."""
    there = collector(context=authority.server(asks_for_certificate=True))
    trust = {"scheme": "https", "certificate": authority.path("ca.pem")}
    with pytest.raises(TransportError):
        http(there.port, **trust).send(b"x")
    http(
        there.port,
        **trust,
        client_certificate=authority.path("client.pem"),
        client_key=authority.path("client.key"),
    ).send(b"known")
    assert [request.body for request in there.requests] == [b"known"]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificate_file_that_cannot_be_used(
    http: Callable[..., HTTPTransport], tmp_path: Path, content: str | None
) -> None:
    """Python's own message does not name the file."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(TransportError, match="cannot use the certificates") as caught:
        http(1, scheme="https", certificate=str(path)).send(b"x")
    assert str(path) in str(caught.value)


# ---- Fetching strategies -------------------------------------------------------------------------


def test_fetch(collector: Callable[..., Collector]) -> None:
    """No sampling strategy would ever arrive."""
    there = collector(response(body=b'{"a": 1}'))
    assert json.loads(fetch(f"http://localhost:{there.port}/sampling?service=a%20b")) == {"a": 1}
    request = there.requests[0]
    assert (request.method, request.target) == ("GET", "/sampling?service=a%20b")
    assert request.headers["host"] == f"localhost:{there.port}"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-LENGTH:3\r\n\r\nabcdef",
    ],
)
def test_fetch_reads_every_kind_of_body(answer: bytes) -> None:
    """Strategies from a gateway, or long ones from Jaeger itself, could not be read."""

    def talk(connection: Any, number: int) -> None:
        read_request(connection)
        for byte in answer:
            connection.send(bytes([byte]))

    there = Server(talk)
    assert fetch(f"http://127.0.0.1:{there.port}/")[:3] == b"abc"
    there.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response("503 Busy", b"come later", "Retry-After: 3"), "answered 503 Busy: come later"),
        (response("404 Not Found"), "answered 404 Not Found"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "invalid literal"),
    ],
)
def test_fetch_of_something_else(collector: Callable[..., Collector], answer: bytes, message: str) -> None:
    """Whatever listens there, there is one kind of exception."""

    def talk(connection: Any, number: int) -> None:
        read_request(connection)
        connection.sendall(answer)

    there = Server(talk)
    with pytest.raises(TransportError, match=message):
        fetch(f"http://127.0.0.1:{there.port}/")
    there.close()


def test_fetch_is_limited_in_time_even_when_bytes_drip() -> None:
    """A backend that answers a byte a second would hold the polling thread for days."""

    def talk(connection: Any, number: int) -> None:
        read_request(connection)
        while True:
            connection.sendall(b"H")
            time.sleep(0.01)

    there = Server(talk)
    started = time.monotonic()
    with pytest.raises(TransportError, match="TimeoutError"):
        fetch(f"http://127.0.0.1:{there.port}/", timeout_s=0.1)
    assert time.monotonic() - started < DEADLINE_S / 2
    there.close()


def test_fetch_is_limited_in_size() -> None:
    """A wrong URL would fill the program's memory."""

    def talk(connection: Any, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (10 << 20))

    there = Server(talk)
    assert len(fetch(f"http://127.0.0.1:{there.port}/")) <= transport.MAX_RESPONSE + 65536
    there.close()


def test_udp_and_fetch_load_neither_http_nor_ssl(collector: Callable[..., Collector]) -> None:
    """The default set-up would cost four megabytes more, and the first sampling decision a tenth of a second."""
    there = collector(response(body=b"{}"))
    code = (
        "import sys\nfrom autoinstr.transport import *\n"
        "fetch(sys.argv[1])\n"
        "try:\n    UDPTransport('127.0.0.1', 1).send(b'x')\nexcept TransportError:\n    pass\n"
        "print(*{'http.client', 'ssl', 'email', 'threading', 'json'} & set(sys.modules))"
    )
    url = f"http://127.0.0.1:{there.port}/"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"


# ---- Files ---------------------------------------------------------------------------------------


def test_file_may_be_rotated(tmp_path: Path) -> None:
    """logrotate would leave us writing to a file that nobody sees."""
    path = tmp_path / "spans.jsonl"
    sender = FileTransport(str(path))
    sender.send(b"1")
    path.rename(tmp_path / "old")
    sender.send(b"2")
    assert (path.read_bytes(), (tmp_path / "old").read_bytes()) == (b"2\n", b"1\n")
    with pytest.raises(TransportError, match="cannot write spans to"):
        FileTransport(str(tmp_path)).send(b"x")


def test_stderr_takes_all_of_it() -> None:
    """The end of a long batch would be cut off."""
    code = "import sys\nfrom autoinstr.transport import StderrTransport\nStderrTransport().send(b'x' * 1_000_000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert len(done.stderr) == 1_000_000
    assert isinstance(StderrTransport(), StderrTransport)
