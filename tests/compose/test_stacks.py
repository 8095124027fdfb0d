"""The stacks with nothing in them that has to be pulled, run for real, and disturbed."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator

import docker
import pytest

from .stacks import Shop, Span, running, wait

pytestmark = pytest.mark.alone
ALLINONE = ("allinone.yaml", "services.yaml")


@pytest.fixture(scope="module")
def shop(engine: docker.DockerClient, images: dict[str, str]) -> Iterator[Shop]:
    """The shop with the backend in one process and Prometheus' way to the agent, for the tests that leave it as they found it."""
    with running(engine, (*ALLINONE, "monitoring.yaml"), images) as stack:
        stack.up("nginx", "shop-metrics")
        started = Shop(stack)
        started.wait_until_open()
        yield started


def assert_is_tree(spans: list[Span], caller: str) -> None:
    """No span twice, one below the caller's, all others below a span that is there."""
    ids = [span.id for span in spans]
    assert sorted(set(ids)) == sorted(ids)
    assert [caller] == [span.parent for span in spans if span.parent not in ids]


def test_a_trace_over_two_services(shop: Shop) -> None:
    """What a user starts a stack for: a request through nginx is one trace, from the caller's span to the last service's."""
    trace_id, status = shop.buy()
    assert 200 == status
    spans = shop.wait_for(trace_id, 4)
    assert_is_tree(spans, shop.sent[trace_id][0])
    by_id = {span.id: span for span in spans}
    edges = sorted((by_id[span.parent].service, span.service, span.kind) for span in spans if span.parent in by_id)
    assert [("shop", "shop", "client"), ("shop", "shop", "client"), ("shop", "stock", "server")] == edges
    dependencies = wait(
        lambda: json.loads(shop.backend("/api/dependencies?endTs=9000000000000&lookback=9000000000000"))["data"], "an edge"
    )
    assert ("shop", "stock") in {(edge["parent"], edge["child"]) for edge in dependencies}


def test_services_are_as_their_image_has_them(shop: Shop) -> None:
    """Who has to change an image to trace it does not: the agent comes from a volume, and without it nothing is left of it."""
    for service in ("shop", "stock"):
        status, output = shop.stack.container(service).exec_run(["python3", "-I", "-c", "import autoinstr"])
        assert 0 != status
        assert b"No module named 'autoinstr'" in output
        status, output = shop.stack.container(service).exec_run(["python3", "-c", "import wrapt._wrappers as c; print(c.__file__)"])
        assert (0, b"/autoinstr/wrapt/") == (status, output[:17])


def test_health_checks_make_no_traces(shop: Shop) -> None:
    """A trace every second that nobody asked for would hide the others."""
    shop.wait_for(shop.buy()[0], 4)
    assert set(shop.sent) == {trace["traceID"] for service in ("shop", "stock") for trace in shop.traces(service)}


def test_counters_of_the_agent_can_be_fetched(shop: Shop) -> None:
    """Prometheus' graphs of the agent stay empty if what stands beside the service does not hand its counters on."""
    shop.wait_for(shop.buy()[0], 4)
    words = ["wget", "--quiet", "--output-document=-", "http://shop:9464/metrics"]
    status, output = shop.stack.container("nginx").exec_run(words)
    assert 0 == status
    finished = re.findall(r"^jaeger_tracer_finished_spans_total\{.*\} (\d+)$", output.decode(), re.MULTILINE)
    assert sum(map(int, finished)) >= 3


def test_network_that_is_cut_and_mended(shop: Shop) -> None:
    """A switch that fails must not cost an answer, and what the queue holds must not cost a span."""
    backend, network = shop.stack.container("backend"), shop.stack.network()
    network.disconnect(backend)
    try:
        meanwhile = [shop.buy() for _ in range(10)]
    finally:
        network.connect(backend, aliases=["backend"])
    assert {200} == {status for _, status in meanwhile}
    for trace_id, _ in meanwhile:
        assert_is_tree(shop.wait_for(trace_id, 4), shop.sent[trace_id][0])


def test_service_that_is_killed_under_load(shop: Shop) -> None:
    """Half a trace, a span twice, or a caller that takes harm from another's end would mislead in the moment that matters."""
    stock = shop.stack.container("stock")
    killed, sold = threading.Event(), []

    def go_shopping() -> None:
        while len(sold) < 15 or not killed.is_set() or len(sold) < 60:
            sold.append(shop.buy())

    visitor = threading.Thread(target=go_shopping)
    visitor.start()
    wait(lambda: len(sold) >= 15, "some are served")
    stock.kill()
    killed.set()
    visitor.join()
    stock.start()
    shop.stack.wait_until_well("stock")
    shop.wait_until_open()
    assert {200, 500} == {status for _, status in sold}
    for trace_id, status in sold:
        spans = shop.wait_for(trace_id, 2 if status == 500 else 3)  # Of a killed service the last spans are lost.
        assert_is_tree(spans, shop.sent[trace_id][0])
        kinds = Counter((span.service, span.kind) for span in spans)
        assert (1, 2 if status == 200 else 1) == (kinds["shop", "server"], kinds["shop", "client"])
        assert (status == 500) == any(span.has_failed for span in spans if span.kind == "server")
    assert_is_tree(shop.wait_for(shop.buy()[0], 4), list(shop.sent.values())[-1][0])


