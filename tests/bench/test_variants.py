"""What a variant's name means, and the command line and environment that it makes of a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoinstr.bench import rivals, variants
from autoinstr.bench.parts import Refusal, Sampling

BIN = os.path.dirname(sys.executable)
ADDRESSES = {"http": "http://127.0.0.1:9411", "http_port": 9411, "udp_port": 6831, "metrics_port": 9464}
#: Tells what the program sees of its environment.
TELL = "import json, os; print(json.dumps(dict(os.environ)))"
OURS = ["const:0", "const:1", "const:1-null", "prob:0.1", "rate:10", "remote", "const:1@http", "const:1@otlp", "off"]
#: Launchers of other agents set variables of their own. They are large, and not part of the tests' environment.
INSTALLED = [name for name in ("otel", "otel:0.1", "ddtrace", "elastic") if rivals.is_installed(name.split(":")[0])]


def environment_of_process(name: str) -> dict[str, str]:
    """What a real program under the variant sees."""
    variant = variants.parse(name)
    command = variants.command(variant, ["python", "-c", TELL], ADDRESSES)
    environ = variants.environment(variant, ADDRESSES)
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize(
    ("name", "sampling", "exports", "has_counters", "in_cost_model"),
    [
        ("none", None, False, False, True),
        # Else bare would be fitted as an agent that samples nothing.
        ("none#2", None, False, False, False),
        ("off", None, False, False, False),
        ("const:0", Sampling("const", 0), True, True, True),
        ("const:1", Sampling("const", 1), True, True, True),
        ("const:1@udp", Sampling("const", 1), True, True, True),
        # Another wire has another price per span.
        ("const:1@otlp", Sampling("const", 1), True, True, False),
        ("const:1-null", Sampling("const", 1), False, True, False),
        ("prob:0.001@zipkin", Sampling("prob", 0.001), True, True, False),
        ("rate:10", Sampling("rate", 10), True, True, True),
        ("remote", Sampling("remote", 0.1), True, True, True),
        ("remote:0.5", Sampling("remote", 0.5), True, True, True),
        ("otel", Sampling("const", 1), True, False, False),
        ("otel:0.1@otlp", Sampling("prob", 0.1), True, False, False),
        ("ddtrace", Sampling("const", 1), True, False, False),
        # It sends all traces, so that a share of those received is not expected.
        ("ddtrace:0.1", None, True, False, False),
        ("elastic:0.5", Sampling("prob", 0.5), True, False, False),
        ("burn:50@0.1", None, False, False, False),
    ],
)
def test_names(
    name: str, sampling: Sampling | None, exports: bool, has_counters: bool, in_cost_model: bool
) -> None:
    """A variant that is taken for another one is measured, judged and modelled as something that it is not."""
    variant = variants.parse(f" {name} ")
    assert variant.name == name
    assert variant.sampling == sampling
    assert (variant.exports, variant.has_counters, variant.in_cost_model) == (exports, has_counters, in_cost_model)


def test_default_variants_exist() -> None:
    """``bench run`` without words would end in a refusal, or have nothing to fit the cost model to."""
    chosen = [variants.parse(name) for name in variants.DEFAULT]
    assert [one.name for one in chosen[:2]] == ["none", "none#2"]
    assert sum(one.in_cost_model and one.kind == "autoinstr" for one in chosen) >= 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cnst:1", "did you mean const:1"),
        ("prov:0.1", "prob:0.1"),
        ("opentelemetry", "no such variant"),
        ("", "no such variant"),
        ("none:1", "nothing after ':'"),
        ("off@udp", "nothing after '@'"),
        ("const", "const is const:0, const:1 or const:1-null"),
        ("const:0.5", "prob:P"),
        ("const:1@utp", "'utp' is not a wire"),
        ("const:1-null@udp", "nothing after '@'"),
        ("prob:2", "'2' is not a share from 0 to 1"),
        ("prob:nan", "'nan' is not a share"),
        ("prob", "is not a share"),
        ("rate:0", "traces per second of at least 0.001"),
        ("rate:inf", "traces per second"),
        ("otel@grpc", "one wire"),
        ("burn", "microseconds"),
        ("burn:50@2", "'2' is not a share"),
        ("x=python app.py", "has to end in {app}"),
        ("x={app} --more", "has to end in {app}"),
        ("none=env {app}", "none is a variant already"),
        ('x="a {app}', "No closing quotation"),
    ],
)
def test_wrong_names_are_refused(name: str, told: str) -> None:
    """A misspelt variant would be measured as another one, or the user is not told what there is."""
    with pytest.raises(Refusal) as refused:
        variants.parse(name)
    text = str(refused.value)
    assert told in text
    assert name in text
    if "quotation" not in told:
        assert all(form in text for form in variants.FORMS)


def test_own_command() -> None:
    """Somebody's own agent could not be started, or would be told wrong addresses."""
    one = variants.parse("mine=A='x y' OTEL_EXPORTER_OTLP_ENDPOINT={http} env -u HOME python -X dev {app}")
    assert (one.name, one.kind) == ("mine", "command")
    environ = variants.environment(one, ADDRESSES)
    assert environ["A"] == "x y"
    assert environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == ADDRESSES["http"]
    command = variants.command(one, ["gunicorn", "shop:app"], ADDRESSES)
    assert command[1:] == ["-u", "HOME", "python", "-X", "dev", f"{BIN}/gunicorn", "shop:app"]
    assert os.path.basename(command[0]) == "env" and os.path.isabs(command[0])


