"""Datagrams, from the kernel's buffer to the queue before the store.

Owns: emptying sockets as fast as they fill, how much buffer the kernel grants, how much it dropped.
Must not know: what a datagram means.
Invariants: reading never waits for decoding or writing; what is handed on is bounded by whom it is handed to.

What the kernel's buffer cannot hold is gone without a word, and on many systems it holds 200 KB. Python hands its lock to
another thread at each ``recv``, and has it back some milliseconds later when that one computes: a hundred datagrams a second
and thread. So all that has come is taken in one call (``recvmmsg``), with the lock held, where the system has that call.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Sequence

from autoinstr.backend import log

#: Asked of the kernel, which grants up to its own limit (Linux: ``net.core.rmem_max``).
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
#: Linux: beyond that limit, for who may (``CAP_NET_ADMIN``).
_SO_RCVBUFFORCE = 33
LARGEST_DATAGRAM = 65_535
#: Datagrams that are taken at once.
DATAGRAMS_AT_ONCE = 128

#: Takes the datagrams of one read, and must not raise.
Take = Callable[[list[bytes]], None]
#: All datagrams that a socket holds now, at most ``DATAGRAMS_AT_ONCE``; an empty list when there are none.
Drain = Callable[[], list[bytes]]


class UdpReceiver:
    """One thread that empties bound sockets and gives what was in them to ``take``."""

    def __init__(self, sockets: Sequence[socket.socket], take: Take) -> None:
        self.sockets = list(sockets)
        self._take = take
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._datagrams = 0
        for sock in self.sockets:
            ask_for_buffer(sock)
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._read, name="autoinstr-udp", daemon=True)

    def start(self) -> None:
        """Begin to read; what has come since the sockets were bound is taken as well."""
        self._thread.start()

    def close(self) -> None:
        """Take what has come, then close the sockets."""
        self._closing = True
        self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        for sock in (*self.sockets, self._wake, self._woken):
            sock.close()

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name."""
        return {
            "udp_datagrams_total": self._datagrams,
            "udp_kernel_dropped_datagrams_total": sum(map(kernel_drops, self.sockets)),
            "udp_kernel_buffer_bytes": min(map(granted_buffer, self.sockets), default=0),
        }

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for sock in self.sockets:
                selector.register(sock, selectors.EVENT_READ, drainer(sock))
            while not self._closing:
                for key, _ in selector.select():
                    if key.data is not None:
                        self._empty(key.data)
            for key in list(selector.get_map().values()):
                if key.data is not None:
                    self._empty(key.data)

    def _empty(self, drain: Drain) -> None:
        """Everything that one socket holds."""
        while True:
            try:
                datagrams = drain()
            except OSError:
                # "Port unreachable", as an answer to something that was sent from here; the socket itself is fine.
                return
            if datagrams:
                self._datagrams += len(datagrams)
                try:
                    self._take(datagrams)
                except Exception as error:  # a fault of ours costs these datagrams, not all that follow
                    log.error("datagrams_failed", error=error)
            if len(datagrams) < DATAGRAMS_AT_ONCE:
                return


def drainer(sock: socket.socket) -> Drain:
    """The fastest way of this system to take all that a non-blocking socket holds."""
    if sys.platform == "linux" and sys.byteorder == "little":
        try:
            return _ManyAtOnce(sock).drain
        except (AttributeError, OSError):
            pass
    return lambda: _one_by_one(sock)


def _one_by_one(sock: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    try:
        while len(found) < DATAGRAMS_AT_ONCE:
            found.append(sock.recv(LARGEST_DATAGRAM))
    except BlockingIOError:
        pass
    except OSError:
        # As below: an error of a datagram sent earlier. What was taken before it counts.
        pass
    return found


class _Buffer(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct msghdr`` of Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffer_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Received(ctypes.Structure):
    """``struct mmsghdr``: a message, and how long it was."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint))


class _ManyAtOnce:
    """``recvmmsg`` of Linux, called with Python's lock held: it does not wait."""

    def __init__(self, sock: socket.socket) -> None:
        # ``PyDLL``, not ``CDLL``: giving the lock away is what would cost the milliseconds.
        self._receive = ctypes.PyDLL(None, use_errno=True).recvmmsg
        self._descriptor = sock.fileno()
        size = LARGEST_DATAGRAM + 1
        # Memory of its own, of which only the pages exist that were ever written to.
        self._memory = mmap.mmap(-1, DATAGRAMS_AT_ONCE * size)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._offsets = [number * size for number in range(DATAGRAMS_AT_ONCE)]
        self._buffers = (_Buffer * DATAGRAMS_AT_ONCE)(*[_Buffer(start + offset, size) for offset in self._offsets])
        self._received = (_Received * DATAGRAMS_AT_ONCE)()
        for received, buffer in zip(self._received, self._buffers, strict=True):
            received.message.buffers = ctypes.pointer(buffer)
            received.message.buffer_count = 1

    def drain(self) -> list[bytes]:
        """As ``Drain``."""
        received = self._received
        count = self._receive(self._descriptor, received, DATAGRAMS_AT_ONCE, socket.MSG_DONTWAIT, None)
        if count < 0:
            error = ctypes.get_errno()
            if error in (11, 4):  # nothing there; interrupted
                return []
            raise OSError(error, os.strerror(error))
        memory = self._memory
        return [memory[at : at + received[i].length] for i, at in enumerate(self._offsets[:count])]


def ask_for_buffer(sock: socket.socket) -> None:
    """As large a buffer as the kernel grants."""
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF) if sys.platform == "linux" else (socket.SO_RCVBUF,):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER_BYTES)
            return
        except OSError:
            continue


def granted_buffer(sock: socket.socket) -> int:
    """The bytes of buffer that a socket has (Linux counts its own bookkeeping in); 0 when it is closed."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    except OSError:
        return 0


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel threw away because the socket's buffer was full; 0 where it cannot be known."""
    table = "/proc/net/udp6" if sock.family == socket.AF_INET6 else "/proc/net/udp"
    try:
        inode = str(os.fstat(sock.fileno()).st_ino)
        with open(table, encoding="ascii") as lines:
            rows = (line.split() for line in lines)
            return next((int(row[-1]) for row in rows if len(row) > 9 and row[9] == inode), 0)
    except (OSError, ValueError):
        return 0
