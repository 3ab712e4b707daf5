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
