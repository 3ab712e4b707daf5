import pytest
from fakehost import FakeHost


@pytest.fixture
def host(tmp_path):
    """Starts workers: `host(source, …)`; all must end when their connection does."""
    started = []

    def start(source, **more):
        folder = tmp_path / f"worker-{len(started)}"
        folder.mkdir()
        started.append(FakeHost(folder, source, **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def servers():
    """Starts servers of `ai.AI`, for which gRPC is needed."""
    from fakechaos import FakeChaos

    started = []

    def start():
        started.append(FakeChaos())
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def server(servers):
    return servers()


@pytest.fixture(params=["sync", "async"])
def client(request):
    """Makes clients of either kind that do not wait long between attempts: `client(server, …)`."""
    from bothclients import KINDS, QUICK

    made = []

    def make(*addresses, **options):
        made.append(KINDS[request.param](*[getattr(each, "address", each) for each in addresses], **{"retry": QUICK, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()
