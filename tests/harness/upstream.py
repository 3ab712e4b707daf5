"""An HTTP/1.1 server that does as it is told, in this process, on a thread of its own.

A behaviour is `async def behaviour(request, connection)`; the ones here cover what tests ask for and can be put together.
Every request is kept in `server.requests` with its raw head, so that a test sees what really arrived.
"""

import asyncio
import base64
import hashlib
import itertools
import threading
from dataclasses import dataclass, field

from .net import free_port, reset_on_close

_loop = None
_lock = threading.Lock()


def loop():
    """The event loop of all servers of this process."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="upstreams", daemon=True).start()
        return _loop


def run(coroutine, timeout=20):
    """Runs a coroutine on the servers' loop and waits for its result."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop()).result(timeout)


@dataclass
class Request:
    method: str
    target: str
    version: str
    headers: list
    raw_head: bytes
    connection: int
    body: bytes = b""
    trailers: list = field(default_factory=list)
    complete: bool = False

    def header(self, name, default=None):
        found = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(found) if found else default

    def count(self, name):
        return sum(1 for key, _ in self.headers if key == name.lower())


class Connection:
    """The server's side of one connection."""

    def __init__(self, server, number, reader, writer):
        self.server, self.number, self.reader, self.writer = server, number, reader, writer
        self.close_after = False

    async def write(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status, headers=()):
        lines = [f"HTTP/1.1 {status} X".encode()]
        lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
        await self.write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def respond(self, status=200, body=b"ok", headers=()):
        body = body.encode() if isinstance(body, str) else body
        await self.head(status, [*headers, ("content-length", len(body))])
        if body:
            await self.write(body)

    async def chunk(self, data):
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def last_chunk(self, trailers=()):
        await self.write(b"0\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in trailers) + b"\r\n")

    def reset(self):
        reset_on_close(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()
        self.close_after = True

    def close(self):
        self.writer.close()
        self.close_after = True

    async def gone(self):
        """Returns when the peer closes its side (and sent nothing meanwhile)."""
        try:
            data = await self.reader.read(1)
        except ConnectionError:
            data = b""
        return not data


class Server:
    """Starts on a free port at once; `behaviour` may be changed while it runs."""

    def __init__(self, behaviour=None, tls=None, name="", port=None, read_body=True):
        self.behaviour = behaviour or ok()
        self.name, self.tls, self.read_body = name, tls, read_body
        self.port = port or free_port()
        self.requests, self.open, self.accepted, self.peak_open = [], set(), 0, 0
        self.cancelled = []  # requests whose connection went away before their answer
        self._server = None
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        async def serve():
            return await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls, backlog=1024, limit=1 << 20)

        self._server = run(serve())

    def stop(self, reset=False):
        """No longer listens; open connections are closed (or reset)."""

        async def end():
            self._server.close()
            for connection in list(self.open):
                connection.reset() if reset else connection.close()

        if self._server is not None:
            run(end())
            self._server = None

    def paths(self):
        return [request.target for request in self.requests]

    async def _serve(self, reader, writer):
        self.accepted += 1
        connection = Connection(self, self.accepted, reader, writer)
        self.open.add(connection)
        self.peak_open = max(self.peak_open, len(self.open))
        try:
            while not connection.close_after:
                request = await self._read_head(connection)
                if request is None:
                    break
                self.requests.append(request)
                if self.read_body and not _is_upgrade(request):
                    await read_body(request, connection)
                await self.behaviour(request, connection)
                if (request.header("connection") or "").lower() == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            self.open.discard(connection)
            if not connection.close_after:
                writer.close()

    async def _read_head(self, connection):
        try:
            raw = await connection.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        lines = raw[:-4].split(b"\r\n")
        method, target, version = lines[0].decode("latin-1").split(" ", 2)
        headers = []
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        return Request(method, target, version, headers, raw, connection.number)


def _is_upgrade(request):
    return request.header("upgrade") is not None or request.method == "CONNECT"


async def read_body(request, connection):
    """Reads the whole body into the request."""
    if (request.header("expect") or "").lower() == "100-continue":
        await connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    reader = connection.reader
    if (request.header("transfer-encoding") or "").lower() == "chunked":
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                break
            request.body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        while True:
            line = await reader.readuntil(b"\r\n")
            if line == b"\r\n":
                break
            name, _, value = line.partition(b":")
            request.trailers.append((name.decode().lower(), value.strip().decode()))
    else:
        request.body = await reader.readexactly(int(request.header("content-length", "0")))
    request.complete = True


# --- behaviours -----------------------------------------------------------------------------------


def ok(body=b"ok", headers=()):
    return status(200, body, headers)


def status(code, body=b"", headers=()):
    async def behave(_request, connection):
        await connection.respond(code, body, headers)

    return behave


def named():
    """Answers with the server's name."""

    async def behave(_request, connection):
        await connection.respond(200, connection.server.name)

    return behave


def echo():
    """Sends the body back, with the trailers that came."""

    async def behave(request, connection):
        if request.trailers:
            await connection.head(200, [("transfer-encoding", "chunked")])
            if request.body:
                await connection.chunk(request.body)
            await connection.last_chunk(request.trailers)
        else:
            await connection.respond(200, request.body)

    return behave


def delay(seconds, then=None):
    """Waits; notes a caller that left meanwhile."""

    async def behave(request, connection):
        gone = asyncio.ensure_future(connection.gone())
        done, _ = await asyncio.wait({gone}, timeout=seconds)
        if done:
            connection.server.cancelled.append(request)
            connection.close()
            return
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await (then or ok())(request, connection)

    return behave


def hang():
    """Never answers; notes when the caller leaves."""
    return delay(600)


def reset():
    async def behave(_request, connection):
        connection.reset()

    return behave


def close():
    async def behave(_request, connection):
        connection.close()

    return behave


def truncated(declared=100, sent=10):
    """Promises more bytes than it sends, then closes."""

    async def behave(_request, connection):
        await connection.head(200, [("content-length", declared)])
        await connection.write(b"x" * sent)
        connection.close()

    return behave


def truncated_chunks():
    """A chunked answer that ends in the middle."""

    async def behave(_request, connection):
        await connection.head(200, [("transfer-encoding", "chunked")])
        await connection.chunk(b"half")
        connection.close()

    return behave


def sse(events, interval=0.01, gate=None):
    """Server-sent events, one chunk each; with a gate (asyncio.Event-like, thread-safe) it waits before the second."""

    async def behave(request, connection):
        await connection.head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
        for number in range(events):
            if gate is not None and number == 1:
                while not gate.is_set():
                    await asyncio.sleep(0.005)
            try:
                await connection.chunk(b"data: %d\n\n" % number)
            except ConnectionError:
                connection.server.cancelled.append(request)
                raise
            await asyncio.sleep(interval)
        await connection.last_chunk()

    return behave


def interim(code, headers=(), then=None):
    """An informational answer first."""

    async def behave(request, connection):
        await connection.head(code, headers)
        await (then or ok())(request, connection)

    return behave


def in_turn(*behaviours):
    """The first request gets the first behaviour, and so on; the last one stays."""
    steps = itertools.chain(behaviours[:-1], itertools.repeat(behaviours[-1]))

    async def behave(request, connection):
        await next(steps)(request, connection)

    return behave


def by_path(table, otherwise=None):
    async def behave(request, connection):
        await table.get(request.target.split("?")[0], otherwise or status(404))(request, connection)

    return behave


def trailers(body, fields):
    async def behave(_request, connection):
        await connection.head(200, [("transfer-encoding", "chunked"), ("trailer", ", ".join(n for n, _ in fields))])
        await connection.chunk(body)
        await connection.last_chunk(fields)

    return behave


def download(size, piece=256 * 1024):
    """`size` bytes with a Content-Length."""

    async def behave(_request, connection):
        await connection.head(200, [("content-length", size)])
        data, left = b"d" * piece, size
        while left:
            await connection.write(data[:left])
            left -= min(left, piece)

    return behave


def swallow():
    """Reads the body without keeping it and answers with its length. Needs read_body=False."""

    async def behave(request, connection):
        left = total = int(request.header("content-length"))
        while left:
            data = await connection.reader.read(min(left, 1 << 18))
            if not data:
                return
            left -= len(data)
        await connection.respond(200, str(total))

    return behave


def websocket():
    """RFC 6455 handshake, then every byte comes back as it is: frames are the ends' business."""

    async def behave(request, connection):
        key = request.header("sec-websocket-key", "")
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        await connection.head(101, [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept)])
        while True:
            data = await connection.reader.read(65536)
            if not data:
                break
            await connection.write(data)
        connection.close()

    return behave
