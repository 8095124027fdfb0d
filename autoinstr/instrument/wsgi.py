"""WSGI: a server span around any application callable (PEP 3333), whatever server or framework calls it.

The server is handed what the application returned wherever the response is complete by then; only a response that is still
being produced gets a thin iterator, so that the span ends, and the context holds, while it is.
"""

from __future__ import annotations

from autoinstr.instrument import Tracing, wrap_once
from autoinstr.instrument.http import call_application, end_server, excluder, header_attributes, quote_path
from autoinstr.model import Kind
from autoinstr.trace import RemoteSpan, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from autoinstr.trace import Span

    Environ: TypeAlias = dict[str, Any]
    StartResponse: TypeAlias = Callable[..., Any]
    WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

SERVER = Kind.SERVER


def make_handler(
    tracing: Tracing, scope: str, call: Callable[[Any, Environ, StartResponse], Iterable[bytes]] = call_application
) -> Callable[[Any, Environ, StartResponse], Iterable[bytes]]:
    """``handle(app, environ, start_response)``: runs ``call(app, environ, start_response)`` inside a server span.

    ``call`` is a framework's ``__call__``, of which ``handle`` then takes the place, or calls the application itself.
    Written flat, for this runs once per request: each call of a function of ours costs as much as five attributes.
    """
    conventions = tracing.conventions
    request_facts, target_facts = conventions.server_request, conventions.server_target
    client_facts, response_facts = conventions.server_client, conventions.server_response
    known_methods, longest = conventions.known_methods, conventions.longest
    extract, trace_headers = tracing.environ.extract, tracing.environ.probes
    excluded = excluder(tracing.config, scope, "wsgi")
    wanted = tracing.config.server_request_headers
    wanted_back = tracing.config.server_response_headers
    get_current, set_current, reset_current = current.get, current.set, current.reset

    def describe(span: Span, environ: Environ) -> None:
        """Put on the span what is known of the request."""
        get = environ.get
        host = get("HTTP_HOST")
        if host is None:
            host = f"{get('SERVER_NAME', '')}:{get('SERVER_PORT', '')}"
        span.facts = (
            *span.facts,
            (
                request_facts,
                get("REQUEST_METHOD", "GET"),
                get("wsgi.url_scheme", "http"),
                host[:longest],
                get("SERVER_PROTOCOL", ""),
            ),
            (target_facts, get("SCRIPT_NAME", ""), get("PATH_INFO", "")[:longest], get("QUERY_STRING", "")[:longest]),
            (
                client_facts,
                get("HTTP_USER_AGENT", "")[:longest],
                get("HTTP_X_FORWARDED_FOR", "")[:longest],
                get("REMOTE_ADDR", ""),
            ),
        )
        if wanted:
            span.set_attributes(header_attributes(wanted, "http.request.header", _environ_header(environ)))

    def finish(span: Span, status: str, error: BaseException | None) -> None:
        """End the span with the outcome; the status may be anything that an application made up."""
        try:
            if span.recording:
                end_server(span, _code(status), error, response_facts)
            else:
                span.end()
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of a WSGI request", trouble)

    def handle(app: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        outer = get_current()
        if outer is not None and outer.kind == SERVER and not outer.end_ns:
            return call(app, environ, start_response)
        try:
            if excluded is not None and excluded(_url(environ)):
                span = None
            else:
                parent = None if environ.keys().isdisjoint(trace_headers) else extract(environ)
                if outer.__class__ is RemoteSpan:  # The program's own tracing has begun this request.
                    parent = outer.context
                method = environ.get("REQUEST_METHOD", "GET")
                span = tracing.tracer.start_local_root(
                    method if method in known_methods else "HTTP",
                    SERVER,
                    parent,
                    scope,
                    True,  # noqa: FBT003
                )
                if span.recording:
                    describe(span, environ)
        except Exception as trouble:  # Host safety: a request that we do not understand is still answered.
            fault("the start of a WSGI request", trouble)
            span = None
        if span is None:
            return call(app, environ, start_response)
        status = ""
        token = set_current(span)
        try:
            if span.recording:

                def start(*arguments: Any, **keywords: Any) -> Any:
                    nonlocal status
                    if arguments:
                        status = arguments[0]
                        if wanted_back and span.recording:
                            _capture(span, wanted_back, arguments)
                    return start_response(*arguments, **keywords)

                result = call(app, environ, start)
            else:
                result = call(app, environ, start_response)
        except BaseException as error:
            reset_current(token)
            finish(span, status, error)
            raise
        reset_current(token)
        if (
            span.is_complete
            or result.__class__ is list
            or result.__class__ is tuple
            or getattr(result, "streaming", None) is False
            or _is_file(result, environ)
        ):
            if span.recording:
                finish(span, status, None)
            else:
                span.end()
            return result
        body = SizedBody if hasattr(result, "__len__") else Body
        return body(result, span, lambda error: finish(span, status, error))

    return handle


def _code(status: str, _known: dict[str, int] = {}) -> int:  # noqa: B006 - the default is the cache
    """The number in a status line; 0 for one that has none."""
    try:
        return _known[status]
    except (KeyError, TypeError):
        pass
    try:
        code = int(status[:3])
    except (TypeError, ValueError):
        return 0
    if len(_known) < 100 and isinstance(status, str):
        _known[status] = code
    return code


def wrap_application(app: WSGIApp, tracing: Tracing, scope: str = "wsgi") -> WSGIApp:
    """The application inside server spans; as it is, if it is wrapped already or its framework is switched off."""
    traced: WSGIApp = wrap_once(app, tracing, lambda: make_handler(tracing, scope))
    return traced


def wrap_method(tracing: Tracing, scope: str) -> Callable[[Any], Callable[..., Any]]:
    """For ``Patcher.wrap``: makes a framework's ``__call__(self, environ, start_response)`` a traced one."""
    def make(wrapped: Any) -> Callable[..., Any]:
        return make_handler(tracing, scope, wrapped)

    return make


class Body:
    """A response that is still being produced: the span is current in each step, and ends with ``close``.

    PEP 3333: the server calls ``close`` once, whether or not it has iterated; the application's own is passed on.
    """

    __slots__ = ("_finish", "_iterator", "_result", "_span")

    def __init__(self, result: Iterable[bytes], span: Span, finish: Callable[[BaseException | None], None]) -> None:
        self._result = result
        self._span = span
        self._finish: Callable[[BaseException | None], None] | None = finish
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = current.set(self._span)
        try:
            if self._iterator is None:
                self._iterator = iter(self._result)
            part = next(self._iterator)
            if self._span.is_complete:
                self._end(None)  # A framework within has said so; the client may be gone before the server asks for more.
            return part
        except StopIteration:
            raise
        except BaseException as error:
            self._end(error)
            raise
        finally:
            current.reset(token)

    def close(self) -> None:
        """Close what the application returned, then end the span."""
        close = getattr(self._result, "close", None)
        token = current.set(self._span)
        try:
            if close is not None:
                close()
        except BaseException as error:
            self._end(error)
            raise
        finally:
            current.reset(token)
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(error)

    def __del__(self) -> None:
        self._end(None)  # A server that never closes.

    def __getattr__(self, name: str) -> Any:
        if name == "_result":  # A copy that is being made has none yet.
            raise AttributeError(name)
        return getattr(self._result, name)


class SizedBody(Body):
    """The same for a response that knows how many parts it has: wsgiref derives Content-Length from one part."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]


def _is_file(result: object, environ: Environ) -> bool:
    """Whether the server may send a file by itself: then it must see the very object that it, or the program, has made.

    PEP 3333, "Optional Platform-Specific File Handling": servers tell by type or identity; ``file_wrapper`` may be a function.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    return (isinstance(wrapper, type) and isinstance(result, wrapper)) or hasattr(result, "fileno")


def _url(environ: Environ) -> str:
    """The URL of a request, for exclusion patterns."""
    get = environ.get
    host = get("HTTP_HOST") or get("SERVER_NAME", "")
    return f"{get('wsgi.url_scheme', 'http')}://{host}" + quote_path(get("SCRIPT_NAME", "") + get("PATH_INFO", ""))


def _environ_header(environ: Environ) -> Callable[[str], str | None]:
    return lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"))


def _capture(span: Span, wanted: tuple[str, ...], arguments: tuple[Any, ...]) -> None:
    try:
        headers = {name.lower(): value for name, value in arguments[1]}
        span.set_attributes(header_attributes(wanted, "http.response.header", headers.get))
    except Exception as trouble:  # Host safety: the server will tell the application what is wrong with its headers.
        fault("response headers", trouble)
