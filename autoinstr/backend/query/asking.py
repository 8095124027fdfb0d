"""What all routes of the query port share: how parameters are read, how a question is refused, where the store is asked.

Owns: parameters and the sentences about wrong ones, limits on request bodies, the threads that questions run on.
Must not know: routes, forms of answers.
Invariants: what a client did wrong is a ``Refused`` with a sentence for it, never another exception; the event loop never
waits for the store; as many questions as may wait are bounded, and one too many is told to come again.

Source: the parameters of Jaeger's query service, as its UI sends them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from autoinstr.backend.parts import Parts
from autoinstr.backend.store import FOREVER_NS, Dependency, StoreError, TraceQuery

DEFAULT_LIMIT, LARGEST_LIMIT = 100, 1_500
DEFAULT_LOOKBACK_NS = 48 * 3600 * 10**9
#: The last millisecond whose nanoseconds stores can hold: in the year 2262.
LATEST_MS = FOREVER_NS // 10**6 - 1
DAY_MS = 24 * 3600 * 1000

#: Questions that look through the store, and those that look something up: the former must not hold up the latter.
SEARCH_THREADS, LOOKUP_THREADS = 2, 4
#: Questions that wait for a thread; a browser asks about six at once.
MOST_WAITING = 64

DURATION_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
DURATION_UNITS_NS["h"] = 60 * DURATION_UNITS_NS["m"]
DURATION_PART = re.compile(r"(\d{1,19}(?:\.\d{0,19})?|\.\d{1,19})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}")
#: What Go's parser of booleans takes, since Jaeger's clients send any of it.
BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True)
BOOLEANS.update(dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False))

Result = TypeVar("Result")


class Refused(Exception):
    """A question that is not answered: the HTTP status, and a sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def headers(self) -> dict[str, str]:
        """What the answer needs beyond the sentence."""
        return {"Retry-After": "1"} if self.status == 503 else {}


class ParameterError(Refused):
    """A parameter that cannot be used."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


# Where the store is asked -----------------------------------------------------------------------------------------


class Lane:
    """A few threads that ask the store, and a bound on the questions that wait for one."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"autoinstr-{name}")
        self._room = threads + MOST_WAITING

    async def run(self, function: Callable[..., Result], *arguments: object, **named: object) -> Result:
        """What the function returns; ``Refused`` when too many are waiting."""
        if self._room <= 0:
            raise Refused(503, "too many questions at once; ask again in a second")
        self._room -= 1
        try:
            call = partial(function, *arguments, **named)
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._room += 1

    def close(self) -> None:
        """Let the threads end; questions that still wait are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Asking:
    """What every handler gets: the parts, and the lanes on which to ask them."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.searches = Lane(SEARCH_THREADS, "search")
        self.lookups = Lane(LOOKUP_THREADS, "lookup")

    def close(self) -> None:
        """Let go of the threads."""
        self.searches.close()
        self.lookups.close()


Handler = Callable[[Asking, Request], Awaitable[Response]]
#: Puts a refusal into the form that a family of routes has for errors.
Tell = Callable[[Refused], Response]


