"""What all HTTP instruments share: names, attributes and outcomes of server and client spans.

Owns: the semantic conventions (OpenTelemetry's stable ones; the old names when asked), redaction, which requests are left out.
Must not know: any library. An instrument hands in plain strings, or the bytes it found, and a status code.
Source: OpenTelemetry semantic conventions for HTTP, and `http.request.resend_count` etc. from there.

On the request's own thread only tuples are built ("facts"); the ``describe_*`` functions turn them into attributes when the
codec meets a tuple for the first time.
"""

from __future__ import annotations

from contextvars import ContextVar

from autoinstr.model import Kind, SpanContext, Status
from autoinstr.trace import current, type_name
from autoinstr.trouble import fault, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from autoinstr.config import Config
    from autoinstr.instrument import Tracing
    from autoinstr.model import Attributes, AttributeValue, Describe, Facts
    from autoinstr.trace import Span

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
REDACTED = "REDACTED"
#: Headers whose values are never recorded, asked for or not.
SECRET_HEADERS = frozenset({"authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"})
OLD_NAMES = {
    "http.request.method": "http.method",
    "http.response.status_code": "http.status_code",
    "url.full": "http.url",
    "url.scheme": "http.scheme",
    "server.address": "net.host.name",
    "server.port": "net.host.port",
    "network.protocol.version": "http.flavor",
    "user_agent.original": "http.user_agent",
    "client.address": "http.client_ip",
    "network.peer.address": "net.sock.peer.addr",
}
OLD_CLIENT_NAMES = {**OLD_NAMES, "server.address": "net.peer.name", "server.port": "net.peer.port"}


def text(value: Any) -> str:
    """What came off the wire, as text; bytes are latin-1 there (PEP 3333; ASGI)."""
    return value.decode("latin-1") if value.__class__ is bytes else str(value)


def split_host(host: str, scheme: str) -> tuple[str, int | None]:
    """Name and port of a Host header, which may hold anything; the port is left out where it is the scheme's own."""
    name, port_text = host, ""
    if host.startswith("["):
        name, closed, rest = host[1:].partition("]")
        if closed and rest.startswith(":"):
            port_text = rest[1:]
    elif host.count(":") == 1:
        name, _, port_text = host.partition(":")
    port = int(port_text) if port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 else None
    return name, None if port is None or port == DEFAULT_PORTS.get(scheme) else port


def describe_method(method: str, known: frozenset[str]) -> dict[str, AttributeValue]:
    """The request method, with what was really sent when it is not a known one."""
    if method in known:
        return {"http.request.method": method}
    return {"http.request.method": "_OTHER", "http.request.method_original": method}


class Conventions:
    """The describing functions for one configuration, as attributes that hold plain functions (cheap to hash)."""

    def __init__(self, config: Config) -> None:
        known = frozenset(config.known_methods) if config.known_methods else KNOWN_METHODS
        redact = frozenset(map(str.lower, config.redact_query))
        self.known_methods = known
        #: What is longer comes to no more in a span, and would be held in the queue: characters of a path, a query, a header.
        self.longest = config.attribute_length
        self.may_propagate_to = propagation_filter(config)

        def server_request(method: str, scheme: str, host: str | bytes, version: str) -> Attributes:
            found = describe_method(method, known)
            found["url.scheme"] = scheme
            name, port = split_host(text(host), scheme)
            if name:
                found["server.address"] = name
            if port is not None:
                found["server.port"] = port
            if version:
                found["network.protocol.version"] = version.rpartition("/")[2]
            return found

        def server_target(prefix: str, path: str, query: str | bytes) -> Attributes:
            found: dict[str, AttributeValue] = {"url.path": quote_path(prefix + path) or "/"}
            if query:
                found["url.query"] = redact_query(text(query), redact)
            return found

        def server_client(user_agent: str | bytes, forwarded_for: str | bytes, peer: str) -> Attributes:
            found: dict[str, AttributeValue] = {}
            client = text(forwarded_for).split(",", 1)[0].strip() or peer
            if client:
                found["client.address"] = client
            if peer:
                found["network.peer.address"] = peer
            if user_agent:
                found["user_agent.original"] = text(user_agent)
            return found

        def server_response(status: int, route: str) -> Attributes:
            found: dict[str, AttributeValue] = {"http.response.status_code": status} if status else {}
            if route:
                found["http.route"] = route
            if status >= 500:
                found["error.type"] = str(status)
            return found

        def client_request(method: str, scheme: str, host: str, port: int) -> Attributes:
            found = describe_method(method, known)
            found["server.address"] = host
            if port:
                found["server.port"] = port
            return found

        def client_target(method: str, url: str) -> Attributes:
            found = describe_method(method, known)
            scheme, authority = split_url(url)
            host, port = split_host(authority.rpartition("@")[2], "")
            found["server.address"] = host
            found["server.port"] = port or DEFAULT_PORTS.get(scheme, 0)
            found["url.full"] = redact_url(url, redact)
            return found

        def client_url(scheme: str, host: str, port: int, target: str) -> Attributes:
            return {"url.full": redact_url(full_url(scheme, host, port, target), redact)}

        def client_response(status: int, version: str) -> Attributes:
            found: dict[str, AttributeValue] = {"http.response.status_code": status} if status else {}
            if version:
                found["network.protocol.version"] = version
            if status >= 400:
                found["error.type"] = str(status)
            return found

        named = _in_dialect(config.semconv)
        self.server_request = named(server_request, OLD_NAMES)
        self.server_target = named(server_target, OLD_NAMES, _old_target)
        self.server_client = named(server_client, OLD_NAMES)
        self.server_response = named(server_response, OLD_NAMES)
        self.client_request = named(client_request, OLD_CLIENT_NAMES)
        self.client_target = named(client_target, OLD_CLIENT_NAMES)
        self.client_url = named(client_url, OLD_CLIENT_NAMES)
        self.client_response = named(client_response, OLD_CLIENT_NAMES)


