"""The host's side of the worker protocol, as small as it can be."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from tidegate import _wire as wire

PACKAGE = Path(__file__).resolve().parents[1]
NAMES = {value: name for name, value in vars(wire).items() if name.isupper() and isinstance(value, int) and name not in ("SIZE", "LONGEST", "CHUNK", "MORE")}


class Frame:
    def __init__(self, kind, call, meta, data):
        self.kind, self.call, self.meta, self.data = kind, call, meta, data

    @property
    def name(self):
        return NAMES[self.kind]

    @property
    def value(self):
        """The JSON of a result."""
        return json.loads(self.data[: self.meta["json"]] if "json" in self.meta else self.data)

    def parts(self):
        """(part, bytes) of a result."""
        at = self.meta["json"]
        for part in self.meta["parts"]:
            if "file" in part:
                yield part, Path(part["file"]).read_bytes()
            else:
                yield part, self.data[at : at + part["size"]]
                at += part["size"]

    def __repr__(self):
        return f"{self.name} {self.call} {self.meta} {self.data[:200]!r}"


class FakeHost:
    """Starts a worker for a class whose source is given and speaks with it."""

    def __init__(self, folder, source, name="model:M", tcp=False, leash=True, env=None, **welcome):
        self.folder = Path(folder)
        (self.folder / "model.py").write_text(textwrap.dedent(source))
        self.name, self.welcome = name, {"data": str(self.folder / "data"), "concurrency": 1, "files": not tcp, **welcome}
        self.sockets = tempfile.TemporaryDirectory()
        if tcp:
            self.listener = socket.create_server(("127.0.0.1", 0))
            address = "tcp:127.0.0.1:%d" % self.listener.getsockname()[1]
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(f"{self.sockets.name}/s")
            self.listener.listen()
            address = f"unix:{self.sockets.name}/s"
        self.listener.settimeout(30)
        self.output = open(self.folder / "output.txt", "w+b")
        given = {**os.environ, "PYTHONPATH": str(PACKAGE), "TIDEGATE_WORKER": address, "TIDEGATE_TOKEN": "secret", "TIDEGATE_EPOCH": "3", **(env or {})}
        reading, self.leash = os.pipe()
        if leash:
            given["TIDEGATE_LEASH"] = "0"
        python = os.environ.get("TIDEGATE_TEST_PYTHON", sys.executable)
        self.process = subprocess.Popen(
            [python, "-m", "tidegate.worker", name], cwd=self.folder, env=given, stdin=reading, stdout=self.output, stderr=self.output, start_new_session=True
        )
        os.close(reading)
        self.others = []
        self.accept()

    def accept(self):
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(30)
        self.buffer = b""
        self.hello = self.receive()
        assert self.hello.name == "HELLO", self.hello
        self.send("WELCOME", 0, {"class": self.name, **self.welcome})

    def receive(self):
        while True:
            if len(self.buffer) >= wire.SIZE:
                size, kind, flags, _, meta, call = wire.HEADER.unpack_from(self.buffer)
                if len(self.buffer) >= wire.SIZE + size:
                    body = self.buffer[wire.SIZE : wire.SIZE + size]
                    self.buffer = self.buffer[wire.SIZE + size :]
                    frame = Frame(kind, call, json.loads(body[:meta]) if meta else {}, body[meta:])
                    if flags & wire.MORE:
                        more = self.receive()
                        assert (more.kind, more.call) == (kind, call)
                        frame.data += more.data
                    return frame
            got = self.sock.recv(1 << 20)
            if not got:
                raise EOFError(self.log())
            self.buffer += got

    def next(self, *kinds):
        """The next frame of one of these kinds; logs and progress meanwhile are kept in `others`."""
        while True:
            frame = self.receive()
            if frame.name in kinds or (not kinds and frame.name not in ("LOG", "PROGRESS", "WANT")):
                return frame
            self.others.append(frame)

    def send(self, kind, call, meta=None, data=b"", flags=0):
        meta = json.dumps(meta).encode() if meta else b""
        self.sock.sendall(wire.pack(len(meta) + len(data), getattr(wire, kind), flags, 0, len(meta), call) + meta + data)

    def ready(self, *versions):
        """Until the class is there and its versions are loaded; gives READY's meta."""
        frame = self.next("READY", "FAILED")
        assert frame.name == "READY", frame
        for number, version in enumerate(versions or ("",)):
            self.send("LOAD", 1_000_000 + number, {"version": version})
            loaded = self.next()
            assert loaded.name == "LOADED", loaded
        return frame.meta

    def begin(self, call, method, kwargs=None, data=b"", **meta):
        text = json.dumps(kwargs or {}).encode()
        self.send("CALL", call, {"method": method, "version": "", "json": len(text), **meta}, text + data)

    def call(self, method, call=1, data=b"", parts=None, version="", **kwargs):
        more = {"parts": parts} if parts else {}
        self.begin(call, method, kwargs, data, version=version, **more)
        answer = self.next()
        assert answer.call == call, answer
        return answer

    def log(self):
        self.output.flush()
        return (self.folder / "output.txt").read_text(errors="replace")

    def end(self):
        self.sock.close()
        self.listener.close()
        try:
            os.close(self.leash)
        except OSError:
            pass
        try:
            self.process.wait(5)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.output.close()
            self.sockets.cleanup()