def test_backend_that_is_killed(engine: docker.DockerClient, images: dict[str, str]) -> None:
    """Without a backend services answer on; afterwards each span has arrived or is counted as lost, where one sees it."""
    environment = {**images, "EXPORTER": "jaeger-http", "QUEUE": "32"}
    with running(engine, ALLINONE, environment) as stack:
        stack.up()
        shop = Shop(stack)
        shop.wait_until_open()
        for trace_id in shop.sent:
            shop.wait_for(trace_id, 4)
        backend = stack.container("backend")
        backend.kill()
        assert {200} == {shop.buy()[1] for _ in range(100)}
        backend.start()
        stack.wait_until_well("backend")
        shop.wait_for(shop.buy()[0], 4)

        # Three of a request's four spans are the shop's. What it lost it tells with its next spans.
        def all_are_accounted_for() -> bool:
            made = 3 * len(shop.sent)
            stored = sum(1 for trace in shop.traces() for each in trace["spans"] if Span(each, trace["processes"]).service == "shop")
            assert stored + shop.lost("shop") <= made
            if stored + shop.lost("shop") == made:
                return True
            shop.wait_for(shop.buy()[0], 4)
            return False

        wait(all_are_accounted_for, "every span is stored or counted as lost")
        assert shop.lost("shop") > 100


def test_locust_with_two_workers(engine: docker.DockerClient, images: dict[str, str]) -> None:
    """A load test whose traces do not all arrive measures something else."""
    load = {"LOAD_HEADLESS": "true", "LOAD_WORKERS": "2", "LOAD_USERS": "6", "LOAD_TIME": "6s"}
    with running(engine, (*ALLINONE, "load.yaml"), {**images, **load}) as stack:
        stack.compose("up", "--detach", "--no-build", "--scale", "worker=2")
        master = stack.container("locust")
        wait(lambda: master.reload() or master.status == "exited", "the load is over")
        said = master.logs(stdout=False).decode()
        assert 0 == master.attrs["State"]["ExitCode"], said
        assert "2 workers" in said or said.count("reported as ready") == 2, said
        printed = master.logs(stderr=False).decode()
        statistics, _ = json.JSONDecoder().raw_decode(printed, printed.index("[\n"))
        sent = {each["name"]: each["num_requests"] for each in statistics}
        assert {"/buy/teapot", "/buy/moon", "/buy/yacht"} == set(sent)
        assert {0} == {each["num_failures"] for each in statistics}
        # The master may end before the last figures of a worker have come: what was sent stands in nginx's log.
        served = re.findall(r'^(\S+) "GET /buy/\w+ HTTP/1.1" (\d+) ', stack.container("nginx").logs().decode(), re.MULTILINE)
        assert len(served) >= sum(sent.values()) >= 30
        assert 2 == len({worker for worker, _ in served})
        shop = Shop(stack)
        spans = sum(3 if status == "404" else 4 for _, status in served)
        wait(lambda: sum(len(trace["spans"]) for trace in shop.traces()) >= spans, f"{spans} spans of {len(served)} requests")
        traces = shop.traces()
        assert (len(served), spans) == (len(traces), sum(len(trace["spans"]) for trace in traces))


def test_postgres_keeps_traces(engine: docker.DockerClient, images: dict[str, str]) -> None:
    """A team's traces must outlive a new version of the backend, and of the database."""
    with running(engine, ("allinone-postgres.yaml", "services.yaml"), images) as stack:
        stack.up()
        shop = Shop(stack)
        shop.wait_until_open()
        before = {trace_id: shop.wait_for(trace_id, 4) for trace_id, (_, status) in shop.sent.items() if status == 200}
        stack.compose("stop", "--timeout", "10", "backend", "postgres")
        stack.compose("rm", "--force", "-v", "backend", "postgres")
        stack.up()
        for trace_id, spans in before.items():
            assert {span.id for span in spans} == {span.id for span in shop.spans(trace_id)}
        assert_is_tree(shop.wait_for(shop.buy()[0], 4), list(shop.sent.values())[-1][0])
