"""@copilotkit/aimock: a mock of many providers that others wrote, in a process of its own."""

import json
from pathlib import Path

from . import http1
from .net import free_port
from .process import Process
from .sdks import node_home
from .wait import until


class AiMock:
    """Started with fixtures: `{"match": {…}, "response": {…}}` each. With `keys` it answers 401 to any other."""

    def __init__(self, folder, fixtures, keys=(), name="aimock"):
        self.folder = Path(folder) / name
        self.folder.mkdir()
        self.port = free_port()
        (self.folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}))
        words = ["node", node_home() / "node_modules/@copilotkit/aimock/dist/cli.js", "-p", self.port, "-f", self.folder / "fixtures.json", "--log-level", "warn"]
        env = {"AIMOCK_API_KEYS": ",".join(keys)} if keys else {}
        self.process = Process(words, self.folder / "log.txt", env=env, cwd=self.folder)
        until(self._ready, 30, "aimock ready", every=0.05)

    def _ready(self):
        assert self.process.running(), self.process.log()[-3000:]
        return http1.get(self.port, "/health").status == 200

    def base(self, dialect):
        return f"http://127.0.0.1:{self.port}/{'v1beta' if dialect == 'gemini' else 'v1'}"

    def journal(self):
        """What was asked of it."""
        return json.loads(http1.get(self.port, "/__aimock/journal").body)

    def end(self):
        self.process.end()


def fixture(said, response, **more):
    """An answer to whoever says this."""
    return {"match": {"userMessage": said}, "response": response, **more}
