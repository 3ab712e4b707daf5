"""A real Redis on loopback that keeps nothing on disk."""

import shutil
import signal
import socket

from .net import free_port
from .process import Process
from .wait import until


class Redis:
    """`redis-server` on a free port. It can be killed, stopped for a while, and started again on the same port."""

    def __init__(self, folder):
        assert shutil.which("redis-server"), "redis-server is missing: scripts/install-test-deps"
        self.folder, self.port, self.starts = folder, free_port(), 0
        self.process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        self.starts += 1
        words = ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--appendonly", "no", "--dir", self.folder]
        self.process = Process(words, self.folder / f"redis-{self.starts}.txt")
        until(lambda: self.command("PING") == "PONG", 10, "Redis ready")
        return self

    def kill(self):
        self.process.kill()

    def pause(self):
        """It keeps its connections and answers nothing."""
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        self.process.signal(signal.SIGCONT)

    def end(self):
        if self.process.running():
            self.resume()
        self.process.end()

    def command(self, *words):
        """One command; its reply as text, number, list or None."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            parts = [word.encode() if isinstance(word, str) else str(word).encode() for word in words]
            sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            with sock.makefile("rb") as replies:
                return _reply(replies)

    def lease(self, name, prefix="tidegate"):
        """Epoch and holder of a lease."""
        found = next(each for each in self.command("KEYS", f"*lease:{name}") if prefix in each)
        epoch, holder = self.command("HMGET", found, "e", "h")
        return int(epoch), holder

    def everything(self):
        """All that it holds, names and values, as one text: to look for what must not be there."""
        found = []
        for name in self.command("KEYS", "*"):
            kind = self.command("TYPE", name)
            how = {"string": ("GET", name), "hash": ("HGETALL", name), "list": ("LRANGE", name, 0, -1), "set": ("SMEMBERS", name), "zset": ("ZRANGE", name, 0, -1), "stream": ("XRANGE", name, "-", "+")}
            found.append(f"{name}: {self.command(*how[kind])!r}")
        return "\n".join(sorted(found))


def _reply(replies):
    line = replies.readline()
    assert line.endswith(b"\r\n"), "Redis closed the connection"
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"+":
        return rest
    if kind == b"-":
        raise RuntimeError(rest)
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == "-1" else replies.read(int(rest) + 2)[:-2].decode(errors="replace")
    return [_reply(replies) for _ in range(int(rest))]
