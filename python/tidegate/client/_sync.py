"""The client for plain code."""

import threading
import time
from typing import Any, Callable, Iterator, Mapping, Optional, Set

import grpc

from .._errors import told
from . import _protocol as protocol
from ._addresses import Address, Balancer
from ._common import CHANNEL, Call, Failed, Options, secure, silent, split
from ._retry import Throttle


class Client:
    """Calls a model's methods.

        client = Client("127.0.0.1:50051")
        client.predict(text="good")                       # any public method by its name
        client.call("predict", {"text": "good"}, timeout=5)
        for token in client.stream("generate", {"prompt": "Once"}): ...
        client.train(data=Path("train.csv"))              # bytes, paths, files, iterators are streamed

    Several addresses are balanced; `consul://HOST:PORT/SERVICE` follows a service of Consul's. Options (see `Options`) can be given here, to
    `call` and `stream`, or to `options(…)`, which gives a client with others over the same connections. Safe for threads.
    """

    def __init__(self, *addresses: str, tls: Any = None, **options: Any) -> None:
        names, self._consul = split(addresses)
        self._tls = tls
        self._options = Options(**options)
        self._throttle = Throttle()
        self._watch = _Watch()
        if self._consul is not None:
            names += self._consul.read()
        self._balancer = Balancer(names, self._open, lambda channel: channel.close())
        if self._consul is not None:
            self._consul.follow(self._balancer.set)

    def _open(self, name: str) -> grpc.Channel:
        target, over_tls = secure(name, self._tls)
        if not over_tls:
            return grpc.insecure_channel(target, CHANNEL)
        credentials = self._tls if isinstance(self._tls, grpc.ChannelCredentials) else grpc.ssl_channel_credentials()
        return grpc.secure_channel(target, credentials, CHANNEL)

    def options(self, **options: Any) -> "Client":
        """A client with other options over the same connections."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._options = self._options.changed(**options)
        return other

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(**kwargs: Any) -> Any:
            return self.call(method, kwargs)

        call.__name__ = method
        return call

    def call(self, method: str, kwargs: Optional[Mapping[str, Any]] = None, input: Any = None, **options: Any) -> Any:
        """The method's result; of a generator, the list of its items."""
        call = Call(method, kwargs, input, self._options.changed(**options))
        if call.unary:
            return self._run(call, self._unary)
        return self._run(call, self._gathered)

    def stream(self, method: str, kwargs: Optional[Mapping[str, Any]] = None, input: Any = None, **options: Any) -> Iterator[Any]:
        """The items of a generator as they come. Tried again only until the first of them was given."""
        call = Call(method, kwargs, input, self._options.changed(unary=False, **options))
        try:
            while True:
                try:
                    for value in self._attempt(call):
                        call.committed = True
                        yield value
                    return
                except Failed as failed:
                    self._again(call, failed)
        finally:
            call.end()

    def close(self) -> None:
        """Ends the connections; calls under way are cancelled."""
        if self._consul is not None:
            self._consul.end()
        self._watch.end()
        for channel in self._balancer.close():
            channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # --- attempts ---

    def _run(self, call: Call, attempt: Callable[[Call], Any]) -> Any:
        try:
            while True:
                try:
                    return attempt(call)
                except Failed as failed:
                    self._again(call, failed)
        finally:
            call.end()

    def _again(self, call: Call, failed: Failed) -> None:
        """Waits for the next attempt, or raises what the last one failed with."""
        pause = call.may_again(failed, self._throttle)
        if pause is None:
            raise failed.error from None
        time.sleep(pause)

    def _unary(self, call: Call) -> Any:
        address = self._pick(call)
        unreachable = False
        try:
            method = address.channel.unary_unary(f"/ai.AI/{call.method}")
            answer = method(call.unary_message(), timeout=call.remaining(), metadata=call.metadata)
            self._throttle.good()
            return protocol.unary_result(answer)
        except grpc.RpcError as error:
            failed = call.failed(error)
            unreachable = failed.unreachable
            raise failed from None
        finally:
            self._balancer.done(address, unreachable)

    def _gathered(self, call: Call) -> Any:
        values = list(self._attempt(call))
        if call.kind == "items" or len(values) > 1:
            return values
        return values[0] if values else None

    def _attempt(self, call: Call) -> Iterator[Any]:
        """One attempt of `chaos`: its values as they come. At the end `call.kind` says whether they were items."""
        address = self._pick(call)
        unreachable, rpc, entry = False, None, None
        try:
            offset = self._offset(call, address)
            method = address.channel.stream_stream(protocol.CHAOS)
            rpc = method(call.messages(offset), timeout=call.remaining(), metadata=call.head(offset))
            rpc.initial_metadata()  # returns with the answer's head, or the end of the call
            entry = self._watch.add(rpc, call.options.heartbeat)
            results = protocol.Results()
            for data in rpc:
                entry.last = time.monotonic()
                told_of = protocol.progress_of(data)
                if told_of:
                    call.told(told_of)
                    entry.last = time.monotonic()
                    continue
                made = results.add(protocol.of_raw(data))
                if made is not None:
                    yield made[0]
                    entry.last = time.monotonic()  # the caller took its time, not the server
            call.kind = next((value for key, value in rpc.trailing_metadata() or () if key == "x-tidegate-result"), "value")
            self._throttle.good()
        except grpc.RpcError as error:
            if call.trouble is not None:
                raise call.trouble from None
            failed = call.failed(error)
            if entry is not None and entry.silent and failed.error.code == "CANCELLED":
                failed = Failed(silent(call.options.heartbeat))
            unreachable = failed.unreachable
            raise failed from None
        finally:
            if entry is not None:
                self._watch.remove(entry)
            if rpc is not None:
                rpc.cancel()
            self._balancer.done(address, unreachable)

    def _offset(self, call: Call, address: Address) -> int:
        """How far an upload came in earlier attempts."""
        if not call.upload or not call.failures:
            return 0
        try:
            answer = address.channel.unary_unary(protocol.UPLOAD_STATUS)(call.upload_request(), timeout=call.remaining(), metadata=call.routing())
            return call.resumed(int(protocol.first(answer, 2, 0)))
        except grpc.RpcError as error:
            failed = call.failed(error)
            if failed.error.code in ("NOT_FOUND", "UNIMPLEMENTED"):
                return 0
            raise failed from None

    def _pick(self, call: Call) -> Address:
        try:
            address = self._balancer.pick(call.address if call.upload else "")
        except LookupError as error:
            raise Failed(told("UNAVAILABLE", str(error), "no_address")) from None
        call.address = address.name
        return address