def test_missing_address_is_refused() -> None:
    """A program would send its spans to a host called ``{http}``."""
    with pytest.raises(Refusal, match="there is no http here"):
        variants.environment(variants.parse("const:1@otlp"), {"udp_port": 1})


def test_no_port_for_counters_where_none_is_given() -> None:
    """Measurements without counters would be refused, or the agent complain of a port that is no number."""
    environ = variants.environment(variants.parse("const:1"), {"udp_port": 1})
    assert "AUTOINSTR_METRICS_PORT" not in environ
    assert len(environ) == len(variants.environment(variants.parse("const:1"), ADDRESSES))


@pytest.mark.parametrize("name", [*OURS, "burn:1", *INSTALLED])
def test_programs_see_equally_many_variables(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """``requests`` reads all variables at each call: one more costs 2 µs, which would be taken for a cost of the agent."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = environment_of_process(name)
    assert len(found) == len(environment_of_process("none"))
    environment = variants.parse(name).environment
    assert found["PATH"].startswith(str(rivals.bin_folder(environment)) if environment else BIN)


def test_callers_agent_does_not_leak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bare program would be traced by whatever the caller's shell traces, and every difference be wrong."""
    for name in ("JAEGER_SAMPLER_TYPE", "OTEL_TRACES_EXPORTER", "DD_SERVICE", "ELASTIC_APM_SERVER_URL", "PYTHONDEVMODE"):
        monkeypatch.setenv(name, "1")
    boot = os.path.join(os.path.dirname(os.path.dirname(variants.HERE)), "autoinstr", "_boot")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([boot, str(tmp_path)]))
    monkeypatch.setenv("DATABASE_URL", "sqlite:")
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    environ = variants.environment(variants.parse("none"), ADDRESSES, {"PYTHONPATH": "/srv/shop", "SHOP": "1"})
    assert not [key for key in environ if key.startswith(("JAEGER", "OTEL", "DD_", "ELASTIC", "PYTHONDEV"))]
    assert environ["PYTHONPATH"] == f"/srv/shop{os.pathsep}{tmp_path}"
    assert (environ["DATABASE_URL"], environ["SHOP"], environ["PYTHONHASHSEED"]) == ("sqlite:", "1", "0")
    assert environ["PATH"].split(os.pathsep)[0] == BIN


