"""Does a library behave the same under the agent? Its own test suite says: the same outcome of every test, bare and traced.

    python benchmarks/transparency.py [--only requests flask ...] [--work FOLDER]

Each library is fetched as its newest source distribution, with the tests in it, and gets an environment of its own with what its
tests need. The suite then runs twice bare and twice under the agent, every trace kept and written to a file, so that the agent is
seen to be at work. A test whose two bare runs differ is unsteady, and no evidence; every other test whose outcome under the agent is
one that it did not have bare is a difference. Where there are some, the suite runs once more without the bridge to OpenTelemetry, and
with nothing propagated, which tells what they come from. Aim: none but these. Results: benchmarks/results/transparency.{md,json}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "transparency"
#: Differences that remain without headers, and why.
PROBE = "fails as often bare, in runs of its own: it wants a pool's threads to take turns, which nothing makes them do"
EXPLAINED = {
    "test.contrib.test_pyopenssl.TestHTTPS_TLSv1_3::test_http2_probe_blocked_per_thread": PROBE,
    "test.with_dummyserver.test_https.TestHTTPS_TLSv1_2::test_http2_probe_blocked_per_thread": PROBE,
    "::test.test_sqlite3.test_dbapi.OpenTests.test_database_keyword": (
        "`type()` of a connection is a subclass of the same name: classes made in C cannot be patched; `isinstance` holds"
    ),
}
#: What differences may come from, and the setting without which such a one is gone, in the order in which they are tried.
OF_BRIDGE = "not without the bridge: a test of OpenTelemetry's spans with a provider of its own, in whose place the agent is"
OF_HEADERS = "not without headers of ours"
CAUSES = (
    (OF_BRIDGE, {"AUTOINSTR_DISABLED_INSTRUMENTS": "opentelemetry"}),
    (OF_HEADERS, {"OTEL_PROPAGATORS": "none"}),
)
#: A suite that hangs is ended: seconds.
LIMIT_S = 1800
#: What it gets to end by itself once its report is written.
GRACE_S = 20


class Suite:
    """How to run the tests of a library: ``group`` of its pyproject or ``needs`` say what they require, ``arguments`` go to pytest."""

    def __init__(self, group: str = "", needs: tuple[str, ...] = (), extras: str = "", arguments: tuple[str, ...] = ()) -> None:
        self.group = group
        self.needs = needs
        self.extras = extras
        self.arguments = arguments


#: Left out are tests that want the internet, and those of type checkers and benchmarks.
SUITES = {
    "requests": Suite("test", arguments=("tests",)),
    "urllib3": Suite("dev", extras="[socks,h2,brotli]", arguments=("test", "-m", "not requires_network and not limit_memory")),
    "httpx": Suite(
        needs=("pytest", "trio", "trustme", "uvicorn", "chardet", "cryptography"),
        extras="[brotli,cli,http2,socks,zstd]",
        arguments=("tests", "-m", "not network"),
    ),
    "werkzeug": Suite("tests", extras="[watchdog]"),
    "flask": Suite("tests", ("pytest<9",), extras="[async,dotenv]"),
    "starlette": Suite("dev", extras="[full]", arguments=("tests",)),
    "fastapi": Suite("tests", extras="[all]", arguments=("tests", "--ignore=tests/benchmarks")),
}
#: CPython's own tests of what the agent patches, where the interpreter has them.
CPYTHON = (
    "test_http_cookiejar", "test_httplib", "test_httpservers", "test_urllib", "test_urllib2", "test_urllib2_localnet",
    "test_urllib_response", "test_urlparse", "test_wsgiref", "test_xmlrpc", "test_robotparser", "test_threading",
    "test_concurrent_futures", "test_sqlite3", "test_contextlib_async", "test_context", "test_logging", "test_atexit", "test_fork1",
    "test_signal", "test_subprocess",
)  # fmt: skip


def run(command: list[str], folder: Path, environ: dict[str, str] | None = None) -> None:
    """A step of the set-up; what it said is shown when it fails."""
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def prepare(name: str, suite: Suite, work: Path) -> tuple[Path, Path]:
    """The folder of the unpacked sources, and the Python of the library's own environment; made once."""
    venv = work / f"venv-{name}"
    python = venv / "bin" / "python"
    sources = work / "sources" / name
    if not list(sources.glob("*.tar.gz")):
        sources.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", ".", name], sources)
    archive = next(iter(sources.glob("*.tar.gz")))
    folder = sources / archive.name.removesuffix(".tar.gz")
    if not folder.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(sources, filter="data")
    if not python.exists():
        run([sys.executable, "-m", "venv", str(venv)], work)
        pip = [str(python), "-m", "pip", "install", "-q"]
        run([*pip, "--upgrade", "pip"], work)
        groups = ["--group", f"{folder / 'pyproject.toml'}:{suite.group}"] if suite.group else []
        # Some suites come without a limit for a test that hangs; here it is one test that failed.
        run([*pip, "-e", f"{folder}{suite.extras}", *groups, *suite.needs, "pytest-timeout"], work)
        run([*pip, str(ROOT)], work)
    else:
        run([str(python), "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", str(ROOT)], work)
    return folder, python


