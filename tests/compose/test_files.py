"""The files of compose/: what can be known of a stack without running it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import autoinstr
from autoinstr import config
from autoinstr.backend import options
from fakes import until
from ports import free_port

from .stacks import COMPOSE, PAGE, VARIABLE, compose_command, documented, run_compose

FILES = sorted(path.name for path in COMPOSE.glob("*.yaml"))
MANIFESTS = sorted(path.name for path in (COMPOSE / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
STACKS = documented()
#: What Jaeger's program and OpenTelemetry's collector (contrib) are made of, as far as it is used here.
COMPONENTS = {
    "jaeger": {
        "extensions": {"jaeger_storage", "jaeger_query", "remote_sampling", "healthcheckv2"},
        "receivers": {"otlp", "jaeger", "zipkin", "kafka", "nop"},
        "processors": {"batch"},
        "exporters": {"jaeger_storage_exporter", "kafka", "nop"},
    },
    "otelcol": {
        "extensions": {"health_check"},
        "receivers": {"otlp", "jaeger", "zipkin"},
        "processors": {"memory_limiter", "batch"},
        "exporters": {"otlp"},
    },
}
JAEGER_STORES = {"memory", "badger", "opensearch", "cassandra", "clickhouse"}
DOCKER_VARIABLES = {"AUTOINSTR_SERVE_USER", "AUTOINSTR_SERVE_TOKEN", options.POSTGRES_VARIABLE}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def filled(text: str, values: Mapping[str, str] | None = None) -> str:
    """A text with its variables replaced, by their defaults where nothing is said."""
    return VARIABLE.sub(lambda found: (values or {}).get(found[1], found[2]), text).replace("$$", "$")


def merged(files: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The services of a stack: as compose merges them, as far as the tests look."""
    services: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, service in yaml.safe_load(filled((COMPOSE / file).read_text("utf-8")))["services"].items():
            parent = load(COMPOSE / service["extends"]["file"])["services"]["service"] if "extends" in service else {}
            before = services.get(name, {})
            services[name] = {**parent, **before, **service}
            for key in ("volumes", "ports"):
                services[name][key] = [*before.get(key, []), *service.get(key, [])]
            for key in ("environment", "depends_on"):
                services[name][key] = {**before.get(key, {}), **service.get(key, {})}
    return services


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_compose_takes(stack: tuple[str, ...]) -> None:
    """A stack of the page that compose refuses is the first thing that a reader tries."""
    if not compose_command():
        pytest.skip("no compose: apt-get install docker-compose")
    run_compose(stack, "config", "--quiet")


def test_every_file_is_in_a_stack_of_the_page() -> None:
    """A file that nothing names is not found, or has been forgotten."""
    assert set() == {file for file in FILES if file != "base.yaml"} - {file for stack in STACKS for file in stack}


def test_commands_in_the_files_are_those_of_the_page() -> None:
    """Each file says how it is started; what it says has been checked only if the page says it, too."""
    for file in FILES:
        for command in re.findall(r"docker compose((?: -f compose/[\w-]+\.yaml)+)", (COMPOSE / file).read_text("utf-8")):
            assert tuple(re.findall(r"compose/([\w-]+\.yaml)", command)) in STACKS, (file, command)


@pytest.mark.parametrize("file", FILES)
def test_variables_have_defaults(file: str) -> None:
    """One command starts a stack: nothing has to be set before."""
    found = re.findall(r"(?<!\$)\$\{?(\w+)(:-[^}]*)?", (COMPOSE / file).read_text("utf-8"))
    assert [] == [name for name, default in found if not default]


def test_defaults_of_one_variable_are_the_same() -> None:
    """Two versions of Jaeger by one name would be a riddle."""
    found = {pair for file in FILES for pair in VARIABLE.findall((COMPOSE / file).read_text("utf-8"))}
    assert {} == {name: count for name, count in Counter(name for name, _ in found).items() if count > 1}


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_services_are_bounded_pinned_and_watched(stack: tuple[str, ...]) -> None:
    """What runs for weeks must not fill the memory or the disk, and start tomorrow as it does today."""
    services = merged(stack)
    for name, service in services.items():
        image = service["image"]
        assert re.search(r":v?\d+\.\d+(\.\d+)?([.-][\w.-]+)?$", image), f"{name}: {image} is not pinned"
        if image.startswith("autoinstr/") and "otelcol" not in image:
            assert image.endswith(f":{autoinstr.__version__}"), image
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert {"max-size", "max-file"} == set(service["logging"]["options"]), name
        once = service["restart"] == "no" and "healthcheck" not in service
        if once:
            conditions = {other["depends_on"][name]["condition"] for other in services.values() if name in other["depends_on"]}
            assert {"service_completed_successfully"} == conditions, f"{name} has no health check, and is waited for"
        else:
            assert {"test", "interval", "timeout", "retries", "start_period"} == set(service["healthcheck"]), name


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_services_wait_for_others_to_be_well(stack: tuple[str, ...]) -> None:
    """A service that starts before what it needs fails now and then, on the slowest machine first."""
    services = merged(stack)
    for name, service in services.items():
        for other, how in service["depends_on"].items():
            assert other in services, f"{name} waits for {other}, which is in none of the files"
            assert how["condition"] == ("service_healthy" if "healthcheck" in services[other] else "service_completed_successfully")


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_ports_are_of_this_machine_and_do_not_collide(stack: tuple[str, ...]) -> None:
    """A second service on a port fails at the start; one that the whole network reaches hands out all traces."""
    ports = [port for service in merged(stack).values() for port in service["ports"]]
    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]
    outside = Counter((port.split(":")[1], port.partition("/")[2]) for port in ports)
    assert {} == {port: count for port, count in outside.items() if count > 1}


