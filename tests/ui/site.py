"""A server of the web interface that answers with traces that a test makes itself.

Owns: the routes that the page of a trace and the comparison ask for. Must not know: browsers, what is in a trace.
Invariants: answers have the shapes of docs/backend.md, and the policy against foreign scripts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Trace = dict[str, Any]

UI = Path(__file__).resolve().parents[2] / "autoinstr" / "backend" / "ui"


def summary(trace: Trace) -> dict[str, Any]:
    """What a search answers of a trace (docs/backend.md)."""
    spans, processes = trace["spans"], trace["processes"]
    root = spans[0]
    names = [processes.get(span["processID"], {}).get("serviceName", "unknown-service") for span in spans]
    return {
        "traceID": trace["traceID"], "service": names[0], "operation": root["operationName"],
        "start_us": root["startTime"], "duration_us": root["duration"], "spans": len(spans), "errors": 0, "orphans": 0, "sampler": None,
        "services": [{"name": name, "spans": names.count(name), "errors": 0} for name in sorted(set(names))],
    }  # fmt: skip


TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}


STORE = {"kind": "stub", "spans": 1, "traces": 1, "bytes": 0, "evicted_spans": 0}


class Site:
    """What the server answers; tests change ``traces``, ``raw`` and ``losses`` at any time and read ``asked``."""

    def __init__(self) -> None:
        self.traces: dict[str, Trace] = {}
        self.raw: dict[str, Trace] = {}
        self.losses: dict[str, Any] = {"services": [], "receiver": {}}
        self.asked: list[str] = []
        self.ports = {"query": 0}  # by the name that a backend under test has for it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['query']}"

    def put(self, trace: Trace) -> str:
        """Have the trace served; the answer is the path of its page."""
        self.traces[trace["traceID"]] = trace
        return f"/trace/{trace['traceID']}"

    def answer(self, target: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a request."""
        self.asked.append(target)
        parts = urlsplit(target)
        if parts.path.startswith("/ui/") and not parts.path.startswith("/ui/data/"):
            file = UI / parts.path.removeprefix("/ui/")
            return (
                (200, TYPES[file.suffix], file.read_bytes()) if file.is_file() else (404, "text/plain", b"no such file")
            )
        if parts.path == "/empty":
            return 200, TYPES[".html"], b"<!doctype html><title>Empty</title><link rel=icon href=ui/icon.svg>"
        data = self._data(parts.path, parse_qs(parts.query))
        if data is None:
            return 200, TYPES[".html"], (UI / "index.html").read_bytes()
        return 404 if data.get("errors") else 200, TYPES[".json"], json.dumps(data).encode()

    def _data(self, path: str, query: Mapping[str, list[str]]) -> dict[str, Any] | None:
        if path.startswith("/api/traces/"):
            wanted = path.removeprefix("/api/traces/")
            trace = self.raw.get(wanted) if query.get("raw") == ["true"] else None
            trace = trace or self.traces.get(wanted)
            return (
                {"data": [trace], "errors": None}
                if trace
                else {"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}
            )
        return {
            "/ui/data/losses": self.losses,
            "/ui/data/search": {"traces": [summary(trace) for trace in self.traces.values()]},
            "/ui/data/status": {"version": "0", "uptime_s": 5, "limits": {}, "store": STORE},
        }.get(path)  # fmt: skip


CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'none'"


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """The web interface and ``site``'s data on a free port of this machine, with the policy that the backend sends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, content = site.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            """Nothing: what matters is asserted."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    site.ports["query"] = server.server_port
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
