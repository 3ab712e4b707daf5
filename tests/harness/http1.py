"""An HTTP/1.1 client that shows everything: interim answers, trailers, cut bodies, bytes as they came."""

import socket
import ssl
from dataclasses import dataclass, field


class Closed(Exception):
    """The peer closed (or reset) before an answer was complete; `got` is what came until then."""

    def __init__(self, where, got=b""):
        super().__init__(f"connection closed {where}; got {got[:200]!r}")
        self.got = got


@dataclass
class Response:
    status: int
    reason: str
    headers: list
    body: bytes = b""
    trailers: list = field(default_factory=list)
    interim: list = field(default_factory=list)

    def header(self, name, default=None):
        """The value; several of one name are joined with a comma."""
        found = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(found) if found else default

    def count(self, name):
        return sum(1 for key, _ in self.headers if key == name.lower())

    def text(self):
        return self.body.decode()

    def error_code(self):
        """Tidegate's own reason, when it made the answer."""
        return self.header("x-tidegate-error")


def _encode(value):
    return value if isinstance(value, bytes) else str(value).encode("latin-1")


def head(method, target, headers):
    """The bytes of a request head; `headers` is a list of pairs and is written as it is."""
    lines = [b"%s %s HTTP/1.1" % (_encode(method), _encode(target))]
    lines += [b"%s: %s" % (_encode(name), _encode(value)) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunked(parts, trailers=()):
    """A chunked body."""
    out = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return out + b"0\r\n" + b"".join(b"%s: %s\r\n" % (_encode(n), _encode(v)) for n, v in trailers) + b"\r\n"


class Client:
    """One connection."""

    def __init__(self, port, host="127.0.0.1", tls=None, server_name=None, timeout=20.0, source=None):
        self.sock = socket.create_connection((host, port), timeout=timeout, source_address=source)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=server_name or host)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, target, headers=(), body=None, host="test.local"):
        """Sends one request and reads its answer. A list as body is sent chunked."""
        self.send_request(method, target, headers, body, host)
        return self.response(head_request=method == "HEAD")

    def send_request(self, method, target, headers=(), body=None, host="test.local"):
        if isinstance(headers, dict):
            headers = list(headers.items())
        lines = list(headers)
        names = {_encode(name).lower() for name, _ in lines}
        if host is not None and b"host" not in names:
            lines.insert(0, ("host", host))
        if isinstance(body, str):
            body = body.encode()
        if isinstance(body, (list, tuple)):
            self.send(head(method, target, [*lines, ("transfer-encoding", "chunked")]) + chunked(body))
        elif body is not None and b"content-length" not in names:
            self.send(head(method, target, [*lines, ("content-length", len(body))]) + body)
        else:
            self.send(head(method, target, lines) + (body or b""))

    def _more(self, where):
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError) as error:
            raise Closed(f"{where} ({error})", self.buffer) from None
        if not data:
            raise Closed(where, self.buffer)
        self.buffer += data

    def line(self, where="within a line"):
        while b"\r\n" not in self.buffer:
            self._more(where)
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def exactly(self, count, where="within a body"):
        while len(self.buffer) < count:
            self._more(where)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def some(self):
        """At least one byte of what comes next."""
        if not self.buffer:
            self._more("while reading")
        data, self.buffer = self.buffer, b""
        return data

    def at_end(self, timeout=5.0):
        """Whether the peer closes without sending anything more."""
        self.sock.settimeout(timeout)
        try:
            self._more("waiting for the end")
        except Closed:
            return True
        except socket.timeout:
            return False
        return False

    def _head(self, where):
        status_line = self.line(where).decode("latin-1")
        version, _, rest = status_line.partition(" ")
        status, _, reason = rest.partition(" ")
        assert version in ("HTTP/1.1", "HTTP/1.0"), status_line
        headers = []
        while True:
            line = self.line("within a head")
            if not line:
                return int(status), reason, headers
            name, _, value = line.partition(b":")
            headers.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))

    def response_head(self):
        """Reads up to the final answer's head; interim ones are kept in `interim`."""
        interim = []
        while True:
            status, reason, headers = self._head("before an answer")
            if status >= 200 or status == 101:
                return Response(status, reason, headers, interim=interim)
            interim.append((status, headers))

    def response(self, head_request=False):
        answer = self.response_head()
        if head_request or answer.status in (101, 204, 304):
            return answer
        return self.read_body(answer)

    def read_body(self, answer):
        if (answer.header("transfer-encoding") or "").lower() == "chunked":
            while True:
                chunk = self.read_chunk()
                if chunk is None:
                    break
                answer.body += chunk
            while True:
                line = self.line("within trailers")
                if not line:
                    return answer
                name, _, value = line.partition(b":")
                answer.trailers.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        length = answer.header("content-length")
        if length is not None:
            answer.body = self.exactly(int(length))
            return answer
        try:
            while True:
                self._more("at the end")
        except Closed as closed:
            if "(" in str(closed).split(";")[0]:
                raise
            answer.body, self.buffer = self.buffer, b""
        return answer

    def read_chunk(self):
        """The next chunk's data; None for the last."""
        size = int(self.line("within a chunk's size").split(b";")[0], 16)
        if size == 0:
            return None
        data = self.exactly(size, "within a chunk")
        assert self.exactly(2) == b"\r\n"
        return data


def request(port, method="GET", target="/", headers=(), body=None, host="test.local", **connect):
    """One request on a connection of its own."""
    with Client(port, **connect) as client:
        return client.request(method, target, headers, body, host)


def get(port, target="/", headers=(), **more):
    return request(port, "GET", target, headers, **more)


def exchange_raw(port, data, timeout=5.0, half_close=False):
    """Sends bytes and returns everything that comes back until the peer closes or nothing comes for `timeout`."""
    with Client(port, timeout=timeout) as client:
        try:
            client.send(data)
            if half_close:
                client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        try:
            while True:
                client._more("raw")
        except (Closed, socket.timeout):
            return client.buffer