def test_variables_of_ports_have_ports_of_their_own() -> None:
    """Two stacks' files may be put together: their ports must not meet."""
    found = dict(pair for file in FILES for pair in VARIABLE.findall((COMPOSE / file).read_text("utf-8")))
    ports = Counter(default for name, default in found.items() if name.startswith("PORT_"))
    assert len(ports) == sum(ports.values()) >= 10, ports


@pytest.mark.parametrize("file", FILES)
def test_volumes_and_mounted_files(file: str) -> None:
    """A file that is not there is mounted as an empty folder, and the program inside says something else."""
    content = yaml.safe_load(filled((COMPOSE / file).read_text("utf-8")))
    used = set()
    for service in content["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), volume
                assert volume.endswith(":ro"), f"{volume}: the repository is nothing to write into"
            else:
                used.add(source)
    assert set(content.get("volumes", ())) == used


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_names_of_services_are_in_the_stack(stack: tuple[str, ...]) -> None:
    """A host name with a typing error is found when somebody waits for traces."""
    services = merged(stack)
    for name, service in services.items():
        text = json.dumps([service["environment"], service.get("command"), service.get("network_mode", "")])
        named = set(re.findall(r"(?:[a-z]+://|@)([a-z][\w-]*):\d+", text)) | set(re.findall(r"service:([\w-]+)", text))
        assert set() == named - set(services), name


def test_variables_of_the_agent_are_known() -> None:
    """A variable with a typing error does nothing, and nobody says so."""
    environments = [service["environment"] for stack in STACKS for service in merged(stack).values()]
    named = {name for environment in environments for name in environment if name.startswith(config.PREFIXES)}
    assert {"AUTOINSTR_EXPORTER", "JAEGER_SAMPLER_TYPE", options.POSTGRES_VARIABLE} <= named
    assert set() == named - set(config.FORMS) - DOCKER_VARIABLES


@pytest.mark.parametrize("exporter", ["otlp", "jaeger-udp", "jaeger-http", "zipkin"])
def test_agent_has_nothing_to_complain_about(exporter: str) -> None:
    """The stacks' settings are copied: a warning in them is copied, too."""
    text = filled((COMPOSE / "services.yaml").read_text("utf-8"), {"EXPORTER": exporter})
    environment = {name: str(value) for name, value in yaml.safe_load(text)["services"]["shop"]["environment"].items()}
    effective = config.from_env(environment)
    assert ([], "shop", (exporter,)) == (effective.warnings, effective.service_name, effective.exporters)
    assert {"backend"} == {re.split("[:/]+", each)[1] for each in (effective.otlp_endpoint, effective.jaeger_endpoint, effective.zipkin_endpoint)}


def collector_configs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what runs, where, configuration) of each service that is given one, several files merged as the collector does it."""
    for stack in STACKS:
        for name, service in merged(stack).items():
            paths = [word.removeprefix("--config=/etc/") for word in service.get("command") or () if word.startswith("--config=/etc/")]
            whole: dict[str, Any] = {}
            for path in paths:
                whole = _deep_merged(whole, load(COMPOSE / path))
            if whole:
                yield paths[0].partition("/")[0], f"{'+'.join(stack)}: {name}", whole


def _deep_merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return {**one, **{key: _deep_merged(one[key], value) if key in one else value for key, value in other.items()}}


def test_collectors_are_given_parts_that_exist() -> None:
    """Jaeger and the collector end at the start, if a pipeline names what is not there or not configured."""
    found = list(collector_configs())
    assert {"jaeger", "otelcol"} == {what for what, _, _ in found}
    for what, where, whole in found:
        used: dict[str, set[str]] = {"extensions": set(whole["service"]["extensions"])}
        for pipeline in whole["service"]["pipelines"].values():
            for kind in ("receivers", "processors", "exporters"):
                used.setdefault(kind, set()).update(pipeline.get(kind, ()))
        for kind, names in used.items():
            assert names == set(whole.get(kind) or ()), (where, kind)
            assert names <= COMPONENTS[what][kind], (where, kind)


def test_jaegers_store_is_the_one_that_is_named() -> None:
    """A query service that looks into another store than the ingester writes shows nothing."""
    for what, where, whole in collector_configs():
        if what == "jaeger" and "jaeger_storage" in whole["extensions"]:
            backends = whole["extensions"]["jaeger_storage"]["backends"]
            assert ["main"] == list(backends), where
            assert set(backends["main"]) < JAEGER_STORES or set(backends["main"]) <= JAEGER_STORES, where
            query = whole["extensions"].get("jaeger_query", {"storage": {"traces": "main"}})
            exporter = whole["exporters"].get("jaeger_storage_exporter") or {"trace_storage": "main"}
            assert ("main", "main") == (query["storage"]["traces"], exporter["trace_storage"]), where


def test_health_checks_ask_where_collectors_answer() -> None:
    """A health check on a wrong port never succeeds, and nothing behind it starts."""
    for stack in STACKS:
        for name, service in merged(stack).items():
            paths = [word.removeprefix("--config=/etc/") for word in service.get("command") or () if word.startswith("--config=/etc/")]
            if paths:
                extensions = load(COMPOSE / paths[0])["extensions"]
                endpoint = (extensions.get("healthcheckv2") or {}).get("http", extensions.get("health_check"))["endpoint"]
                assert f":{endpoint.rpartition(':')[2]}/" in service["healthcheck"]["test"][-1], name


def test_json_and_yaml_parse() -> None:
    """What is mounted is read by others, who say little about a comma."""
    for path in COMPOSE.rglob("*.json"):
        json.loads(path.read_text("utf-8"))
    for path in COMPOSE.rglob("*.yaml"):
        assert list(yaml.safe_load_all(path.read_text("utf-8")))


def test_images_are_built_from_pinned_bases() -> None:
    """An image that is built next year should be the same."""
    for path in COMPOSE.glob("images/*/Dockerfile"):
        text = path.read_text("utf-8")
        defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
        named = [found.strip("${}") for found in re.findall(r"^FROM (\S+)", text, re.MULTILINE)]
        assert named, path
        assert [] == [name for name in named if not re.search(r":\d+\.\d+", defaults[name])], path


def test_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    """A panel whose metric has another name is empty, and looks as if all were well."""
    panels = load(COMPOSE / "monitoring" / "grafana" / "dashboard.json")["panels"]
    asked = {name for panel in panels for target in panel["targets"] for name in re.findall(r"\b(?:jaeger_tracer|autoinstr)_\w+", target["expr"])}
    assert len(asked) > 10
    assert [] == [panel["title"] for panel in panels if not panel["targets"]]
    exported = exported_metrics(tmp_path)
    assert set() == asked - set(exported)
    # Those of Prometheus itself, which its configuration gives to each target.
    given = {"service", "job"}
    for expression in (target["expr"] for panel in panels for target in panel["targets"]):
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            (name,) = re.findall(r"\b(?:jaeger_tracer|autoinstr)_\w+", expression)
            assert set() == set(labels.split(", ")) - exported[name] - given, expression


def exported_metrics(folder: Path) -> dict[str, set[str]]:
    """The names that a real agent and a real backend tell, with their labels."""
    names = ("query", "sampling", "collector", "otlp", "otlp-grpc", "zipkin", "agent", "agent-binary")
    serve = [sys.executable, "-m", "autoinstr", "serve", "--data", str(folder), "--ports-file", str(folder / "ports")]
    backend = subprocess.Popen([*serve, *(word for name in names for word in (f"--{name}-port", "0"))], stdout=subprocess.DEVNULL)
    try:
        until(lambda: (folder / "ports").exists(), "the backend listens")
        ports = json.loads((folder / "ports").read_text())
        return _metrics_of_an_agent(ports) | _metrics(ports["query"])
    finally:
        backend.terminate()
        backend.wait()


def _metrics_of_an_agent(ports: Mapping[str, int]) -> dict[str, set[str]]:
    """Of a program that has sent a span to that backend, and waits to be asked."""
    port = free_port(32)
    program = (
        "import autoinstr, sys\n"
        "with autoinstr.span('a'): pass\n"
        "autoinstr.flush()\n"
        "print('sent', flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {
        **os.environ,
        "JAEGER_ENDPOINT": f"http://127.0.0.1:{ports['collector']}/api/traces",
        "JAEGER_SAMPLER_TYPE": "const",
        "JAEGER_SAMPLER_PARAM": "1",
        "AUTOINSTR_METRICS_PORT": str(port),
    }
    words = [sys.executable, "-m", "autoinstr", "-c", program]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout
        assert "sent\n" == agent.stdout.readline()
        return _metrics(port)


def _metrics(port: int) -> dict[str, set[str]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line[:1] != "#"]
    return {re.split(r"[{ ]", line)[0]: set(re.findall(r'(\w+)="', line)) for line in lines}


def test_prometheus_asks_where_the_counters_are() -> None:
    """The port beside the service, and in it the agent's, are said in three places."""
    targets = [target for job in load(COMPOSE / "monitoring" / "prometheus.yaml")["scrape_configs"] for each in job["static_configs"] for target in each["targets"]]
    services = merged(("allinone.yaml", "services.yaml", "monitoring.yaml"))
    assert {"shop:9464", "stock:9464", "backend:16686"} == set(targets)
    beside = (COMPOSE / "nginx" / "metrics.conf").read_text("utf-8")
    assert "listen 9464;" in beside
    for name in ("shop", "stock"):
        assert f"http://127.0.0.1:{services[name]['environment']['AUTOINSTR_METRICS_PORT']}/metrics" in beside
        assert f"service:{name}" == services[f"{name}-metrics"]["network_mode"]


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in MANIFESTS:
        for manifest in yaml.safe_load_all((COMPOSE / "kubernetes" / name).read_text("utf-8")):
            yield f"{name}: {manifest['kind']} {manifest['metadata']['name']}", manifest


