"""The web interface's files, and the data that only it asks for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoinstr.backend.query import pages
from autoinstr.backend.receive.losses import LossBook
from autoinstr.backend.store import MemoryStore
from autoinstr.model import Batch, Kind, Resource, Status

from .asked import STOCK, Asked, asking, now_span
from .conftest import HOST, Backend


@pytest.fixture
def asked() -> Iterator[Asked]:
    with asking() as found:
        yield found


# Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small interface in place of the real one, with a secret beside it."""
    (tmp_path / "secret.js").write_text("secret")
    ui = tmp_path / "ui"
    (ui / "vendor").mkdir(parents=True)
    (ui / "index.html").write_text('<head><base href="/"><script src="ui/app.js"></script></head>')
    (ui / "app.js").write_text("app()")
    (ui / "vendor" / "LICENSE-x").write_text("free")
    (ui / "notes.py").write_text("secret")
    (ui / ".hidden.js").write_text("secret")
    monkeypatch.setattr(pages, "FOLDER", ui)
    return ui


@pytest.mark.parametrize("path", ["/", "/trace/a", "/compare?a=1&b=2", "/dependencies", "/services", "/sampling"])
def test_every_page_is_the_one_document(asked: Asked, folder: Path, path: str) -> None:
    """A permalink that is opened or reloaded must give the interface, with addresses that work from there."""
    response = asked.client.get(path, headers={"Accept": "text/html"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.text == (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("root_path", "base"),
    [("/tools/traces", "/tools/traces/"), ("/a/", "/a/"), ('/"><script>', "/%22%3E%3Cscript%3E/"), (r"/\1", "/%5C1/")],
)
def test_the_base_address_is_that_of_the_proxy(folder: Path, root_path: str, base: str) -> None:
    """Below a path the page has to ask below it; and nothing in a path may become part of the page."""
    with asking(root_path=root_path) as below:
        page = below.client.get("/services").text
    assert page.startswith(f'<head><base href="{base}"><script src="ui/app.js">')


@pytest.mark.parametrize(
    ("path", "content_type", "content"),
    [
        ("/ui/app.js", "text/javascript; charset=utf-8", "app()"),
        ("/ui/vendor/LICENSE-x", "text/plain; charset=utf-8", "free"),
    ],
)
def test_files_have_the_types_that_browsers_insist_on(
    asked: Asked, folder: Path, path: str, content_type: str, content: str
) -> None:
    """A module of another type is not run, since answers forbid guessing."""
    response = asked.client.get(path)
    assert (response.status_code, response.headers["Content-Type"], response.text) == (200, content_type, content)


@pytest.mark.parametrize("name", ["app.js", "style.css", "icon.svg", "vendor/htm-preact.js"])
def test_the_real_files_are_there(asked: Asked, name: str) -> None:
    """They have to be in the package, since the interface works offline."""
    assert asked.client.get(f"/ui/{name}").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/ui/missing.js",
        "/ui/vendor",
        "/ui/",
        "/ui/notes.py",
        "/ui/.hidden.js",
        "/ui/%2e%2e/secret.js",
        "/ui/..%2fsecret.js",
        "/ui/vendor/%2e%2e/%2e%2e/secret.js",
        "/ui/vendor//..//..//secret.js",
        "/ui/%2fetc%2fpasswd",
        "/ui/app.js%00.css",
        "/ui/..%5csecret.js",
    ],
)
def test_no_path_leaves_the_folder(asked: Asked, folder: Path, path: str) -> None:
    """Anybody who may ask could otherwise read every file of the user."""
    response = asked.client.get(path)
    assert response.status_code == 404
    assert "secret" not in response.text


def test_raw_requests_do_not_leave_the_folder_either(backend: Backend) -> None:
    """Clients tidy up paths before they send them; an attacker does not."""
    for path in (
        "/ui/../query.py",
        "/ui/../../../../../../../../etc/passwd",
        "//ui/../pages.py",
        "/ui/vendor/../../app.py",
    ):
        with closing(socket.create_connection((HOST, backend.ports["query"]), timeout=30)) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.split()[1] == b"404", path


