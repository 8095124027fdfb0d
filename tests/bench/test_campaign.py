"""Whole campaigns: real services, real load, a real sink, and everything that can go wrong on the way.

What other tests do to the machine at the same time spoils the figures, as it should; looked at here are the runs themselves.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoinstr.bench import store
from autoinstr.bench.parts import INVALID, USAGE, Campaign, Run
from fakes import until
from ports import free_port

SHORT = ("--quick", "--window", "1", "--warm-up", "0", "--repeat", "0", "--quiet")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU clocks of other processes are Linux's")


def bench(*words: str, cwd: Path, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoinstr", "bench", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def of(campaign: Campaign, variant: str) -> list[Run]:
    return [run for run in campaign.runs if run.planned.variant == variant]


def test_a_small_campaign(tmp_path: Path) -> None:
    """From the command to the report: every run of the plan, each span accounted for."""
    words = ("--variants", "const:1,prob:0.5,burn:300", "--blocks", "1", "--out", "campaign")
    ended = bench("run", *SHORT, *words, cwd=tmp_path)
    campaign = store.read(tmp_path / "campaign")
    assert not [run for run in campaign.runs if run.status == "failed"], ended.stderr
    assert len(campaign.runs) == 2 * 5
    for run in campaign.runs:
        assert run.load is not None
        assert run.server is not None
        assert run.spans is not None
        assert run.load.requests > 0
        assert run.load.all_errors == 0
        # What the service itself has counted is what the generator says that it has sent, and our questions.
        assert run.server.requests == run.spans.requests
        assert run.server.cpu_us_per_request > 0
        assert len(run.server.seconds) == run.load.seconds
        # The gauge of the pace ran beside the service, and its seconds are the window's.
        assert all(pace_us and pace_us > 1 for _, pace_us in run.server.seconds)
        assert sum(cpu_us for cpu_us, _ in run.server.seconds) == pytest.approx(run.server.cpu_us, rel=0.01)
    for run in of(campaign, "const:1"):
        spans = run.spans
        assert spans is not None
        assert spans.requests == spans.started == spans.finished == spans.exported == spans.received, ended.stderr
        assert (spans.dropped, spans.failed, spans.left) == (0, 0, 0)
    for run in of(campaign, "none"):
        assert run.spans is not None
        assert run.spans.received == 0
    shares = [run.spans.received / run.spans.requests for run in of(campaign, "prob:0.5") if run.spans]
    assert all(0.3 < share < 0.7 for share in shares), shares
    # The burner is the dearest by far, however busy the machine.
    dearest = max(campaign.runs, key=lambda run: run.server.cpu_us_per_request if run.server else 0)
    assert dearest.planned.variant == "burn:300"
    assert ended.returncode in (0, 3, 4), ended.stderr
    assert "burn:300" in ended.stdout
    assert "smoke" in ended.stdout
    page = (tmp_path / "campaign" / "report.html").read_text()
    assert "<svg" in page
    # Where its results went says something of a machine, and nothing of the campaign.
    assert campaign.manifest.argv == (*SHORT, *words[:-2])
    assert "burn:300" in (tmp_path / "campaign" / "report.md").read_text()
    again = bench("report", "campaign", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["cells"][0]["cell"]["framework"] == "flask"


def test_rate_and_fan_out(tmp_path: Path) -> None:
    """Open load on an absolute schedule, at a share of what the bare service can do, with services behind."""
    words = ("--scenario", "fanout_requests", "--framework", "fastapi", "--mode", "rate", "--load", "30%")
    ended = bench("run", *SHORT, *words, "--variants", "const:1", "--blocks", "1", "--out", "c", cwd=tmp_path)
    campaign = store.read(tmp_path / "c")
    (ceiling,) = campaign.manifest.calibration.values()
    assert not [run for run in campaign.runs if run.status == "failed"], ended.stderr
    for run in campaign.runs:
        assert run.load is not None
        assert run.load.target_per_second == pytest.approx(0.3 * ceiling)
        assert run.load.lag is not None
        assert run.load.response.max >= run.load.service.p50
    for run in of(campaign, "const:1"):
        assert run.spans is not None
        assert run.spans.received == 4 * run.spans.requests
        assert run.spans.received_traces == run.spans.requests


def test_workers_of_other_hosts(tmp_path: Path) -> None:
    """Load from many hosts: workers that come back for each run, and whose figures add up to what the service has counted."""
    address = f"127.0.0.1:{free_port()}"
    words = [sys.executable, "-m", "autoinstr", "bench", "worker", "--master", address, "--scenario", "hello", "--processes", "2"]
    worker = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        ended = bench("run", *SHORT, "--variants", "none", "--blocks", "1", "--workers", "2", "--master", address, "--out", "c",
                      cwd=tmp_path)  # fmt: skip
        assert worker.poll() is None
        children = psutil.Process(worker.pid).children()
    finally:
        worker.send_signal(signal.SIGINT)
        output, _ = worker.communicate(timeout=60)
    assert (worker.returncode, "Traceback" in output) == (0, False), output
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    runs = store.read(tmp_path / "c").runs
    assert [run.status for run in runs].count("failed") == 0, ended.stderr
    assert len(runs) == 4
    for run in runs:
        assert run.load is not None
        assert run.server is not None
        assert run.spans is not None
        assert run.generator is not None
        assert run.server.requests == run.spans.requests > run.load.requests > 0
        assert (run.generator.processes, run.generator.cpu_share > 0) == (2, True)


def test_harness_stays_off_the_servers_core(tmp_path: Path) -> None:
    """The harness's own work would be in the way of the service that it measures."""
    from autoinstr.bench import campaign
    from bench.test_awake import fillers_of
    from bench.test_store import MANIFEST

    before = os.sched_getaffinity(0)
    server, generator, *_ = sorted(before)
    manifest = dataclasses.replace(MANIFEST, server_cpus=(server,), generator_cpus=(generator,))
    with campaign.Campaign(store.Folder.create(tmp_path / "c", manifest), manifest):
        assert os.sched_getaffinity(0) == {generator}
        until(lambda: bool(fillers_of(os.getpid())), "the filler")
        assert [os.sched_getaffinity(one) for one in fillers_of(os.getpid())] == [{generator}]
    assert os.sched_getaffinity(0) == before


