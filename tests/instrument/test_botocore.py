"""botocore: one span for each operation, signed requests as they were, messages that carry the context; the service is moto's server."""

from __future__ import annotations

import copy
import importlib
import inspect
import socket
import threading
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError
from moto.server import ThreadedMotoServer

from autoinstr.instrument import Patcher, Tracing, load
from autoinstr.instrument.botocore import MAX_SIZE
from autoinstr.model import Kind, Status
from autoinstr.trace import SUPPRESSED, current
from fakes import Collector, response

from .conftest import build_tracing
from .contract_client import USER_PARENT
from .in_request import in_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.report import InMemoryReporter

#: With the HTTP clients below, which must not make spans of their own.
INSTRUMENTS = (
    ("botocore.client", "botocore:patch"),
    ("urllib3.connectionpool", "urllib3:patch"),
    ("http.client", "http_client:patch"),
    ("http.client", "http_client:patch_headers"),
)
CONTEXT = {"traceparent", "uber-trace-id"}


@pytest.fixture
def trace(reporter: InMemoryReporter) -> Iterator[Callable[..., Tracing]]:
    """``trace(**environ)`` instruments botocore and the HTTP clients; everything is taken out after the test."""
    patchers: list[Patcher] = []

    def start(*, keep: bool = True, **environ: str) -> Tracing:
        while patchers:  # What is wrapped already is not wrapped again.
            patchers.pop().undo()
        tracing = build_tracing(reporter, keep=keep, **environ)
        for name, target in INSTRUMENTS:
            patchers.append(Patcher(importlib.import_module(name)))
            load(f"autoinstr.instrument.{target}")(patchers[-1], tracing)
        return tracing

    yield start
    for patcher in reversed(patchers):
        patcher.undo()
    assert current.get() is None, "a span was left behind as the current one"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The URL of a server that does as AWS does."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    server._server.server_close()  # type: ignore[union-attr]


def options(url: str, **keywords: Any) -> dict[str, Any]:
    return {
        "endpoint_url": url,
        "region_name": "eu-west-1",
        "aws_access_key_id": "own-id",
        "aws_secret_access_key": "own-secret",
        "config": Config(s3={"addressing_style": "path"}, connect_timeout=20, read_timeout=20, **keywords),
    }


@pytest.fixture
def client(moto: str) -> Iterator[Callable[..., Any]]:
    """``client("s3")``."""
    clients = []

    def make(service: str, url: str = moto, **keywords: Any) -> Any:
        clients.append(boto3.client(service, **options(url, **keywords)))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


# Calls.


def test_an_operation_is_a_span(
    client: Callable[..., Any], moto: str, trace: Callable[..., Tracing], reporter: InMemoryReporter
) -> None:
    """Time at AWS is a gap in the trace, or shows as requests to some URL."""
    s3 = client("s3")
    tracing = trace()
    with in_request(tracing) as parent:
        s3.create_bucket(Bucket="one", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="one", Key="secret-name", Body=b"secret-content")
        assert s3.get_object(Bucket="one", Key="secret-name")["Body"].read() == b"secret-content"
    spans = list(reporter.spans)
    assert [span.name for span in spans] == ["S3.CreateBucket", "S3.PutObject", "S3.GetObject"]
    assert {(span.kind, span.scope, span.parent_id, span.status) for span in spans} == {
        (Kind.CLIENT, "botocore", parent.span_id, Status.UNSET)
    }
    attributes = dict(spans[1].attributes)
    assert attributes.pop("aws.request_id")
    assert attributes == {
        "rpc.system": "aws-api",
        "rpc.service": "S3",
        "rpc.method": "PutObject",
        "cloud.region": "eu-west-1",
        "server.address": "127.0.0.1",
        "server.port": int(moto.rpartition(":")[2]),
        "aws.s3.bucket": "one",
        "http.response.status_code": 200,
    }
    assert "secret" not in str([span.attributes for span in spans])