@pytest.mark.parametrize("manifest", [each for _, each in manifests()], ids=[where for where, _ in manifests()])
def test_kubernetes_takes(manifest: dict[str, Any]) -> None:
    """A field with a typing error is refused by the cluster, or worse, ignored."""
    kubernetes_validate.validate(manifest, "1.30", strict=True)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for where, manifest in manifests():
        if manifest["kind"] in ("Deployment", "DaemonSet"):
            assert manifest["spec"]["selector"]["matchLabels"].items() <= manifest["spec"]["template"]["metadata"]["labels"].items(), where
            yield where, manifest["spec"]["template"]["spec"]


def test_services_of_kubernetes_lead_to_pods() -> None:
    """A selector or a port that nothing has answers with a time-out."""
    workloads = {manifest["metadata"]["name"]: pod for (_, manifest), pod in ((each, each[1]["spec"].get("template")) for each in manifests()) if pod}
    for where, manifest in manifests():
        if manifest["kind"] == "Service":
            pod = workloads[manifest["spec"]["selector"]["app.kubernetes.io/name"]]["spec"]
            ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
            assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= ports, where


def test_pods_are_bounded_and_pinned() -> None:
    """As for compose; and what is mounted is declared."""
    for where, pod in pods():
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        assert pod["enableServiceLinks"] is False, where
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert container["image"].endswith(f":{autoinstr.__version__}"), where
            assert container["resources"]["limits"]["memory"], where
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes, where
            for probe in ("readinessProbe", "livenessProbe"):
                (asked,) = [value for key, value in container.get(probe, {"": {}}).items() if key in ("httpGet", "tcpSocket", "")]
                assert asked.get("port") in {None, *(port["name"] for port in container.get("ports", ()))}, where


def test_agent_in_kubernetes_is_that_of_compose() -> None:
    """The same way in, and settings without a complaint."""
    compose = merged(("allinone.yaml", "services.yaml"))
    for where, pod in pods():
        (container,) = pod["containers"]
        environment = {each["name"]: each.get("value", "10.0.0.1") for each in container.get("env", ())}
        if "PYTHONPATH" not in environment:
            continue
        (init,) = pod["initContainers"]
        assert init["command"] == compose["agent"]["command"], where
        assert environment["PYTHONPATH"] == compose["shop"]["environment"]["PYTHONPATH"], where
        effective = config.from_env(environment)
        assert [] == effective.warnings, where
        assert "http://10.0.0.1:5778/sampling" == effective.sampler_endpoint, where


def test_page_says_of_each_stack_whether_it_was_run() -> None:
    """Readers have to know what was seen to work, and what was only read through."""
    text = PAGE.read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+\.yaml)` \|.*\| (run|read) \|$", text, re.MULTILINE)
    assert {name for name, _ in rows} == {file for file in FILES if file != "base.yaml"}
    assert {"allinone.yaml", "allinone-postgres.yaml", "services.yaml", "load.yaml"} == {name for name, how in rows if how == "run"}