class _Entry:
    """A call whose silence ends it."""

    def __init__(self, rpc: Any, seconds: float) -> None:
        self.rpc, self.seconds = rpc, seconds
        self.last = time.monotonic()
        self.silent = False


class _Watch:
    """One thread that cancels calls from which nothing came for too long."""

    def __init__(self) -> None:
        self._entries: Set[_Entry] = set()
        self._change = threading.Condition()
        self._thread: Optional[threading.Thread] = None

    def add(self, rpc: Any, seconds: float) -> _Entry:
        entry = _Entry(rpc, seconds)
        with self._change:
            self._entries.add(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tidegate-heartbeats", daemon=True)
                self._thread.start()
            self._change.notify()
        return entry

    def remove(self, entry: _Entry) -> None:
        with self._change:
            self._entries.discard(entry)

    def end(self) -> None:
        with self._change:
            self._thread = None
            self._change.notify()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._change:
                if self._thread is not me:
                    return
                now = time.monotonic()
                late = [entry for entry in self._entries if now - entry.last > entry.seconds]
                soonest = min((entry.last + entry.seconds - now for entry in self._entries if entry not in late), default=None)
                self._entries.difference_update(late)
                if not late:
                    # A new call may have a shorter patience, and wakes us; one that was heard meanwhile is looked at again.
                    self._change.wait(None if soonest is None else max(soonest, 0.05))
            for entry in late:
                entry.silent = True
                entry.rpc.cancel()
