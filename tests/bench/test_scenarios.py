"""The scenarios as their users have them: real services under their real servers, real Locust, a real backend."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import parts, scenarios
from backend.conftest import running
from fakes import until
from instrument.origin import Server
from ports import free_port

FOLDER = Path(scenarios.__file__).parents[2] / "scenarios"
BIN = Path(sys.executable).parent
PROBE = "/"
DEADLINE_S = 60

locust_is_here = pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")
backend_is_here = pytest.mark.skipif(importlib.util.find_spec("starlette") is None, reason="no autoinstr[backend]")

#: Path: status and body, of every service. The origin says "12 in stock" each time.
ANSWERS = {
    "/": (200, b"hello, world " * 10),
    "/items/7": (200, b"item 7"),
    "/fanout?n=3": (200, b"36 in stock"),
    "/fanout": (200, b"36 in stock"),
    "/fanout-urllib?n=2": (200, b"24 in stock"),
    "/concurrent?n=5": (200, b"60 in stock"),
    "/slow?ms=1": (200, b"waited 1 ms"),
    "/rows?count=10": (200, b"24 in stock"),
    "/work?us=100": (200, b"worked 100 us"),
    "/error": (500, b"this went wrong"),
    "/missing": (404, b"nothing here"),
}
CALLS_OF_ANSWERS = 3 + 3 + 2 + 5


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def requests_of(url: str) -> int:
    """What a service has counted itself."""
    return json.loads(get(f"{url}/-/stats")[1])["requests"]


def is_up(url: str) -> bool:
    try:
        return get(url + PROBE)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


class Service:
    """A sample service that has answered one request."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log


@contextmanager
def serving(
    name: str, folder: Path, origin: str = "", launcher: tuple[str, ...] = (), **variables: str
) -> Iterator[Service]:
    """A sample service as the catalogue starts it, perhaps behind a launcher."""
    framework = scenarios.find_framework(name)
    if any(importlib.util.find_spec(module) is None for module in (framework.program[0], name) if module != "wsgi"):
        pytest.skip(f"{name} or {framework.program[0]} is not installed")
    port = free_port()
    program, *words = framework.command(port)
    log = folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*launcher, str(BIN / program), *words],
            cwd=framework.folder,
            env={**os.environ, **framework.environment(origin), **variables},
            stdout=output,
            stderr=output,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: is_up(url) or process.poll() is not None, "an answer of the service")
            assert process.poll() is None, log.read_text()
            yield Service(process, url, log)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


@pytest.fixture
def origin() -> Iterator[str]:
    with scenarios.start_origin() as started:
        yield started.url


# The services.


def hammer(url: str, threads: int, requests: int) -> None:
    """So many requests from each of so many threads, all over the paths, on connections that are kept."""
    host, _, port = url.rpartition("/")[2].partition(":")
    paths = [path for path in ANSWERS if "n=" not in path]
    wrong: list[object] = []

    def ask() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)
        for number in range(requests):
            path = paths[number % len(paths)]
            connection.request("GET", path)
            answer = connection.getresponse()
            found = answer.status, answer.read()
            if found != ANSWERS[path]:
                wrong.append((path, found))
            if found[0] == 500:  # Uvicorn hangs up after an exception.
                connection.close()
        connection.close()

    crowd = [threading.Thread(target=ask) for _ in range(threads)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert [] == wrong


@pytest.mark.parametrize("name", scenarios.FRAMEWORKS)
def test_every_service_does_the_same_and_counts(name: str, origin: str, tmp_path: Path) -> None:
    """A framework that answered something else, or a count that loses requests, would make comparisons and accounts wrong."""
    with serving(name, tmp_path, origin) as service:
        before = requests_of(service.url)
        assert {path: get(service.url + path) for path in ANSWERS} == ANSWERS
        assert requests_of(service.url) == before + len(ANSWERS)
        assert requests_of(origin) == CALLS_OF_ANSWERS
        hammer(service.url, threads=16, requests=60)
        assert requests_of(service.url) == before + len(ANSWERS) + 16 * 60
        # An error that was asked for does not fill the log.
        assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("name", ["flask", "django", "wsgi", "fastapi"])
def test_an_error_that_was_not_asked_for_is_in_the_log(name: str, tmp_path: Path) -> None:
    """Whoever forgets the origin gets 500s; without the reason in the log he would look for it elsewhere."""
    with serving(name, tmp_path) as service:
        assert get(service.url + "/fanout") == (500, b"this went wrong")
    assert "SCENARIO_ORIGIN is not set: start origin.py" in service.log.read_text()


def test_threads_count_exactly() -> None:
    """Two threads that count at the same moment are two requests. Readings in between are not counted."""
    served = loaded("apps/answers.py").Served()
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        crowd = [threading.Thread(target=lambda: [served.one_more() for _ in range(20_000)]) for _ in range(4)]
        for one in crowd:
            one.start()
        while any(one.is_alive() for one in crowd):
            assert 0 <= served.so_far() <= 80_000
    finally:
        sys.setswitchinterval(switch_interval)
    assert [served.so_far(), served.so_far()] == [80_000, 80_000]


# The origin.


def test_the_origin_ends_with_its_harness() -> None:
    """A harness that is killed must not leave a server on the machine that it measures."""
    code = "from autoinstr.bench import scenarios\nwith scenarios.start_origin() as o: print(o.process.pid, o.url, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        pid, url = one.stdout.readline().split()
        assert get(url) == (200, b'{"stock": 12}')
        one.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() or "(python) Z" in Path(f"/proc/{pid}/stat").read_text(), "its end")
    with pytest.raises(OSError, match="refused"):
        get(url)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="CPUs cannot be chosen here")
