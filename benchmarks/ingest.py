"""Spans per second that the backend takes, from the socket to the store on disk, with nothing lost.

The backend has one CPU, the sender the other. The sender never has more than a window of spans under way, so the figure is
what the backend keeps up with, not what a queue can hold. Spans are encoded before the clock starts; each is new: its ids, its
times and one of its six attributes are nobody else's.
"""

import argparse
import http.client
import json
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from measure import HERE, MEASURED_CPU, PEER_CPU, commit, machine, start_pinned, table

sys.path.insert(0, str(HERE.parent))

import os  # noqa: E402

from autoinstr.model import Kind, Resource, SpanData, Status  # noqa: E402
from autoinstr.wire import jaeger, otlp  # noqa: E402

PORTS = ("query", "sampling", "collector", "otlp", "otlp-grpc", "zipkin", "agent", "agent-binary")
SERVICES, OPERATIONS, SPANS_PER_TRACE = 12, 12, 20
OTLP_SPANS, OTLP_CONNECTIONS = 512, 8
#: Spans under way at most.
WINDOW = 20_000
#: What a case sends: encoder, spans in a payload (datagrams are cut at 65,000 bytes by the encoder itself), how.
CASES = {
    "UDP compact, large datagrams": ("udp", 512),
    "UDP compact, 10 spans a datagram": ("udp", 10),
    "OTLP protobuf over HTTP": ("otlp", OTLP_SPANS),
}


def make_spans(count, dice):
    """Traces of some services, as (service, span); the spans of a trace follow each other."""
    now = time.time_ns()
    made = []
    while len(made) < count:
        trace_id, parent = dice.getrandbits(127) or 1, 0
        for position in range(SPANS_PER_TRACE):
            service, operation = dice.randrange(SERVICES), dice.randrange(OPERATIONS)
            is_error = dice.random() < 0.01
            start = now + len(made) * 1000
            span = SpanData(
                f"GET /api/resource-{operation}",
                trace_id,
                dice.getrandbits(63) or 1,
                parent,
                kind=Kind.SERVER if position % 2 == 0 else Kind.CLIENT,
                start_ns=start,
                end_ns=start + dice.randrange(10**5, 10**8),
                attributes={
                    "http.method": dice.choice(("GET", "POST")),
                    "http.route": f"/api/resource-{operation}",
                    "http.status_code": 500 if is_error else 200,
                    "user.id": f"user-{dice.randrange(100_000)}",
                    "peer.service": f"service-{dice.randrange(SERVICES)}",
                    "component": "flask",
                },
                status=Status.ERROR if is_error else Status.UNSET,
            )
            if parent == 0 or dice.random() < 0.5:
                parent = span.span_id
            made.append((service, span))
    return made[:count]


def make_payloads(kind, size, count):
    """(payload, spans in it), each of one service, as senders make them."""
    encoders = []
    for number in range(SERVICES):
        resource = Resource(f"service-{number}", {"host.name": f"host-{number}", "process.pid": 1000 + number})
        encoders.append(jaeger.CompactEncoder(resource) if kind == "udp" else otlp.ProtobufEncoder(resource))
    waiting = [[] for _ in encoders]
    payloads = []

    def flush(service):
        if waiting[service]:
            payloads.extend(encoders[service].encode(waiting[service])[0])
            waiting[service] = []

    for service, span in make_spans(count, random.Random(1)):
        waiting[service].append(span)
        if len(waiting[service]) >= size:
            flush(service)
    for service in range(SERVICES):
        flush(service)
    return payloads


class Backend:
    """A running backend on the measured CPU."""

    def __init__(self, process, ports):
        self.process, self.ports = process, ports
        self._connection = http.client.HTTPConnection("127.0.0.1", ports["query"], timeout=60)

    def metrics(self):
        self._connection.request("GET", "/metrics")
        text = self._connection.getresponse().read().decode()
        return {name: int(number) for name, number in re.findall(r"^(autoinstr_\w+) (\d+)$", text, re.MULTILINE)}

    def written(self):
        return self.metrics()["autoinstr_writer_written_spans_total"]

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@contextmanager
def backend(storage, options):
    with tempfile.TemporaryDirectory(prefix="autoinstr-ingest-") as folder:
        ports_file = Path(folder, "ports.json")
        words = [word for name in PORTS for word in (f"--{name}-port", "0")]
        command = [sys.executable, "-m", "autoinstr", "serve", "--ports-file", str(ports_file), *words]
        command += ["--storage", storage, "--data", folder, "--max-bytes", "20G", "--max-spans", "100000000", *options]
        process = start_pinned(command, MEASURED_CPU, stdout=sys.stderr)
        try:
            deadline = time.monotonic() + 30
            while not ports_file.exists():
                assert process.poll() is None, "the backend did not start"
                assert time.monotonic() < deadline, "the backend did not start in time"
                time.sleep(0.01)
            yield Backend(process, json.loads(ports_file.read_text()))
        finally:
            process.terminate()
            process.wait(60)


