"""HTTP/1.1 load: a bounded number of connections in a closed loop, every failure kept."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    statuses: Counter = field(default_factory=Counter)
    bodies: Counter = field(default_factory=Counter)
    failures: list = field(default_factory=list)
    refused: int = 0  # connections that were not accepted
    connections: int = 0
    closed: int = 0  # kept connections that ended between requests, without an announcement
    longest: float = 0.0

    @property
    def total(self):
        return sum(self.statuses.values()) + len(self.failures)

    def bad(self):
        return [(code, n) for code, n in self.statuses.items() if code >= 500] + self.failures


class Load:
    """`with Load(port, …) as load:` runs until the block ends, `count` requests are made or `limit` seconds passed."""

    def __init__(self, port, connections=8, method="GET", target="/", headers=(), body=b"", keep=True, count=None, limit=60.0, host="test.local"):
        lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *[f"{n}: {v}" for n, v in headers]]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}")
        if not keep:
            lines.append("connection: close")
        self.data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.port, self.connections, self.keep = port, connections, keep
        self.left = count if count is not None else 1 << 62
        self.limit, self.stopped = limit, False
        self.report = Report()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopped = True
        self.thread.join(self.limit + 40)
        assert not self.thread.is_alive(), "load did not end"
        return self.report

    def finish(self):
        """Waits until all `count` requests are made."""
        self.thread.join(self.limit + 40)
        assert not self.thread.is_alive(), "load did not end"
        return self.report

    def answered(self):
        return sum(self.report.statuses.values())

    async def _main(self):
        self.deadline = time.monotonic() + self.limit
        await asyncio.gather(*[self._worker() for _ in range(self.connections)])

    def _more(self):
        if self.stopped or self.left <= 0 or time.monotonic() > self.deadline:
            return False
        self.left -= 1
        return True

    async def _worker(self):
        streams = None
        while self._more():
            fresh = streams is None
            if fresh:
                try:
                    streams = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.port), 30)
                    self.report.connections += 1
                except OSError as error:
                    self.report.refused += 1
                    self.report.failures.append(f"connect: {error!r}")
                    await asyncio.sleep(0.001)
                    continue
            began = time.monotonic()
            try:
                keep = await asyncio.wait_for(self._exchange(*streams), 30)
            except _Idle:
                # The peer closed a kept connection before this request reached it: a client may send it again.
                streams[1].close()
                streams = None
                if fresh:
                    self.report.failures.append("closed before an answer")
                else:
                    self.report.closed += 1
                    self.left += 1
                continue
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError) as error:
                self.report.failures.append(f"exchange: {error!r}")
                streams[1].close()
                streams = None
                continue
            self.report.longest = max(self.report.longest, time.monotonic() - began)
            if not keep or not self.keep:
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    async def _exchange(self, reader, writer):
        writer.write(self.data)
        try:
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            raise _Idle from None
        except ConnectionError:
            raise _Idle from None
        status = int(head[9:12])
        lower = head.lower()
        body = b""
        at = lower.find(b"content-length:")
        if at >= 0:
            body = await reader.readexactly(int(lower[at + 15 : lower.index(b"\r", at)]))
        elif b"transfer-encoding: chunked" in lower:
            while True:
                size = int(await reader.readuntil(b"\r\n"), 16)
                body += (await reader.readexactly(size + 2))[:-2]
                if size == 0:
                    break
        self.report.statuses[status] += 1
        self.report.bodies[body[:64]] += 1
        return b"connection: close" not in lower


class _Idle(Exception):
    pass
