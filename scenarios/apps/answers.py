"""What the sample services answer and do, whatever the framework; knows nothing of tracing.

Owns: the bodies, the calls to the service behind, the work, the count of requests.
Must not know: frameworks, servers, who measures.
Invariants: the same request gets the same status and the same bytes from every service; what a request may ask for is
bounded; one process counts its own requests only.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import logging
import os
import sqlite3
import threading
import time
import traceback
import urllib.request

import requests

#: The URL of the service behind (origin.py).
ORIGIN = os.environ.get("SCENARIO_ORIGIN", "").rstrip("/")
TIMEOUT_S = 10
STATS = "/-/stats"

HELLO = b"hello, world " * 10
MISSING = b"nothing here"
ERROR = b"this went wrong"

# What one request may ask for at most: calls or queries, seconds of waiting, seconds of work.
MOST_CALLS, MOST_WAITING_S, MOST_WORK_S = 100, 10.0, 1.0


class WentWrong(Exception):
    """What ``/error`` raises."""


class Served:
    """How many requests have been served: one call of C code for each, which threads cannot come between.

    ``itertools.count`` cannot be read without being advanced, so the readings are taken off. (An ``int`` would lose counts
    between threads, a lock around it would cost four times as much.) Needs the interpreter's lock.
    """

    def __init__(self):
        self.one_more = itertools.count().__next__
        self._readings = 0
        self._reading = threading.Lock()

    def so_far(self):
        with self._reading:
            self._readings += 1
            return self.one_more() - self._readings + 1


served = Served()


class PerThread(threading.local):
    """A session per thread, kept: connections stay open, as a service that cares for its speed has it.

    ``requests`` does not promise that threads may share a session. A new one for each call (``requests.get``) would open a
    connection each time: under load the machine runs out of ports within a minute, and the kernel is what one measures.
    """

    def __init__(self):
        self.session = requests.Session()


class Database(threading.local):
    """A database in memory, one per thread, without a table: to make one would be traced, too, and belong to no request."""

    def __init__(self):
        self._connection = sqlite3.connect(":memory:")

    def stock(self, number):
        (stock,) = self._connection.execute("SELECT ? % 7", (number,)).fetchone()
        return stock


_database = Database()
_connections = PerThread()
_threads = concurrent.futures.ThreadPoolExecutor(32, thread_name_prefix="concurrent")


def stats():
    return b'{"requests": %d}' % served.so_far()


def item(number):
    return b"item %d" % number


def numbers(count):
    """What to call for, one after the other or at once."""
    return range(min(count, MOST_CALLS))


def call(number):
    """Calls the service behind through requests."""
    return int(_connections.session.get(_url(number), timeout=TIMEOUT_S).json()["stock"])


def call_urllib(number):
    """The same through urllib.request, which opens a connection for each call."""
    with urllib.request.urlopen(_url(number), timeout=TIMEOUT_S) as response:
        return int(json.loads(response.read())["stock"])


def total(stock):
    return b"%d in stock" % sum(stock)


def fanout(count):
    return total(map(call, numbers(count)))


def fanout_urllib(count):
    return total(map(call_urllib, numbers(count)))


def rows(count):
    """Asks the database for each, as services do that use an object-relational mapper carelessly."""
    return total(map(_database.stock, numbers(count)))


def concurrent_calls(count):
    """All at once, in threads: for services without an event loop."""
    return total(_threads.map(call, numbers(count)))


def _url(number):
    if not ORIGIN:
        raise RuntimeError("SCENARIO_ORIGIN is not set: start origin.py and give this service the URL that it prints")
    return f"{ORIGIN}/stock/{number}"


def waiting_s(milliseconds):
    return min(milliseconds / 1000, MOST_WAITING_S)


def waited(milliseconds):
    return b"waited %d ms" % milliseconds


def work(microseconds):
    """Uses the CPU for so long, by the clock of this thread: on a busy machine it takes longer, but costs the same."""
    end = time.thread_time_ns() + int(min(microseconds / 1_000_000, MOST_WORK_S) * 1_000_000_000)
    while time.thread_time_ns() < end:
        pass
    return b"worked %d us" % microseconds


def go_wrong():
    raise WentWrong("as asked for")


class Unexpected(logging.Filter):
    """Lets everything through but the errors that were asked for.

    Writing their tracebacks would cost more than the requests, and fill the disc in a long run.
    """

    def filter(self, record):
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, WentWrong)


def silence_expected_errors(logger):
    logging.getLogger(logger).addFilter(Unexpected())


def log_unexpected(error):
    """For who has no logger: the traceback on stderr."""
    if not isinstance(error, WentWrong):
        traceback.print_exception(error)