def send_udp(at, payloads):
    """As fast as the window lets us; it is looked at once per tenth of it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", at.ports["agent"]))
    sent = looked_at = 0
    for payload, spans in payloads:
        sock.send(payload)
        sent += spans
        if sent - looked_at >= WINDOW // 10:
            looked_at = sent
            deadline = time.monotonic() + 30
            while sent - at.written() > WINDOW and time.monotonic() < deadline:
                time.sleep(0.02)
    sock.close()


def send_otlp(at, payloads):
    """Each connection sends its next request when the last one was answered: when it is stored."""
    queue = iter(payloads)
    lock = threading.Lock()

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", at.ports["otlp"], timeout=60)
        while True:
            with lock:
                payload, _ = next(queue, (None, 0))
            if payload is None:
                return connection.close()
            connection.request("POST", "/v1/traces", payload, {"Content-Type": "application/x-protobuf"})
            response = connection.getresponse()
            assert response.read() == b"", "spans were refused"
            assert response.status == 200, response.status

    threads = [threading.Thread(target=work) for _ in range(OTLP_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(kind, payloads, storage, options):
    """One fresh backend, all payloads."""
    count = sum(spans for _, spans in payloads)
    with backend(storage, options) as at:
        cpu, started = at.cpu_seconds(), time.monotonic()
        (send_udp if kind == "udp" else send_otlp)(at, payloads)
        deadline = time.monotonic() + 60
        while at.written() < count and time.monotonic() < deadline:
            time.sleep(0.01)
        wall, cpu = time.monotonic() - started, at.cpu_seconds() - cpu
        figures = at.metrics()
        return {
            "spans": count,
            "lost": count - at.written(),
            "per_s": count / wall,
            "per_cpu_s": count / cpu,
            "kernel_drops": figures["autoinstr_udp_kernel_dropped_datagrams_total"],
            "bytes_per_span": figures.get("autoinstr_store_bytes", 0) / count,
            "writer_share": figures["autoinstr_writer_microseconds_total"] / 1e6 / wall,
            "resident_mb": at.resident_bytes() / 2**20,
        }


def row(name, samples):
    def middle(key, digits=0):
        return f"{statistics.median(sample[key] for sample in samples):,.{digits}f}"

    lost = sum(sample["lost"] for sample in samples)
    figures = (middle("per_s"), middle("per_cpu_s"), f"{lost:,}", middle("bytes_per_span"), middle("resident_mb"))
    return [name, *figures]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spans", type=int, default=300_000, help="per run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="fresh backends per case (default: %(default)s)")
    parser.add_argument("--storage", default="sqlite")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="beginnings of their names")
    parser.add_argument("--results", default=str(HERE / "results"))
    parser.add_argument("backend_options", nargs="*", help="further options of the backend, after --")
    options = parser.parse_args()
    os.sched_setaffinity(0, {PEER_CPU})
    record = {"commit": commit(), "machine": machine(), "spans": options.spans, "samples": {}}
    rows = []
    for name, (kind, size) in CASES.items():
        if not name.startswith(tuple(options.cases)):
            continue
        payloads = make_payloads(kind, size, options.spans)
        samples = [run(kind, payloads, options.storage, options.backend_options) for _ in range(options.runs)]
        record["samples"][name] = samples
        rows.append(row(name, samples))
    head = ["Case", "Spans/s", "Spans per CPU-second", "Lost", "Bytes/span on disk", "Memory, MB"]
    facts = record["machine"]
    intro = f"# ingest\n\n{facts['cpu']}, {facts['kernel']}, Python {facts['python']}, one CPU, {options.storage}\n\n"
    text = intro + table(head, rows)
    print(text)
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"ingest-{time.strftime('%Y-%m-%dT%H%M', time.gmtime())}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
