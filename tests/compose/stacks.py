"""The stacks of compose/ as tests see them: what is in their files, and how they are started, disturbed and taken down.

Owns: which files make a stack, the compose command, a running stack.
Must not know: what a stack is for.
Invariants: a running stack has a name and ports of its own, so that any number can run at once; at its end nothing of it is left,
and a test in which something is has failed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

COMPOSE = Path(__file__).parents[2] / "compose"
PAGE = COMPOSE.parent / "docs" / "compose.md"
DEADLINE_S = 90
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def documented() -> list[tuple[str, ...]]:
    """The files of each stack that the page names: of one command each, the first stands for it."""
    commands = re.findall(r"docker compose((?: -f compose/[\w-]+\.yaml)+)", PAGE.read_text("utf-8"))
    return sorted({tuple(re.findall(r"compose/([\w-]+\.yaml)", command)) for command in commands})


@cache
def compose_command() -> tuple[str, ...]:
    """Compose 2 where there is one, else Compose 1 (Debian's package docker-compose); empty without either."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else ()


def run_compose(
    files: Sequence[str], *words: str, environment: Mapping[str, str] | None = None, project: str = "autoinstr-test"
) -> str:
    """What the command prints. Fails the test with what it said, when it fails."""
    named = [word for file in files for word in ("-f", str(COMPOSE / file))]
    command = [*compose_command(), "--project-name", project, *named, *words]
    # Variables of the person who runs the tests (EXPORTER, PORT_UI …) are none of the test's.
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    done = subprocess.run(
        command, env={**inherited, **(environment or {})}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def wait(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return value


@contextmanager
def running(engine: docker.DockerClient, files: Sequence[str], environment: Mapping[str, str]) -> Iterator[Stack]:
    """A stack for the length of a ``with``; nothing of it runs yet. When the test fails, what the containers said is shown."""
    stack = Stack(engine, files, environment)
    try:
        yield stack
    except BaseException:
        print(stack.logs())
        raise
    finally:
        stack.down()
        stack.assert_nothing_left()


class Stack:
    """A stack of a project of its own. Made by ``running``."""

    def __init__(self, engine: docker.DockerClient, files: Sequence[str], environment: Mapping[str, str]) -> None:
        self._engine = engine
        self._files = files
        self.project = f"autoinstr-test-{uuid.uuid4().hex[:8]}"
        #: Names of all volumes that its containers have had.
        self._volumes: set[str] = set()
        ports = {name: "0" for file in files for name, _ in VARIABLE.findall((COMPOSE / file).read_text()) if name[:5] == "PORT_"}
        self._environment = {**ports, "HEALTH_INTERVAL": "1s", **environment}

    def compose(self, *words: str) -> str:
        return run_compose(self._files, *words, environment=self._environment, project=self.project)

    def up(self, *services: str) -> None:
        """Start services (all), and wait until all that run are well."""
        self.compose("up", "--detach", "--no-build", *services)
        self.wait_until_well()

    def down(self) -> None:
        mounts = [mount for container in self.containers() for mount in container.attrs["Mounts"]]
        self._volumes |= {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
        self.compose("down", "--volumes", "--timeout", "5")

    def containers(self, service: str | None = None) -> list[Container]:
        labels = [f"{PROJECT_LABEL}={self.project}"] + ([f"{SERVICE_LABEL}={service}"] if service else [])
        return list(self._engine.containers.list(all=True, filters={"label": labels}))

    def container(self, service: str) -> Container:
        (found,) = self.containers(service)
        return found

    def wait_until_well(self, *services: str) -> None:
        wait(lambda: self._are_well(services), f"all services are healthy ({self.project})")

    def _are_well(self, services: Sequence[str]) -> bool:
        for container in self.containers():
            state = container.attrs["State"]
            name = container.labels[SERVICE_LABEL]
            if services and name not in services:
                continue
            assert state["Status"] != "exited" or state["ExitCode"] == 0, f"{name} ended: {_tail(container)}"
            if state["Status"] != "exited" and state.get("Health", {}).get("Status") != "healthy":
                return False
        return True

    def port(self, service: str, inside: int) -> int:
        """Where a port of a service is on this host; it is another one after a restart."""
        bindings = self.container(service).attrs["NetworkSettings"]["Ports"].get(f"{inside}/tcp")
        assert bindings, f"{service} does not publish {inside}"
        return int(bindings[0]["HostPort"])

    def ask(
        self, service: str, inside: int, path: str, headers: Mapping[str, str] | None = None, timeout: float = 15
    ) -> tuple[int, bytes]:
        """A GET request from outside."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(service, inside), timeout=timeout)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def network(self) -> Any:
        (found,) = self._engine.networks.list(filters={"label": f"{PROJECT_LABEL}={self.project}"})
        return found

    def logs(self) -> str:
        return "\n".join(f"== {each.name} {each.status}\n{_tail(each)}" for each in self.containers())

    def assert_nothing_left(self) -> None:
        label = {"label": f"{PROJECT_LABEL}={self.project}"}
        left = [
            *self._engine.containers.list(all=True, filters=label),
            *self._engine.networks.list(filters=label),
            # Those without a name have no label, either.
            *(volume for volume in self._engine.volumes.list() if volume.name in self._volumes),
            *self._engine.volumes.list(filters=label),
        ]
        assert [] == [each.name for each in left]


def _tail(container: Container) -> str:
    return container.logs(tail=40).decode("utf-8", "replace")


class Shop:
    """The sample services of a stack, and the backend that they report to, as a visitor sees both."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        #: Trace id of each request, as sent -> (id of the caller's span, status of the answer).
        self.sent: dict[str, tuple[str, int]] = {}

    def buy(self, item: str = "teapot") -> tuple[str, int]:
        """A request through nginx that carries a trace: its id, and the status of the answer."""
        trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
        status, _ = self.stack.ask("nginx", 8080, f"/buy/{item}", {"traceparent": f"00-{trace_id}-{span_id}-01"})
        self.sent[trace_id] = (span_id, status)
        return trace_id, status

    def wait_until_open(self) -> None:
        wait(lambda: self.buy()[1] == 200, "the shop sells")

    def backend(self, path: str) -> bytes:
        status, body = self.stack.ask("backend", 16686, path)
        assert status == 200, (path, status, body)
        return body

    def spans(self, trace_id: str) -> list[Span]:
        status, body = self.stack.ask("backend", 16686, f"/api/traces/{trace_id}")
        assert status in (200, 404), body
        return [Span(each, trace["processes"]) for trace in json.loads(body)["data"] or () for each in trace["spans"]]

    def wait_for(self, trace_id: str, count: int) -> list[Span]:
        """All spans of a trace, once there are so many."""
        return wait(lambda: len(found := self.spans(trace_id)) >= count and found, f"{count} spans of {trace_id}")

    def traces(self, service: str = "shop") -> list[dict[str, Any]]:
        """All traces of a service that the backend has."""
        found: list[dict[str, Any]] = json.loads(self.backend(f"/api/traces?service={service}&start=0&limit=1500"))["data"]
        return found

    def metrics(self) -> dict[str, float]:
        lines = self.backend("/metrics").decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}

    def lost(self, service: str) -> float:
        """Spans of a service that the backend knows to be lost, wherever."""
        start = f'autoinstr_service_lost_total{{service="{service}"'
        return sum(number for name, number in self.metrics().items() if name.startswith(start) and 'where="packets"' not in name)


class Span:
    """What the tests ask of a span in Jaeger's JSON."""

    def __init__(self, data: dict[str, Any], processes: dict[str, Any]) -> None:
        self.id: str = data["spanID"]
        self.parent: str = next((each["spanID"] for each in data["references"]), "")
        self.service: str = processes[data["processID"]]["serviceName"]
        self.tags: dict[str, Any] = {tag["key"]: tag["value"] for tag in data["tags"]}

    @property
    def kind(self) -> str:
        return str(self.tags.get("span.kind"))

    @property
    def has_failed(self) -> bool:
        return self.tags.get("error") in (True, "true")
