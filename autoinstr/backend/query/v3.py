"""The third version of Jaeger's query API, which today's UI searches with: OTLP in JSON.

Owns: its parameters (and their older spellings), the forms of its answers and errors.
Must not know: how traces are kept, how OTLP is written.
Invariants: as in ``query``; trace ids are always 32 digits, since the UI takes no others.

Source: the HTTP form of ``jaeger.api_v3.QueryService``.
"""

from __future__ import annotations

import json
import re
import time
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from autoinstr.backend.query.analysis import adjust, summarise
from autoinstr.backend.query.asking import (
    DEFAULT_LIMIT,
    LARGEST_LIMIT,
    Asking,
    Handler,
    ParameterError,
    Refused,
    boolean,
    endpoint,
    integer,
    json_tags,
    parse_duration_bounds,
    parse_trace_id,
)
from autoinstr.backend.store import FOREVER_NS, Store, Trace, TraceQuery
from autoinstr.model import Kind, Resource, SpanData
from autoinstr.wire import otlp

TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|z|[+-]\d\d:\d\d)", re.ASCII)
#: Ids of 16 and of 8 bytes in base64, with their padding: no hexadecimal id ends like that.
BASE64_ID = re.compile(r"[A-Za-z0-9+/_-]{22}==|[A-Za-z0-9+/_-]{11}=", re.ASCII)

_compact = json.JSONEncoder(separators=(",", ":")).encode


def routes(asking: Asking) -> list[Route]:
    """All of ``/api/v3``."""

    def route(path: str, handler: Handler) -> Route:
        return Route(f"/api/v3/{path}", endpoint(asking, handler, _error))

    return [
        route("services", _services),
        route("operations", _operations),
        route("traces", _traces),
        route("traces/{trace_id}", _trace),
        route("trace-summaries", _summaries),
    ]


async def _services(asking: Asking, request: Request) -> Response:
    return _json({"services": await asking.lookups.run(asking.parts.store.services)})


async def _operations(asking: Asking, request: Request) -> Response:
    service = request.query_params.get("service", "")
    if not service:
        raise ParameterError("parameter 'service' is required")
    wanted = _either(request, "spanKind", "span_kind")
    pairs = await asking.lookups.run(asking.parts.store.operations, service)
    # As Jaeger: what has no kind is internal.
    found = dict.fromkeys((name, Kind.NAMES[kind or Kind.INTERNAL]) for name, kind in pairs)
    return _json(
        {"operations": [{"name": name, "spanKind": kind} for name, kind in found if wanted in ("", kind)]},
    )


async def _trace(asking: Asking, request: Request) -> Response:
    trace_id = _trace_id(request.path_params["trace_id"])
    for names in (("startTime", "start_time"), ("endTime", "end_time")):
        # Hints for storages that need them; ours does not, but a wrong one is an error there, too.
        _time_ns(request, *names)
    return await asking.lookups.run(_one_trace, asking.parts.store, trace_id, raw=boolean(request, *_RAW))


async def _traces(asking: Asking, request: Request) -> Response:
    query, raw = _query(request, time.time_ns()), boolean(request, "query.rawTraces", "query.raw_traces")
    return await asking.searches.run(lambda: _otlp_answer(asking.parts.store.find(query), raw=raw))


async def _summaries(asking: Asking, request: Request) -> Response:
    query = _query(request, time.time_ns())
    return await asking.searches.run(
        lambda: _json({"summaries": [_summary(trace) for trace in asking.parts.store.find(query)]})
    )


_RAW = ("rawTraces", "raw_traces")


def _one_trace(store: Store, trace_id: int, *, raw: bool) -> Response:
    trace = store.trace(trace_id)
    return _otlp_answer([trace] if trace else [], raw=raw)


def _summary(trace: Trace) -> dict[str, Any]:
    summary = summarise(trace)
    return {
        "traceId": f"{trace[0][1].trace_id:032x}",
        "rootServiceName": summary["service"],
        "rootOperationName": summary["operation"],
        "minStartTimeUnixNano": str(min(span.start_ns for _, span in trace)),
        "maxEndTimeUnixNano": str(max(max(span.start_ns, span.end_ns) for _, span in trace)),
        "spanCount": summary["spans"],
        "errorSpanCount": summary["errors"],
        "orphanSpanCount": summary["orphans"],
        "services": [
            {"name": service["name"], "spanCount": service["spans"], "errorSpanCount": service["errors"]}
            for service in summary["services"]
        ],
    }


# Traces in OTLP ---------------------------------------------------------------------------------------------------


