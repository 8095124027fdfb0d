"""What is known of spans that never came, in the book and end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from autoinstr.backend.receive.losses import MAX_CLIENTS, MAX_SERVICES, OTHER_SERVICES, LossBook
from autoinstr.model import Batch, Resource, SpanData

from .conftest import HOST, Backend, poll

CLIENT = {"client-uuid": "one", "hostname": "host"}


def batch(
    sequence: int | None = None,
    lost: tuple[int, int, int] | None = None,
    client: dict[str, Any] | None = None,
    service: str = "shop",
) -> Batch:
    attributes = CLIENT if client is None else client
    return Batch(Resource(service, attributes), [SpanData("op", 1, 1)], sequence, lost)


def row(book: LossBook, service: str = "shop") -> dict[str, Any]:
    return next(row for row in book.report()["services"] if row["name"] == service)


def packets(*sequences: int) -> int:
    book = LossBook()
    for sequence in sequences:
        book.received("udp", [batch(sequence)])
    return row(book)["packets"]


@pytest.mark.parametrize(
    ("sequences", "missing"),
    [
        ((1, 2, 3), 0),
        ((1, 2, 5, 6), 2),
        ((7, 8), 0),  # What was before our time is not lost.
        ((1, 3, 2, 4), 0),  # Overtaken, not lost.
        ((1, 4, 2, 5), 1),
        ((1, 2, 2, 3), 0),  # Datagrams may come twice.
        ((100, 101, 1, 2, 3), 0),  # Begun anew.
        ((100, 1, 3), 1),
        ((1, 2**62, 2**62 + 1), 0),  # No client loses so many.
        ((1, -5, 2**63 - 1), 0),
    ],
)
def test_gaps_in_the_numbers_of_batches(sequences: tuple[int, ...], missing: int) -> None:
    """Datagrams vanish without a trace; a gap is the only sign, and a false one would send people searching."""
    assert packets(*sequences) == missing


def test_losses_of_a_client_are_counted_once() -> None:
    """A client repeats its counts with every batch, and begins at zero when it is started again."""
    book = LossBook()
    for sequence, lost in enumerate([(5, 0, 0), (5, 0, 1), (7, 2, 1), (1, 0, 0)], start=1):
        book.received("udp", [batch(sequence, lost)])
    assert {name: row(book)[name] for name in ("client_queue", "client_too_large", "client_failed")} == {
        "client_queue": 8,
        "client_too_large": 2,
        "client_failed": 1,
    }


def test_counts_of_an_overtaken_batch_are_not_taken_for_a_new_beginning() -> None:
    """Two datagrams that change places would otherwise double all losses so far."""
    book = LossBook()
    for sequence, lost in [(1, 10), (3, 30), (2, 20), (4, 40)]:
        book.received("udp", [batch(sequence, (lost, 0, 0))])
    assert row(book)["client_queue"] == 40


def test_clients_are_told_apart() -> None:
    """Ten replicas number their batches each for itself; taken for one they would seem to lose nearly all."""
    book = LossBook()
    for sequence in range(1, 5):
        for client in ("one", "two"):
            book.received("udp", [batch(sequence * (1 if client == "one" else 10), client={"client-uuid": client})])
    assert row(book)["packets"] == 27
    # By process where there is nothing better; without that, gaps mean nothing.
    for number, client in enumerate([{"hostname": "a", "process.pid": 1}, {"hostname": "a", "process.pid": 2}, {}, {}]):
        book.received("udp", [batch(1 + 50 * number, client=client, service="other")])
    assert row(book, "other")["packets"] == 0
    # One client by two ways has two rows of numbers.
    book.received("udp", [batch(1, service="both")])
    book.received("http", [batch(900, service="both")])
    assert row(book, "both")["packets"] == 0


def test_the_book_is_bounded() -> None:
    """A client that makes up names must not fill the memory."""
    book = LossBook()
    for number in range(MAX_SERVICES + 50):
        book.received("udp", [batch(service=f"service-{number}")])
    report = book.report()["services"]
    assert len(report) == MAX_SERVICES + 1
    assert row(book, OTHER_SERVICES)["received"] == 50
    for number in range(MAX_CLIENTS + 50):
        book.received("udp", [batch(1, client={"client-uuid": str(number)}, service="service-1")])
    assert len(book._clients) == MAX_CLIENTS


def test_absurd_counts_are_not_believed() -> None:
    """One hostile datagram would otherwise make the figures worthless for good."""
    book = LossBook()
    book.received("udp", [batch(1, (2**62, -5, 3))])
    assert [row(book)[name] for name in ("client_queue", "client_too_large", "client_failed")] == [0, 0, 3]


PROGRAM = """
import autoinstr, time
for number in range(20_000):
    with autoinstr.span("work"):
        pass
autoinstr.flush(10)
with autoinstr.span("after"):
    pass
autoinstr.flush(10)
"""


def test_what_the_real_agent_drops_is_seen_here(backend: Backend) -> None:
    """A loop that makes spans faster than they are sent leaves gaps, which the interface has to explain."""
    environ = {
        **os.environ,
        "OTEL_SERVICE_NAME": "overflowing",
        "JAEGER_AGENT_HOST": HOST,
        "JAEGER_AGENT_PORT": str(backend.ports["agent"]),
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50",
        "JAEGER_SAMPLER_TYPE": "const",
        "JAEGER_SAMPLER_PARAM": "1",
    }
    command = [sys.executable, "-m", "autoinstr", "-c", PROGRAM]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    received = 'autoinstr_service_received_spans_total{service="overflowing"}'
    total = poll(
        lambda: (lost := backend.lost("overflowing", "client_queue")) and backend.metric(received) + lost,
        "losses of the client",
    )
    assert total == 20_001
    assert backend.lost("overflowing", "packets") == 0
