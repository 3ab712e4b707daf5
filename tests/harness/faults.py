"""LLM providers that fail as they are told: one server that speaks OpenAI's, Anthropic's and Gemini's dialects.

What a key gets is scripted by the key; a key without a script is answered. Every call is kept: which key asked what, when, and
whether its caller stayed.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from . import faults_wire as wire
from . import upstream


@dataclass
class Call:
    """One request that arrived."""

    key: str
    dialect: str
    endpoint: str
    model: str
    stream: bool
    body: dict
    path: str
    headers: list
    at: float
    raw: bytes = b""
    left_at: float = None  # when the caller went away before the answer was whole
    status: int = 0
    frames: int = 0
    done_at: float = None
    peer: int = 0  # the port that the caller came from

    def header(self, name):
        return next((value for key, value in self.headers if key == name), None)

    @property
    def tool(self):
        """The tool's use that this call is to be answered with."""
        if not self.body.get("tools"):
            return None
        last = (self.body.get("messages") or self.body.get("contents") or [{}])[-1]
        parts = last.get("parts") or (last.get("content") if isinstance(last.get("content"), list) else [])
        answered = last.get("role") == "tool" or any("functionResponse" in part or part.get("type") == "tool_result" for part in parts)
        return None if answered else wire.TOOL


class FaultServer:
    """A provider. `base(dialect)` is its `base_url`."""

    def __init__(self, port=None):
        self.scripts, self.calls = {}, []
        self.default = answer()
        self.server = upstream.Server(self._behave, port=port)

    @property
    def port(self):
        return self.server.port

    def base(self, dialect):
        return f"http://127.0.0.1:{self.port}/{'v1beta' if dialect == 'gemini' else 'v1'}"

    def script(self, key, *behaviours):
        """The key's calls get these in turn; the last one stays."""
        self.scripts[key] = in_turn(*behaviours)

    def heal(self, *keys):
        for key in keys or list(self.scripts):
            self.scripts.pop(key, None)

    def of(self, key):
        return [call for call in list(self.calls) if call.key == key]

    def count(self, key):
        return len(self.of(key))

    def keys(self):
        return [call.key for call in list(self.calls)]

    def stop(self):
        self.server.stop()

    async def _behave(self, request, connection):
        call = read(request)
        call.peer = connection.writer.get_extra_info("peername")[1]
        self.calls.append(call)
        await self.scripts.get(call.key, self.default)(call, connection)
        call.done_at = time.monotonic()


def read(request):
    """What a request asks, by its path and headers."""
    parts = urlsplit(request.target)
    path, query = parts.path, parse_qs(parts.query)
    bearer = (request.header("authorization") or "").removeprefix("Bearer ")
    key = request.header("x-goog-api-key") or request.header("x-api-key") or request.header("api-key") or bearer or (query.get("key") or [""])[0]
    try:
        body = json.loads(request.body)
        body = body if isinstance(body, dict) else {}
    except ValueError:
        body = {}
    model, endpoint, dialect, stream = body.get("model", ""), path.rsplit("/", 1)[-1], "openai", body.get("stream") is True
    if "/models/" in path and ":" in path:
        model, _, endpoint = path.split("/models/", 1)[1].partition(":")
        dialect, stream = "gemini", endpoint == "streamGenerateContent"
    elif "/messages" in path:
        dialect = "anthropic"
    elif request.header("x-goog-api-key"):
        dialect = "gemini"
    elif request.header("x-api-key"):
        dialect = "anthropic"
    return Call(key, dialect, endpoint, model, stream, body, request.target, request.headers, time.monotonic(), raw=request.raw_head + request.body)


# --- behaviours: async def behave(call, connection) --------------------------------------------------


async def _json(call, connection, value, status=200, headers=()):
    call.status = status
    await connection.respond(status, json.dumps(value), [("content-type", "application/json"), ("x-request-id", "req-1"), *headers])


async def _begin(call, connection):
    call.status = 200
    await connection.head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked"), ("cache-control", "no-cache")])


async def _send(call, connection, frames):
    for frame in frames:
        await connection.chunk(frame)
        call.frames += 1


def in_turn(*behaviours):
    return upstream.in_turn(*behaviours)


