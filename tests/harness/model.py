"""Models that are hosted: `tidegate serve` or `services:`, and callers of their protocols."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import zstandard

from . import protos
from .gateway import TOP, Gateway, binary
from .models import EXAMPLE
from .process import Process, alive, command_line
from .wait import until

PONG = b"PONG"


class Served(Gateway):
    """`tidegate serve model:CLASS` in a folder of its own."""

    def __init__(self, folder, cls="Example", *options, source=EXAMPLE, env=None, start=True, ready=True, python=None, prefix=()):
        self.cls, self.options, self.python, self.prefix = cls, options, python or sys.executable, list(prefix)
        folder = Path(folder)
        self.code, self.data = folder / "code", folder / "appdata"
        self.code.mkdir(parents=True)
        (self.code / "model.py").write_text(source)
        super().__init__(folder, "{}", env=env, start=start, ready=ready)

    def start(self, ready=True, *more):
        words = [
            *self.prefix, binary(), "serve", f"model:{self.cls}" if ":" not in self.cls else self.cls, "--path", self.code, "--data", self.data, "--python", self.python,
            "--port", self.port, "--admin", f"127.0.0.1:{self.admin_port}", *self.options, *more,
        ]  # fmt: skip
        log = self.folder / f"log-{len(self.processes)}.txt"
        self.processes.append(Process(words, log, env=self.env, cwd=self.folder))
        if ready:
            self.wait_ready(40)
        return self

    def ready(self):
        return super().ready() and serving(self.port)


def service(folder, name="example", cls="Example", source=EXAMPLE, **more):
    """An entry of `services:`; writes the class beside it."""
    folder = Path(folder) / f"code-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(source)
    return {"name": name, "python": {"path": str(folder), "class": f"model:{cls}", "executable": sys.executable}, **more}


def serving(port):
    """Whether a model behind the port takes calls, as the Open Inference Protocol tells it."""
    from . import http1

    return http1.get(port, "/v2/health/ready").status == 200


def workers(gateway):
    """Pids of the Python workers, in order."""
    return sorted(pid for pid in gateway.leftovers() if "tidegate.worker" in command_line(pid))


def spooled(gateway):
    """Files below the folders where uploads are kept."""
    return sorted(str(path) for path in gateway.folder.rglob("*") if path.is_file() and "spool" in path.parts[:-1])


# --- ai.AI -------------------------------------------------------------------------------------


def ai():
    return protos.load("ai")[0]


def call(channel, method="predict", kwargs=None, version="", binary=b"", timeout=30, metadata=(), raw=None):
    """A unary call of ai.AI; the JSON value that it gives."""
    request = ai().Input(kwargs_json=raw if raw is not None else json.dumps(kwargs or {}).encode(), version=version, binary_data=binary)
    stub = channel.unary_unary(f"/ai.AI/{method}", request_serializer=ai().Input.SerializeToString, response_deserializer=ai().Output.FromString)
    return json.loads(stub(request, timeout=timeout, metadata=tuple(metadata)).data_json)


def failure(made):
    """The status that a call ends with: code, details, trailing metadata."""
    try:
        value = made()
    except grpc.RpcError as error:
        return error.code().name, error.details(), {key: value for key, value in error.trailing_metadata() or ()}
    raise AssertionError(f"succeeded: {value!r}")


def compressed(data, chunk=32 << 10, level=3):
    """zstd of bytes or of an iterable of bytes, in chunks."""
    encoder = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    pieces = [data] if isinstance(data, (bytes, bytearray)) else data
    rest = b""
    for piece in pieces:
        rest += encoder.compress(piece)
        while len(rest) >= chunk:
            yield rest[:chunk]
            rest = rest[chunk:]
    rest += encoder.flush()
    for start in range(0, len(rest), chunk):
        yield rest[start : start + chunk]


class Chaos:
    """One call of ai.AI/chaos, message by message."""

    def __init__(self, channel, method="predict", kwargs=None, binary=None, size=None, version=None, timeout=60, metadata=(), messages=None):
        self.heartbeats, self.arrivals = 0, []
        first = dict(kwargs or {})
        if version is not None:
            first["version"] = version
        if size is None and binary is not None and hasattr(binary, "__len__"):
            size = len(binary)
        if size is not None:
            first["_aipod_binary_size"] = size

        def sent():
            if messages is not None:
                yield from (ai().Raw(data=each) for each in messages)
                return
            yield ai().Raw(data=zstandard.compress(json.dumps(first).encode()))
            if binary is not None:
                yield from (ai().Raw(data=each) for each in compressed(binary))

        stub = channel.stream_stream("/ai.AI/chaos", request_serializer=ai().Raw.SerializeToString, response_deserializer=ai().Raw.FromString)
        self.began = time.monotonic()
        self.call = stub(sent(), timeout=timeout, metadata=(("x-func-name", method), *metadata))

    def values(self):
        """Results as they come."""
        for message in self.call:
            self.arrivals.append(time.monotonic() - self.began)
            if message.data == PONG:
                self.heartbeats += 1
            else:
                yield json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(message.data))

    def result(self):
        values = list(self.values())
        assert len(values) == 1, values
        return values[0]


class Load:
    """Unary calls that begin on schedule, whether or not earlier ones have ended; a list of how each ended."""

    def __init__(self, channels, rate, seconds, method="predict", kwargs=None, timeout=30):
        self.channels, self.rate, self.seconds, self.timeout = channels, rate, seconds, timeout
        request = ai().Input(kwargs_json=json.dumps(kwargs or {}).encode())
        self.stubs = [c.unary_unary(f"/ai.AI/{method}", request_serializer=ai().Input.SerializeToString, response_deserializer=ai().Output.FromString) for c in channels]
        self.request = request
        self.ended, self.lock = queue.Queue(), threading.Lock()
        self.answers, self.failures, self.begun = Counter(), [], 0
        self.stopped = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def _run(self):
        began = time.monotonic()
        while not self.stopped and (now := time.monotonic() - began) < self.seconds:
            while self.begun <= now * self.rate:
                stub = self.stubs[self.begun % len(self.stubs)]
                self.begun += 1
                stub.future(self.request, timeout=self.timeout).add_done_callback(self.ended.put)
            time.sleep(0.002)

    def stop(self):
        self.stopped = True
        return self.finish()

    def finish(self):
        """Waits until every call has ended."""
        self.thread.join(self.seconds + 10)
        assert not self.thread.is_alive()
        for _ in range(self.begun - sum(self.answers.values()) - len(self.failures)):
            done = self.ended.get(timeout=self.timeout + 10)
            if done.code() == grpc.StatusCode.OK:
                value = json.loads(done.result().data_json)
                self.answers[value.get("pid")] += 1
            else:
                self.failures.append((done.code().name, done.details()))
        return self


def script(venv, text, *arguments, timeout=120, cwd=None, env=None):
    """Runs a script in another Python environment; its last line of output is JSON."""
    made = subprocess.run(
        [Path(venv) / "bin/python", "-c", text, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL
    )
    assert made.returncode == 0, made.stderr[-4000:]
    return json.loads(made.stdout.strip().splitlines()[-1])


def sdk():
    """Environment in which `import tidegate` finds the SDK of this tree."""
    return {"PYTHONPATH": str(TOP / "python")}


__all__ = ["Chaos", "Load", "PONG", "Served", "ai", "alive", "call", "compressed", "failure", "script", "sdk", "service", "serving", "spooled", "until", "workers"]