def test_an_error_of_the_service(client: Callable[..., Any], trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """What AWS refuses does not show, or the program gets another error than without us."""
    s3 = client("s3")
    trace()
    with pytest.raises(ClientError, match="NoSuchBucket") as raised:
        s3.get_object(Bucket="none", Key="a")
    assert isinstance(raised.value, s3.exceptions.NoSuchBucket)
    (span,) = reporter.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "NoSuchBucket")
    assert span.attributes["http.response.status_code"] == 404
    assert [event.name for event in span.events or ()] == ["exception"]


def test_parameters_that_are_wrong(
    client: Callable[..., Any],
    trace: Callable[..., Tracing],
    reporter: InMemoryReporter,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """botocore's complaint is replaced by one of ours, or ours comes besides."""
    s3, sqs = client("s3"), client("sqs")
    trace()
    with pytest.raises(ParamValidationError, match="Missing required parameter"):
        s3.get_object(Bucket="one")
    for entries in (["text"], 1, [{"MessageAttributes": {"a": "text"}}]):
        with pytest.raises(ParamValidationError, match="Invalid type"):
            sqs.send_message_batch(QueueUrl="q", Entries=entries)
    assert {span.attributes["error.type"] for span in reporter.spans} == {"botocore.exceptions.ParamValidationError"}
    assert capfd.readouterr().err == ""


def test_nobody_there(client: Callable[..., Any], trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """AWS being out of reach does not show."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    s3 = client("s3", f"http://127.0.0.1:{port}", retries={"total_max_attempts": 1})
    trace()
    with pytest.raises(EndpointConnectionError):
        s3.list_buckets()
    (span,) = reporter.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "botocore.exceptions.EndpointConnectionError")


def test_retries_are_one_span(client: Callable[..., Any], trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Each attempt is a call of its own, or nobody sees that there were several."""
    origin = Collector(response("503 Slow Down"), response(body=b"<ListAllMyBucketsResult/>"))
    try:
        s3 = client("s3", f"http://127.0.0.1:{origin.port}", retries={"total_max_attempts": 3, "mode": "standard"})
        trace()
        s3.list_buckets()
    finally:
        origin.close()
    (span,) = reporter.spans
    assert (len(origin.requests), span.attributes["http.request.resend_count"]) == (2, 1)


def test_signed_requests_are_as_they_were(client: Callable[..., Any], trace: Callable[..., Tracing]) -> None:
    """A header that is not signed, or is signed and changed on its way, makes AWS refuse the request."""
    origin = Collector(response())
    try:
        s3 = client("s3", f"http://127.0.0.1:{origin.port}")
        s3.put_object(Bucket="one", Key="a", Body=b"content")
        tracing = trace()
        with in_request(tracing):
            s3.put_object(Bucket="one", Key="a", Body=b"content")
    finally:
        origin.close()
    bare, traced = origin.requests
    changing = {"x-amz-date", "authorization", "amz-sdk-invocation-id", "x-amzn-trace-id"}
    assert {**bare.headers, **dict.fromkeys(changing)} == {**traced.headers, **dict.fromkeys(changing)}
    signed = [request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0] for request in origin.requests]
    assert signed[0] == signed[1]
    assert (bare.target, bare.body) == (traced.target, traced.body)


def test_resources(moto: str, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """boto3's other interface is in no trace, or twice."""
    table = boto3.resource("dynamodb", **options(moto)).create_table(
        TableName="items",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    trace()
    table.put_item(Item={"id": "secret"})
    assert table.get_item(Key={"id": "secret"})["Item"] == {"id": "secret"}
    table.meta.client.close()
    spans = list(reporter.spans)
    assert [span.name for span in spans] == ["DynamoDB.PutItem", "DynamoDB.GetItem"]
    assert spans[0].attributes["aws.dynamodb.table_names"] == ["items"]
    assert "secret" not in str([span.attributes for span in spans])


def test_pages(client: Callable[..., Any], trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """What paginators ask for is in no trace."""
    s3 = client("s3")
    for name in ("page-one", "page-two"):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="page-one", Key=name)
    trace()
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="page-one", PaginationConfig={"PageSize": 1}))
    assert [span.name for span in reporter.spans] == ["S3.ListObjectsV2"] * len(pages)
    assert len(pages) == 2


@pytest.mark.parametrize("keep", [True, False])
def test_what_gets_no_span(
    client: Callable[..., Any], trace: Callable[..., Tracing], reporter: InMemoryReporter, *, keep: bool
) -> None:
    """A trace that is not kept costs spans, a library on top has two, or the agent traces itself."""
    s3 = client("s3")
    tracing = trace(keep=False)
    with in_request(tracing):
        s3.list_buckets()
    assert tracing.tracer.children_unsampled == 0
    tracing = trace(keep=keep, AUTOINSTR_REQUIRE_PARENT="true")
    s3.list_buckets()
    with in_request(tracing) as span:
        span.leaf = True
        s3.list_buckets()
    token = current.set(SUPPRESSED)
    s3.list_buckets()
    current.reset(token)
    assert not reporter.spans


# Messages.


@pytest.fixture
def queue(client: Callable[..., Any], request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A client of SQS, and the URL of an empty queue."""
    sqs = client("sqs")
    return sqs, sqs.create_queue(QueueName=f"orders-{abs(hash(request.node.name))}")["QueueUrl"]


def received(queue: tuple[Any, str], **keywords: Any) -> list[Any]:
    sqs, url = queue
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, **{"MessageAttributeNames": ["All"], **keywords})
    messages: list[Any] = answer.get("Messages", [])
    return messages


def texts(message: Any) -> dict[str, str]:
    return {name: attribute["StringValue"] for name, attribute in message.get("MessageAttributes", {}).items()}


def test_a_message_carries_the_context(
    queue: tuple[Any, str], trace: Callable[..., Tracing], reporter: InMemoryReporter
) -> None:
    """What is done with a message has nothing to do with the request that sent it."""
    sqs, url = queue
    trace()
    parameters = {
        "QueueUrl": url,
        "MessageBody": "secret",
        "MessageAttributes": {"own": {"DataType": "String", "StringValue": "1"}},
    }
    before = copy.deepcopy(parameters)
    sqs.send_message(**parameters)
    assert parameters == before
    (message,) = received(queue)
    sending, receiving = reporter.spans
    assert (sending.name, sending.kind) == ("SQS.SendMessage", Kind.PRODUCER)
    assert sending.attributes["messaging.destination.name"] == url.rpartition("/")[2]
    assert set(texts(message)) == {"own", *CONTEXT}
    assert texts(message)["traceparent"] == f"00-{sending.trace_id:032x}-{sending.span_id:016x}-03"
    assert (receiving.name, receiving.kind) == ("SQS.ReceiveMessage", Kind.CLIENT)
    assert receiving.attributes["messaging.batch.message_count"] == 1
    assert [link.context.span_id for link in receiving.links] == [sending.span_id]
    assert "secret" not in str([span.attributes for span in reporter.spans])


def test_batches(queue: tuple[Any, str], trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Only the first message of a batch carries the context, or the program's list is changed."""
    sqs, url = queue
    trace()
    entries = [{"Id": str(number), "MessageBody": "text"} for number in range(3)]
    before = copy.deepcopy(entries)
    sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert entries == before
    assert [set(texts(message)) for message in received(queue)] == [CONTEXT] * 3
    assert len(reporter.spans[1].links) == 3


def test_topics(queue: tuple[Any, str], client: Callable[..., Any], trace: Callable[..., Tracing]) -> None:
    """Messages that go through a topic lose the context."""
    sqs, url = queue
    sns = client("sns")
    topic = sns.create_topic(Name="orders")["TopicArn"]
    place = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=place, Attributes={"RawMessageDelivery": "true"})
    trace()
    sns.publish(TopicArn=topic, Message="text")
    sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=[{"Id": "1", "Message": "text"}])
    assert [set(texts(message)) for message in received(queue)] == [CONTEXT] * 2