def test_resumed(tmp_path: Path) -> None:
    """A campaign that was interrupted goes on where it was, and runs nothing twice."""
    words = [sys.executable, "-m", "autoinstr", "bench", "run", *SHORT, "--variants", "off", "--blocks", "1", "--out", "c"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "c" / "runs.jsonl"
    deadline = time.monotonic() + 120
    while not (runs.exists() and runs.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    before = [run.planned.key for run in store.read(tmp_path / "c").runs]
    assert 2 <= len(before) < 6
    ended = bench("run", "--resume", "c", "--repeat", "0", "--quiet", cwd=tmp_path)
    after = [run.planned.key for run in store.read(tmp_path / "c").runs]
    assert after[: len(before)] == before, ended.stderr
    assert len(after) == len(set(after)) == 6


SERVICE = """
import os, sys, waitress
def app(environ, start_response):
    found = (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/here", "a=1")
    start_response("200 OK" if found else "404 Not Found", [("Content-Length", "2")])
    return [b"ok"]
{before}
waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]))
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., list[str]]:
    """Words for ``run`` with a service of the user's own; ``before`` is what it does first."""

    def words(before: str = "", port: int = 0) -> list[str]:
        (tmp_path / "my.py").write_text(SERVICE.format(before=before))
        port = port or free_port()
        app = f"{sys.executable} -m autoinstr my.py {port}"
        return ["run", *SHORT, "--blocks", "1", "--app", app, "--url", f"http://127.0.0.1:{port}/here?a=1", "--out", "c"]

    return words


def test_own_service(tmp_path: Path, own: Callable[..., list[str]]) -> None:
    """A service of the user's own, given as it is started every day: with the agent, which bare leaves out.

    Where it dies under load the run has failed with its cause, and the others go on.
    """
    dies = "n = [0]\nwell = app\ndef dying(*words):\n    n[0] += 1\n    if n[0] > 150: os._exit(7)\n    return well(*words)\n"
    words = own(f"{dies}if 'DIES' in os.environ: app = dying")
    ended = bench(*words, "--variant", "dying=DIES=1 {app}", "--variants", "const:1", "--concurrency", "4", cwd=tmp_path)
    campaign = store.read(tmp_path / "c")
    assert "-m autoinstr" not in campaign.manifest.program
    assert {run.status for run in of(campaign, "dying")} == {"failed"}
    assert all("exit code 7" in run.faults[0].text for run in of(campaign, "dying"))
    others = [run for run in campaign.runs if run.planned.variant != "dying"]
    assert [run.planned.variant for run in others].count("const:1") == 2
    assert len(others) == 6
    assert all(run.load and run.load.all_errors == 0 for run in others), ended.stderr
    for run in of(campaign, "const:1"):
        assert run.spans is not None
        assert run.spans.received == run.spans.requests
    assert list((tmp_path / "c" / "logs").iterdir())


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("raise SystemExit('no database')", ["ended with exit code 1", "no database"]),
        ("os.kill(os.getpid(), 11)", ["SIGSEGV"]),
        ("__import__('time').sleep(600)", ["did not answer", "nothing listens"]),
    ],
)
def test_service_that_does_not_run(
    tmp_path: Path, own: Callable[..., list[str]], before: str, words: Sequence[str]
) -> None:
    """The cause is said, with the service's own last words, after one try and not after all runs of the plan."""
    ended = bench(*own(before), "--start-timeout", "3", "--variants", "off", cwd=tmp_path)
    assert ended.returncode == INVALID, ended.stdout
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr.replace('Traceback (most recent call last):\n  File "my.py"', "")
    assert len(store.read(tmp_path / "c").runs) <= 1


