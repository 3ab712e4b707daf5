"""Fixtures of the end-to-end tests."""

import itertools

import pytest

from harness import tls as tls_module
from harness import upstream as upstream_module
from harness.gateway import Gateway
from harness.process import Process


@pytest.fixture
def tidegate(tmp_path):
    """Starts gateways: `tidegate(config, workers=2, env={…})`. All end in good order when the test does."""
    started, numbers = [], itertools.count()

    def start(config, **more):
        gateway = Gateway.__new__(Gateway)
        started.append(gateway)
        gateway.processes = []
        gateway.__init__(tmp_path / f"gateway-{next(numbers)}", config, **more)
        return gateway

    yield start
    _end(started)


@pytest.fixture
def serve(tmp_path):
    """Serves models: `serve("Example", "--replicas", 2)`, as `tidegate serve` does. All end in good order when the test does."""
    from harness.model import Served

    started, numbers = [], itertools.count()

    def start(cls="Example", *options, **more):
        host = Served.__new__(Served)
        host.processes = []
        started.append(host)
        host.__init__(tmp_path / f"gateway-{next(numbers)}", cls, *options, **more)
        return host

    yield start
    _end(started)


def _end(gateways):
    troubles = []
    for gateway in gateways:
        try:
            gateway.end()
        except AssertionError as error:
            troubles.append(str(error))
    assert not troubles, troubles


@pytest.fixture
def server():
    """Starts scriptable HTTP/1.1 servers: `server(behaviour, name="a")`."""
    started = []

    def start(behaviour=None, **more):
        started.append(upstream_module.Server(behaviour, **more))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def process(tmp_path):
    """Starts child processes with their output in a file: `process([command…])`."""
    started, numbers = [], itertools.count()

    def start(command, **more):
        started.append(Process(command, tmp_path / f"process-{next(numbers)}.txt", **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def authority(tmp_path):
    return tls_module.Authority(tmp_path / "tls")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of every gateway's log."""
    outcome = yield
    report = outcome.get_result()
    folder = item.funcargs.get("tmp_path") if hasattr(item, "funcargs") else None
    if report.failed and folder is not None:
        for log in sorted(folder.glob("gateway-*/log-*.txt")):
            text = log.read_text(errors="replace")
            report.sections.append((f"{log.parent.name}/{log.name}", text[-6000:]))


@pytest.fixture
def grpc_server(tmp_path):
    """Starts gRPC servers: `grpc_server("a")`."""
    from harness.grpc_peers import GrpcServer

    started = []

    def start(name, **more):
        started.append(GrpcServer(tmp_path, name, **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def channel():
    """Opens gRPC channels, closed after the test."""
    from harness import grpc_peers

    opened = []

    def start(port, **more):
        opened.append(grpc_peers.channel(port, **more))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture
def consul(tmp_path):
    """A Consul agent."""
    from harness.consul import Consul

    agent = Consul(tmp_path)
    yield agent
    agent.end()


@pytest.fixture
def collector():
    """Starts OpenTelemetry collectors: `collector(503, 200)`."""
    from harness.collector import Collector

    started = []

    def start(*answers, **more):
        started.append(Collector(*answers, **more))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def faulty():
    """A provider of LLMs that fails as it is told."""
    from harness.faults import FaultServer

    started = FaultServer()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def sdks(tmp_path_factory):
    """The official SDKs for Python."""
    from harness.sdks import Sdks

    started = Sdks.python(tmp_path_factory.mktemp("sdks"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def node_sdk(tmp_path_factory):
    """OpenAI's own client for Node."""
    from harness.sdks import Sdks

    started = Sdks.node(tmp_path_factory.mktemp("node"))
    yield started
    started.close()


@pytest.fixture
def redis(tmp_path):
    """A real Redis."""
    from harness.redis import Redis

    started = Redis(tmp_path)
    yield started
    started.end()