def propagation_filter(config: Config) -> Callable[[str], bool] | None:
    """Whether a host gets our headers, by the globs of the configuration; ``None`` when all do."""
    allowed, denied = config.propagate_to, config.no_propagate_to
    if "*" in allowed and not denied:
        return None
    from fnmatch import fnmatchcase
    from functools import lru_cache

    @lru_cache(maxsize=1024)
    def may_propagate_to(host: str) -> bool:
        host = host.lower()
        return any(fnmatchcase(host, glob.lower()) for glob in allowed) and not any(
            fnmatchcase(host, glob.lower()) for glob in denied
        )

    return may_propagate_to


def _old_target(found: dict[str, AttributeValue]) -> None:
    """The old conventions had path and query in one."""
    path, query = found.pop("url.path", ""), found.pop("url.query", "")
    found["http.target"] = f"{path}?{query}" if query else path


def _in_dialect(semconv: str) -> Callable[..., Describe]:
    """How to make a describing function speak the configured names: stable, old, or dup (both)."""

    def same(describe: Describe, names: Mapping[str, str], also: Callable[..., None] | None = None) -> Describe:
        return describe

    def old(describe: Describe, names: Mapping[str, str], also: Callable[..., None] | None = None) -> Describe:
        def described(*arguments: object) -> Attributes:
            found = dict(describe(*arguments))
            if also is not None:
                also(found)
            return {names.get(key, key): value for key, value in found.items()}

        return described

    def dup(describe: Describe, names: Mapping[str, str], also: Callable[..., None] | None = None) -> Describe:
        old_describe = old(describe, names, also)

        def described(*arguments: object) -> Attributes:
            return {**describe(*arguments), **old_describe(*arguments)}

        return described

    return {"stable": same, "old": old, "dup": dup}[semconv]


try:
    from operator import call  # type: ignore[attr-defined]
except ImportError:  # Python 3.10

    def call(app: Any, *arguments: Any) -> Any:
        """Call it."""
        return app(*arguments)


#: How a server's handler runs an application, WSGI or ASGI; a framework's runs the framework's own ``__call__``.
call_application: Callable[..., Any] = call


def end_server(
    span: Span, status: int, error: BaseException | None, describe: Describe, end_ns: int = 0
) -> None:
    """End a recording server span: outcome, route, error."""
    if error is not None and not is_disconnect(error):
        # A framework's handler may have recorded it already, and then let it through to the server, perhaps in a group.
        known = span.own.get("error.type") if span.own else None
        if known is None or all(known != type_name(each) for each in (error, *getattr(error, "exceptions", ()))):
            span.fail(error)
    elif status >= 500:
        span.status = Status.ERROR
    span.facts = (*span.facts, (describe, status, span.route))
    span.end(end_ns)


class Attempts:
    """One call of the program to an HTTP client, which may take several requests: redirects, retries, authentication.

    Without a span around it the call is a trace of its own: ``first`` is the span of its first request, started with the
    call, and ``trace`` what the further ones join.
    """

    __slots__ = ("_made", "first", "owner", "scope", "trace")

    def __init__(self, owner: object, scope: str, made: int = 0, first: Span | None = None) -> None:
        self.owner = owner
        self.scope = scope
        self._made = made
        self.first = first
        self.trace = None if first is None else SpanContext(first.trace_id, flags=first.flags)

    def next(self) -> int:
        """How many requests of this call went out before the one that is about to."""
        made = self._made
        self._made = made + 1
        return made


