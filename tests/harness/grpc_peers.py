"""gRPC servers as child processes, channels and load on them."""

import threading
import time
from collections import Counter
from pathlib import Path

import grpc

from .net import free_port
from .process import Process, python
from .wait import until

TESTS = Path(__file__).resolve().parents[1]


class GrpcServer:
    """`harness.grpc_server` in a process."""

    def __init__(self, folder, name, port=None, **options):
        self.name, self.port, self.folder = name, port or free_port(), Path(folder)
        self.options, self.process, self.starts = options, None, 0
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self, wait=True):
        self.starts += 1
        words = [f"--{key}={value}" for key, value in self.options.items()]
        log = self.folder / f"grpc-{self.name}-{self.starts}.txt"
        self.process = Process(python("harness.grpc_server", self.port, self.name, *words), log, cwd=TESTS, stdin=True)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        until(lambda: self._says("ready"), 20, f"server {self.name} ready")

    def _says(self, word, times=1):
        assert self.process.running(), self.process.log()
        return self.process.log().split("\n").count(word) >= times

    def tell(self, *words):
        before = self.process.log().split("\n").count("done")
        self.process.popen.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.process.popen.stdin.flush()
        until(lambda: self._says("done", before + 1), 5, f"server {self.name} obeyed {words}")

    def kill(self):
        self.process.kill()

    def end(self):
        self.process.end()


def channel(port, *, credentials=None, **options):
    """A channel with a connection of its own: grpcio shares connections between like channels otherwise."""
    settings = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
    settings += [(f"grpc.{key}", value) for key, value in options.items()]
    address = f"127.0.0.1:{port}"
    if credentials:
        return grpc.secure_channel(address, credentials, settings)
    return grpc.insecure_channel(address, settings)


class Connectivity:
    """Notes every state that a channel's connection goes through."""

    def __init__(self, grpc_channel):
        self.states = []
        grpc_channel.subscribe(self.states.append, try_to_connect=True)

    def connections(self):
        """How often it became ready."""
        return self.states.count(grpc.ChannelConnectivity.READY)


class GrpcLoad:
    """Unary calls in a closed loop from some threads a channel; who answered and how calls ended is counted."""

    def __init__(self, channels, threads=4, method="/bench.Echo/Name", message=b"", count=None, limit=90.0, timeout=20.0, metadata=(), decode=None):
        self.calls = [each.unary_unary(method) for each in channels]
        self.threads, self.message, self.limit, self.timeout = threads, message, limit, timeout
        self.metadata, self.decode = tuple(metadata), decode
        self.left = count if count is not None else 1 << 62
        self.stopped, self.lock = False, threading.Lock()
        self.answers = Counter()
        self.failures = []  # (status code, details, debug)
        self.timeline = []  # (when, who): appended in order of arrival
        self.running = []

    def __enter__(self):
        self.deadline = time.monotonic() + self.limit
        for call in self.calls:
            for _ in range(self.threads):
                thread = threading.Thread(target=self._work, args=(call,), daemon=True)
                thread.start()
                self.running.append(thread)
        return self

    def __exit__(self, *_):
        self.stop()

    def _work(self, call):
        mine, failures, timeline = Counter(), [], []
        while not self.stopped and time.monotonic() < self.deadline:
            with self.lock:
                if self.left <= 0:
                    break
                self.left -= 1
            try:
                who = call(self.message, timeout=self.timeout, metadata=self.metadata)
                who = self.decode(who) if self.decode else who.decode()
                self.timeline.append((time.monotonic(), who))
                mine[who] += 1
            except grpc.RpcError as error:
                failures.append((error.code().name, error.details(), time.monotonic()))
        with self.lock:
            self.answers.update(mine)
            self.failures += failures

    def total(self):
        return len(self.timeline)

    def stop(self):
        self.stopped = True
        return self.finish()

    def finish(self):
        for thread in self.running:
            thread.join(self.limit + 30)
            assert not thread.is_alive(), "gRPC load did not end"
        return self

    def share(self, who, since):
        """Part of the answers since a moment that came from `who`."""
        recent = [name for when, name in list(self.timeline) if when >= since]
        return recent.count(who) / len(recent) if recent else 0.0