@pytest.mark.parametrize(("own", "added"), [(7, CONTEXT | {"baggage"}), (8, CONTEXT), (9, {"uber-trace-id"}), (10, set())])
def test_a_message_with_many_attributes(
    queue: tuple[Any, str], trace: Callable[..., Tracing], own: int, added: set[str]
) -> None:
    """SQS takes ten attributes: with ours the program's message would be refused."""
    sqs, url = queue
    tracing = trace(OTEL_PROPAGATORS="jaeger,baggage,tracecontext")
    attributes = {f"own{number}": {"DataType": "String", "StringValue": "1"} for number in range(own)}
    with in_request(tracing, baggage={"key": "value"}) as span:
        span.trace_state = ""
        sqs.send_message(QueueUrl=url, MessageBody="text", MessageAttributes=attributes)
    (message,) = received(queue)
    names = set(texts(message)) - set(attributes)
    assert len(names) == len(added)
    assert names & CONTEXT == added & CONTEXT


def test_a_large_message(queue: tuple[Any, str], trace: Callable[..., Tracing]) -> None:
    """A message that is just small enough would be refused with our attributes."""
    sqs, url = queue
    trace()
    sqs.send_message(QueueUrl=url, MessageBody="x" * MAX_SIZE)
    sqs.send_message(QueueUrl=url, MessageBody="é" * (MAX_SIZE // 2))
    assert [set(texts(message)) for message in received(queue)] == [CONTEXT, set()]


def test_a_context_of_the_programs_own(queue: tuple[Any, str], trace: Callable[..., Tracing]) -> None:
    """A program that names a context itself has another one sent as well."""
    sqs, url = queue
    trace()
    own = {"traceparent": {"DataType": "String", "StringValue": USER_PARENT}}
    sqs.send_message(QueueUrl=url, MessageBody="text", MessageAttributes=own)
    (message,) = received(queue)
    assert texts(message) == {"traceparent": USER_PARENT}


@pytest.mark.parametrize(
    ("environ", "keep", "flags"),
    [({}, False, "02"), ({"AUTOINSTR_NO_PROPAGATE_TO": "127.*"}, True, ""), ({"AUTOINSTR_REQUIRE_PARENT": "true"}, True, "03")],
)
def test_messages_of_traces_that_are_not_kept(
    queue: tuple[Any, str], trace: Callable[..., Tracing], environ: dict[str, str], flags: str, *, keep: bool
) -> None:
    """Receivers keep traces of which the rest was not kept, or strangers are told our ids."""
    sqs, url = queue
    tracing = trace(keep=keep, **environ)
    with in_request(tracing):
        sqs.send_message(QueueUrl=url, MessageBody="text")
    (message,) = received(queue)
    assert texts(message).get("traceparent", "")[-2:] == flags


def test_receivers_see_what_they_asked_for(queue: tuple[Any, str], trace: Callable[..., Tracing]) -> None:
    """Programs that hand all attributes on, or check them, find some that they do not know."""
    sqs, url = queue
    trace()
    sqs.send_message(QueueUrl=url, MessageBody="text")
    (message,) = received(queue, MessageAttributeNames=[])
    assert "MessageAttributes" not in message


# What is the same.


def test_threads_share_a_client(client: Callable[..., Any], trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Calls of one thread are put below the request of another."""
    s3 = client("s3")
    tracing = trace()
    parents = []

    def work() -> None:
        with in_request(tracing) as parent:
            s3.list_buckets()
        parents.append(parent.span_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(span.parent_id for span in reporter.spans) == sorted(parents)


def test_signature(trace: Callable[..., Tracing]) -> None:
    """Tests of programs replace this method by name, and inspect it."""
    bare = BaseClient._make_api_call
    signature = inspect.signature(bare)
    trace()
    assert BaseClient._make_api_call is not bare
    assert inspect.signature(BaseClient._make_api_call) == signature
