"""botocore (boto3, aiobotocore): one span for each call of a service's operation, whatever requests and retries it takes.

Owns: what is known of a call and of its outcome, the context in messages to queues and topics.
Must not know: how requests are made, signed and sent; the HTTP client below sees a leaf, and adds nothing to what is signed.
Invariants: the program's parameters are never changed: messages with our attributes are copies; a message is not refused for what
we add to it (ten attributes at most, and a size), it rather goes without.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import is_disconnect
from autoinstr.instrument.operation import start
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.model import AttributeValue, Facts
    from autoinstr.trace import Span

SCOPE = "botocore"
#: Parameters that name what an operation works on, and nothing secret (OpenTelemetry semantic conventions for AWS SDKs).
RESOURCES = {
    "Bucket": "aws.s3.bucket",
    "TableName": "aws.dynamodb.table_names",
    "QueueUrl": "aws.sqs.queue.url",
    "TopicArn": "aws.sns.topic.arn",
    "StreamName": "aws.kinesis.stream_name",
    "FunctionName": "faas.invoked_name",
    "SecretId": "aws.secretsmanager.secret.arn",
    "stateMachineArn": "aws.step_functions.state_machine.arn",
}
#: Operations that send messages: (service, operation) -> where the messages are, "" for the parameters themselves.
SENDING = {
    ("SQS", "SendMessage"): "",
    ("SQS", "SendMessageBatch"): "Entries",
    ("SNS", "Publish"): "",
    ("SNS", "PublishBatch"): "PublishBatchRequestEntries",
}
RECEIVING = ("SQS", "ReceiveMessage")
ATTRIBUTES = "MessageAttributes"
#: How many attributes SQS takes; more of them get lost on the way from SNS to SQS.
MAX_ATTRIBUTES = 10
#: Characters of all that is sent at once, above which nothing is added: SQS and SNS take 256 KiB, or less where a queue says so.
MAX_SIZE = 200 * 1024
#: What the name of an attribute may be made of.
LEGAL = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."
#: A program that sends one of these says itself what the receiver is told.
OWN_CHOICE = frozenset({"traceparent", "uber-trace-id", "b3", "x-b3-traceid"})


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``botocore.client``: all calls of all clients go through one method, those of boto3's resources as well."""
    patcher.wrap("BaseClient._make_api_call", Calls(tracing).make)


def patch_aio(patcher: Patcher, tracing: Tracing) -> None:
    """``aiobotocore.client``: a coroutine of that name."""
    patcher.wrap("AioBaseClient._make_api_call", Calls(tracing).make_async)


class Calls:
    """A span around the one method."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def make(self, wrapped: Any) -> Callable[..., Any]:
        """For a method that returns what the service has answered."""

        def _make_api_call(client: Any, operation_name: Any, api_params: Any) -> Any:
            span, api_params = self._begin(client, operation_name, api_params)
            if span is None:
                return wrapped(client, operation_name, api_params)
            token = current.set(span)
            try:
                answer = wrapped(client, operation_name, api_params)
            except BaseException as error:
                self._end(span, None, error)
                raise
            finally:
                current.reset(token)
            self._end(span, answer, None)
            return answer

        return _make_api_call

    def make_async(self, wrapped: Any) -> Callable[..., Any]:
        """For a coroutine function."""

        async def _make_api_call(client: Any, operation_name: Any, api_params: Any) -> Any:
            span, api_params = self._begin(client, operation_name, api_params)
            if span is None:
                return await wrapped(client, operation_name, api_params)
            token = current.set(span)
            try:
                answer = await wrapped(client, operation_name, api_params)
            except BaseException as error:
                self._end(span, None, error)
                raise
            finally:
                current.reset(token)
            self._end(span, answer, None)
            return answer

        return _make_api_call

    def _begin(self, client: Any, operation: Any, parameters: Any) -> tuple[Span | None, Any]:
        """The span, if there is to be one, and the parameters, with our attributes in messages; never raises."""
        parent = current.get()
        if parent is None:
            if self._tracing.config.require_parent:
                return None, parameters
        elif parent.leaf and parent.recording:
            return None, parameters
        span = None
        try:
            meta = client.meta
            service = str(meta.service_model.service_id)
            where = SENDING.get((service, operation))
            if parent is None or parent.recording:
                kind = Kind.CLIENT if where is None else Kind.PRODUCER
                span = start(self._tracing, parent, SCOPE, kind, f"{service}.{operation}", facts_of(meta, operation, parameters))
            context = span or parent
            if where is not None and context is not None and context.trace_id and self._may_propagate_to(meta):
                parameters = with_context(parameters, where, self._tracing.plain.inject(context))
        except Exception as trouble:  # Host safety: the call goes out untraced, or its messages without us.
            fault("the start of a botocore call", trouble)
        return span, parameters

    def _may_propagate_to(self, meta: Any) -> bool:
        may = self._tracing.conventions.may_propagate_to
        return may is None or may(split_endpoint(str(meta.endpoint_url or ""))[0])

    def _end(self, span: Span, answer: Any, error: BaseException | None) -> None:
        """By what the service has answered, as an error or not; never raises."""
        try:
            if span.recording:
                if error is not None and not is_disconnect(error):
                    span.fail(error)
                    answer = getattr(error, "response", None)
                if isinstance(answer, dict):
                    span.set_attributes(outcome(answer))
                    if span.name == ".".join(RECEIVING):
                        self._link(span, answer)
        except Exception as trouble:  # Host safety: the answer is the program's.
            fault("the outcome of a botocore call", trouble)
        finally:
            span.end()

    def _link(self, span: Span, answer: dict[str, Any]) -> None:
        """To those who have sent the messages, as far as the program has asked for their attributes."""
        messages = answer.get("Messages") or ()
        for message in messages:
            attributes = message.get(ATTRIBUTES) or {}
            carrier = {name.lower(): value.get("StringValue", "") for name, value in attributes.items()}
            sender = self._tracing.plain.extract(carrier)
            if sender is not None and sender.is_valid:
                span.add_link(sender)
        span.set_attribute("messaging.batch.message_count", len(messages))


def facts_of(meta: Any, operation: str, parameters: Any) -> tuple[Facts, ...]:
    """What is known beforehand."""
    names: tuple[tuple[str, str], ...] = ()
    if isinstance(parameters, dict):
        names = tuple((key, value) for key in RESOURCES if isinstance(value := parameters.get(key), str))
    service = str(meta.service_model.service_id)
    return ((describe_call, service, operation, str(meta.region_name or ""), str(meta.endpoint_url or ""), names),)


def describe_call(
    service: str, operation: str, region: str, endpoint: str, names: tuple[tuple[str, str], ...]
) -> dict[str, AttributeValue]:
    """Source: OpenTelemetry semantic conventions for AWS SDK client spans, and for messaging with SQS and SNS."""
    found: dict[str, AttributeValue] = {"rpc.system": "aws-api", "rpc.service": service, "rpc.method": operation}
    if region:
        found["cloud.region"] = region
    host, port = split_endpoint(endpoint)
    if host:
        found["server.address"] = host
    if port:
        found["server.port"] = port
    for key, value in names:
        name = RESOURCES[key]
        found[name] = [value] if name.endswith("_names") else value
    is_sending = (service, operation) in SENDING
    if is_sending or (service, operation) == RECEIVING:
        found["messaging.system"] = f"aws_{service.lower()}" if service == "SQS" else "aws.sns"
        found["messaging.operation.name"] = operation
        found["messaging.operation.type"] = "send" if is_sending else "receive"
        place = dict(names).get("QueueUrl" if service == "SQS" else "TopicArn")
        if place:
            found["messaging.destination.name"] = place.rpartition("/" if service == "SQS" else ":")[2]
    return found


def split_endpoint(url: str) -> tuple[str, int]:
    """Host and port; 0 where the URL names none."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        return parts.hostname or "", parts.port or 0
    except ValueError:  # A port that is none.
        return parts.hostname or "", 0