def outcomes(report: Path) -> dict[str, str]:
    """Test -> passed, failed, error or skipped, from a report in JUnit's form."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        kinds = {child.tag for child in case}
        found[name] = next((kind for kind in ("failure", "error", "skipped") if kind in kinds), "passed")
    return found


def count_spans(file: Path) -> int:
    """Spans that the agent has written: lines of OTLP in JSON, in the file and those that it was rotated to."""
    spans = 0
    for part in file.parent.glob(f"{file.name}*"):
        for line in part.read_text(encoding="utf-8", errors="replace").splitlines():
            spans += line.count('"spanId":')
    return spans


def wait(process: subprocess.Popen[bytes], report: Path) -> None:
    """Until a suite has ended; or has reported and does not end, as with a server's thread that is left over (bare, too)."""
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if report.exists() and time.time() - report.stat().st_mtime > GRACE_S:
            return
        time.sleep(0.2)


def one_run(
    command: list[str], folder: Path, report: Path, *, traced: bool, settings: Mapping[str, str] | None = None
) -> tuple[dict[str, str], int, float]:
    """Outcomes, spans and seconds of a suite; ``command`` begins with the interpreter."""
    spans = report.with_suffix(".spans")
    for old in (*spans.parent.glob(f"{spans.name}*"), report):
        old.unlink(missing_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("JAEGER_", "OTEL_", "AUTOINSTR_"))}
    if traced:
        environ |= {
            "JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1",
            "AUTOINSTR_EXPORTER": "file", "AUTOINSTR_FILE": str(spans),
        }  # fmt: skip
        environ |= settings or {}
        command = [command[0], "-m", "autoinstr", *command[1:]]
    started = time.monotonic()
    log = report.with_suffix(".log")
    with log.open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait(process, report)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not report.exists():
        sys.exit(f"the suite left no report within {LIMIT_S} s, see {log}")
    return outcomes(report), count_spans(spans) if traced else 0, time.monotonic() - started


class Prepared(NamedTuple):
    """A suite that can be run: ``command`` from ``folder``, with the report's path behind ``--junit-xml=``."""

    name: str
    version: str
    command: list[str]
    folder: Path

    def run(
        self, report: Path, *, traced: bool, settings: Mapping[str, str] | None = None
    ) -> tuple[dict[str, str], int, float]:
        return one_run([*self.command, f"--junit-xml={report}"], self.folder, report, traced=traced, settings=settings)


def compare(suite: Prepared, work: Path) -> dict[str, Any]:
    """Run a suite bare, traced, traced, bare, and say what differs."""
    runs: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    spans = 0
    seconds = {False: 0.0, True: 0.0}
    for number, traced in enumerate((False, True, True, False)):
        report = work / f"{suite.name}-{number}.xml"
        found, seen, took_s = suite.run(report, traced=traced)
        runs[traced].append(found)
        spans += seen
        seconds[traced] += took_s
        print(f"{suite.name}: {'traced' if traced else 'bare'}: {dict(Counter(found.values()))}, {took_s:.0f} s", flush=True)
    unsteady, differences = [], {}
    for test in sorted(set().union(*runs[False], *runs[True])):
        bare = {found.get(test, "missing") for found in runs[False]}
        traced_ones = {found.get(test, "missing") for found in runs[True]}
        if len(bare) > 1:
            unsteady.append(test)
        elif traced_ones - bare:
            change = f"{bare.pop()} -> {'/'.join(sorted(traced_ones))}"
            differences[test] = {"change": change, "because": EXPLAINED.get(test, "")}
    if not spans:
        sys.exit(f"{suite.name}: the agent has written no span: nothing was traced, so nothing was compared")
    return {
        "library": suite.name,
        "version": suite.version,
        "bare": dict(Counter(runs[False][0].values())),
        "traced": dict(Counter(runs[True][0].values())),
        "spans": spans // 2,
        "unsteady": unsteady,
        "differences": differences,
        "seconds": {"bare": round(seconds[False] / 2, 1), "traced": round(seconds[True] / 2, 1)},
    }


