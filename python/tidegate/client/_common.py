"""What both clients share: options of a call, metadata, channels."""

import json
import os
import secrets
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from .._errors import Error, told
from . import _protocol as protocol
from ._addresses import Consul
from ._inputs import Input, is_input
from ._retry import IDEMPOTENT, Retry, Throttle, pushback

# An upload of this many bytes or more can go on where it broke.
RESUME_FROM = 16 << 20

# Where `tidegate serve` listens unless it is told another port.
PORT = 50051

CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 120_000),
    ("grpc.http2.max_pings_without_data", 0),  # also while a call waits for its answer's head
    ("grpc.enable_retries", 0),  # ours know what the host says
]


@dataclass(frozen=True)
class Options:
    """Options of calls. `None` of `idempotent`: predict and log may run twice, others not; of `progress` and `on_progress`: a bar when a terminal is there.

    `progress` is of the input: a function of the bytes that were sent, and of how many (or None). `on_progress` is of the method: a function of what
    it tells (`Model.progress`), a dict with `progress` (0 to 1), `message`, `stage`, `status`, `data`.

    `heartbeat`: a host that has begun to answer and is silent for so many seconds has lost the call. Before, a call waits for its `timeout`: the
    service may be starting.
    """

    version: str = ""
    timeout: Optional[float] = None
    heartbeat: float = 10.0
    retry: Retry = Retry()
    idempotent: Optional[bool] = None
    unary: bool = False
    resume: bool = True
    progress: Union[None, bool, Callable[[int, Optional[int]], Any]] = None
    on_progress: Union[None, bool, Callable[[Dict[str, Any]], Any]] = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def changed(self, **more: Any) -> "Options":
        return replace(self, **more)


class Call:
    """One call: what stays the same over its attempts."""

    def __init__(self, method: str, kwargs: Optional[Mapping[str, Any]], input: Any, options: Options) -> None:
        self.method, self.options = method, options
        self.kwargs: Dict[str, Any] = dict(kwargs or {})
        given = [name for name, value in self.kwargs.items() if is_input(value)]
        if len(given) + (input is not None) > 1:
            raise TypeError(f"{method}: one binary input a call, not {', '.join(given)}")
        if given:
            input = self.kwargs.pop(given[0])
        self.input = Input(input) if input is not None else None
        self.idempotent = method in IDEMPOTENT if options.idempotent is None else options.idempotent
        self.until = None if options.timeout is None else time.monotonic() + options.timeout
        self.failures = 0
        self.reached = 0  # how far an upload came
        self.committed = False
        self.sent = False
        self.kind = "value"
        self.address = ""
        self.trouble: Optional[BaseException] = None  # of the input
        size = self.input.size if self.input else None
        self.unary = options.unary
        if self.unary and method not in protocol.UNARY:
            raise ValueError(f"{method} can't be called unary: only {', '.join(sorted(protocol.UNARY))}")
        resumes = options.resume and not self.unary and self.input is not None and self.input.again and size is not None and size >= RESUME_FROM
        self.upload: Optional[Tuple[str, str]] = (secrets.token_hex(16), secrets.token_hex(24)) if resumes else None
        self.metadata: List[Tuple[str, str]] = [(key.lower(), value) for key, value in options.metadata.items()]
        if self.idempotent and not any(key == "idempotency-key" for key, _ in self.metadata):
            self.metadata.append(("idempotency-key", secrets.token_hex(16)))
        self.bar = Bar(options.progress, size, method) if self.input and not self.unary else None
        self.steps = Steps(options.on_progress, method)

    def remaining(self) -> Optional[float]:
        """Seconds until the deadline; DEADLINE_EXCEEDED when it has passed."""
        if self.until is None:
            return None
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def head(self, offset: int) -> List[Tuple[str, str]]:
        """Metadata of an attempt of `chaos`."""
        more = [("x-func-name", self.method), ("x-tidegate-parts", "1")]
        if self.steps.wanted:
            more.append(("x-tidegate-progress", "1"))
        if self.upload:
            more += [("x-tidegate-upload-id", self.upload[0]), ("x-tidegate-upload-token", self.upload[1])]
            if offset:
                more.append(("x-tidegate-upload-offset", str(offset)))
        return self.metadata + more

    def routing(self) -> List[Tuple[str, str]]:
        """Metadata of a question about the upload: routes decide by it."""
        assert self.upload
        return [*self.metadata, ("x-tidegate-upload-id", self.upload[0])]

    def resumed(self, offset: int) -> int:
        """Where an upload goes on. One that got further begins its attempts anew: a long way may break often."""
        if offset > self.reached:
            self.failures = 0
        self.reached = offset
        return offset

    def messages(self, offset: int) -> Iterator[bytes]:
        """What the caller's side says, message by message."""
        try:
            yield from self._messages(offset)
        except Exception as error:  # else grpcio shows it to nobody
            self.trouble = error
            raise

    def told(self, text: bytes) -> Any:
        """The method says how far it is. What the caller's function gave."""
        if self.bar:  # all of the input is there
            self.bar.close()
        return self.steps.told(json.loads(text))

    def end(self) -> None:
        if self.bar:
            self.bar.close()
        self.steps.close()

    def _messages(self, offset: int) -> Iterator[bytes]:
        size = self.input.size if self.input else None
        if self.input is None or size == 0:
            self.ending()
        yield protocol.opening(self.kwargs, self.options.version, size, self.input is not None)
        if self.input is None or size == 0:
            return
        if self.bar:
            self.bar.at(offset)
        blocks = self.input.blocks(offset)
        yield from protocol.compressed(self.bar.over(blocks) if self.bar else blocks, self.ending)

    def ending(self) -> None:
        """From here on the server may have all that it waits for before it begins."""
        self.sent = True

    def unary_message(self) -> bytes:
        self.ending()
        return protocol.unary_input(self.kwargs, self.options.version, self.input.all() if self.input else b"")

    def may_again(self, failed: "Failed", throttle: Throttle) -> Optional[float]:
        """Seconds until the next attempt, or None."""
        self.failures += 1
        allowed = failed.error.code not in self.options.retry.codes or throttle.bad()
        if not allowed or self.committed or (self.input and not self.input.repeatable):
            return None
        pause = self.options.retry.after(failed.error, self.failures, self.idempotent or not self.sent, failed.pushback)
        if pause is None:
            return None
        if self.until is not None and time.monotonic() + pause >= self.until:
            return None
        return pause

    def failed(self, error: Any) -> "Failed":
        """An attempt that grpcio ended."""
        failed = Failed.of(error)
        failed.error = self.in_words(failed.error)
        return failed

    def in_words(self, error: Error) -> Error:
        """A deadline that passed here is told in our words: grpcio's are those of the stream that it broke off."""
        if self.until is None or error.reason or not (error.code == "DEADLINE_EXCEEDED" or "(Deadline Exceeded)" in error.message):
            return error
        return self.late()

    def late(self) -> Error:
        return told("DEADLINE_EXCEEDED", f"{self.method} took longer than {self.options.timeout} s", "deadline")

    def upload_request(self) -> bytes:
        assert self.upload
        return protocol.message((1, self.upload[0].encode()), (2, self.upload[1].encode()))


