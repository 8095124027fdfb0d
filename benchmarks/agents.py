"""The agents that are compared: how each is installed, started, told where to send and how much to sample.

Owns: the table of agents, their virtual environments, the command line and the environment variables of a variant.
Must not know: what is measured, or how.
Invariants: every environment holds the same libraries and servers; agents export traces only (no metrics, logs, profiles
or remote configuration), to this machine; everything else is left at the agent's own default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".venvs"

#: What is traced: the same in every environment.
LIBRARIES = ("flask", "fastapi", "requests", "gunicorn", "uvicorn[standard]")

#: At least as many as the longest of the settings below.
MOST_SETTINGS = 8


@dataclass(frozen=True)
class Addresses:
    """Where the collector of a run listens."""

    udp_port: int
    http_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"


def nothing(to: Addresses, rate: float) -> dict[str, str]:
    return {}


def autoinstr_sampling(rate: float) -> dict[str, str]:
    return {"JAEGER_SERVICE_NAME": "bench", "JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": f"{rate:g}"}


def autoinstr_udp(to: Addresses, rate: float) -> dict[str, str]:
    return {**autoinstr_sampling(rate), "JAEGER_AGENT_HOST": "127.0.0.1", "JAEGER_AGENT_PORT": str(to.udp_port)}


def autoinstr_http(to: Addresses, rate: float) -> dict[str, str]:
    return {**autoinstr_sampling(rate), "JAEGER_ENDPOINT": f"{to.url}/api/traces"}


def autoinstr_otlp(to: Addresses, rate: float) -> dict[str, str]:
    return {**autoinstr_sampling(rate), "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": to.url}


def opentelemetry(to: Addresses, rate: float) -> dict[str, str]:
    return {
        "OTEL_SERVICE_NAME": "bench",
        "OTEL_TRACES_SAMPLER": "always_on" if rate else "always_off",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": to.url,
    }


def datadog(to: Addresses, rate: float) -> dict[str, str]:
    return {
        "DD_SERVICE": "bench",
        "DD_TRACE_AGENT_URL": to.url,
        "DD_TRACE_SAMPLING_RULES": json.dumps([{"sample_rate": rate}]),
        # Rules bring a limit of 100 traces a second, which would make 100 % something else.
        "DD_TRACE_RATE_LIMIT": "-1",
        "DD_TRACE_STARTUP_LOGS": "false",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    }


def elastic(to: Addresses, rate: float) -> dict[str, str]:
    return {
        "ELASTIC_APM_SERVICE_NAME": "bench",
        "ELASTIC_APM_SERVER_URL": to.url,
        "ELASTIC_APM_TRANSACTION_SAMPLE_RATE": f"{rate:g}",
        # Not METRICS_INTERVAL=0: that is invalid, and the agent then sends nothing at all.
        "ELASTIC_APM_DISABLE_METRICS": "*",
        "ELASTIC_APM_CENTRAL_CONFIG": "false",
        "ELASTIC_APM_CLOUD_PROVIDER": "none",
    }


@dataclass(frozen=True)
class Agent:
    """``launcher`` stands before the program; ``python`` in it stands for the interpreter of the environment."""

    name: str
    environment: str
    packages: tuple[str, ...]
    launcher: tuple[str, ...]
    settings: Callable[[Addresses, float], dict[str, str]]

    def bin(self, program: str) -> str:
        return str(ENVIRONMENTS / self.environment / "bin" / program)

    def command(self, *program: str) -> list[str]:
        """The command line that runs ``program`` (its first word names a program of the environment) under the agent."""
        if self.launcher[-2:] == ("-m", "autoinstr") and program[0] == "python":
            program = program[1:]  # it takes what `python` takes, and starts this interpreter itself
        else:
            program = (self.bin(program[0]), *program[1:])
        return [self.bin(word) if i == 0 else word for i, word in enumerate(self.launcher)] + list(program)

    def variables(self, to: Addresses, rate: float) -> dict[str, str]:
        """The whole environment of a measured process: the caller's own settings for agents do not leak into it.

        Every agent, and bare, gets equally many variables: ``requests`` reads all of them at every call (for proxies), which
        costs about 2 µs per variable and would be taken for a cost of the agent.
        """
        foreign = ("AUTOINSTR_", "JAEGER_", "OTEL_", "DD_", "ELASTIC_APM_", "PYTHON", "BENCH_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        # elasticapm-run looks programs up on the PATH.
        path = os.pathsep.join((str(ENVIRONMENTS / self.environment / "bin"), inherited.get("PATH", os.defpath)))
        settings = self.settings(to, rate)
        padding = {f"BENCH_PADDING_{i}": "http://127.0.0.1:12345" for i in range(MOST_SETTINGS - len(settings))}
        return {**inherited, "PATH": path, "BENCH_AGENT": self.environment, **settings, **padding}


OPENTELEMETRY_PACKAGES = (
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-http",
    *(f"opentelemetry-instrumentation-{name}" for name in ("flask", "wsgi", "fastapi", "asgi", "requests", "urllib")),
)

REPOSITORY = str(HERE.parent)
OURS = (("-e", REPOSITORY), ("python", "-m", "autoinstr"))

AGENTS = {
    agent.name: agent
    for agent in (
        Agent("bare", "bare", (), (), nothing),
        Agent("autoinstr", "autoinstr", *OURS, autoinstr_udp),
        Agent("autoinstr-http", "autoinstr", *OURS, autoinstr_http),
        Agent("autoinstr-otlp", "autoinstr", *OURS, autoinstr_otlp),
        Agent("opentelemetry", "opentelemetry", OPENTELEMETRY_PACKAGES, ("opentelemetry-instrument",), opentelemetry),
        Agent("ddtrace", "ddtrace", ("ddtrace",), ("ddtrace-run",), datadog),
        Agent("elastic", "elastic", ("elastic-apm",), ("elasticapm-run",), elastic),
    )
}


@dataclass(frozen=True)
class Variant:
    """An agent at a sampling rate."""

    agent: Agent
    rate: float

    @property
    def label(self) -> str:
        return self.agent.name if self.agent.name == "bare" else f"{self.agent.name}@{self.rate * 100:g}"


BARE = Variant(AGENTS["bare"], 0)


def parse_variant(text: str) -> Variant:
    """``AGENT@PERCENT``, as in ``autoinstr@100``; ``bare`` alone measures the noise (bare against bare)."""
    name, _, percent = text.partition("@")
    return Variant(AGENTS[name], float(percent or 0) / 100)


ALL_VARIANTS = tuple(["bare"] + [f"{name}@{percent}" for name in AGENTS if name != "bare" for percent in (100, 0)])


def is_installed(agent: Agent) -> bool:
    return Path(agent.bin("python")).exists()


def install(names: Sequence[str] | None = None) -> None:
    """Make the environments of the named agents (all, when None), at today's versions."""
    for agent in {
        agent.environment: agent for name, agent in AGENTS.items() if names is None or name in names
    }.values():
        print(f"installing {agent.environment}", file=sys.stderr)
        if not is_installed(agent):
            venv.create(ENVIRONMENTS / agent.environment, with_pip=True)
        subprocess.run(
            [agent.bin("python"), "-m", "pip", "install", "--quiet", "--upgrade", *LIBRARIES, *agent.packages],
            check=True,
        )


def versions(agent: Agent) -> dict[str, str]:
    """What is installed beside the agent, by the environment's own metadata."""
    program = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    output = subprocess.run([agent.bin("python"), "-c", program], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(output)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
