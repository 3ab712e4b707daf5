"""An OpenTelemetry collector, as far as tests need one: it takes OTLP over HTTP and reads it with OpenTelemetry's own package."""

from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from . import upstream
from .wait import until

PROTOBUF = [("content-type", "application/x-protobuf")]


@dataclass
class Span:
    """A span as people read it."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    flags: int
    state: str
    start: int
    end: int
    failed: bool
    attributes: dict
    resource: dict = field(repr=False)

    def __getitem__(self, key):
        return self.attributes[key]

    def get(self, key):
        return self.attributes.get(key)

    @property
    def traceparent(self):
        """What a request within this span carries."""
        return f"00-{self.trace}-{self.id}-{self.flags & 0xff:02x}"


def _value(any_value):
    kind = any_value.WhichOneof("value")
    value = getattr(any_value, kind)
    return [_value(each) for each in value.values] if kind == "array_value" else value


def _attributes(pairs):
    found = {pair.key: _value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "a key twice"
    return found


def _span(message, resource):
    return Span(
        name=message.name,
        kind=Message.SpanKind.Name(message.kind).removeprefix("SPAN_KIND_").lower(),
        trace=message.trace_id.hex(),
        id=message.span_id.hex(),
        parent=message.parent_span_id.hex(),
        flags=message.flags,
        state=message.trace_state,
        start=message.start_time_unix_nano,
        end=message.end_time_unix_nano,
        failed=message.status.code == Status.STATUS_CODE_ERROR,
        attributes=_attributes(message.attributes),
        resource=resource,
    )


class Collector:
    """`answers`: what the next requests get, each a status, a behaviour, or None for silence; then all are taken."""

    def __init__(self, *answers, **more):
        self.answers = list(answers)
        self.taken, self.requests = [], []
        self.server = upstream.Server(self._serve, **more)

    @property
    def url(self):
        return f"http://{self.server.address}"

    def config(self, **more):
        """The section for tests: everything is recorded, and nothing waits."""
        return {"otlp": self.url, "schedule_delay": "20ms", **more}

    def stop(self):
        self.server.stop()

    async def _serve(self, request, connection):
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else 200
        if answer is None:
            await connection.gone()
            return
        if callable(answer):
            return await answer(request, connection)
        if answer == 200:
            self._take(request)
        await connection.respond(answer, ExportTraceServiceResponse().SerializeToString(), PROTOBUF)

    def _take(self, request):
        assert (request.method, request.target) == ("POST", "/v1/traces"), request
        assert request.header("content-type") == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(request.body)
        # Whatever this version of the messages does not know would be a mistake of ours.
        assert message.SerializeToString() and not _unknown(message)
        for of_resource in message.resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                assert of_scope.scope.name == "tidegate"
                self.taken.extend(_span(each, resource) for each in of_scope.spans)

    def rejecting(self, number):
        """An answer that takes a batch but for some."""

        async def behave(request, connection):
            self._take(request)
            part = ExportTracePartialSuccess(rejected_spans=number, error_message="too old")
            await connection.respond(200, ExportTraceServiceResponse(partial_success=part).SerializeToString(), PROTOBUF)

        return behave

    # --- what came ---

    def traces(self, number=1):
        """At least so many traces, each a list of its spans: ours first, then attempts as they began."""

        def whole():
            found = {}
            for span in list(self.taken):
                found.setdefault(span.trace, []).append(span)
            # A trace's spans come together.
            return list(found.values()) if len(found) >= number else None

        found = until(whole, what=f"{number} traces")
        return [sorted(spans, key=lambda span: (span.kind != "server", span.start)) for spans in found]

    def trace(self):
        """The one trace: its request, and its attempts."""
        (spans,) = self.traces()
        request, *attempts = spans
        assert request.kind == "server" and all(each.kind == "client" for each in attempts), spans
        for each in attempts:
            assert each.parent == request.id and each.trace == request.trace
            assert request.start <= each.start <= each.end <= request.end
        return request, attempts


def _unknown(message):
    from google.protobuf.unknown_fields import UnknownFieldSet

    return len(UnknownFieldSet(message)) > 0