def outcome(answer: dict[str, Any]) -> dict[str, AttributeValue]:
    """What a service says of a call beside the answer itself; an error has a code of its own."""
    about = answer.get("ResponseMetadata") or {}
    found: dict[str, AttributeValue] = {}
    if status := about.get("HTTPStatusCode"):
        found["http.response.status_code"] = status
    if request_id := about.get("RequestId"):
        found["aws.request_id"] = request_id
    if extended := about.get("HostId"):
        found["aws.extended_request_id"] = extended
    if retries := about.get("RetryAttempts"):
        found["http.request.resend_count"] = retries
    error = answer.get("Error")
    if isinstance(error, dict) and error.get("Code"):
        found["error.type"] = str(error["Code"])
    return found


def with_context(parameters: Any, where: str, headers: list[tuple[str, str]]) -> Any:
    """The parameters with headers among the attributes of each message; copies, as far as anything is added."""
    if not isinstance(parameters, dict) or "PhoneNumber" in parameters:
        return parameters
    messages = parameters.get(where) if where else [parameters]
    # What is of another kind, botocore refuses, with its own words.
    if not isinstance(messages, (list, tuple)) or not all(map(is_message, messages)) or sum(map(size, messages)) > MAX_SIZE:
        return parameters
    headers = sorted(headers, key=lambda header: header[0] not in OWN_CHOICE)
    marked = [mark(message, headers) for message in messages]
    return {**parameters, where: marked} if where else marked[0]


def is_message(message: Any) -> bool:
    """Whether it has the form that botocore wants, as far as it is looked at here."""
    if not isinstance(message, dict):
        return False
    attributes = message.get(ATTRIBUTES) or {}
    return isinstance(attributes, dict) and all(isinstance(attribute, dict) for attribute in attributes.values())


def size(message: dict[str, Any]) -> int:
    """Characters of a message and its attributes, as nearly as that matters."""
    texts = [message.get("MessageBody"), message.get("Message"), message.get("Subject")]
    for name, attribute in (message.get(ATTRIBUTES) or {}).items():
        texts += [name, *attribute.values()]
    return sum(len(each) * (1 if each.__class__ is bytes or each.isascii() else 4) for each in texts if isinstance(each, (str, bytes)))


def mark(message: dict[str, Any], headers: list[tuple[str, str]]) -> dict[str, Any]:
    """A message with as many of the headers as it can take; as it is where it has a context already."""
    attributes = message.get(ATTRIBUTES) or {}
    if not OWN_CHOICE.isdisjoint(str(name).lower() for name in attributes):
        return message
    fit = [(name, value) for name, value in headers if value and name not in attributes and not name.strip(LEGAL)]
    fit = fit[: max(MAX_ATTRIBUTES - len(attributes), 0)]
    if not fit:
        return message
    added = {name: {"DataType": "String", "StringValue": value} for name, value in fit}
    return {**message, ATTRIBUTES: {**attributes, **added}}
