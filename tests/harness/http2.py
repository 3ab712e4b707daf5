"""An HTTP/2 client one level above bytes: frames as one likes, headers without any check."""

import socket
import time

from hpack import Decoder, Encoder
from hpack.hpack import HeaderTuple
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CODES = [
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
]  # fmt: skip


def request_headers(method="GET", path="/", authority="test.local", scheme="http", more=()):
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *more]


class Gone(Exception):
    """The connection is closed."""


class Stream:
    """What came back on one stream."""

    def __init__(self):
        self.headers, self.trailers, self.interim = None, None, []
        self.body = b""
        self.ended = False
        self.reset = None  # name of the code

    @property
    def status(self):
        return int(dict(self.headers)[":status"]) if self.headers else None

    def header(self, name):
        return dict(self.headers or []).get(name)

    @property
    def done(self):
        return self.ended or self.reset is not None


class Client:
    """A connection by prior knowledge, or inside TLS when a context is given."""

    def __init__(self, port, host="127.0.0.1", tls=None, server_name="test.local", timeout=10.0, settings=None, preface=True, receive_buffer=None):
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=server_name)
        self.timeout = timeout
        self.encoder, self.decoder = Encoder(), Decoder()
        self.decoder.max_allowed_table_size = 65536
        self.decoder.max_header_list_size = 1 << 24
        self.buffer = b""
        self.streams, self.next_id = {}, 1
        self.settings = {}
        self.goaway = None  # name of the code
        self.last_stream = None
        self.pings = 0
        self.settings_acks = 0
        self.auto = True  # acknowledges settings and pings, gives windows back
        if preface:
            self.raw(PREFACE + SettingsFrame(0, settings or {}).serialize())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    # --- writing ---

    def raw(self, data):
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from None

    def frame(self, frame, *flags):
        for flag in flags:
            frame.flags.add(flag)
        self.raw(frame.serialize())

    def block(self, headers):
        """An HPACK block, never put into the table."""
        return self.encoder.encode([HeaderTuple(_bytes(name), _bytes(value)) for name, value in headers])

    def headers(self, stream, headers, end=True, end_headers=True):
        frame = HeadersFrame(stream, self.block(headers) if not isinstance(headers, bytes) else headers)
        self.frame(frame, *(["END_HEADERS"] if end_headers else []), *(["END_STREAM"] if end else []))

    def request(self, headers=None, body=None, end=True, trailers=None):
        """Opens the next stream; returns its number."""
        number, self.next_id = self.next_id, self.next_id + 2
        self.streams[number] = Stream()
        self.headers(number, headers if headers is not None else request_headers(), end=body is None and trailers is None and end)
        if body is not None:
            self.data(number, body, end=end and trailers is None)
        if trailers is not None:
            self.headers(number, trailers, end=True)
        return number

    def data(self, stream, body, end=True):
        parts = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
        for number, part in enumerate(parts):
            self.frame(DataFrame(stream, part), *(["END_STREAM"] if end and number == len(parts) - 1 else []))

    def reset(self, stream, code=8):
        self.frame(RstStreamFrame(stream, code))

    def ping(self, data=b"12345678"):
        self.frame(PingFrame(0, data))

    def window(self, stream, increment):
        self.frame(WindowUpdateFrame(stream, increment))

    def continuation(self, stream, data, end=False):
        self.frame(ContinuationFrame(stream, data), *(["END_HEADERS"] if end else []))

    # --- reading ---

    def next_frame(self, timeout=None):
        """The next frame, already taken into account. Raises Gone at the end, socket.timeout when nothing comes."""
        self.sock.settimeout(timeout if timeout is not None else self.timeout)
        while True:
            if len(self.buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
                if len(self.buffer) >= 9 + length:
                    frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
                    self.buffer = self.buffer[9 + length :]
                    self._take(frame)
                    return frame
            try:
                data = self.sock.recv(1 << 18)
            except socket.timeout:
                raise
            except OSError as error:
                raise Gone(str(error)) from None
            if not data:
                raise Gone("closed")
            self.buffer += data

    def _take(self, frame):
        stream = self.streams.setdefault(frame.stream_id, Stream()) if frame.stream_id else None
        if isinstance(frame, SettingsFrame):
            if "ACK" in frame.flags:
                self.settings_acks += 1
            else:
                self.settings.update(frame.settings)
                if self.auto:
                    self._quietly(SettingsFrame(0), "ACK")
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pings += 1
            elif self.auto:
                self._quietly(PingFrame(0, frame.opaque_data), "ACK")
        elif isinstance(frame, GoAwayFrame):
            self.goaway, self.last_stream = CODES[frame.error_code], frame.last_stream_id
        elif isinstance(frame, RstStreamFrame):
            stream.reset = CODES[frame.error_code]
        elif isinstance(frame, HeadersFrame):
            assert "END_HEADERS" in frame.flags, "the tests' answers fit one frame"
            fields = [(_text(name), _text(value)) for name, value in self.decoder.decode(frame.data, raw=True)]
            status = dict(fields).get(":status")
            if status and status.startswith("1"):
                stream.interim.append((int(status), fields))
            elif stream.headers is None:
                stream.headers = fields
            else:
                stream.trailers = fields
        elif isinstance(frame, DataFrame):
            stream.body += frame.data
            if self.auto and frame.flow_controlled_length:
                self._quietly(WindowUpdateFrame(0, frame.flow_controlled_length))
                if "END_STREAM" not in frame.flags:
                    self._quietly(WindowUpdateFrame(frame.stream_id, frame.flow_controlled_length))
        if stream is not None and "END_STREAM" in frame.flags:
            stream.ended = True

    def _quietly(self, frame, *flags):
        try:
            self.frame(frame, *flags)
        except Gone:
            pass

    def response(self, number, timeout=None):
        """Reads until the stream is done."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while not self.streams[number].done:
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer on stream {number}")
            self.next_frame()
        return self.streams[number]

    def drain(self, timeout=1.0, limit=20.0):
        """Reads until the peer closes (True) or nothing comes for `timeout` (False)."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            try:
                self.next_frame(timeout)
            except Gone:
                return True
            except socket.timeout:
                return False
        return False


def _bytes(value):
    return value if isinstance(value, bytes) else str(value).encode("latin-1")


def _text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value
