"""Malformed and hostile HTTP/1.1 requests, by name. Each is sent as it stands; `/smuggled` must never reach a server.

`refuse` says what may happen: a set of statuses, or None where closing without an answer is all that can be asked. The
body of some is bad, not their head: a server may then see the head, but never a whole request.
"""

from dataclasses import dataclass

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test.local\r\n\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    refuse: frozenset
    body_is_bad: bool = False
    # Where the message ends is clear: only what it asks for is refused, and the connection may go on.
    well_framed: bool = False


def _head(*lines, method=b"POST", target=b"/bad", version=b"HTTP/1.1", host=b"Host: test.local\r\n"):
    return method + b" " + target + b" " + version + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _cases():
    bad = frozenset({400})

    def case(name, data, refuse=bad, body_is_bad=False, well_framed=False):
        return Case(name, data, frozenset(refuse), body_is_bad, well_framed)

    te, cl = b"Transfer-Encoding: chunked", b"Content-Length: 5"
    yield case("length-and-coding", _head(cl, te) + b"0\r\n\r\n" + SMUGGLED)
    yield case("coding-and-length", _head(te, cl) + b"0\r\n\r\n" + SMUGGLED)
    yield case("coding-and-length-zero", _head(b"Content-Length: 0", te) + b"0\r\n\r\n" + SMUGGLED)
    yield case("two-lengths", _head(cl, b"Content-Length: 44") + b"hello" + SMUGGLED)
    yield case("two-equal-lengths", _head(cl, cl) + b"hello" + SMUGGLED)
    yield case("length-list", _head(b"Content-Length: 5, 5") + b"hello" + SMUGGLED)
    yield case("length-list-of-two", _head(b"Content-Length: 5, 44") + b"hello" + SMUGGLED)
    for name, value in {
        "plus": b"+5", "minus": b"-5", "letters": b"5x", "hexadecimal": b"0x5", "inner-space": b"5 5", "empty": b"", "fraction": b"5.0",
        "above-64-bit": b"18446744073709551621", "huge": b"9" * 100, "octal-looking-is-decimal-plus": b"5;5", "full-width": "\uff15".encode(),
    }.items():  # fmt: skip
        yield case(f"length-{name}", _head(b"Content-Length: " + value) + b"hello" + SMUGGLED)
    for name, value in {
        "twice": b"chunked, chunked", "not-last": b"chunked, identity", "identity": b"identity", "unknown": b"xchunked", "vertical-tab": b"\x0bchunked",
        "gzip": b"gzip, chunked", "quoted": b'"chunked"', "semicolon": b"chunked;q=1", "empty": b"", "empty-element": b", chunked", "null": b"chunked\x00",
    }.items():  # fmt: skip
        yield case(f"coding-{name}", _head(b"Transfer-Encoding: " + value) + b"0\r\n\r\n" + SMUGGLED, {400, 501})
    yield case("coding-on-two-lines", _head(b"Transfer-Encoding: identity", te) + b"0\r\n\r\n" + SMUGGLED, {400, 501})
    yield case("chunked-on-two-lines", _head(te, te) + b"0\r\n\r\n" + SMUGGLED, {400, 501})
    yield case("coding-in-http-1.0", _head(te, version=b"HTTP/1.0") + b"0\r\n\r\n" + SMUGGLED)
    yield case("space-before-colon", _head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n" + SMUGGLED)
    yield case("tab-before-colon", _head(b"Content-Length\t: 5") + b"hello" + SMUGGLED)
    yield case("coding-folded", _head(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n" + SMUGGLED)
    yield case("obs-fold", _head(b"X-A: 1\r\n 2", method=b"GET") + SMUGGLED)
    yield case("obs-fold-tab", _head(b"X-A: 1\r\n\t2", method=b"GET") + SMUGGLED)
    yield case("fold-hides-coding", _head(b"X-A: 1\r\n Transfer-Encoding: chunked", cl) + b"0\r\n\r\n" + SMUGGLED)
    yield case("first-line-indented", b"GET /bad HTTP/1.1\r\n Host: test.local\r\n\r\n" + SMUGGLED)
    yield case("bare-lf-head", b"GET /bad HTTP/1.1\nHost: test.local\n\n" + SMUGGLED)
    yield case("bare-lf-one-line", b"GET /bad HTTP/1.1\r\nX-A: 1\nHost: test.local\r\n\r\n" + SMUGGLED)
    yield case("bare-lf-hides-length", b"POST /bad HTTP/1.1\r\nHost: test.local\r\nX-A: 1\nContent-Length: 44\r\n\r\n" + SMUGGLED)
    yield case("bare-lf-ends-head", b"GET /bad HTTP/1.1\r\nHost: test.local\r\n\n" + SMUGGLED)
    yield case("bare-cr-in-value", _head(b"X-A: 1\r2", method=b"GET") + SMUGGLED)
    yield case("bare-cr-as-line-end", b"GET /bad HTTP/1.1\rHost: test.local\r\r" + SMUGGLED)
    yield case("null-in-value", _head(b"X-A: 1\x002", method=b"GET") + SMUGGLED)
    yield case("control-in-value", _head(b"X-A: 1\x012", method=b"GET") + SMUGGLED)
    yield case("delete-in-value", _head(b"X-A: 1\x7f2", method=b"GET") + SMUGGLED)
    yield case("no-colon", _head(b"X-A", method=b"GET") + SMUGGLED)
    yield case("empty-name", _head(b": 1", method=b"GET") + SMUGGLED)
    for name, field in {"space": b"X A", "null": b"X\x00A", "parenthesis": b"X(A)", "quote": b'X"A', "slash": b"X/A", "eight-bit": b"X\xe4A", "brackets": b"X[A]"}.items():
        yield case(f"name-with-{name}", _head(field + b": 1", method=b"GET") + SMUGGLED)
    for name, method in {"space": b"GE T", "bracket": b"GE{T", "control": b"GE\x01T", "eight-bit": b"G\xcbT", "empty": b"", "colon": b"GE:T"}.items():
        yield case(f"method-with-{name}", _head(method=method) + SMUGGLED)
    for name, line in {
        "two-spaces": b"GET  /bad HTTP/1.1", "space-at-end": b"GET /bad HTTP/1.1 ", "tab-between": b"GET\t/bad\tHTTP/1.1", "no-version": b"GET /bad", "no-target": b"GET HTTP/1.1",
        "lower-case-version": b"GET /bad http/1.1", "long-version": b"GET /bad HTTP/1.11", "short-version": b"GET /bad HTTP/1", "other-protocol": b"GET /bad FTP/1.1",
        "version-with-letters": b"GET /bad HTTP/1.x", "comma-version": b"GET /bad HTTP/1,1",
    }.items():  # fmt: skip
        yield case(f"line-{name}", line + b"\r\nHost: test.local\r\n\r\n" + SMUGGLED, {400, 505})
    yield case("version-2.0", _head(method=b"GET", version=b"HTTP/2.0") + SMUGGLED, {400, 505})
    yield case("version-3.1", _head(method=b"GET", version=b"HTTP/3.1") + SMUGGLED, {400, 505})
    for name, target in {
        "space": b"/bad path", "control": b"/bad\x01", "null": b"/bad\x00", "eight-bit": b"/b\xe4d", "no-slash": b"bad", "fragment": b"/bad#x", "star-with-get": b"*", "backslash-first": b"\\bad",
        "empty-authority": b"http:///bad", "authority-with-get": b"test.local:80", "user-in-authority": b"http://user@test.local/bad",
        "percent-null": b"/bad%00", "cut-percent": b"/bad%2", "wrong-percent": b"/bad%zz",
    }.items():  # fmt: skip
        yield case(f"target-{name}", _head(method=b"GET", target=target) + SMUGGLED, well_framed=name.endswith(("percent", "percent-null")))
    yield case("no-host", _head(method=b"GET", host=b"") + SMUGGLED)
    yield case("two-hosts", _head(b"Host: other.local", method=b"GET") + SMUGGLED)
    yield case("two-equal-hosts", _head(b"Host: test.local", method=b"GET") + SMUGGLED)
    for name, host in {"space": b"a b", "slash": b"a/b", "user": b"u@a", "port-letters": b"a:b", "port-huge": b"a:99999", "list": b"a,b", "open-bracket": b"[::1", "quote": b'a"b', "null": b"a\x00", "empty": b""}.items():
        yield case(f"host-{name}", _head(method=b"GET", host=b"Host: " + host + b"\r\n") + SMUGGLED)
    yield case("absolute-target-other-host", _head(method=b"GET", target=b"http://other.local:99999/bad") + SMUGGLED)
    yield case("expectation-unknown", _head(b"Expect: 200-ok", cl) + b"hello", {417, 400})
    yield case("blanks-before", b" \r\n" + _head(method=b"GET"))
    yield case("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)) + b"\r\n\r\n")

    for name, size in {
        "letters": b"g", "minus": b"-5", "plus": b"+5", "hexadecimal-sign": b"0x5", "empty": b"", "space-before": b" 5", "huge": b"f" * 17, "above-63-bit": b"8000000000000005",
        "inner-space": b"5 5", "null": b"5\x00", "underscore": b"5_",
    }.items():  # fmt: skip
        yield case(f"chunk-size-{name}", _head(te) + size + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-size-bare-lf", _head(te) + b"5\nhello\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-data-too-long", _head(te) + b"5\r\nhello!\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-data-bare-lf", _head(te) + b"5\r\nhello\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-data-two-bytes-instead", _head(te) + b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-extension-bare-lf", _head(te) + b"5;a\nhello\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-extension-bare-cr", _head(te) + b"5;a\rb\r\nhello\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-extension-null", _head(te) + b"5;a\x00b\r\nhello\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-extension-endless", _head(te) + b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED, body_is_bad=True)
    yield case("chunk-last-bare-lf", _head(te) + b"5\r\nhello\r\n0\n\n" + SMUGGLED, body_is_bad=True)
    yield case("trailer-no-colon", _head(te) + b"5\r\nhello\r\n0\r\nbad\r\n\r\n" + SMUGGLED, {400}, body_is_bad=True)
    yield case("trailer-space-in-name", _head(te) + b"5\r\nhello\r\n0\r\nx y: 1\r\n\r\n" + SMUGGLED, {400}, body_is_bad=True)
    yield case("trailer-obs-fold", _head(te) + b"5\r\nhello\r\n0\r\nx: 1\r\n 2\r\n\r\n" + SMUGGLED, {400}, body_is_bad=True)
    yield case("trailer-bare-lf", _head(te) + b"5\r\nhello\r\n0\r\nx: 1\n\r\n" + SMUGGLED, {400}, body_is_bad=True)
    yield case("trailer-too-large", _head(te) + b"5\r\nhello\r\n0\r\nx: " + b"a" * 100_000 + b"\r\n\r\n" + SMUGGLED, {400, 431}, body_is_bad=True)

    yield case("head-too-large", _head(b"X-A: " + b"a" * 100_000, method=b"GET"), {431, 400})
    yield case("too-many-headers", _head(*[b"X-%d: 1" % n for n in range(200)], method=b"GET"), {431, 400})
    yield case("target-too-long", _head(method=b"GET", target=b"/" + b"a" * 100_000), {414, 431, 400})


CASES = list(_cases())


def _good():
    """Requests that look odd and are right: they must pass."""
    yield "empty-line-before", b"\r\n" + _head(method=b"GET", target=b"/good")
    yield "lower-case-names", b"GET /good HTTP/1.1\r\nhost: test.local\r\n\r\n"
    yield "optional-white-space", b"GET /good HTTP/1.1\r\nHost: \t test.local \t \r\n\r\n"
    yield "no-white-space", b"GET /good HTTP/1.1\r\nHost:test.local\r\n\r\n"
    yield "empty-value", _head(b"X-A:", method=b"GET", target=b"/good")
    yield "unknown-method", _head(method=b"BREW", target=b"/good")
    yield "absolute-target", _head(method=b"GET", target=b"http://test.local/good")
    yield "chunk-extension", _head(b"Transfer-Encoding: chunked", target=b"/good") + b"5;name=value\r\nhello\r\n0\r\n\r\n"
    yield "chunk-size-capital", _head(b"Transfer-Encoding: CHUNKED", target=b"/good") + b"A\r\n0123456789\r\n0\r\n\r\n"
    yield "chunk-size-zeros", _head(b"Transfer-Encoding: chunked", target=b"/good") + b"0005\r\nhello\r\n0\r\n\r\n"
    yield "length-zeros", _head(b"Content-Length: 005", target=b"/good") + b"hello"
    yield "eight-bit-value", _head(b"X-A: \xe4\xff", method=b"GET", target=b"/good")
    yield "hundred-headers", _head(*[b"X-%d: 1" % n for n in range(90)], method=b"GET", target=b"/good")
    yield "ipv6-host", _head(method=b"GET", target=b"/good", host=b"Host: [::1]:8080\r\n")


GOOD = list(_good())


def marked(data, number):
    """The same bytes with a number in their paths, so that many can be sent at once and told apart at the server."""
    return data.replace(b"/bad", b"/bad-%d-" % number).replace(b"/good", b"/good-%d-" % number).replace(b"/smuggled", b"/smuggled-%d-" % number)
