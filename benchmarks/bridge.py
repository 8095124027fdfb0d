"""OpenTelemetry's API and instrumentation packages on their own SDK and on the bridge: CPU time per span and per request.

    python benchmarks/bridge.py [--rounds 15] [--only span flask ...] [--results FOLDER]

For each scenario three processes are up at once and take turns, block by block: bare (no tracing), the SDK (BatchSpanProcessor,
OTLP over HTTP) and the bridge (the same packages, our own instruments of those libraries switched off, OTLP over HTTP). All
send to one counting sink on the other CPU. A block's CPU time is that of the whole process, exporting threads and a flush at its end
included; what tracing adds is the difference to the bare block of the same round. Results: benchmarks/results/bridge.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

HERE = Path(__file__).resolve().parent
VARIANTS = ("bare", "sdk", "bridge")
#: scenario: (requests in a block, instrumentation package, its class)
SCENARIOS = {
    "span": (2000, "", ""),
    "requests": (250, "requests", "RequestsInstrumentor"),
    "flask": (500, "flask", "FlaskInstrumentor"),
    "fastapi": (400, "fastapi", "FastAPIInstrumentor"),
    "sqlite3": (1500, "sqlite3", "SQLite3Instrumentor"),
    "jinja2": (1500, "jinja2", "Jinja2Instrumentor"),
}
OWN_OFF = "flask,werkzeug,fastapi,starlette,uvicorn,requests,urllib3,http.client,httpx,sqlite3,threading,futures"
MEASURED_CPU, PEER_CPU = 0, max(os.sched_getaffinity(0))


# The measured process.


def set_up_sdk(endpoint: str) -> Callable[[], object]:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    # As large as a block, so that neither loses spans.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces"), max_queue_size=1 << 15))
    trace.set_tracer_provider(provider)
    return provider.force_flush


def set_up_bridge(endpoint: str) -> Callable[[], object]:
    from autoinstr import flush, instrument, runtime

    lines = [
        ("opentelemetry.trace", "opentelemetry", "autoinstr.bridge.opentelemetry:patch"),
        ("opentelemetry.propagate", "opentelemetry", "autoinstr.bridge.opentelemetry:patch_propagation"),
    ]
    instrument.TABLE = (*instrument.TABLE, *(line for line in lines if line not in instrument.TABLE))
    os.environ.update(
        AUTOINSTR_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        JAEGER_SAMPLER_TYPE="const",
        JAEGER_SAMPLER_PARAM="1",
        AUTOINSTR_DISABLED_INSTRUMENTS=OWN_OFF,
    )
    runtime.start(os.environ)
    from opentelemetry import trace

    assert type(trace.get_tracer_provider()).__module__ == "autoinstr.bridge.opentelemetry"
    return lambda: flush(10)


def span_scenario(origin: str) -> Callable[[], object]:
    """A root with three attributes and one child: two spans. Bare is without the API, whose empty spans cost something, too."""
    if VARIANT == "bare":
        return lambda: None
    from opentelemetry import trace

    tracer = trace.get_tracer("shop")

    def run() -> None:
        with tracer.start_as_current_span("order", attributes={"customer": 4711, "country": "NL"}) as span:
            with tracer.start_as_current_span("pay"):
                pass
            span.set_attribute("paid", True)

    return run


def requests_scenario(origin: str) -> Callable[[], object]:
    import requests

    session = requests.Session()
    session.trust_env = False
    return lambda: session.get(origin).content


def flask_scenario(origin: str) -> Callable[[], object]:
    from flask import Flask
    from workloads import environ_of_server

    app = Flask(__name__)
    app.add_url_rule("/", "hello", lambda: "hello")
    instrument_app("flask", app)
    template = environ_of_server()

    def run() -> None:
        body = app(template.copy(), lambda status, headers, exc_info=None: None)
        b"".join(body)
        body.close()

    return run


def fastapi_scenario(origin: str) -> Callable[[], object]:
    import asyncio

    from fastapi import FastAPI
    from workloads import scope_of_server

    # Its own spans are left out: measured is the package.
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})

    @app.get("/")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    instrument_app("fastapi", app)
    template = scope_of_server()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        pass

    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(app(template.copy(), receive, send))


def sqlite3_scenario(origin: str) -> Callable[[], object]:
    import sqlite3

    cursor = sqlite3.connect(":memory:").cursor()

    def run() -> None:
        cursor.execute("SELECT 1")
        cursor.fetchone()

    return run


def jinja2_scenario(origin: str) -> Callable[[], object]:
    import jinja2

    template = jinja2.Environment(autoescape=True).from_string("Hello {{ name }}")
    return lambda: template.render(name="world")


def instrument_app(name: str, app: Any) -> None:
    """Flask and FastAPI are instrumented by application."""
    if VARIANT != "bare":
        module = importlib.import_module(f"opentelemetry.instrumentation.{name}")
        getattr(module, SCENARIOS[name][2])().instrument_app(app)


def measured(scenario: str, endpoint: str, origin: str) -> None:
    """Make a block of requests for every line on stdin, and answer with its CPU time in microseconds."""
    flush: Callable[[], object] = {"bare": lambda _: None, "sdk": set_up_sdk, "bridge": set_up_bridge}[VARIANT](endpoint) or (
        lambda: None
    )
    count, package, name = SCENARIOS[scenario]
    if package and VARIANT != "bare" and package not in {"flask", "fastapi"}:
        getattr(importlib.import_module(f"opentelemetry.instrumentation.{package}"), name)().instrument()
    run = globals()[f"{scenario}_scenario"](origin)
    for _ in range(count):
        run()
    flush()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        for _ in range(count):
            run()
        flush()
        print((time.process_time() - began) / count * 1e6, flush=True)


# The process that measures.


def start(command: list[str], cpu: int) -> subprocess.Popen[str]:
    def pin() -> None:
        os.sched_setaffinity(0, {cpu})

    options: dict[str, Any] = {"text": True, "cwd": HERE, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, preexec_fn=pin, **options)  # noqa: PLW1509 - no threads here that could make it unsafe


@contextlib.contextmanager
def running(command: list[str], cpu: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first line that it prints."""
    process = start(command, cpu)
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def take(endpoint: str) -> int:
    """How many spans the sink has had since it was last asked."""
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/-/take", method="POST"), timeout=60) as answer:
        return int(json.load(answer)["spans"])


