"""Who is let in: the middleware, called as a server calls it, and the same on a running backend."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from autoinstr.backend import guard

from . import clients
from .conftest import Backend, running

THRIFT = {"Content-Type": "application/x-thrift"}
JSON = {"Content-Type": "application/json"}


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"OWN")]})
    await send({"type": "http.response.body", "body": b"reached"})


def ask(app: Any, method: str = "GET", path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for one request; ``_`` in a header's name stands for ``-``."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing may be read of a request that is refused")

    raw = [(name.lower().replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(app(scope, receive, send))
    start, body = sent
    return start["status"], {key.decode(): value.decode() for key, value in start["headers"]}, body["body"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:16686", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:16686", 200),
        ("127.9.9.9", 200),
        ("traces.localhost:80", 200),
        ("proxy.example:8080", 200),
        ("evil.example:16686", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("[", 403),
        ("192.168.1.7", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, status: int) -> None:
    """A page whose name is pointed to 127.0.0.1 (DNS rebinding) could otherwise read all traces."""
    app = guard.check_host(application, ["proxy.example"])
    assert ask(app, host=host)[0] == status


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("ann:secret"), 200),
        (basic("bob:pass:word"), 200),
        ("Bearer token", 200),
        ("bearer  token ", 200),
        (basic("ann:wrong"), 401),
        (basic("ann"), 401),
        (basic(""), 401),
        ("Basic token", 401),
        ("Basic ===", 401),
        ("Basic \xff", 401),
        ("Bearer ann:secret", 401),
        ("Bearer", 401),
        ("Bearer \xe9", 401),
        ("", 401),
        ("token", 401),
    ],
)
def test_passwords_and_tokens(authorization: str, status: int) -> None:
    """One way in too many, and everybody who reaches the port reads and deletes the traces."""
    credentials = guard.Credentials(("ann:secret", "bob:pass:word"), ("token",))
    app = guard.check_credentials(application, credentials)
    found, headers, _ = ask(app, authorization=authorization)
    assert found == status
    assert ("www-authenticate" in headers) == (status == 401)
    assert ask(app, path="/health")[0] == 200
    assert "secret" not in repr(credentials)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": "http://127.0.0.1:16686"}, 200),
        ({"origin": "http://127.0.0.1:80"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:16686"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(headers: dict[str, str], status: int) -> None:
    """Any page that a developer opens could otherwise delete all traces, or change the sampling."""
    app = guard.check_origin(application)
    assert ask(app, "DELETE", host="127.0.0.1:16686", **headers)[0] == status
    assert ask(app, "GET", host="127.0.0.1:16686", **headers)[0] == 200


def test_spans_come_from_pages_that_are_named_only() -> None:
    """A front end sends its spans by CORS; other pages must not fill the store."""
    app = guard.allow_origins(application, ["https://shop.example"])
    status, headers, _ = ask(app, "POST", origin="https://shop.example")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://shop.example")
    status, headers, _ = ask(
        app, "OPTIONS", origin="https://shop.example", access_control_request_headers="content-type,x-own"
    )
    assert (status, headers["access-control-allow-headers"]) == (204, "content-type,x-own")
    assert ask(app, "POST", origin="https://evil.example")[0] == 403
    assert ask(app, "POST")[0] == 200
    assert ask(guard.allow_origins(application, ["*"]), "POST", origin="https://any.example")[0] == 200


def test_answers_forbid_scripts_from_elsewhere() -> None:
    """Text of spans comes from strangers; should it ever reach a page as markup, it must not run."""
    _, headers, _ = ask(guard.add_security_headers(application))
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy
    assert (policy["object-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'", "'none'", "'self'")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["x-frame-options"] == "OWN"


def test_a_running_backend_is_guarded(tmp_path: Path) -> None:
    """The checks are worth nothing on a port that they were not put before."""
    (tmp_path / "token").write_text("top-secret\n")
    options = ("--token", f"@{tmp_path / 'token'}", "--cors-origin", "https://shop.example")
    bearer = {"Authorization": "Bearer top-secret"}
    with running(tmp_path, *options) as backend:
        body = clients.jaeger_http_body("guarded")

        def status(port: str, method: str, path: str, **headers: str) -> int:
            return backend.request(port, method, path, body if method == "POST" else None, headers)[0]

        for path in ("/", "/api/services", "/metrics"):
            assert status("query", "GET", path) == 401
            assert status("query", "GET", path, **bearer) == 200
            assert status("query", "GET", path, **bearer, Host="evil.example") == 403
        assert [status("query", "GET", path) for path in ("/health", "/ready")] == [200, 200]
        assert status("collector", "POST", "/api/traces", **THRIFT) == 401
        assert status("collector", "POST", "/api/traces", **THRIFT, **bearer) == 202
        assert status("collector", "POST", "/api/traces", **THRIFT, **bearer, Origin="https://evil.example") == 403
        assert status("sampling", "GET", "/sampling?service=x") == 200
        assert backend.request("query", "GET", "/", headers=bearer)[2]["Content-Security-Policy"]


def test_receivers_can_stay_open(tmp_path: Path) -> None:
    """Old clients have no way to send a password."""
    with running(tmp_path, "--user", "ann:secret", "--open-receivers") as backend:
        assert backend.post("collector", "/api/traces", clients.jaeger_http_body("x"), THRIFT)[0] == 202
        assert backend.get("query", "/api/services")[0] == 401


def test_a_page_of_another_site_cannot_post_to_a_running_backend(backend: Backend) -> None:
    """Zipkin's port takes any content type, so that a browser would ask nobody before."""
    headers = {**JSON, "Origin": "https://evil.example"}
    assert backend.post("zipkin", "/api/v2/spans", clients.zipkin_body("evil"), headers)[0] == 403