def test_the_origin_runs_where_it_is_put() -> None:
    """On the server's core its CPU would be taken from what is measured."""
    cpu = max(os.sched_getaffinity(0))
    with scenarios.start_origin({cpu}) as origin:
        assert os.sched_getaffinity(origin.process.pid) == {cpu}


def test_an_origin_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bare timeout would leave the user to guess."""
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "origin.py").write_text("raise OSError('no such address')")
    monkeypatch.setattr(scenarios, "folder", lambda: tmp_path)
    with pytest.raises(parts.Refusal, match="did not start: OSError: no such address"), scenarios.start_origin():
        pass


# The catalogue.


def test_every_locustfile_is_in_the_catalogue() -> None:
    """A scenario that is not listed is not found; one without its file fails in the middle of a campaign."""
    files = {path.stem for path in FOLDER.glob("*.py")} - {"common", "traces", "own"}
    assert files == set(scenarios.CATALOGUE)
    assert all(scenario.locustfile.is_file() for scenario in scenarios.CATALOGUE.values())
    assert scenarios.folder() == FOLDER


def test_every_scenario_fits_its_services() -> None:
    """A readiness path that fails, or a framework that does not exist, would stop each run at its start."""
    for scenario in scenarios.CATALOGUE.values():
        assert scenario.path in {*ANSWERS, "/fanout-urllib?n=3"}
        assert set(scenario.frameworks) <= set(scenarios.FRAMEWORKS)
        assert ("n=" in scenario.path) <= scenario.needs_origin
    assert {name for name, scenario in scenarios.CATALOGUE.items() if not scenario.is_measurable} == {
        "burst",
        "e2e_trace",
    }


def test_a_wrong_name_is_answered_with_near_ones() -> None:
    """A typing error should cost one look, not a search through the documentation."""
    with pytest.raises(parts.Refusal, match="no scenario 'fanout_request'; did you mean fanout_requests") as refusal:
        scenarios.find("fanout_request")
    assert "e2e_trace" in str(refusal.value)
    with pytest.raises(parts.Refusal, match="no framework 'flsk'; did you mean flask"):
        scenarios.find_framework("flsk")
    with pytest.raises(parts.Refusal, match="asgi_concurrent is for fastapi, starlette, not for flask"):
        scenarios.find_framework("flask", scenarios.find("asgi_concurrent"))
    assert scenarios.find_framework("fastapi", scenarios.find("hello")).name == "fastapi"


def test_the_packaged_files_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a wheel there is no checkout beside the package; without either the user is told what to install."""
    module = tmp_path / "autoinstr" / "bench" / "scenarios.py"
    monkeypatch.setattr(scenarios, "__file__", str(module))
    with pytest.raises(parts.Refusal, match="install autoinstr from a wheel"):
        scenarios.folder()
    for folder in (tmp_path / "scenarios", module.parent / "_scenarios"):
        (folder / "apps").mkdir(parents=True)
        (folder / "apps" / "origin.py").touch()
        assert scenarios.folder() == folder


