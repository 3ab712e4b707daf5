"""Frames of the worker protocol (docs/src/worker-protocol.md): what is read from a socket, what is written to it."""

import json
import socket
import struct
import threading

HEADER = struct.Struct("<IBBHIQ")
SIZE = HEADER.size
LONGEST = 16 << 20
LONGEST_META = 8 << 20
CHUNK = 256 << 10
MORE = 1

HELLO, READY, FAILED, LOADED, RELEASED, RESULT, ITEM, DONE, ERROR, PROGRESS, LOG, PONG, WANT = range(1, 14)
WELCOME, LOAD, RELEASE, CALL, DATA, CANCEL, CREDIT, DRAIN, PING = range(33, 42)
BATCH = 43

pack = HEADER.pack
unpack_from = HEADER.unpack_from


def _constant(name):
    raise ValueError(f"{name} is no JSON")


# json.loads looks for the encoding of bytes first; the decoder below it need not.
_decoder = json.JSONDecoder(parse_constant=_constant)
_scan = _decoder.scan_once  # type: ignore[attr-defined]
_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def load_json(text):
    """The value of a JSON text in a bytes-like object."""
    text = str(text, "utf-8")
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    return _decoder.decode(text)  # space around it, or an error with its place


def load_arguments(text):
    """Keyword arguments from a JSON text; ValueError says why they can't be had."""
    try:
        given = load_json(text)
    except RecursionError:
        raise ValueError("they are nested too deeply") from None
    if type(given) is not dict:
        raise ValueError("they must be a JSON object")
    return given


def dump_json(value):
    """JSON of what goes beside results: text that is no Unicode (half a surrogate pair) has a `?` there."""
    return _compact(value).encode("utf-8", "replace")


class Ended(Exception):
    """The other end closed the connection, or said what no peer may say."""


class Link:
    """One connection. Writing is for any thread; reading for one at a time (who, is the caller's to say).

    `out` is one list for good, and a frame is added to it in one step: threads that put, and one that sends, need no lock between them.
    """

    def __init__(self, sock):
        self.sock = sock
        self.out = []
        self.sending = threading.Lock()
        self._tail = b""
        self._big = None
        self._have = 0
        self._parts = {}

    def renew(self, sock):
        """Another connection: what of the old one was not sent or not whole is gone."""
        with self.sending:
            self.sock.close()
            self.sock = sock
            self.out.clear()
        self._tail, self._big, self._have, self._parts = b"", None, 0, {}

    # --- writing ---

    def put(self, kind, call, meta=None, data=b""):
        """Adds a frame (or as many as its length needs) to what the next flush sends."""
        meta = dump_json(meta) if meta else b""
        if len(meta) > LONGEST_META:
            raise ValueError(f"{len(meta)} bytes are more than the {LONGEST_META} that may go beside a result")
        size = len(meta) + len(data)
        if size <= LONGEST:
            head = pack(size, kind, 0, 0, len(meta), call)
            if size < 65536:
                self.out.append(b"".join((head, meta, data)))
            else:
                self.out.extend((head + meta, data))
            return
        self.put_long(kind, call, meta, [data])

    def put_long(self, kind, call, meta, datas):
        """A message whose data is many buffers, in frames of at most 4 MiB, whole and in one piece of `out`."""
        pieces = []
        for data in datas:
            view = memoryview(data).cast("B")
            pieces.extend(view[at : at + (4 << 20)] for at in range(0, len(view), 4 << 20))
        frames = []
        for index, piece in enumerate(pieces or [b""]):
            last = index >= len(pieces) - 1
            frames.append(pack(len(meta) + len(piece), kind, 0 if last else MORE, 0, len(meta), call) + meta)
            frames.append(piece)
            meta = b""
        self.out.extend(frames)

    def flush(self):
        """Sends what was put. Blocks while the host does not read."""
        with self.sending:
            count = len(self.out)
            if not count:
                return
            out = self.out[:count]
            del self.out[:count]
            try:
                if len(out) == 1:
                    self.sock.sendall(out[0])
                else:
                    self._send_many(out)
            except OSError as error:
                raise Ended(str(error)) from error

    def _send_many(self, out):
        short = []
        for each in out:
            if len(each) < 65536:
                short.append(each)
                continue
            if short:
                self.sock.sendall(b"".join(short))
                short = []
            self.sock.sendall(each)
        if short:
            self.sock.sendall(b"".join(short))

    def send(self, kind, call, meta=None, data=b""):
        self.put(kind, call, meta, data)
        self.flush()

    # --- reading ---

    def wake(self):
        """Has a thread that waits in `read` come back, with Ended."""
        self.sock.shutdown(socket.SHUT_RD)

    def read(self, into, flags=0):
        """One recv. Appends whole messages as (kind, call, meta, data) to `into`; raises Ended at the end."""
        big = self._big
        try:
            if big is not None:
                got = self.sock.recv_into(memoryview(big)[self._have :], 0, flags)
            else:
                chunk = self.sock.recv(CHUNK, flags)
                got = len(chunk)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise Ended(str(error)) from error
        if not got:
            raise Ended("the host closed the connection")
        if big is not None:
            self._have += got
            if self._have < len(big):
                return
            chunk, self._big = big, None
        elif self._tail:
            chunk = self._tail + chunk
            self._tail = b""
        at, end = 0, len(chunk)
        while end - at >= SIZE:
            size, kind, flagged, _, meta, call = unpack_from(chunk, at)
            if size > LONGEST or meta > size:
                raise Ended("a frame is longer than it may be")
            start = at + SIZE
            stop = start + size
            if stop > end:
                if stop - at > CHUNK:
                    self._big = bytearray(stop - at)
                    self._big[: end - at] = memoryview(chunk)[at:]
                    self._have = end - at
                    return
                break
            data = chunk[start + meta : stop] if size < 65536 else memoryview(chunk)[start + meta : stop]
            at = stop
            if flagged & MORE or (self._parts and (kind, call) in self._parts):
                self._gather(into, kind, call, flagged, chunk[start : start + meta], data)
            else:
                into.append((kind, call, chunk[start : start + meta], data))
        if at < end:
            self._tail = chunk[at:] if isinstance(chunk, bytes) else bytes(memoryview(chunk)[at:])

    def _gather(self, into, kind, call, flagged, meta, data):
        if kind == DATA:  # goes to a file piece by piece
            into.append((kind, call, b"more" if flagged & MORE else b"", data))
            return
        meta, sofar = self._parts.setdefault((kind, call), (meta, bytearray()))
        sofar += data
        if not flagged & MORE:
            del self._parts[kind, call]
            into.append((kind, call, meta, memoryview(sofar)))


def connect(address):
    """A socket to `unix:PATH` or `tcp:HOST:PORT`."""
    scheme, _, where = address.partition(":")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(where)
    elif scheme == "tcp":
        host, _, port = where.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        raise ValueError(f"TIDEGATE_WORKER must be unix:PATH or tcp:HOST:PORT, not {address!r}")
    return sock