#: The call that the current request belongs to.
attempts: ContextVar[Attempts | None] = ContextVar("autoinstr.attempts", default=None)


def one_call(tracing: Tracing, scope: str, *, look_at_url: bool) -> Callable[[Any], Callable[..., Any]]:
    """For a client's outermost method: what it sends, directly or by calling itself again, are attempts of one call.

    Without a span around it the sampling decision is made here, once for all attempts; when it is no, the layers below have
    nothing to do but to send the headers. Below an unsampled span there is nothing to do here either. Both is different
    where requests may be left out by their URL (``look_at_url``), which is known further down.
    """
    decides_here = not (look_at_url or tracing.config.require_parent)
    get_current, set_current, reset_current = current.get, current.set, current.reset

    def begin() -> Span | None:
        """The root of a call without a span around it; ``None`` where the decision is not made here."""
        tracer = tracing.tracer
        if tracer.sampler.by_name:
            return None
        try:
            return tracer.start_local_root("HTTP", Kind.CLIENT, None, scope, False)  # noqa: FBT003
        except Exception as trouble:  # Host safety: the request goes out untraced.
            fault("the start of an HTTP call", trouble)
            return None

    def make(wrapped: Any) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            parent = get_current()
            if parent is not None and (parent.leaf or not (parent.recording or look_at_url)):  # `needs_no_span`
                return wrapped(self, *arguments, **keywords)
            known = attempts.get()
            if known is not None and known.owner is self:
                return wrapped(self, *arguments, **keywords)
            first = begin() if parent is None and known is None and decides_here else None
            if first is not None and not first.recording:
                first.leaf = True
                token = set_current(first)
                try:
                    return wrapped(self, *arguments, **keywords)
                finally:
                    reset_current(token)
                    first.end()
            one = Attempts(self, scope, 0, first)
            attempt_token = attempts.set(one)
            try:
                return wrapped(self, *arguments, **keywords)
            finally:
                attempts.reset(attempt_token)
                if one.first is not None:  # Nothing was sent (a file, a mock): this trace has never been.
                    one.first.tracer.roots_sampled -= 1

        return call

    return make


def needs_no_span(parent: Span | None, look_at_url: bool) -> bool:
    """Whether a request below ``parent`` is left alone, as can be told without knowing anything of it.

    So it is inside another client span (the layers below requests are http.client, too), and below an unsampled span, whose
    context is sent on as it is; there the URL matters all the same (``look_at_url``) if it may be an excluded one.
    """
    return parent is not None and (parent.leaf or not (parent.recording or look_at_url))


def start_client(
    tracing: Tracing,
    parent: Span | None,
    scope: str,
    method: str,
    facts: tuple[Facts, ...],
    call: Attempts | None = None,
    resends: int = 0,
) -> Span | None:
    """A client span below ``parent``; ``None`` where there is nothing to record, or no parent and one is required."""
    name = method if method in tracing.conventions.known_methods else "HTTP"
    if parent is None:
        if tracing.config.require_parent:
            return None
        if call is not None and call.first is not None:
            span, call.first = call.first, None
            span.name = name
        else:
            span = tracing.tracer.start_local_root(name, Kind.CLIENT, None if call is None else call.trace, scope, False)  # noqa: FBT003
    elif not parent.recording:
        return None
    else:
        span = tracing.tracer.start(name, Kind.CLIENT, parent, scope)
    span.leaf = True
    if span.recording:
        span.facts = (*span.facts, *facts)
        if resends:
            span.own = {"http.request.resend_count": resends}
    return span


def client_facts(
    conventions: Conventions, method: str, scheme: str, host: str, port: int, target: str
) -> tuple[Facts, ...]:
    """What a client knows of a request that it sends to ``host``, which may be a proxy: the target is absolute then."""
    target = target[: conventions.longest]
    if is_absolute(target):
        return ((conventions.client_target, method, target),)
    return ((conventions.client_request, method, scheme, host, port), (conventions.client_url, scheme, host, port, target))


def end_client(span: Span, status: int, version: str, error: BaseException | None, describe: Describe) -> None:
    """End a client span when the headers of the response are in, or with the error that came instead."""
    if not span.recording:
        span.end()
        return
    if error is not None:
        if not is_disconnect(error):
            span.fail(error)
    else:
        span.facts = (*span.facts, (describe, status, version))
        if status >= 400:
            span.status = Status.ERROR
    span.end()


