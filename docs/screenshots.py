"""Makes the pictures of the web interface in ``docs/images``: a real backend, the test suite's shop, a real Chromium.

Run it from anywhere: ``python docs/screenshots.py [FOLDER]``. It needs the extra ``test`` and a Chromium on the PATH.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from autoinstr.model import Kind, Resource, SpanData  # noqa: E402
from autoinstr.wire.jaeger import BinaryEncoder  # noqa: E402
from ui import shop  # noqa: E402

PORTS = ("query", "sampling", "collector", "otlp", "otlp-grpc", "zipkin", "agent", "agent-binary")
SIZE = {"width": 1280, "height": 820}
WITHIN_S = 30.0
JSON = {"Content-Type": "application/json"}


def main(folder: Path) -> None:
    """All pictures, each about as it looks on a small laptop."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        sys.exit("there is no Chromium on the PATH (tried chromium, chromium-browser, google-chrome)")
    folder.mkdir(parents=True, exist_ok=True)
    with backend() as ports, sync_playwright() as driver:
        fill(ports)
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for pages in (PAGES, PAGES_WITH_LOSSES):
            for theme in ("light", "dark"):
                take_all(browser, ports, pages, theme, folder)
            lose(ports, "catalog")
        browser.close()


@contextmanager
def backend() -> Iterator[dict[str, int]]:
    """A backend of its own, on any free ports."""
    with tempfile.TemporaryDirectory() as folder:
        ports_file, strategies_file = Path(folder, "ports.json"), Path(folder, "strategies.json")
        strategies_file.write_text(json.dumps(STRATEGIES))
        options = [word for name in PORTS for word in (f"--{name}-port", "0")]
        command = [sys.executable, "-m", "autoinstr", "serve", "--storage", "memory", "--ports-file", str(ports_file),
                   "--strategies-file", str(strategies_file), *options]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + WITHIN_S
            while not ports_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the backend did not start")
                time.sleep(0.05)
            yield json.loads(ports_file.read_text())
        finally:
            process.terminate()
            process.wait(timeout=WITHIN_S)


STRATEGIES = {
    "default_strategy": {"type": "probabilistic", "param": 1},
    "service_strategies": [
        {
            "service": "storefront", "type": "probabilistic", "param": 0.1,
            "operation_strategies": [{"operation": "GET /search", "type": "probabilistic", "param": 1}],
        },
        {"service": "checkout", "type": "ratelimiting", "param": 2},
    ],
}  # fmt: skip


def fill(ports: dict[str, int]) -> None:
    """Fifty minutes of the shop, and a strategy that somebody has changed by hand."""
    for payload in shop.payloads(time.time_ns(), traces=220):
        ask(ports["otlp"], "/v1/traces", payload, JSON)
    strategy = json.dumps({"type": "probabilistic", "param": 0.25}).encode()
    ask(ports["query"], "/ui/data/sampling/catalog", strategy, JSON, "PUT")


def lose(ports: dict[str, int], service: str) -> None:
    """A client that had too much to send."""
    now = time.time_ns()
    span = SpanData("GET /prices", 11, 12, kind=Kind.SERVER, start_ns=now - 10**7, end_ns=now)
    encoder = BinaryEncoder(Resource(service, {"client-uuid": "c0ffee"}))
    for lost in ((0, 0, 0), (412, 3, 0)):
        (payload, _), *_ = encoder.encode([span], lost)[0]
        ask(ports["collector"], "/api/traces", payload, {"Content-Type": "application/x-thrift"})


#: Name of the picture: address (``{slow}`` and ``{failed}`` are traces), what must be there.
PAGES = {
    "search": ("/?limit=200", ".result"),
    "dependencies": ("/dependencies", "svg.graph"),
    "sampling": ("/sampling", ".sampling-service"),
    "trace": ("/trace/{failed}", "main h1"),
    "flame": ("/trace/{slow}?view=flame", "main h1"),
    "statistics": ("/trace/{slow}?view=statistics", "main h1"),
    "compare": ("/compare?a={slow}&b={failed}", "main h1"),
}
#: The same, after a client has lost something, which every page would tell.
PAGES_WITH_LOSSES = {"services": ("/services?open=catalog", ".operations")}


def take_all(
    browser: Browser, ports: dict[str, int], pages: dict[str, tuple[str, str]], theme: str, folder: Path
) -> None:
    """Open each page, wait until it is whole, and take it."""
    context = browser.new_context(viewport=SIZE, color_scheme=theme, reduced_motion="reduce", locale="en-GB")
    page = context.new_page()
    # Colours are given in the order in which services are met; the page of services meets all of them.
    page.goto(f"http://127.0.0.1:{ports['query']}/services")
    page.wait_for_selector(".service-table")
    slow = max(find(ports, service="mailer"), key=lambda trace: trace["duration_us"])["traceID"]
    failed = find(ports, service="payments", tags='{"error":"true"}')[0]["traceID"]
    for name, (path, ready) in pages.items():
        page.goto(f"http://127.0.0.1:{ports['query']}{path.format(slow=slow, failed=failed)}")
        page.wait_for_selector(ready)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"{name}-{theme}.png")
        print(f"{name}-{theme}.png")
    context.close()


def find(ports: dict[str, int], **query: str) -> list[dict[str, Any]]:
    """Summaries of traces."""
    found: list[dict[str, Any]] = json.loads(ask(ports["query"], f"/ui/data/search?{urllib.parse.urlencode(query)}"))["traces"]
    return found


def ask(
    port: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers or {}, method=method)
    with urllib.request.urlopen(request, timeout=WITHIN_S) as response:
        return response.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
