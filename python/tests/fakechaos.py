"""A server of `ai.AI` whose behaviour each test writes down: what a host does, and what goes wrong."""

import json
import threading
from concurrent import futures

import grpc
import zstandard
from tidegate.client import _protocol as protocol


class Received:
    """A call as the server saw it."""

    def __init__(self, metadata, kwargs, data):
        self.metadata, self.kwargs, self.data = metadata, kwargs, data


def packed(value):
    return protocol.raw(zstandard.ZstdCompressor().compress(json.dumps(value).encode()))


def error_info(reason, exception="", domain="tidegate"):
    entry = protocol.message((1, b"exception"), (2, exception.encode()))
    info = protocol.message((1, reason.encode()), (2, domain.encode()), (3, entry))
    any_ = protocol.message((1, b"type.googleapis.com/google.rpc.ErrorInfo"), (2, info))
    return ("grpc-status-details-bin", protocol.message((3, any_)))


def fail(context, code, message="", reason="", exception="", more=()):
    trailers = [*more]
    if reason:
        trailers.append(error_info(reason, exception))
    context.set_trailing_metadata(trailers)
    context.abort(getattr(grpc.StatusCode, code), message)


class FakeChaos:
    """`answer(received, context)` yields messages of `chaos`; `unary(method, data, context)` answers the others."""

    def __init__(self):
        self.calls = []
        self.uploads = {}
        self.lock = threading.Lock()
        self.answer = lambda received, context: iter([packed({"ok": True})])
        self.unary = lambda method, data, context: protocol.message((1, b'{"unary": true}'))
        self.break_after = []  # bytes of an upload after which the connection breaks, call by call
        self.server = grpc.server(futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()

    def service(self, details):
        method = details.method
        if method == protocol.CHAOS:
            return grpc.stream_stream_rpc_method_handler(self.chaos)
        if method == protocol.UPLOAD_STATUS:
            return grpc.unary_unary_rpc_method_handler(self.status)
        if method.startswith("/ai.AI/"):

            def unary(data, context):
                received = Received(dict(context.invocation_metadata()), json.loads(protocol.first(data, 1) or b"{}"), protocol.first(data, 3))
                self.calls.append(received)
                return self.unary(method.rsplit("/", 1)[1], data, context)

            return grpc.unary_unary_rpc_method_handler(unary)
        return None

    def status(self, data, context):
        upload = self.uploads.get(protocol.first(data, 1))
        if upload is None:
            fail(context, "NOT_FOUND", "no such upload", "upload_unknown")
        assert upload[0] == protocol.first(data, 2)
        return bytes([2 << 3]) + protocol._varint(len(upload[1]))

    def chaos(self, requests, context):
        metadata = dict(context.invocation_metadata())
        opening = zstandard.ZstdDecompressor().decompress(protocol.of_raw(next(requests)))
        received = Received(metadata, json.loads(opening), bytearray())
        with self.lock:
            self.calls.append(received)
            limit = self.break_after.pop(0) if self.break_after else None
        identity = metadata.get("x-tidegate-upload-id", "").encode()
        if identity:
            sofar = self.uploads.setdefault(identity, (metadata["x-tidegate-upload-token"].encode(), bytearray()))[1]
            del sofar[int(metadata.get("x-tidegate-upload-offset", 0)) :]
            received.data = sofar
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        for message in requests:
            received.data += decompressor.decompress(protocol.of_raw(message))
            if limit is not None and len(received.data) >= limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
        yield from self.answer(received, context)

    def stop(self):
        self.server.stop(0).wait()


def failing(times, code="UNAVAILABLE", **more):
    left = [times]

    def answer(received, context):
        if left[0]:
            left[0] -= 1
            fail(context, code, "try again", **more)
        yield packed("done")

    return answer