def open_server() -> Span | None:
    """The current span, if it is a server span that is still open and records."""
    span = current.get()
    return span if span is not None and span.recording and span.kind == Kind.SERVER and not span.end_ns else None


def set_route(span: Span, route: str) -> None:
    """Name a server span by the route that the framework has matched: low in cardinality, unlike the path."""
    span.route = route
    name = f"{span.name.partition(' ')[0]} {route}"
    if span.flags < 0:
        span.update_name(name)
    else:
        span.name = name  # Spares a call.


def is_disconnect(error: BaseException) -> bool:
    """Whether the "error" only says that the client has gone or the work was cancelled, which is nobody's fault."""
    name = type(error).__name__
    return isinstance(error, GeneratorExit) or name in {"CancelledError", "ClientDisconnect", "ClientDisconnected", "WebSocketDisconnect"}


def quote_path(path: str) -> str:
    """A decoded path (PEP 3333: bytes as latin-1 text; ASGI: real text), percent-encoded again."""
    if path.isascii() and path.isprintable() and not any(letter in path for letter in ' "<>%?#'):
        return path
    from urllib.parse import quote

    try:
        raw = path.encode("latin-1")
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogatepass")
    return quote(raw, safe="/:@!$&'()*+,;=~-._")


def redact_query(query: str, names: frozenset[str]) -> str:
    """A query string with the values of secret parameters replaced; keys stay, names are compared without case."""
    if "=" not in query:
        return query
    parts = query.split("&")
    for index, part in enumerate(parts):
        key, equals, _ = part.partition("=")
        if equals and key.lower() in names:
            parts[index] = f"{key}={REDACTED}"
    return "&".join(parts)


def redact_url(url: str, names: frozenset[str]) -> str:
    """A URL without user name, password and secret query values."""
    head, sep, fragment = url.partition("#")
    base, question, query = head.partition("?")
    scheme, slashes, rest = base.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        if "@" in authority:
            authority = f"{REDACTED}:{REDACTED}@" + authority.rpartition("@")[2]
        base = f"{scheme}://{authority}{slash}{path}"
    # A fragment is never sent, but it is where browsers get their tokens (OAuth), and URLs are copied from there.
    return base + question + redact_query(query, names) + sep + redact_query(fragment, names)


def split_url(url: str) -> tuple[str, str]:
    """Scheme and authority of an absolute URL, the latter with user name and password (RFC 3986, section 3)."""
    scheme, _, rest = url.partition("://")
    for end in "/?#":
        rest = rest.partition(end)[0]
    return scheme.lower(), rest


def is_absolute(target: str) -> bool:
    """Whether a request's target is a whole URL, as proxies get it (RFC 9112, section 3.2.2)."""
    return not target.startswith("/") and "://" in target[:16]


def full_url(scheme: str, host: str, port: int, target: str) -> str:
    """The absolute URL of a request; a target that is absolute already (as proxies get it) is taken as it is."""
    if is_absolute(target):
        return target
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    authority = host if not port or port == DEFAULT_PORTS.get(scheme) else f"{host}:{port}"
    return f"{scheme}://{authority}/{target.removeprefix('/')}"


def header_attributes(
    wanted: Iterable[str], prefix: str, get: Callable[[str], str | list[str] | None]
) -> dict[str, AttributeValue]:
    """``http.request.header.<name>`` or ``http.response.header.<name>`` for the headers that are configured."""
    found: dict[str, AttributeValue] = {}
    for name in wanted:
        if name not in SECRET_HEADERS and (value := get(name)) is not None:
            found[f"{prefix}.{name}"] = value if isinstance(value, list) else [value]
    return found


def excluder(config: Config, *instruments: str) -> Callable[[str], bool] | None:
    """Whether a URL is left out, by the regular expressions of the configuration; ``None`` when there are none.

    ``instruments`` are names of one instrument; its own list stands in place of the general one.
    """
    own = [config.excluded_urls_by_instrument[name] for name in instruments if name in config.excluded_urls_by_instrument]
    patterns = [pattern for pattern in (own[0] if own else config.excluded_urls) if _is_pattern(pattern)]
    if not patterns:
        return None
    import re

    search = re.compile("|".join(f"(?:{pattern})" for pattern in patterns)).search
    return lambda url: search(url) is not None


def _is_pattern(text: str) -> bool:
    import re

    try:
        re.compile(text)
    except re.error as error:
        say(f"{text!r} is not a regular expression ({error}); no URL is excluded by it")
        return False
    return True