def test_port_taken(tmp_path: Path, own: Callable[..., list[str]]) -> None:
    """Somebody else's server on the port would be measured in place of the service."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ended = bench(*own(port=port), "--variants", "off", cwd=tmp_path)
    assert ended.returncode == INVALID
    assert f"127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variants", "cnst:1"], "const:1"),
        (["--scenario", "helo"], "hello"),
        (["--framework", "falsk"], "flask"),
        (["--mode", "fast"], "saturation, rate"),
        (["--scenario", "asgi_concurrent", "--framework", "flask"], "asgi_concurrent"),
        (["--scenario", "asgi_concurrent:flask"], "is for fastapi"),
        (["--scenario", "hello:falsk"], "flask"),
        (["--scenario", "e2e_trace"], "locust -f"),
        (["--app", "python my.py"], "--url"),
        (["--app", "python my.py", "--url", "http://127.0.0.1:1/", "--locustfile", "nowhere.py"], "nowhere.py"),
        (["--server-cpus", "4096"], "4096"),
        (["--matrix", "nowhere.toml"], "nowhere.toml"),
        (["--blocks", "0"], "not 1 or more"),
        (["--load", "120%"], "not between 0 and 100"),
        (["--resume", "nowhere"], "not the folder of a campaign"),
        (["--variant", "mine=no-such-program {app}"], "no-such-program"),
        (["--workers", "2", "--master", "nowhere"], "HOST:PORT"),
        (["--workers", "2", "--scenario", "hello,errors"], "a campaign of its own"),
        (["--processes", "64", "--concurrency", "2"], "64 processes"),
    ],
)
def test_wrong_words(tmp_path: Path, words: list[str], said: str) -> None:
    """A typing error costs a line and no time, and leaves no folder."""
    ended = bench("run", "--quick", "--repeat", "0", *words, cwd=tmp_path, timeout=60)
    assert ended.returncode == USAGE, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_missing_rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival that is not there would be left out in silence, or installed without being asked."""
    monkeypatch.setenv("AUTOINSTR_BENCH_CACHE", str(tmp_path / "empty"))
    (tmp_path / "here").mkdir()
    ended = bench("run", "--quick", "--variants", "otel,ddtrace:0.1", cwd=tmp_path / "here", timeout=60)
    assert ended.returncode == USAGE
    assert "autoinstr bench rivals --install otel,ddtrace" in ended.stderr
    assert not list((tmp_path / "here").iterdir())