def measure(scenario: str, rounds: int, endpoint: str, origin: str) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        processes = {}
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--measured", scenario, variant, endpoint, origin]
            processes[variant], line = stack.enter_context(running(command, MEASURED_CPU))
            assert line == "ready\n", f"{variant} of {scenario} did not start"
        samples: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        spans = dict.fromkeys(VARIANTS, 0)
        take(endpoint)
        for number in range(rounds):
            order = VARIANTS[number % 3 :] + VARIANTS[: number % 3]
            for variant in order:
                processes[variant].stdin.write("\n")
                processes[variant].stdin.flush()
                samples[variant].append(float(processes[variant].stdout.readline()))
                spans[variant] += take(endpoint)
    requests = rounds * SCENARIOS[scenario][0]
    added = {
        variant: statistics.median(one - bare for one, bare in zip(samples[variant], samples["bare"]))
        for variant in ("sdk", "bridge")
    }
    per_request = {variant: spans[variant] / requests for variant in ("sdk", "bridge")}
    return {"bare": statistics.median(samples["bare"]), "added": added, "spans": per_request, "samples": samples}


def table(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| scenario | bare µs | spans/request, SDK | bridge | added µs/request, SDK | bridge | µs/span, SDK | bridge | SDK / bridge |",
        "| --- |" + " ---: |" * 8,
    ]
    for scenario, one in found.items():
        (sdk, bridge), spans = (one["added"][variant] for variant in ("sdk", "bridge")), one["spans"]
        rows.append(
            f"| {scenario} | {one['bare']:.1f} | {spans['sdk']:.2f} | {spans['bridge']:.2f} | {sdk:.1f} | {bridge:.1f} | "
            f"{sdk / spans['sdk']:.1f} | {bridge / spans['bridge']:.1f} | {sdk / bridge:.1f} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    os.sched_setaffinity(0, {PEER_CPU})
    sink = [sys.executable, "-m", "autoinstr.bench.sink", "--child", "--http=0", "--udp=0"]
    with running(sink, PEER_CPU) as (_, at), running([sys.executable, str(HERE / "origin.py")], PEER_CPU) as (_, origin):
        addresses = [f"http://127.0.0.1:{port}" for port in (json.loads(at)["http_port"], json.loads(origin)["port"])]
        found = {}
        for scenario in options.only:
            found[scenario] = measure(scenario, options.rounds, *addresses)
            print(table({scenario: found[scenario]}).splitlines()[-1], flush=True)
    packages = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation", "flask", "fastapi", "requests", "jinja2")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    text = (
        f"# OpenTelemetry's packages on their SDK and on the bridge, {now}\n\n"
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {options.rounds} rounds, load average at the end "
        f"{os.getloadavg()[0]:.1f}; {versions}. Medians of CPU time; what is added is the difference to the bare block of the same "
        f"round, sending included. Our own instruments of these libraries are off.\n\n{table(found)}"
    )
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "bridge.md").write_text(text)
    (options.results / "bridge.json").write_text(json.dumps({"date": now, "rounds": options.rounds, "scenarios": found}, indent=1) + "\n")
    print(text)


VARIANT = ""
if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        VARIANT = sys.argv[3]
        measured(sys.argv[2], *sys.argv[4:])
    else:
        main()