def answer(pieces=wire.TEXT, usage=wire.USAGE):
    """Answers well, whatever is asked."""

    async def behave(call, connection):
        if call.endpoint == "embeddings":
            given = call.body.get("input")
            await _json(call, connection, wire.embeddings("openai", call.model, len(given) if isinstance(given, list) else 1, usage))
        elif call.endpoint == "batchEmbedContents":
            await _json(call, connection, wire.embeddings("gemini", call.model, len(call.body["requests"])))
        elif call.endpoint == "embedContent":
            await _json(call, connection, {"embedding": wire.embeddings("gemini", call.model, 1)["embeddings"][0]})
        elif call.endpoint == "models":
            await _json(call, connection, {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]})
        elif call.endpoint in ("count_tokens", "countTokens"):
            await _json(call, connection, {"input_tokens": usage[0]} if call.dialect == "anthropic" else {"totalTokens": usage[0]})
        elif call.endpoint == "responses" and not call.stream:
            await _json(call, connection, wire.responses(call.model, pieces, usage))
        elif call.stream:
            options = call.body.get("stream_options") or {}
            head, content, end = wire.stream(call.dialect, call.model, pieces, call.tool, usage, include_usage=options.get("include_usage", False))
            await _begin(call, connection)
            await _send(call, connection, [*head, *content, *end])
            await connection.last_chunk()
        else:
            await _json(call, connection, wire.whole(call.dialect, call.model, pieces, call.tool, usage))

    return behave


def fail(kind, headers=()):
    """An error of the provider: dead, limited, quota, region, down, overloaded, fault, unprocessable, no-model."""

    async def behave(call, connection):
        status, body = wire.error(call.dialect, kind, call.key)
        await _json(call, connection, body, status, headers)

    return behave


def dead():
    return fail("dead")


def limited(retry_after=None, headers=()):
    return fail("limited", [*([("retry-after", retry_after)] if retry_after is not None else []), *headers])


def for_model(model, behaviour, otherwise=None):
    """The behaviour for one model only."""

    async def behave(call, connection):
        await (behaviour if call.model == model else otherwise or answer())(call, connection)

    return behave


def reset():
    async def behave(_call, connection):
        connection.reset()

    return behave


def cut():
    """The beginning of a good answer, then the connection breaks."""

    async def behave(call, connection):
        body = json.dumps(wire.whole(call.dialect, call.model)).encode()
        call.status = 200
        await connection.head(200, [("content-type", "application/json"), ("content-length", len(body))])
        await connection.write(body[: len(body) // 2])
        await asyncio.sleep(0.02)
        connection.reset()

    return behave


def hang(seconds=600, then=None):
    """Does not answer for so long; notes the caller that leaves."""

    async def behave(call, connection):
        if await _stays(call, connection, seconds):
            await (then or answer())(call, connection)

    return behave


async def _stays(call, connection, seconds):
    """Waits; whether the caller is still there then."""
    gone = asyncio.ensure_future(connection.gone())
    done, _ = await asyncio.wait({gone}, timeout=seconds)
    if done:
        call.left_at = time.monotonic()
        connection.close()
        return False
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    return True


def gated(gate, content_first=True):
    """A stream that stops after its first content (or before it) until the gate (a threading.Event) is open."""

    async def behave(call, connection):
        head, content, end = wire.stream(call.dialect, call.model)
        await _begin(call, connection)
        await _send(call, connection, [*head, *(content[:1] if content_first else [])])
        gone = asyncio.ensure_future(connection.gone())
        while not gate.is_set():
            await asyncio.sleep(0.005)
            if gone.done():
                call.left_at = time.monotonic()
                connection.close()
                return
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await _send(call, connection, [*content[1 if content_first else 0 :], *end])
        await connection.last_chunk()

    return behave


FAULTS = ("error-event", "eof", "reset", "stall", "malformed", "pings")


def broken_stream(fault, after_content, ping_every=0.05):
    """A stream with one of the six faults, before its first content or after it."""

    async def behave(call, connection):
        head, content, _ = wire.stream(call.dialect, call.model)
        await _begin(call, connection)
        await _send(call, connection, [*head, *(content[:2] if after_content else [])])
        if fault == "error-event":
            await _send(call, connection, [wire.ERROR_EVENT[call.dialect]])
            await connection.last_chunk()
        elif fault == "eof":
            await connection.last_chunk()
        elif fault == "reset":
            # What was written must have left before the reset takes the rest away.
            await asyncio.sleep(0.05)
            connection.reset()
        elif fault == "stall":
            await _stays(call, connection, 60)
        elif fault == "malformed":
            await _send(call, connection, [wire.MALFORMED[call.dialect]])
            await _stays(call, connection, 60)
        else:
            gone = asyncio.ensure_future(connection.gone())
            for _ in range(int(15 / ping_every)):
                await connection.chunk(wire.PING[call.dialect])
                if (await asyncio.wait({gone}, timeout=ping_every))[0]:
                    call.left_at = time.monotonic()
                    break
            connection.close()

    return behave
