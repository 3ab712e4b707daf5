"""The servers in Python that bench/host compares, each `python host_peers.py NAME PORT HTTP_PORT`; the model does nothing."""

import json
import os
import sys
import tempfile

PROTO = """
syntax = "proto3";
package ai;
message Input { bytes kwargs_json = 1; string version = 2; bytes binary_data = 3; }
message Output { bytes data_json = 1; }
service AI { rpc predict(Input) returns (Output); }
"""


def compiled():
    """Messages and services of ai.proto, as grpcio-tools generates them."""
    import importlib

    from grpc_tools import protoc

    folder = tempfile.mkdtemp(prefix="proto-", dir=os.getcwd())
    with open(os.path.join(folder, "ai.proto"), "w", encoding="utf-8") as f:
        f.write(PROTO)
    if protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", os.path.join(folder, "ai.proto")]):
        raise SystemExit("protoc failed")
    sys.path.insert(0, folder)
    # Workers of other processes import it, too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    return importlib.import_module("ai_pb2"), importlib.import_module("ai_pb2_grpc")


def aio(port):
    """grpc.aio with messages and JSON: what one writes."""
    import asyncio

    import grpc

    messages, services = compiled()

    class Servicer(services.AIServicer):
        async def predict(self, request, context):
            kwargs = json.loads(request.kwargs_json)
            return messages.Output(data_json=json.dumps(self.model(**kwargs)).encode())

        def model(self, **kwargs):
            return None

    async def run():
        server = grpc.aio.server()
        services.add_AIServicer_to_server(Servicer(), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


def aio_bytes(port):
    """grpc.aio at its barest: bytes in, bytes out, no message, no JSON, no model."""
    import asyncio

    import grpc

    async def answer(request, context):
        return b""

    async def run():
        server = grpc.aio.server()
        methods = {"predict": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ai.AI", methods),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


def ray(port, http_port):
    import signal

    messages, _ = compiled()
    import ray
    from ray import serve
    from ray.serve.config import gRPCOptions

    path = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    # Everything on loopback, in a folder that goes with the measurement, without dashboard.
    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20, runtime_env=path, _node_ip_address="127.0.0.1", _temp_dir=os.path.abspath("ray"))
    grpc_options = gRPCOptions(port=port, grpc_servicer_functions=["ai_pb2_grpc.add_AIServicer_to_server"])
    serve.start(http_options={"host": "127.0.0.1", "port": http_port}, grpc_options=grpc_options)

    # The queue is as long as the load needs: with the default of five most of it would wait in the proxy.
    @serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config={"enable_access_log": False})
    class Nothing:
        def __init__(self):
            from ai_pb2 import Output

            self.output = Output

        async def __call__(self, request):
            json.loads(await request.body())
            return None

        async def predict(self, request):
            json.loads(request.kwargs_json)
            return self.output(data_json=b"null")

    serve.run(Nothing.bind(), name="nothing", route_prefix="/")
    # Ray's own way with SIGTERM is a stack trace.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        signal.pause()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    name, ports = sys.argv[1], [int(word) for word in sys.argv[2:]]
    {"aio": aio, "aio-bytes": aio_bytes, "ray": ray, "ray-fast": ray}[name](*ports)
