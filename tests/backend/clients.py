"""Payloads made by the formats' own libraries, so that the receivers are judged by others than our encoders."""

from __future__ import annotations

import json
import time
import zlib

from jaeger_client.thrift_gen.agent import Agent
from jaeger_client.thrift_gen.jaeger import ttypes
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

SPAN_ID, PARENT_ID = 0x2122232425262728, 0x3132333435363738


def trace_id(service: str) -> int:
    """A trace of its own for each service, so that tests that share a backend do not meet in one trace."""
    return 0x0A0B0C0D_00000000 | zlib.crc32(service.encode())


def jaeger_batch(service: str) -> ttypes.Batch:
    tags = [
        ttypes.Tag(key="span.kind", vType=ttypes.TagType.STRING, vStr="server"),
        ttypes.Tag(key="http.status_code", vType=ttypes.TagType.LONG, vLong=404),
    ]
    span = ttypes.Span(
        traceIdLow=trace_id(service),
        traceIdHigh=0,
        spanId=SPAN_ID,
        parentSpanId=PARENT_ID,
        operationName="get-thing",
        flags=1,
        startTime=time.time_ns() // 1000,
        duration=1500,
        tags=tags,
    )
    return ttypes.Batch(process=ttypes.Process(serviceName=service), spans=[span])


def jaeger_http_body(service: str) -> bytes:
    buffer = TMemoryBuffer()
    jaeger_batch(service).write(TBinaryProtocol(buffer))
    return buffer.getvalue()


def jaeger_datagram(service: str, *, compact: bool) -> bytes:
    buffer = TMemoryBuffer()
    protocol = TCompactProtocol(buffer) if compact else TBinaryProtocol(buffer)
    protocol.writeMessageBegin("emitBatch", TMessageType.ONEWAY, 1)
    Agent.emitBatch_args(jaeger_batch(service)).write(protocol)
    protocol.writeMessageEnd()
    return buffer.getvalue()


def otlp_body(service: str, *, spans: int = 1) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = service
    scope = resource.scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(name="get-thing", kind=2)
        span.trace_id = trace_id(service).to_bytes(16, "big")
        span.span_id = (SPAN_ID + number).to_bytes(8, "big")
        span.start_time_unix_nano = time.time_ns()
        span.end_time_unix_nano = span.start_time_unix_nano + 1_500_000
    return request.SerializeToString()


def otlp_json_body(service: str) -> bytes:
    """Written by hand: protobuf's own JSON would write ids in base64, which OTLP forbids."""
    now = time.time_ns()
    span = {
        "traceId": f"{trace_id(service):032x}",
        "spanId": f"{SPAN_ID:016x}",
        "name": "get-thing",
        "kind": 2,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1_500_000),
    }
    attributes = [{"key": "service.name", "value": {"stringValue": service}}]
    resource_spans = [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": [span]}]}]
    return json.dumps({"resourceSpans": resource_spans}).encode()


def zipkin_body(service: str) -> bytes:
    span = {
        "traceId": f"{trace_id(service):016x}",
        "id": f"{SPAN_ID:016x}",
        "name": "get-thing",
        "kind": "SERVER",
        "timestamp": time.time_ns() // 1000,
        "duration": 1500,
        "localEndpoint": {"serviceName": service},
    }
    return json.dumps([span]).encode()