def test_plan(tmp_path: Path) -> None:
    """The plan is another than what runs, or asking for it does something."""
    words = ("--variants", "off,const:1", "--scenario", "hello", "--framework", "flask,fastapi", "--concurrency", "1,16,128")
    ended = bench("plan", *words, "--blocks", "8", cwd=tmp_path, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "6 cells x 4 variants, mirrored, x 8 blocks = 384 runs" in ended.stdout
    first = re.search(r"first block: (.*)", ended.stdout)
    assert first is not None
    order = first[1].split()
    assert order == order[::-1]
    assert (order[0], len(order)) == ("none", 8)
    assert not list(tmp_path.iterdir())


def test_help(tmp_path: Path) -> None:
    """Nobody knows what can be chosen without reading the code."""
    ended = bench("run", "--help", cwd=tmp_path, timeout=60)
    assert ended.returncode == 0, ended.stderr
    for word in ("fanout_requests", "starlette", "burn:US[@SHARE]", "--until-ci PERCENT", "80%"):
        assert word in ended.stdout
    assert "%%" not in ended.stdout


def test_pairs_of_scenario_and_framework(tmp_path: Path) -> None:
    """Two questions need four cells, of which nobody wants two."""
    ended = bench("plan", "--scenario", "fanout_requests:flask,hello:fastapi", "--concurrency", "1,16", cwd=tmp_path, timeout=60)
    cells = re.findall(r"^  (\S+ \S+ c\d+)", ended.stdout, re.MULTILINE)
    assert cells == ["fanout_requests flask c1", "fanout_requests flask c16", "hello fastapi c1", "hello fastapi c16"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot read TOML")
def test_matrix_file(tmp_path: Path) -> None:
    """Options from the file are not those that run; what is given on the command line does not win."""
    (tmp_path / "m.toml").write_text('variants = ["off", "const:0"]\nconcurrency = [1, 2]\nblocks = 3\nquick = true\n')
    ended = bench("plan", "--matrix", "m.toml", "--blocks", "5", cwd=tmp_path, timeout=60)
    assert "2 cells x 4 variants, mirrored, x 5 blocks = 80 runs" in ended.stdout, ended.stderr
    (tmp_path / "m.toml").write_text("colour = 1\n")
    assert "no option 'colour'" in bench("plan", "--matrix", "m.toml", cwd=tmp_path, timeout=60).stderr


def test_other_machine(tmp_path: Path) -> None:
    """Figures of two machines end up in one campaign."""
    from autoinstr.bench import machine
    from bench.test_store import MANIFEST

    facts: dict[str, Any] = {**machine.machine(), "kernel": "Other 1.0"}
    store.Folder.create(tmp_path / "c", dataclasses.replace(MANIFEST, machine=facts))
    ended = bench("run", "--resume", "c", cwd=tmp_path, timeout=60)
    assert (ended.returncode, "another machine" in ended.stderr, "kernel" in ended.stderr) == (USAGE, True, True)


def test_full_disk(tmp_path: Path) -> None:
    """A full disk in the middle: what was measured is kept, and the cause is said."""
    import resource

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = [sys.executable, "-m", "autoinstr", "bench", "run", *SHORT, "--variants", "off", "--blocks", "9", "--out", "c"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240, preexec_fn=limited)
    assert ended.returncode != 0
    assert "File too large" in ended.stderr
    runs = store.read(tmp_path / "c").runs
    assert 0 < len(runs) < 54
    assert "Traceback" not in ended.stderr