def _otlp_answer(traces: Iterable[Trace], *, raw: bool) -> Response:
    found = [entry for trace in traces for entry in (trace if raw else adjust(trace).trace)]
    if not found:
        raise Refused(404, "No traces found")
    resource_spans = [text for resource, spans in _by_resource(found) for text in _resource_spans(resource, spans)]
    return _text(f'{{"result":{{"resourceSpans":[{",".join(resource_spans)}]}}}}')


def _by_resource(entries: Trace) -> list[tuple[Resource, list[SpanData]]]:
    """The spans of equal resources, which need not be the same object."""
    groups: dict[str, tuple[Resource, list[SpanData]]] = {}
    known: dict[int, list[SpanData]] = {}
    for resource, span in entries:
        spans = known.get(id(resource))
        if spans is None:
            _, spans = groups.setdefault(repr(resource), (resource, []))
            known[id(resource)] = spans
        spans.append(span)
    return list(groups.values())


def _resource_spans(resource: Resource, spans: list[SpanData]) -> Iterable[str]:
    """Written a few spans at a time, so that the event loop gets its turns."""
    encoder = otlp.JsonEncoder(resource)
    for start in range(0, len(spans), 500):
        for payload, _ in encoder.encode(spans[start : start + 500])[0]:
            for message in json.loads(payload)["resourceSpans"]:
                for scope_spans in message["scopeSpans"]:
                    scope_spans["scope"]["name"] = _scope_name(scope_spans["scope"]["name"])
                yield _compact(message)


def _scope_name(name: str) -> str:
    """The encoder says that all scopes are ours, since an agent has no others; a backend has everybody's."""
    return name.removeprefix("autoinstr").removeprefix(".")


# Parameters -------------------------------------------------------------------------------------------------------


def _query(request: Request, now_ns: int) -> TraceQuery:
    start_ns = _time_ns(request, "query.startTimeMin", "query.start_time_min")
    end_ns = _time_ns(request, "query.startTimeMax", "query.start_time_max")
    if start_ns is None or end_ns is None:
        raise ParameterError("parameters 'query.startTimeMin' and 'query.startTimeMax' are required")
    shortest, longest = parse_duration_bounds(
        request,
        _name(request, "query.durationMin", "query.duration_min"),
        _name(request, "query.durationMax", "query.duration_max"),
    )
    limit = _name(request, "query.searchDepth", "query.search_depth", "query.numTraces", "query.num_traces")
    return TraceQuery(
        service=_either(request, "query.serviceName", "query.service_name"),
        operation=_either(request, "query.operationName", "query.operation_name"),
        tags=json_tags(request, "query.attributes"),
        start_ns=start_ns,
        end_ns=end_ns,
        min_duration_ns=shortest,
        max_duration_ns=longest,
        limit=integer(request, limit, DEFAULT_LIMIT, 1, LARGEST_LIMIT),
    )


def _name(request: Request, *names: str) -> str:
    """The spelling that the request has, the first of them if it has none."""
    return next((name for name in names if request.query_params.get(name)), names[0])


def _either(request: Request, *names: str) -> str:
    return request.query_params.get(_name(request, *names), "")


def _time_ns(request: Request, *names: str) -> int | None:
    """Nanoseconds since the epoch from RFC 3339; what lies before is clamped; ``None`` if absent."""
    name = _name(request, *names)
    text = request.query_params.get(name, "")
    if not text:
        return None
    # An unencoded + of a time zone comes as a space.
    match = TIME.fullmatch(text.replace(" ", "+"))
    try:
        return _nanoseconds(*match.groups("")) if match else _refuse_time(name, text)
    except (ValueError, OverflowError):
        return _refuse_time(name, text)


def _nanoseconds(seconds: str, fraction: str, zone: str) -> int:
    moment = datetime.fromisoformat(seconds + ("+00:00" if zone in "Zz" else zone))
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    whole_ns = (since_epoch.days * 86_400 + since_epoch.seconds) * 10**9
    return min(FOREVER_NS, max(0, whole_ns + int(fraction.ljust(9, "0"))))


def _refuse_time(name: str, text: str) -> int:
    raise ParameterError(f"cannot use {name}={text[:64]!r}: it must be a time such as 2026-11-23T08:00:00.5Z")


def _trace_id(text: str) -> int:
    if BASE64_ID.fullmatch(text):
        try:
            text = a2b_base64(text.replace("-", "+").replace("_", "/")).hex()
        except Base64Error as error:
            raise ParameterError(f"cannot parse {text!r} as a trace ID") from error
    return parse_trace_id(text)


# Answers ----------------------------------------------------------------------------------------------------------


def _json(content: object) -> Response:
    return _text(_compact(content))


def _text(text: str) -> Response:
    return Response(text, media_type="application/json")


def _error(refused: Refused) -> Response:
    content = {"error": {"httpCode": refused.status, "message": refused.message}}
    return Response(_compact(content) + "\n", status_code=refused.status, media_type="application/json")