# The locustfiles.


def locust(*words: str, host: str = "http://127.0.0.1:1", folder: Path = FOLDER, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--host", host, *words]
    environ = {**os.environ, **variables}
    return subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What Locust said, once it has ended."""
    try:
        return process.communicate(timeout=DEADLINE_S)[0]
    finally:
        process.kill()


@contextmanager
def loading(service: Service, requests: int, *words: str, path: str = "") -> Iterator[subprocess.Popen[str]]:
    """Locust, which is asked to end once the service has got so many requests; what has begun is finished."""
    before = requests_of(service.url)
    process = locust(*words, "--stop-timeout", "30", host=service.url + path)
    try:
        until(lambda: requests_of(service.url) >= before + requests or process.poll() is not None, "load")
        process.send_signal(signal.SIGTERM)
        yield process
    finally:
        process.kill()


PLAIN = ("hello", "fanout_requests", "fanout_urllib", "rows", "asgi_concurrent", "mixed", "errors", "soak", "own")
MIXED = {"/items/{id}", "/", "/fanout", "/work", "/slow"}
#: Files as loaded together: the routes that they ask for, by which statistics group.
ROUTES = {
    PLAIN: {*MIXED, "/fanout-urllib", "/rows", "/concurrent", "/error", "/missing", "/items/9"},
    ("burst",): {"/items/{id}"},
    ("hello", "shapes/steps"): {"/"},
    ("soak", "shapes/ramp"): MIXED,
}
OPTIONS = {
    ("burst",): ["--calm-seconds", "1", "--burst-seconds", "1", "--burst-users", "20", "--bursts", "1"],
    ("hello", "shapes/steps"): ["--steps", "1,3,20", "--step-seconds", "1"],
    ("soak", "shapes/ramp"): ["--ramp-users", "9", "--ramp-seconds", "1", "--hold-seconds", "1", "--pace", "50"],
}


def loaded_by(files: tuple[str, ...]) -> list[str]:
    return ["-f", ",".join(f"{file}.py" for file in files)]


def report(folder: Path, files: tuple[str, ...]) -> list[str]:
    """The option that makes Locust write a report, and its file."""
    return ["--json-file", str(folder / "-".join(files).replace("/", "-"))]


def figures(file: str) -> dict[str, tuple[int, int]]:
    """Kind and route: requests and failures. Not from Locust's CSV files, which miss the last ones."""
    stats: list[dict[str, Any]] = json.loads(Path(f"{file}.json").read_text())
    return {f"{one['method']} {one['name']}": (one["num_requests"], one["num_failures"]) for one in stats}


@locust_is_here
def test_every_locustfile_runs_without_failures(origin: str, tmp_path: Path) -> None:
    """Whoever copies a command of the README gets load on every route, and no failure."""
    assert set(scenarios.CATALOGUE) - {file for files in ROUTES for file in files} == {"e2e_trace"}
    with serving("fastapi", tmp_path, origin) as service:
        shaped = {
            files: locust(*loaded_by(files), *options, *report(tmp_path, files), host=service.url)
            for files, options in OPTIONS.items()
        }
        users = ["--users", "16", "--spawn-rate", "16", "--path", "/items/9?q=1"]
        with loading(service, 1500, *loaded_by(PLAIN), *users, *report(tmp_path, PLAIN)) as plain:
            processes = {PLAIN: plain, **shaped}
            said = {files: finish(process) for files, process in processes.items()}
    assert {} == {files: said[files] for files, process in processes.items() if process.returncode}
    found = {files: figures(report(tmp_path, files)[1]) for files in ROUTES}
    assert {files: {f"GET {route}" for route in routes} for files, routes in ROUTES.items()} == {
        files: set(routes) for files, routes in found.items()
    }
    assert 0 == sum(failures for routes in found.values() for _, failures in routes.values())


@locust_is_here
def test_an_unexpected_status_is_a_failure(tmp_path: Path) -> None:
    """If 500 counted as success wherever errors are expected, a broken service would look healthy."""
    with serving("wsgi", tmp_path) as service:
        # Without an origin; and where there are no pages of these names.
        with loading(service, 10, "-f", "fanout_requests.py") as process:
            said = finish(process)
        assert process.returncode == 1
        assert "GET /fanout: LocustBadStatusCode(code=500)" in said
        with loading(service, 10, "-f", "errors.py", path="/elsewhere") as process:
            said = finish(process)
        assert process.returncode == 1
        assert "/error answered 404 instead of 500" in said
        assert "/missing answered" not in said


ASKS = """
import sys
from locust import events
from locust.argument_parser import parse_options
from locust.env import Environment
from common import Visitor

class Visitor(Visitor):
    host = sys.argv[1]

for value in ("none", "unsampled", "sampled"):
    environment = Environment(events=events, parsed_options=parse_options(["--traceparent", value]))
    for status in (200, 404):
        Visitor(environment).ask(f"/{value}", "/", status)
"""


@locust_is_here
def test_requests_come_from_a_traced_caller_if_wanted() -> None:
    """The second axis of a measurement: with the wrong flag the service's sampler would decide something else."""
    server = Server()
    try:
        command = [sys.executable, "-c", ASKS, server.url]
        run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=DEADLINE_S)
        assert run.returncode == 0, run.stderr
        headers = [(request.target, request.value("traceparent")) for request in server.received]
    finally:
        server.close()
    assert headers[:2] == [("/none", None)] * 2
    for number, (path, header) in enumerate(headers[2:]):
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", header)
        assert (path, header[-2:]) == [("/unsampled", "00"), ("/sampled", "01")][number // 2]
    # Each request is another trace.
    assert len({header for _, header in headers}) == 5


# What the locustfiles decide without Locust; it is imported by them, and patches the whole process, hence one of its own.

DECISIONS = """
import json, sys
from common import deck
from shapes import burst, ramp, steps
cards = deck({"a": 3, "b": 1})
print(json.dumps({
    "rounds": ["".join(next(cards) for _ in range(4)) for _ in range(200)],
    "steps": [steps.users_at(second, steps.numbers("1,16, 1000"), 10) for second in (0, 9.9, 10, 19.9, 20, 29.9, 30)],
    "burst": [burst.users_at(second, 5, 200, 10, 2, 2) for second in (0, 9.9, 10, 11.9, 12, 22, 24, 33.9, 34, 36)],
    "from none": [burst.users_at(second, 0, 7, 10, 2, 1) for second in (0, 10.5)],
    "ramp": [ramp.users_at(second, 100, 10, 5) for second in (0, 5, 9.9, 10, 14.9, 20, 24.9, 25)],
    "cliff": [ramp.users_at(second, 100, 0, 5) for second in (0, 4.9, 5)],
}))
for wrong in ("", "1,", "0", "1,x", "1;2", "-4"):
    try:
        steps.numbers(wrong)
    except steps.argparse.ArgumentTypeError:
        continue
    sys.exit(f"{wrong!r} was taken")
"""


@pytest.fixture(scope="module")
def decisions() -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", DECISIONS], cwd=FOLDER, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@locust_is_here
def test_shapes_have_the_users_that_were_asked_for(decisions: dict[str, Any]) -> None:
    """A step that comes late, or that is left out, is a concurrency that was never measured."""
    assert decisions["steps"] == [[1, 1], [1, 1], [16, 16], [16, 16], [1000, 1000], [1000, 1000], None]
    calm, burst = [5, 5], [200, 200]
    assert decisions["burst"] == [calm, calm, burst, burst, calm, burst, calm, calm, None, None]
    assert decisions["from none"] == [[0, 1], [7, 7]]
    assert [users and users[0] for users in decisions["ramp"]] == [1, 50, 99, 100, 100, 50, 1, None]
    assert decisions["cliff"] == [[100, 100], [100, 100], None]


@locust_is_here
def test_shares_are_exact(decisions: dict[str, Any]) -> None:
    """If every run drew its requests anew, one would cost more than the next by chance alone."""
    assert {"".join(sorted(one)) for one in decisions["rounds"]} == {"aaab"}
    # In a fixed order, users would fall into step.
    assert set(decisions["rounds"]) == {"aaab", "aaba", "abaa", "baaa"}


# From end to end.

TRACED = (sys.executable, "-m", "autoinstr")


def loaded(name: str) -> Any:
    """A module of the scenarios that does not import Locust."""
    spec = importlib.util.spec_from_file_location(Path(name).stem + "_of_scenarios", FOLDER / name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def e2e(service: Service, backend: str, *words: str, folder: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """Locust's status, and its figures."""
    options = ["--users", "4", "--spawn-rate", "4", "--backend", backend, *report(folder, ("e2e",))]
    with loading(service, 20, "-f", "e2e_trace.py", *options, *words) as process:
        finish(process)
    return process.returncode, figures(report(folder, ("e2e",))[1])


@locust_is_here
@backend_is_here
@pytest.mark.parametrize("name", ["flask", "fastapi"])
def test_traces_are_found_whole(name: str, origin: str, tmp_path: Path) -> None:
    """The whole way, through our own agent and backend: each request's trace is there, with its calls, and no other."""
    with running(tmp_path) as backend:
        url = f"http://127.0.0.1:{backend.ports['query']}"
        settings = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1", "OTEL_SERVICE_NAME": "under test"}
        settings |= {"JAEGER_AGENT_PORT": str(backend.ports["agent"]), "JAEGER_REPORTER_FLUSH_INTERVAL": "100ms"}
        with serving(name, tmp_path, origin, TRACED, **settings) as service:
            status, found = e2e(service, url, "--calls", "2", "--patience", "30", folder=tmp_path)
        requests, failures = found["GET /fanout"]
        assert (status, failures) == (0, 0)
        assert found["TRACE /fanout"] == (requests, 0)
        traces = loaded("traces.py")
        never = traces.Sent("ab" * 16, "cd" * 8, 1)
        assert traces.trouble(never, traces.spans_of(url, never.trace_id)) == "the backend has no span of it"


@locust_is_here
@backend_is_here
def test_lost_traces_are_failures(tmp_path: Path) -> None:
    """The check is worth something only if it fails when nothing arrives: here the service is not traced at all."""
    with running(tmp_path) as backend, serving("wsgi", tmp_path) as service:
        url = f"http://127.0.0.1:{backend.ports['query']}"
        status, found = e2e(service, url, "--patience", "0.5", folder=tmp_path)
    requests, failures = found["GET /items/{id}"]
    assert (status, failures) == (1, 0)
    assert found["TRACE /items/{id}"] == (requests, requests)


@locust_is_here
def test_a_silent_backend_is_a_failure_that_names_it(tmp_path: Path) -> None:
    """A wrong URL must not pass for lost traces, nor for success."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with serving("wsgi", tmp_path) as service:
        words = ["-f", "e2e_trace.py", "--users", "1", "--patience", "0.3", "--backend", nobody]
        with loading(service, 3, *words) as process:
            said = finish(process)
    assert process.returncode == 1, said
    assert f"the backend at {nobody} does not answer" in said


@locust_is_here
def test_traces_are_not_examined_in_many_processes() -> None:
    """A master does not wait for its workers' last examinations: the check would pass with traces lost."""
    process = locust("-f", "e2e_trace.py", "--master", "--master-bind-port", str(free_port()))
    assert "leave out --processes, --master and --worker" in finish(process)
    assert process.returncode == 1


def span(span_id: str, parent: str) -> dict[str, Any]:
    return {"spanID": span_id, "references": [{"refType": "CHILD_OF", "spanID": parent}]}


@pytest.mark.parametrize(
    ("spans", "trouble"),
    [
        ([span("b", "a"), span("c", "b"), span("d", "c")], ""),
        ([], "no span of it"),
        ([span("b", "a"), span("c", "b")], "2 spans instead of 3"),
        ([span("b", "a"), span("c", "b"), span("d", "b"), span("e", "b")], "4 spans instead of 3"),
        ([span("c", "b"), span("d", "b")], "0 of 2 spans are below the caller's"),
        ([span("b", "a"), span("c", "a"), span("d", "b")], "2 of 3 spans are below the caller's"),
        ([span("b", "a"), span("d", "x"), span("c", "b")], "the parent of a span is missing"),
        ([span("b", "a"), span("c", "b"), span("c", "b")], "a span is there twice"),
        ([span("b", "a"), span("c", "b"), {"spanID": "d", "references": []}], "1 of 3 spans"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said(spans: list[dict[str, Any]], trouble: str) -> None:
    """A trace with a hole that passes for whole hides exactly the losses that the check is there for."""
    traces = loaded("traces.py")
    found = traces.trouble(traces.Sent("t", "a", 3), spans)
    assert found.startswith(trouble) if not trouble else trouble in found
    assert bool(found) == bool(trouble)
