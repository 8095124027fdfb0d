"""WSGI: a server span around any application callable (PEP 3333), whatever server or framework calls it.

The server is handed what the application returned wherever the response is complete by then; only a response that is still
being produced gets a thin iterator, so that the span ends, and the context holds, while it is.
"""

from __future__ import annotations

from autoinstr.instrument import Tracing
from autoinstr.instrument.http import end_server, excluder, header_attributes, quote_path
from autoinstr.model import Kind
from autoinstr.trace import current
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


def make_handler(tracing: Tracing, scope: str) -> Callable[[WSGIApp, Environ, StartResponse], Iterable[bytes]]:
    """``handle(app, environ, start_response)``: calls the application inside a server span."""
    conventions = tracing.conventions
    request_facts, target_facts = conventions.server_request, conventions.server_target
    client_facts, response_facts = conventions.server_client, conventions.server_response
    known_methods = conventions.known_methods
    extract = tracing.environ.extract
    excluded = excluder(tracing.config, scope, "wsgi")
    wanted = tracing.config.server_request_headers
    wanted_back = tracing.config.server_response_headers

    def begin(environ: Environ) -> Span | None:
        """Start the server span; ``None`` when this request is left out."""
        get = environ.get
        if excluded is not None and excluded(_url(environ)):
            return None
        method = get("REQUEST_METHOD", "GET")
        span = tracing.tracer.start(
            method if method in known_methods else "HTTP", SERVER, extract(environ), scope, True  # noqa: FBT003
        )
        if span.recording:
            host = get("HTTP_HOST")
            span.facts = (
                *span.facts,
                (
                    request_facts,
                    method,
                    get("wsgi.url_scheme", "http"),
                    host if host is not None else f"{get('SERVER_NAME', '')}:{get('SERVER_PORT', '')}",
                    get("SERVER_PROTOCOL", ""),
                ),
                (target_facts, get("SCRIPT_NAME", ""), get("PATH_INFO", ""), get("QUERY_STRING", "")),
                (
                    client_facts,
                    get("HTTP_USER_AGENT", ""),
                    get("HTTP_X_FORWARDED_FOR", ""),
                    get("REMOTE_ADDR", ""),
                ),
            )
            if wanted:
                span.set_attributes(header_attributes(wanted, "http.request.header", _environ_header(environ)))
        return span

    def finish(span: Span, status: str, error: BaseException | None = None) -> None:
        """End the span with the outcome; the status may be anything that an application made up."""
        try:
            code = int(status[:3]) if status else 0
        except (TypeError, ValueError):
            code = 0
        try:
            if span.recording:
                end_server(span, code, error, response_facts)
            else:
                span.end()
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of a WSGI request", trouble)

    def handle(app: WSGIApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        outer = current.get()
        if outer is not None and outer.kind == SERVER and not outer.end_ns:
            return app(environ, start_response)
        try:
            span = begin(environ)
        except Exception as trouble:  # Host safety: a request that we do not understand is still answered.
            fault("the start of a WSGI request", trouble)
            span = None
        if span is None:
            return app(environ, start_response)
        status = ""

        def start(*arguments: Any, **keywords: Any) -> Any:
            nonlocal status
            if arguments:
                status = arguments[0]
                if wanted_back and span.recording:
                    _capture(span, wanted_back, arguments)
            return start_response(*arguments, **keywords)

        token = current.set(span)
        try:
            result = app(environ, start)
        except BaseException as error:
            current.reset(token)
            finish(span, status, error)
            raise
        current.reset(token)
        if result.__class__ is list or result.__class__ is tuple or _is_file(result, environ):
            finish(span, status)
            return result
        body = SizedBody if hasattr(result, "__len__") else Body
        return body(result, span, lambda error: finish(span, status, error))

    return handle


def wrap_application(app: WSGIApp, tracing: Tracing, scope: str = "wsgi") -> WSGIApp:
    """The application inside server spans; one that is wrapped already is returned as it is."""
    if getattr(app, "__autoinstr__", False):
        return app
    handle = make_handler(tracing, scope)

    def traced_application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return handle(app, environ, start_response)

    traced_application.__wrapped__ = app  # type: ignore[attr-defined]
    traced_application.__autoinstr__ = True  # type: ignore[attr-defined]
    return traced_application


def wrap_method(tracing: Tracing, scope: str) -> Callable[[Any], Callable[..., Any]]:
    """For ``Patcher.wrap``: makes a framework's ``__call__(self, environ, start_response)`` a traced one."""
    handle = make_handler(tracing, scope)

    def make(wrapped: Any) -> Callable[..., Any]:
        def __call__(self: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:  # noqa: N807
            return handle(wrapped.__get__(self), environ, start_response)

        return __call__

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
            return next(self._iterator)
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
        return getattr(self._result, name)


class SizedBody(Body):
    """The same for a response that knows how many parts it has: wsgiref derives Content-Length from one part."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]


def _is_file(result: object, environ: Environ) -> bool:
    """Whether the server will send a file by itself: then it must see its own wrapper object."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(result, wrapper)


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