class Failed(Exception):
    """An attempt that failed."""

    def __init__(self, error: Error, pushback: Optional[int] = None) -> None:
        super().__init__(str(error))
        self.error, self.pushback = error, pushback
        # Of the server as such, not of one call: another address is better.
        self.unreachable = error.code == "UNAVAILABLE"

    @classmethod
    def of(cls, error: Any) -> "Failed":
        """From grpcio's exception."""
        trailers = error.trailing_metadata() or ()
        return cls(protocol.error_of(error.code().name, error.details() or "", trailers), pushback(trailers))


class Bar:
    """Tells how many bytes of an input went out: to a bar of tqdm's on a terminal, or to the caller's own function."""

    def __init__(self, wanted: Any, size: Optional[int], name: str) -> None:
        self._tell = wanted if callable(wanted) else None
        self._size, self._sent, self._bar = size, 0, None
        if self._tell is None and (wanted or (wanted is None and sys.stderr.isatty() and (size is None or size >= 1 << 20))):
            tqdm = bars()
            self._bar = tqdm(total=size, desc=name, unit="B", unit_scale=True, unit_divisor=1024, leave=False) if tqdm else None

    def at(self, offset: int) -> None:
        self._sent = offset
        if self._bar is not None:
            self._bar.n = offset
            self._bar.refresh()

    def over(self, blocks: Any) -> Any:
        for block in blocks:
            yield block
            self._sent += len(block)
            if self._bar is not None:
                self._bar.update(len(block))
            elif self._tell is not None:
                self._tell(self._sent, self._size)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Steps:
    """Tells how far the method is: to a bar of tqdm's on a terminal, or to the caller's own function."""

    def __init__(self, wanted: Any, name: str) -> None:
        self._tell = wanted if callable(wanted) else None
        self._name = name
        self._bar: Any = None
        self._tqdm = bars() if self._tell is None and (wanted or (wanted is None and sys.stderr.isatty())) else None
        self.wanted = self._tell is not None or self._tqdm is not None

    def told(self, told: Dict[str, Any]) -> Any:
        if self._tell is not None:
            return self._tell(told)
        if self._tqdm is None:
            return None
        if self._bar is None:  # most methods never tell
            self._bar = self._tqdm(total=1.0, desc=self._name, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
        bar, progress = self._bar, told.get("progress")
        if isinstance(progress, (int, float)):
            bar.n = min(max(progress, 0.0), 1.0)
        bar.set_postfix_str(str(told.get("message") or told.get("stage") or ""))
        return None

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def bars() -> Any:
    """tqdm, where it is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


def silent(seconds: float) -> Error:
    return told("UNAVAILABLE", f"no heartbeat for {seconds:g} s", "no_heartbeat")


def split(addresses: Tuple[str, ...]) -> Tuple[List[str], Optional[Consul]]:
    """Addresses as given: host:port, unix:PATH, https://…, several in one string, or consul://…"""
    names: List[str] = []
    consul = None
    for each in addresses or (os.environ.get("TIDEGATE_ADDRESS", "127.0.0.1:50051"),):
        for name in each.split(","):
            name = name.strip()
            if name.startswith("consul://"):
                consul = Consul(name)
            elif name:
                names.append(endpoint(name))
    if not names and consul is None:
        raise ValueError("no address is given: HOST:PORT, unix:PATH, https://HOST or consul://HOST:PORT/SERVICE")
    return names, consul


def endpoint(name: str) -> str:
    """An address with its port: grpcio's own default is that of https."""
    port = PORT
    if name.startswith("http://"):
        name, port = name[len("http://") :].rstrip("/"), 80
    elif "://" in name or name.partition(":")[0] in ("unix", "unix-abstract", "vsock", "dns", "ipv4", "ipv6", "xds"):
        return name
    if name.startswith("["):
        return name if not name.endswith("]") else f"{name}:{port}"
    if name.count(":") > 1:  # of IPv6
        return f"[{name}]:{port}"
    return name if ":" in name else f"{name}:{port}"


def secure(name: str, tls: Any) -> Tuple[str, bool]:
    """(target, whether over TLS)."""
    for scheme in ("https://", "grpcs://"):
        if name.startswith(scheme):
            return name[len(scheme) :].rstrip("/"), True
    return name.rstrip("/"), bool(tls)