def explain(suite: Prepared, result: dict[str, Any], work: Path) -> None:
    """Find out what the differences come from, by running the suite without each of the ``CAUSES`` while some are open."""
    differences = result["differences"]
    for number, (cause, settings) in enumerate(CAUSES):
        if all(difference["because"] for difference in differences.values()):
            return
        found, _, _ = suite.run(work / f"{suite.name}-cause-{number}.xml", traced=True, settings=settings)
        for test, difference in differences.items():
            bare = difference["change"].partition(" -> ")[0]
            if not difference["because"] and found.get(test, "missing") == bare:
                difference["because"] = cause


def suite_of(name: str, work: Path) -> Prepared:
    """The suite of a library, with all that it needs; CPython's own is that of the interpreter that runs this script."""
    if name != "cpython":
        folder, python = prepare(name, SUITES[name], work)
        options = ("-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--timeout", "60")
        command = [str(python), "-m", "pytest", *options, *SUITES[name].arguments]
        return Prepared(name, folder.name.rpartition("-")[2], command, folder)
    folder = Path(sysconfig.get_path("stdlib")) / "test"
    tests = [test for test in CPYTHON if (folder / f"{test}.py").exists() or (folder / test).is_dir()]
    if not tests:
        sys.exit("this Python comes without its tests")
    venv = work / "venv-cpython"
    python = venv / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", str(venv)], work)
    run([str(python), "-m", "pip", "install", "-q", "--force-reinstall", str(ROOT)], work)
    return Prepared(name, platform.python_version(), [str(python), "-m", "test", "--timeout", "300", *tests], work)


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""

    def counts(of: dict[str, int]) -> str:
        return ", ".join(f"{of[kind]:,} {kind}" for kind in ("passed", "failure", "error", "skipped") if of.get(kind))

    lines = [
        "| Library | Bare | Under the agent | Spans | Differences | Unexplained | Unsteady bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        unsteady, differences = one["unsteady"], one["differences"]
        open_ones = sum(not difference["because"] for difference in differences.values())
        lines.append(
            f"| {one['library']} {one['version']} | {counts(one['bare'])} | {counts(one['traced'])} | {one['spans']:,} | "
            f"{len(differences)} | {open_ones} | {len(unsteady)} |"
        )
    for one in results:
        differences = one["differences"]
        for test, difference in differences.items():
            lines.append(f"* {one['library']}: `{test}`: {difference['change']} ({difference['because'] or 'unexplained'})")
    return "\n".join(lines).replace("|\n*", "|\n\n*", 1) + "\n"


def main() -> int:
    """Compare what is asked for, keep it beside what was compared before; 1 when something differs unexplained."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*SUITES, "cpython"], default=[*SUITES, "cpython"], metavar="LIBRARY")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".venvs" / "transparency", help="where environments are kept")
    parser.add_argument("--explain", action="store_true", help="look for the causes of known differences only")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    kept = RESULTS.with_suffix(".json")
    known = {one["library"]: one for one in json.loads(kept.read_text())["results"]} if kept.exists() else {}
    for name in arguments.only:
        suite = suite_of(name, work)
        if not arguments.explain:
            known[name] = compare(suite, work)
        elif name not in known:
            parser.error(f"{name} has not been compared yet")
        explain(suite, known[name], work)
        results = [known[one] for one in (*SUITES, "cpython") if one in known]
        kept.write_text(json.dumps({"python": platform.python_version(), "results": results}, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(f"Python {platform.python_version()}\n\n{table(results)}")
    print(table(results))
    return int(any(not one["because"] for name in arguments.only for one in known[name]["differences"].values()))


if __name__ == "__main__":
    sys.exit(main())
