"""Datagrams out of the kernel, with real sockets."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from autoinstr.backend.receive import udp

from .conftest import HOST, poll


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.setblocking(False)
        udp.ask_for_buffer(sock)
        yield sock


def send(to: socket.socket, *payloads: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for payload in payloads:
            sock.sendto(payload, to.getsockname())


DRAINS = [
    pytest.param(
        lambda sock: udp._ManyAtOnce(sock).drain,
        id="many at once",
        marks=pytest.mark.skipif(sys.platform != "linux", reason="recvmmsg is Linux's"),
    ),
    pytest.param(lambda sock: lambda: udp._one_by_one(sock), id="one by one"),
]


@pytest.mark.parametrize("make", DRAINS)
def test_all_that_has_come_is_taken_as_it_was_sent(
    bound: socket.socket, make: Callable[[socket.socket], udp.Drain]
) -> None:
    """Bytes of one datagram in another, or a length that is off by one, would lose both."""
    drain = make(bound)
    assert drain() == []
    payloads = [b"", b"x", bytes(range(256)) * 100, b"y" * 65_000, b"z"]
    send(bound, *payloads)
    assert drain() == payloads
    # The buffers are used again: nothing of a longer datagram may be seen behind a shorter one.
    send(bound, b"short", b"")
    assert drain() == [b"short", b""]


@pytest.mark.parametrize("make", DRAINS)
def test_more_than_fits_into_one_read_is_left_for_the_next(
    bound: socket.socket, make: Callable[[socket.socket], udp.Drain]
) -> None:
    """A flood is taken in pieces, so that what was taken is handed on."""
    drain = make(bound)
    payloads = [str(number).encode() for number in range(udp.DATAGRAMS_AT_ONCE + 5)]
    send(bound, *payloads)
    assert drain() + drain() == payloads


def test_the_receiver_takes_from_all_sockets_and_drains_them_at_the_end() -> None:
    """Datagrams that wait in the kernel at a restart would be lost without a count."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in sockets:
        sock.bind((HOST, 0))
    taken: list[bytes] = []
    go_on = threading.Event()

    def take(datagrams: list[bytes]) -> None:
        taken.extend(datagrams)
        assert go_on.wait(30)

    receiver = udp.UdpReceiver(sockets, take)
    for sock in sockets:
        send(sock, b"early")
    receiver.start()
    poll(lambda: taken, "the first datagram")
    send(sockets[0], b"late")
    send(sockets[1], b"late")
    closer = threading.Thread(target=receiver.close)
    closer.start()
    go_on.set()
    closer.join(30)
    assert sorted(taken) == [b"early", b"early", b"late", b"late"]


def test_a_fault_of_the_taker_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """One datagram that finds a bug must not be the last one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    taken: list[bytes] = []

    def take(datagrams: list[bytes]) -> None:
        taken.extend(datagrams)
        if b"bad" in datagrams:
            raise RuntimeError("a bug")

    receiver = udp.UdpReceiver([sock], take)
    receiver.start()
    send(sock, b"bad")
    poll(lambda: b"bad" in taken, "the first datagram")
    send(sock, b"good")
    poll(lambda: b"good" in taken, "the second datagram")
    receiver.close()
    assert "datagrams_failed" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_what_the_kernel_drops_and_grants_is_published() -> None:
    """The buffer is small on most systems, and full without a word."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    receiver = udp.UdpReceiver([sock], lambda datagrams: None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    send(sock, *[bytes(1000)] * 50)
    figures = receiver.figures()
    assert figures["udp_kernel_buffer_bytes"] == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert 0 < figures["udp_kernel_dropped_datagrams_total"] < 50
    receiver.close()
    assert receiver.figures()["udp_kernel_buffer_bytes"] == 0
