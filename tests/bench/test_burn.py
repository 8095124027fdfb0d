"""The burner: a variant whose cost is known, which every measurement has to find."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import variants
from autoinstr.bench.burn import _autoinstr_burn
from autoinstr.bench.burn._autoinstr_burn import Burner
from autoinstr.bench.target import Target, free_port

BIN = os.path.dirname(sys.executable)
#: Far more than anything else that a request costs, so that a busy machine does not hide it.
BURNED_US = 4000
#: Tells at ``/clock`` the CPU time of the process; ``/`` does nothing.
WSGI = """
import json, time
def app(environ, start_response):
    body = json.dumps(time.process_time_ns()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = """
import json, time
async def app(scope, receive, send):
    if scope["type"] != "http":
        return await lifespan(receive, send)
    body = json.dumps(time.process_time_ns()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
"""
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket", "--workers", "1"]
SERVERS = {
    "gunicorn": [*GUNICORN, "--worker-class", "gthread", "--threads", "2", "wsgi:app"],
    "gunicorn preloaded": [*GUNICORN, "--preload", "wsgi:app"],
    "gunicorn asgi": [*GUNICORN, "--worker-class", "asgi", "asgi:app"],
    "uvicorn": ["uvicorn", "--port", "{port}", "asgi:app"],
    "wsgiref": ["python", "-c", "from wsgiref import simple_server as s; import wsgi;"
                " s.make_server('127.0.0.1', {port}, wsgi.app).serve_forever()"],
    "werkzeug": ["python", "-c", "from werkzeug import serving as s; import wsgi; s.run_simple('127.0.0.1', {port}, wsgi.app)"],
}  # fmt: skip


def application(environ: Any, start_response: Any) -> list[bytes]:
    return [b"x"]


async def asgi_application(scope: Any, receive: Any, send: Any) -> None:
    await send({})


async def send(message: Any) -> None:
    return None


def added_us(calls: Callable[[Callable[..., Any]], None], wrapped: Callable[..., Any], plain: Callable[..., Any]) -> float:
    """CPU that one of 2,000 calls costs more, the two kinds taking turns every ten calls.

    The median of the turns: on a busy machine some are interrupted, and what the processor forgets by that costs both kinds.
    """
    differences = []
    for _ in range(200):
        moments = [time.process_time_ns()]
        for one in (wrapped, plain):
            calls(one)
            moments.append(time.process_time_ns())
        differences.append((moments[1] - moments[0]) - (moments[2] - moments[1]))
    return statistics.median(differences) / 10 / 1000


def ten_calls(one: Callable[..., Any]) -> None:
    for _ in range(10):
        one({}, None)


def test_burns_what_it_says() -> None:
    """The positive control would call a right measurement wrong, or a wrong one right."""
    assert added_us(ten_calls, Burner(200).wrapped(application), application) == pytest.approx(200, rel=0.03)


def test_burns_what_it_says_in_coroutines() -> None:
    """As above, for ASGI."""
    loop = asyncio.new_event_loop()

    async def ten(one: Callable[..., Any]) -> None:
        for _ in range(10):
            await one({"type": "http"}, None, send)

    def calls(one: Callable[..., Any]) -> None:
        loop.run_until_complete(ten(one))

    try:
        assert added_us(calls, Burner(200).wrapped(asgi_application), asgi_application) == pytest.approx(200, rel=0.03)
    finally:
        loop.close()


def test_burns_in_a_share_of_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost that comes with some requests, as sampling's, would not be controlled for."""
    clock = FakeClock()
    monkeypatch.setattr(_autoinstr_burn.time, "thread_time_ns", clock)
    burning = Burner(100, share=0.2, seed=3, loss_ns=0).wrapped(application)
    for _ in range(2000):
        burning({}, None)
    again = clock.now
    assert 0.2 * 2000 * 100_000 == pytest.approx(again, rel=0.1)
    other = Burner(100, share=0.2, seed=3, loss_ns=0).wrapped(application)
    for _ in range(2000):
        other({}, None)
    assert clock.now == 2 * again


class FakeClock:
    """A microsecond passes with each look."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1000
        return self.now


def test_nobody_burns_twice() -> None:
    """A request through two servers' hands (uvicorn under gunicorn) would cost twice what the control says."""
    burner = Burner(1, loss_ns=0)
    once = burner.wrapped(application)
    assert burner.wrapped(once) is once


def test_other_scopes_do_not_burn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting and ending would burn as if they were requests."""
    clock = FakeClock()
    monkeypatch.setattr(_autoinstr_burn.time, "thread_time_ns", clock)
    burning = Burner(100, loss_ns=0).wrapped(asgi_application)
    asyncio.run(burning({"type": "lifespan"}, None, send))
    assert clock.now == 0
    asyncio.run(burning({"type": "http"}, None, send))
    assert clock.now >= 100_000


def cpu_us_per_request(server: str, folder: Path, variant: str) -> float:
    """Of 20 requests, by the clock of the process that serves."""
    (folder / "wsgi.py").write_text(WSGI)
    (folder / "asgi.py").write_text(ASGI)
    port = free_port()
    one = variants.parse(variant)
    target = Target.start(
        variants.command(one, [word.format(port=port) for word in SERVERS[server]]),
        variants.environment(one, {}, {"PYTHONPATH": str(folder)}),
        url=f"http://127.0.0.1:{port}/",
        log=folder / "log",
        folder=folder,
        timeout_s=60,
    )
    try:
        clocks = [clock_of(port) for _ in range(21)]
    finally:
        target.kill()
    return (clocks[-1] - clocks[0]) / 20 / 1000


def clock_of(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/")
        return int(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


@pytest.mark.parametrize("server", SERVERS)
def test_servers_burn(server: str, tmp_path: Path) -> None:
    """The control would find no cost, and nobody know whether the measurement or the burner is at fault."""
    cost = cpu_us_per_request(server, tmp_path, f"burn:{BURNED_US}")
    assert BURNED_US <= cost < 2 * BURNED_US, (tmp_path / "log").read_text()


def test_bare_does_not_burn(tmp_path: Path) -> None:
    """The servers above would be slow by themselves."""
    assert cpu_us_per_request("gunicorn", tmp_path, "none") < BURNED_US


def python(text: str, path: str = variants.BURN_FOLDER, **more: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": path, **more}
    return subprocess.run([sys.executable, "-c", text], env=environ, capture_output=True, text=True, timeout=60)


def test_leaves_no_trace_of_its_start(tmp_path: Path) -> None:
    """A program's own sitecustomize would not run any more, or its imports find ours."""
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    text = "import sys; print(sys.modules['sitecustomize'].__file__); print(sys.path)"
    run = python(text, os.pathsep.join([variants.BURN_FOLDER, str(tmp_path)]), AUTOINSTR_BENCH_BURN_US="50")
    assert run.stderr == ""
    theirs, file, path = run.stdout.splitlines()
    assert (theirs, file) == ("theirs", str(tmp_path / "sitecustomize.py"))
    assert variants.BURN_FOLDER not in path


def test_a_control_that_cannot_work_ends_the_program() -> None:
    """It would run bare, and be reported as burning."""
    run = python("print('runs')", AUTOINSTR_BENCH_BURN_US="fifty")
    assert run.returncode != 0
    assert "runs" not in run.stdout
    assert "could not convert string to float: 'fifty'" in run.stderr


def test_a_server_that_is_not_as_expected_ends_the_program(tmp_path: Path) -> None:
    """As above, for a server that keeps its application elsewhere in a later version."""
    (tmp_path / "uvicorn").mkdir()
    (tmp_path / "uvicorn" / "__init__.py").touch()
    (tmp_path / "uvicorn" / "config.py").touch()
    path = os.pathsep.join([variants.BURN_FOLDER, str(tmp_path)])
    run = python("import uvicorn.config; print('runs')", path, AUTOINSTR_BENCH_BURN_US="50")
    assert run.returncode != 0
    assert "has no attribute 'Config'" in run.stderr