def test_proxies_are_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents would send their spans, and services their calls, to the caller's proxy instead of the sink."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "intranet.example")
    environ = variants.environment(variants.parse("none"), ADDRESSES)
    assert environ["no_proxy"] == "intranet.example,127.0.0.1,localhost"
    assert environ["http_proxy"] == "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("name", "program", "expected"),
    [
        ("none", ["gunicorn", "a:b"], ["{bin}/gunicorn", "a:b"]),
        ("none", ["python", "a.py"], ["{bin}/python", "a.py"]),
        ("none", ["/srv/run", "x"], ["/srv/run", "x"]),
        ("const:1", ["gunicorn", "a:b"], ["{bin}/python", "-m", "autoinstr", "{bin}/gunicorn", "a:b"]),
        ("const:1", ["python", "a.py"], ["{bin}/python", "-m", "autoinstr", "a.py"]),
        ("const:1", ["python", "-m", "a"], ["{bin}/python", "-m", "autoinstr", "-m", "a"]),
        # Options of Python itself: our launcher does not know them.
        ("const:1", ["python", "-O", "a.py"], ["{bin}/python", "-m", "autoinstr", "{bin}/python", "-O", "a.py"]),
        ("const:1", ["/srv/bin/python3.11", "a.py"], ["/srv/bin/python3.11", "-m", "autoinstr", "a.py"]),
        ("otel", ["python", "a.py"], ["{otel}/opentelemetry-instrument", "{otel}/python", "a.py"]),
        ("burn:50", ["python", "a.py"], ["{bin}/python", "a.py"]),
    ],
)
def test_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, program: list[str], expected: list[str]
) -> None:
    """The program would run in another environment than the agent, which then traces nothing."""
    monkeypatch.setenv("AUTOINSTR_BENCH_CACHE", str(tmp_path))
    expected = [word.format(bin=BIN, otel=rivals.bin_folder("otel")) for word in expected]
    assert variants.command(variants.parse(name), program) == expected


def test_program_of_an_environment_of_its_own(tmp_path: Path) -> None:
    """This agent would be started by the harness's Python and trace nothing in a program that has its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    python = tmp_path / "bin" / "python"
    python.symlink_to(sys.executable)
    program = str(tmp_path / "bin" / "gunicorn")
    assert variants.command(variants.parse("const:1"), [program]) == [str(python), "-m", "autoinstr", program]


def test_program_that_is_nowhere() -> None:
    """The campaign would begin, and every run of it fail."""
    with pytest.raises(Refusal, match="no-such-program: there is no such program beside"):
        variants.command(variants.parse("none"), ["no-such-program"])
    with pytest.raises(Refusal, match="no program"):
        variants.command(variants.parse("none"), [])


@pytest.mark.parametrize(
    ("given", "bare"),
    [
        ("python app.py", "python app.py"),
        ("gunicorn shop:app", "gunicorn shop:app"),
        ("python -m autoinstr my.py --port 1", "python my.py --port 1"),
        ("python -m autoinstr run my.py", "python my.py"),
        ("python3.11 -X dev -mautoinstr --service shop -- my.py", "python3.11 -X dev my.py"),
        ("python -m autoinstr --service=shop gunicorn shop:app", "gunicorn shop:app"),
        ("python -m autoinstr -m shop -m autoinstr", "python -m shop -m autoinstr"),
        ("python -c 'import x' -m autoinstr", "python -c 'import x' -m autoinstr"),
        ("autoinstr run --ui uvicorn shop:app", "uvicorn shop:app"),
        ("autoinstr my.py", "python my.py"),
        ("opentelemetry-instrument --traces_exporter otlp --service_name=s gunicorn -w 1 a:b", "gunicorn -w 1 a:b"),
        ("/srv/bin/ddtrace-run --debug python app.py", "python app.py"),
        ("elasticapm-run --config service_name=x python app.py", "python app.py"),
        ("ddtrace-run python -m autoinstr app.py", "python app.py"),
    ],
)
def test_bare_program_of_a_command_line(given: str, bare: str) -> None:
    """The bare runs would have the agent in them, and all differences be nothing."""
    import shlex

    assert shlex.join(variants.strip_agent(given)) == bare
    assert shlex.join(variants.strip_agent(shlex.split(given))) == bare


@pytest.mark.parametrize("text", ["", "python -m autoinstr", "autoinstr run --service x", "a 'b"])
def test_command_line_without_a_program(text: str) -> None:
    """A traceback instead of a word about what is missing."""
    with pytest.raises(Refusal):
        variants.strip_agent(text)