def test_files_are_sent_again_only_when_they_have_changed(asked: Asked, folder: Path) -> None:
    """After an update of the package nobody must have to empty a cache; and nothing is sent in vain."""
    tag = asked.client.get("/ui/app.js").headers["ETag"]
    assert tag.startswith('"')
    for known in (tag, f'"x", W/{tag}', "*"):
        response = asked.client.get("/ui/app.js", headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", tag)
    (folder / "app.js").write_text("app(2)")
    response = asked.client.get("/ui/app.js", headers={"If-None-Match": tag})
    assert (response.status_code, response.text) == (200, "app(2)")


def test_hostile_text_is_only_ever_data(asked: Asked) -> None:
    """A span's name is the work of a stranger: no answer with it may be a document that a browser would run."""
    evil = "<script>alert(1)</script>"
    asked.write(now_span(evil, 1, attributes={evil: evil}), resource=Resource(evil, {evil: evil}))
    paths = (
        "/",
        "/trees/1",
        "/api/traces/1",
        "/ui/data/search",
        "/ui/data/services",
        "/api/v3/traces/1",
        f"/api/traces/{evil}",
    )
    for path in paths:
        response = asked.client.get(path)
        assert response.headers["Content-Type"].split(";")[0] in ("application/json", "text/plain")
    for page in ("/trace/1", f"/trace/{evil.replace('/', '%2F')}", "/services"):
        assert evil not in asked.client.get(page, headers={"Accept": "text/html"}).text


# Data -------------------------------------------------------------------------------------------------------------


def test_a_search_needs_no_service(asked: Asked) -> None:
    """The first page shows the newest traces of all services; every field of the form narrows them."""
    asked.write(now_span("GET /a", 1, start_ns=time.time_ns() - 5 * 10**9))
    asked.write(now_span("GET /b", 2, lasts_ns=2 * 10**9), resource=STOCK)

    def found(parameters: str = "") -> list[str]:
        return [trace["operation"] for trace in asked.get(f"/ui/data/search?{parameters}")["traces"]]

    assert found() == ["GET /b", "GET /a"]
    assert found("service=shop") == ["GET /a"]
    assert found("minDuration=1s") == ["GET /b"]
    assert found("limit=1") == ["GET /b"]
    assert found("traceID=1&traceID=ff") == ["GET /a"]
    assert asked.error("/ui/data/search?limit=1501")[0] == 400


def test_services_of_the_last_hour(asked: Asked) -> None:
    """Each column of the page, in its unit; quantiles are those of requests, not of the queries within."""
    asked.parts.losses.received("udp", [Batch(Resource("gone"), [now_span()])])
    costly = Resource("shop", {"autoinstr.span_cost_us": 5.0})
    requests = [now_span("GET /", n, 1, lasts_ns=100_000_000, status=Status.ERROR * (n == 1)) for n in range(1, 11)]
    queries = [now_span("SELECT", n, 2, 1, kind=Kind.CLIENT, lasts_ns=1000) for n in range(1, 11)]
    asked.write(*requests, *queries, resource=costly)
    asked.write(now_span("task", 50, kind=Kind.INTERNAL), resource=STOCK)
    asked.write(now_span("old", 51, start_ns=time.time_ns() - 3 * 3600 * 10**9), resource=Resource("idle"))
    shop, stock, idle = asked.get("/ui/data/services")["services"]
    assert (shop["name"], shop["spans"], shop["errors"], shop["requests"], shop["cost_us"]) == ("shop", 20, 1, 10, 10.0)
    assert shop["p50_us"] == pytest.approx(100_000, rel=0.2)
    assert shop["p95_us"] == pytest.approx(100_000, rel=0.2)
    assert 0 < shop["rate_per_s"] <= 20
    assert shop["strategy"]["strategyType"] == "PROBABILISTIC"
    assert set(shop["losses"]) == {
        "received",
        "client_queue",
        "client_too_large",
        "client_failed",
        "packets",
        "refused",
        "evicted",
    }
    assert (stock["name"], stock["requests"], stock["cost_us"]) == ("stock", 0, None)
    assert stock["p50_us"] == pytest.approx(10_000, rel=0.2)
    assert (idle["name"], idle["spans"], idle["rate_per_s"], idle["p95_us"]) == ("idle", 0, 0, None)


def test_losses_are_those_of_the_way_and_of_the_store() -> None:
    """A gap in a trace explains itself by the row of its service."""
    book = LossBook()
    book.refused("shop", 3)
    book.lost_payloads("undecodable")
    with asking(MemoryStore(2), losses=book) as asked:
        for number in range(1, 6):
            asked.write(now_span("x", number), resource=STOCK)
        losses = asked.get("/ui/data/losses")
    nothing = dict.fromkeys(("received", "client_queue", "client_too_large", "client_failed", "packets", "refused"), 0)
    assert losses == {
        "services": [
            {"name": "shop", **nothing, "refused": 3, "evicted": 0},
            {"name": "stock", **nothing, "evicted": 3},
        ],
        "receiver": {"undecodable_payloads": 1},
    }


def test_dependencies_with_their_errors(asked: Asked) -> None:
    """The graph colours an edge by its errors."""
    asked.write(now_span("call", 1, 1, kind=Kind.CLIENT))
    asked.write(now_span("serve", 1, 2, 1, status=Status.ERROR), now_span("serve", 1, 3, 1), resource=STOCK)
    edges = [{"parent": "shop", "child": "stock", "calls": 2, "errors": 1}]
    assert asked.get("/ui/data/dependencies")["edges"] == edges
    assert asked.get("/ui/data/dependencies?endTs=1000&lookback=1000")["edges"] == []


def test_a_strategy_is_edited_and_taken_back(asked: Asked) -> None:
    """The sampling page changes what a service is told; names may have slashes."""
    asked.write(now_span(), resource=Resource("team/shop"))
    [row] = asked.get("/ui/data/sampling")["services"]
    assert (row["name"], row["source"]) == ("team/shop", "default")
    strategy = {"type": "probabilistic", "param": 0.25}
    edited = asked.client.request("PUT", "/ui/data/sampling/team%2Fshop", json=strategy)
    assert (edited.status_code, edited.json()["source"]) == (200, "edited")
    assert asked.parts.strategies.for_service("team/shop")["probabilisticSampling"] == {"samplingRate": 0.25}
    [row] = asked.get("/ui/data/sampling")["services"]
    assert (row["source"], row["strategy"]["probabilisticSampling"]) == ("edited", {"samplingRate": 0.25})
    back = asked.client.request("DELETE", "/ui/data/sampling/team%2Fshop")
    assert (back.status_code, back.json()["source"]) == (200, "default")
    assert asked.get("/ui/data/sampling")["target_per_s"] is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"5", b'{"type":"probabilistic","param":7}', b"[" * 100_000, b" " * 2_000_000]
)
def test_a_strategy_that_is_none_changes_nothing(asked: Asked, body: bytes) -> None:
    """Clients would otherwise be told nonsense, or nothing would be sampled any more."""
    status, message = asked.error("/ui/data/sampling/shop", "PUT", content=body)
    assert status == (413 if len(body) > 1_000_000 else 400)
    assert message
    assert asked.parts.strategies.source("shop") == "default"
    assert asked.error("/ui/data/sampling/", "PUT", content=b"{}")[0] == 400


def test_everything_can_be_forgotten(asked: Asked) -> None:
    """The button says so, and means it."""
    asked.write(now_span())
    assert asked.client.request("DELETE", "/ui/data/traces").status_code == 200
    assert asked.get("/ui/data/search") == {"traces": []}
    assert asked.data("/api/services") == []


def test_status(asked: Asked) -> None:
    """The footer: what is held, what are the limits, what went."""
    asked.write(now_span())
    status = asked.get("/ui/data/status")
    assert (status["store"]["spans"], status["store"]["traces"], status["evicted"]) == (1, 1, {})
    assert status["version"]
    assert status["uptime_s"] >= 0
    assert status["limits"] == {}
