"""A gRPC server in a process of its own: `bench.Echo` (bytes, no schema), TensorFlow's PredictionService, health.

Run as a module: `python -m harness.grpc_server PORT NAME [--delay=SECONDS] [--streams=N]`. It prints `ready`, then obeys lines on its standard input, answering
each with `done`:
    fail N CODE      the next N calls end with that status code (a name such as INTERNAL)
    delay SECONDS    every call takes that long
    health STATUS    SERVING or NOT_SERVING
    goaway           stops taking calls in good order, then ends
"""

import asyncio
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from . import protos


class State:
    def __init__(self, name):
        self.name = name.encode()
        self.fail, self.code = 0, None
        self.delay = 0.0
        self.calls = 0
        self.cancelled = 0

    async def turn(self, context):
        """What every call goes through first."""
        self.calls += 1
        metadata = dict(context.invocation_metadata())
        if self.fail > 0:
            self.fail -= 1
            await context.abort(self.code, "as told")
        code = metadata.get("x-fail")
        if code:
            if "x-pushback" in metadata:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", metadata["x-pushback"]),))
            await context.abort(grpc.StatusCode[code], "as asked")
        delay = float(metadata.get("x-delay", self.delay))
        if delay:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


class Echo(grpc.GenericRpcHandler):
    """`bench.Echo`: Unary answers its own name and the message, the others as their names say."""

    def __init__(self, state):
        self.state = state
        self.methods = {
            "/bench.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/bench.Echo/Name": grpc.unary_unary_rpc_method_handler(self.who),
            "/bench.Echo/Download": grpc.unary_stream_rpc_method_handler(self.download),
            "/bench.Echo/Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "/bench.Echo/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "/bench.Echo/Deadline": grpc.unary_unary_rpc_method_handler(self.deadline),
            "/bench.Echo/Cancelled": grpc.unary_unary_rpc_method_handler(self.count_cancelled),
            "/bench.Echo/Metadata": grpc.unary_unary_rpc_method_handler(self.metadata),
        }

    def service(self, details):
        return self.methods.get(details.method)

    async def unary(self, message, context):
        await self.state.turn(context)
        # Only here: an answer whose head has gone out is committed, and calls that must survive a killed server are not.
        await context.send_initial_metadata((("x-server", self.state.name.decode()),))
        context.set_trailing_metadata((("x-trailer", "end"),))
        return message

    async def who(self, _message, context):
        await self.state.turn(context)
        return self.state.name

    async def download(self, message, context):
        """`COUNT` messages, `INTERVAL` seconds apart."""
        await self.state.turn(context)
        count, _, interval = message.decode().partition(" ")
        for number in range(int(count)):
            yield b"%d" % number
            if interval:
                await asyncio.sleep(float(interval))

    async def upload(self, messages, context):
        await self.state.turn(context)
        total = 0
        async for message in messages:
            total += len(message)
        return b"%d" % total

    async def chat(self, messages, context):
        await self.state.turn(context)
        async for message in messages:
            yield message

    async def deadline(self, _message, context):
        """Seconds left, as this server sees it; empty without a deadline."""
        left = context.time_remaining()
        return b"" if left is None or left > 1e8 else b"%f" % left

    async def count_cancelled(self, _message, _context):
        return b"%d" % self.state.cancelled

    async def metadata(self, _message, context):
        return repr([(k, v) for k, v in context.invocation_metadata()]).encode()


def prediction(state):
    """Predict doubles the tensor `x` into `y` and names the server in the model's version label."""
    messages, services = protos.load("prediction_service")

    class Servicer(services.PredictionServiceServicer):
        async def Predict(self, request, context):
            await state.turn(context)
            answer = messages.PredictResponse()
            answer.model_spec.name = request.model_spec.name
            answer.model_spec.version_label = state.name.decode()
            given = request.inputs["x"]
            answer.outputs["y"].dtype = given.dtype
            answer.outputs["y"].tensor_shape.CopyFrom(given.tensor_shape)
            answer.outputs["y"].float_val.extend(value * 2 for value in given.float_val)
            return answer

    return services.add_PredictionServiceServicer_to_server, Servicer()


async def serve(port, name, delay=0.0, certificate=None, key=None, streams=None):
    state = State(name)
    state.delay = delay
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.http2.min_ping_interval_without_data_ms", 1000)]
    if streams:
        options.append(("grpc.max_concurrent_streams", int(streams)))
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((Echo(state),))
    add, servicer = prediction(state)
    add(servicer, server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    address = f"127.0.0.1:{port}"
    if certificate:
        credentials = grpc.ssl_server_credentials([(open(key, "rb").read(), open(certificate, "rb").read())])
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)

    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while True:
        line = (await reader.readline()).decode().split()
        if not line:
            break
        if line[0] == "fail":
            state.fail, state.code = int(line[1]), grpc.StatusCode[line[2]]
        elif line[0] == "delay":
            state.delay = float(line[1])
        elif line[0] == "health":
            await health.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(line[1]))
        elif line[0] == "goaway":
            print("done", flush=True)
            await server.stop(20)
            return
        print("done", flush=True)
    await server.stop(0)


if __name__ == "__main__":
    words = sys.argv[1:]
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    plain = [word for word in words if not word.startswith("--")]
    started = time.monotonic()
    asyncio.run(
        serve(int(plain[0]), plain[1], float(options.get("delay", 0)), options.get("certificate"), options.get("key"), options.get("streams"))
    )
