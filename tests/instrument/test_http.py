"""What all HTTP instruments share: redaction, hosts, URLs, which of them are left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.config import Config
from autoinstr.instrument.http import (
    SECRET_HEADERS,
    Attempts,
    Conventions,
    excluder,
    full_url,
    header_attributes,
    propagation_filter,
    quote_path,
    redact_query,
    redact_url,
    split_host,
    split_url,
)

NAMES = frozenset({"token", "sig"})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/p?a=1", "http://h/p?a=1"),
        ("http://h/p?token=x&a=1&SIG=y&token=", "http://h/p?token=REDACTED&a=1&SIG=REDACTED&token=REDACTED"),
        ("http://h/p?token", "http://h/p?token"),
        ("http://h/p?atoken=1&token=a=b", "http://h/p?atoken=1&token=REDACTED"),
        ("http://u:p@h/", "http://REDACTED:REDACTED@h/"),
        ("http://u@h", "http://REDACTED:REDACTED@h"),
        ("http://u:p@q@h:1/a@b?c=@d", "http://REDACTED:REDACTED@h:1/a@b?c=@d"),
        ("http://h/#token=x", "http://h/#token=REDACTED"),
        ("http://h/?a=1#f", "http://h/?a=1#f"),
        ("", ""),
        ("/path?sig=1", "/path?sig=REDACTED"),
    ],
)
def test_redact_url(url: str, expected: str) -> None:
    """Secrets in URLs are recorded, or what is none is destroyed."""
    assert redact_url(url, NAMES) == expected


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="&#=", codec="utf-8"), min_size=1))
def test_no_secret_survives(before: str, secret: str) -> None:
    """Some odd query lets a secret through."""
    marked = f"<{secret}>"
    assert marked not in redact_query(f"{before}&token={marked}", NAMES).replace(before, "", 1)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.example", ("a.example", None)),
        ("a.example:8080", ("a.example", 8080)),
        ("a.example:80", ("a.example", None)),
        ("[::1]:8080", ("::1", 8080)),
        ("[::1]", ("::1", None)),
        ("::1", ("::1", None)),
        ("a:b", ("a", None)),
        ("a:999999", ("a", None)),
        ("", ("", None)),
        ("[", ("", None)),
    ],
)
def test_split_host(host: str, expected: tuple[str, int | None]) -> None:
    """A Host header that is wrong raises in the middle of the codec, or gives a port that is none."""
    assert split_host(host, "http") == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1/a", ("http", "h:1")),
        ("HTTPS://u:p@h?a", ("https", "u:p@h")),
        ("http://h#f", ("http", "h")),
        ("http://h?a=http://other/", ("http", "h")),
        ("", ("", "")),
    ],
)
def test_split_url(url: str, expected: tuple[str, str]) -> None:
    """The host of another URL is recorded as the callee."""
    assert split_url(url) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("http", "h", 80, "/a"), "http://h/a"),
        (("http", "h", 0, "/a"), "http://h/a"),
        (("https", "h", 80, "/a"), "https://h:80/a"),
        (("http", "::1", 8080, "/a"), "http://[::1]:8080/a"),
        (("http", "[::1]", 80, "/a"), "http://[::1]/a"),
        (("http", "proxy", 3128, "http://h/a"), "http://h/a"),
        (("http", "h", 80, "*"), "http://h/*"),
        (("http", "h", 80, ""), "http://h/"),
        (("http", "h", 80, "/?to=http://other/"), "http://h/?to=http://other/"),
    ],
)
def test_full_url(parts: tuple[str, str, int, str], expected: str) -> None:
    """URLs cannot be clicked, or are the proxy's."""
    assert full_url(*parts) == expected


@pytest.mark.parametrize(
    ("path", "quoted"),
    [("/a/b", "/a/b"), ("/a b", "/a%20b"), ("/caf\xc3\xa9", "/caf%C3%A9"), ("/\u2603", "/%E2%98%83"), ("/%", "/%25"), ("", "")],
)
def test_quote_path(path: str, quoted: str) -> None:
    """A path with other letters is recorded as bytes of one server's and as text of the other's."""
    assert quote_path(path) == quoted


@pytest.mark.parametrize(
    ("values", "host", "told"),
    [
        ({}, "any", True),
        ({"propagate_to": ("*.internal", "api")}, "a.internal", True),
        ({"propagate_to": ("*.internal", "api")}, "API", True),
        ({"propagate_to": ("*.Internal",)}, "a.internal", True),
        ({"propagate_to": ("*.internal",)}, "internal.example", False),
        ({"propagate_to": ()}, "any", False),
        ({"no_propagate_to": ("*.com",)}, "a.com", False),
        ({"no_propagate_to": ("*.com",)}, "a.org", True),
        ({"propagate_to": ("*", "a.com"), "no_propagate_to": ("b.com",)}, "b.com", False),
    ],
)
def test_hosts(values: dict[str, Any], host: str, *, told: bool) -> None:
    """The lists of hosts are read the wrong way round, or depend on case."""
    may_propagate_to = propagation_filter(Config(**values))
    assert (may_propagate_to is None or may_propagate_to(host)) == told


def test_all_hosts_cost_nothing() -> None:
    """The lists are searched for each request even if there are none."""
    assert propagation_filter(Config()) is None


def test_excluder() -> None:
    """An instrument's own list is added to the general one, or a list is not read at all."""
    config = Config(excluded_urls=("health",), excluded_urls_by_instrument={"flask": ("own$",), "urllib": ()})
    general, own, nothing = excluder(config, "requests"), excluder(config, "flask", "wsgi"), excluder(config, "urllib")
    assert general is not None
    assert own is not None
    assert nothing is None
    assert (general("http://h/healthz"), general("http://h/own")) == (True, False)
    assert (own("http://h/healthz"), own("http://h/own"), own("http://h/owner")) == (False, True, False)
    assert excluder(Config()) is None


def test_headers() -> None:
    """A password is recorded because somebody asked for all headers."""
    headers = {name: "secret" for name in SECRET_HEADERS} | {"x-a": "1"}
    assert header_attributes([*SECRET_HEADERS, "x-a", "x-b"], "p", headers.get) == {"p.x-a": ["1"]}


def test_attempts() -> None:
    """Retries are not counted."""
    call = Attempts(None, "requests")
    assert [call.next() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("semconv", ["stable", "old", "dup"])
def test_descriptions_take_anything(semconv: str) -> None:
    """The codec meets a fact that cannot be described, and the span is lost."""
    conventions = Conventions(Config(semconv=semconv))
    for odd in ("", "\x00", "\ud800", "::::", "http://", "?#", "[", "%"):
        conventions.server_request(odd, odd, odd, odd)
        conventions.server_target(odd, odd, odd)
        conventions.server_client(odd, odd, odd)
        conventions.client_request(odd, odd, odd, 0)
        conventions.client_target(odd, odd)
        conventions.client_url(odd, odd, 0, odd)
        conventions.client_response(0, odd)
    assert conventions.client_response(404, "1.1")