def endpoint(asking: Asking, handler: Handler, tell: Tell) -> Callable[[Request], Awaitable[Response]]:
    """The handler as a route's endpoint, which answers refusals in the form of its family."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(asking, request)
        except Refused as problem:
            refused = problem
        except StoreError as problem:
            refused = Refused(507, str(problem))
        response = tell(refused)
        response.headers.update(refused.headers)
        return response

    return answer


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; ``Refused`` when it is longer than ``limit`` bytes."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Refused(413, f"the body is larger than {limit} bytes")
    except ClientDisconnect as error:
        raise Refused(400, "the connection was closed before the whole body had come") from error
    return bytes(body)


# Parameters -------------------------------------------------------------------------------------------------------


def parse_query(request: Request, now_ns: int, *, service_required: bool = True) -> TraceQuery:
    """A search from the parameters that Jaeger's UI sends. ``lookback`` is ignored, as Jaeger does."""
    parameters = request.query_params
    service = parameters.get("service", "")
    if service_required and not service:
        raise ParameterError("parameter 'service' is required")
    shortest, longest = parse_duration_bounds(request, "minDuration", "maxDuration")
    return TraceQuery(
        service=service,
        operation=parameters.get("operation", ""),
        tags=_tags(request),
        start_ns=integer(request, "start", (now_ns - DEFAULT_LOOKBACK_NS) // 1000, 0, FOREVER_NS // 1000) * 1000,
        end_ns=integer(request, "end", now_ns // 1000 + 1, 0, FOREVER_NS // 1000) * 1000,
        min_duration_ns=shortest,
        max_duration_ns=longest,
        limit=integer(request, "limit", DEFAULT_LIMIT, 1, LARGEST_LIMIT),
    )


def parse_duration_bounds(request: Request, shortest: str, longest: str) -> tuple[int, int]:
    """Two parameters in Go's form, as nanoseconds; the names are those of the parameters."""
    least_ns = parse_duration(request.query_params.get(shortest, ""), 0)
    most_ns = parse_duration(request.query_params.get(longest, ""), FOREVER_NS)
    if most_ns < least_ns:
        raise ParameterError(f"'{longest}' should be greater than '{shortest}'")
    return least_ns, most_ns


def parse_duration(text: str, default_ns: int) -> int:
    """Nanoseconds from Go's form (``1.5s``, ``1m30s``, ``100us``); ``default_ns`` for no text."""
    if not text:
        return default_ns
    parts = DURATION_PART.findall(text) if len(text) < 100 else []
    if "".join(number + unit for number, unit in parts) != text:
        raise ParameterError(f"cannot parse {text[:64]!r} as a duration; use for example 1.5s, 100ms or 250us")
    return min(FOREVER_NS, round(sum(float(number) * DURATION_UNITS_NS[unit] for number, unit in parts)))


def parse_trace_id(text: str) -> int:
    """An id from at most 32 hex digits, leading zeros or none."""
    if not TRACE_ID.fullmatch(text) or not int(text, 16):
        raise ParameterError(f"cannot parse {text[:64]!r} as a trace ID")
    return int(text, 16)


def parse_trace_ids(request: Request) -> list[int]:
    """The ids that ``traceID`` names, any number of times, each once."""
    ids = [parse_trace_id(text) for text in request.query_params.getlist("traceID")]
    if len(ids) > LARGEST_LIMIT:
        raise ParameterError(f"{len(ids)} trace IDs are too many: at most {LARGEST_LIMIT} can be asked for at once")
    return list(dict.fromkeys(ids))


async def dependencies_in_window(asking: Asking, request: Request) -> list[Dependency]:
    """What ``endTs`` and ``lookback``, both in milliseconds, ask for; the last day where they are not given."""
    end_ms = integer(request, "endTs", time.time_ns() // 10**6, 0, LATEST_MS)
    lookback_ms = integer(request, "lookback", DAY_MS, 0, LATEST_MS)
    start_ns = max(0, end_ms - lookback_ms) * 10**6
    return await asking.searches.run(asking.parts.store.dependencies, start_ns, end_ms * 10**6)


def _tags(request: Request) -> dict[str, str]:
    """From ``tag=key:value`` and ``tags={"key":"value"}``, each any number of times."""
    tags: dict[str, str] = {}
    for text in request.query_params.getlist("tag"):
        key, colon, value = text.partition(":")
        if not colon:
            raise ParameterError(f"malformed 'tag' parameter, expecting key:value, received: {text[:200]}")
        tags[key] = value
    tags.update(json_tags(request, "tags"))
    return tags


def json_tags(request: Request, name: str) -> dict[str, str]:
    """A parameter that is a JSON object of texts, any number of times."""
    found: dict[str, str] = {}
    for text in request.query_params.getlist(name):
        try:
            tags = json.loads(text)
        except (ValueError, RecursionError):
            tags = None
        if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
            raise ParameterError(
                f"malformed '{name}' parameter, expecting an object of strings, received: {text[:200]}"
            )
        found.update(tags)
    return found


def integer(request: Request, name: str, default: int, smallest: int, largest: int) -> int:
    """An integer within bounds."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII) or not smallest <= int(text) <= largest:
        raise ParameterError(f"cannot use {name}={text[:64]!r}: it must be an integer from {smallest} to {largest}")
    return int(text)


def boolean(request: Request, *names: str) -> bool:
    """A switch, off unless one of its names is there and says otherwise."""
    for name in names:
        text = request.query_params.get(name, "")
        if text:
            if text not in BOOLEANS:
                raise ParameterError(f"cannot use {name}={text[:64]!r}: it must be true or false")
            return BOOLEANS[text]
    return False


def choices(request: Request, name: str, known: Iterable[str]) -> list[str]:
    """The values of a parameter that may come several times; each must be one of ``known``."""
    values = request.query_params.getlist(name)
    for value in values:
        if value not in known:
            raise ParameterError(f"cannot use {name}={value[:64]!r}: it must be one of {', '.join(sorted(known))}")
    return values
