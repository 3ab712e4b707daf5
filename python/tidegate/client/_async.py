"""The client for asyncio."""

import asyncio
import inspect
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, List, Mapping, Optional

import grpc
import grpc.aio

from .._errors import told
from . import _protocol as protocol
from ._addresses import Address, Balancer
from ._common import CHANNEL, Call, Failed, Options, secure, silent, split
from ._retry import Throttle


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; `stream` gives an asynchronous iterator. Make it inside the event loop that uses it."""

    def __init__(self, *addresses: str, tls: Any = None, **options: Any) -> None:
        names, self._consul = split(addresses)
        self._tls = tls
        self._options = Options(**options)
        self._throttle = Throttle()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._closing: List[Any] = []
        self._balancer = Balancer(names, self._open, self._close_later)
        self._started = self._consul is None
        self._starting: Optional[asyncio.Lock] = None

    def _open(self, name: str) -> grpc.aio.Channel:
        target, over_tls = secure(name, self._tls)
        if not over_tls:
            return grpc.aio.insecure_channel(target, CHANNEL)
        credentials = self._tls if isinstance(self._tls, grpc.ChannelCredentials) else grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(target, credentials, CHANNEL)

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._closing.append(asyncio.ensure_future(channel.close())))

    def options(self, **options: Any) -> "AsyncClient":
        """A client with other options over the same connections."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._options = self._options.changed(**options)
        return other

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(**kwargs: Any) -> Any:
            return await self.call(method, kwargs)

        call.__name__ = method
        return call

    async def call(self, method: str, kwargs: Optional[Mapping[str, Any]] = None, input: Any = None, **options: Any) -> Any:
        """The method's result; of a generator, the list of its items."""
        call = Call(method, kwargs, input, self._options.changed(**options))
        try:
            while True:
                try:
                    return await (self._unary(call) if call.unary else self._gathered(call))
                except Failed as failed:
                    await self._again(call, failed)
        finally:
            call.end()

    async def stream(self, method: str, kwargs: Optional[Mapping[str, Any]] = None, input: Any = None, **options: Any) -> AsyncIterator[Any]:
        """The items of a generator as they come. Tried again only until the first of them was given."""
        call = Call(method, kwargs, input, self._options.changed(unary=False, **options))
        try:
            while True:
                attempt = self._attempt(call)
                try:
                    async for value in attempt:
                        call.committed = True
                        yield value
                    return
                except Failed as failed:
                    await self._again(call, failed)
                finally:
                    await attempt.aclose()  # type: ignore[attr-defined]
        finally:
            call.end()

    async def close(self) -> None:
        """Ends the connections; calls under way are cancelled."""
        if self._consul is not None:
            self._consul.end()
        for channel in self._balancer.close():
            await channel.close()
        await asyncio.gather(*self._closing)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    # --- attempts ---

    async def _again(self, call: Call, failed: Failed) -> None:
        pause = call.may_again(failed, self._throttle)
        if pause is None:
            raise failed.error from None
        await asyncio.sleep(pause)

    async def _unary(self, call: Call) -> Any:
        address = await self._pick(call)
        unreachable = False
        try:
            method = address.channel.unary_unary(f"/ai.AI/{call.method}")
            answer = await method(call.unary_message(), timeout=call.remaining(), metadata=call.metadata)
            self._throttle.good()
            return protocol.unary_result(answer)
        except grpc.RpcError as error:
            failed = call.failed(error)
            unreachable = failed.unreachable
            raise failed from None
        finally:
            self._balancer.done(address, unreachable)

    async def _gathered(self, call: Call) -> Any:
        values = [value async for value in self._attempt(call)]
        if call.kind == "items" or len(values) > 1:
            return values
        return values[0] if values else None

    async def _attempt(self, call: Call) -> AsyncIterator[Any]:
        """One attempt of `chaos`: its values as they come. At the end `call.kind` says whether they were items."""
        address = await self._pick(call)
        unreachable, rpc = False, None
        try:
            offset = await self._offset(call, address)
            method = address.channel.stream_stream(protocol.CHAOS)
            rpc = method(_apart(call.messages(offset)), timeout=call.remaining(), metadata=call.head(offset))
            await rpc.initial_metadata()  # returns with the answer's head, or the end of the call
            results = protocol.Results()
            while True:
                try:
                    data = await asyncio.wait_for(rpc.read(), call.options.heartbeat)
                except asyncio.TimeoutError:
                    raise Failed(silent(call.options.heartbeat)) from None
                if data is grpc.aio.EOF:
                    break
                told_of = protocol.progress_of(data)
                if told_of:
                    heard = call.told(told_of)
                    if inspect.isawaitable(heard):
                        await heard
                    continue
                made = results.add(protocol.of_raw(data))
                if made is not None:
                    yield made[0]
            trailers = await rpc.trailing_metadata()
            if await rpc.code() is not grpc.StatusCode.OK:
                raise Failed(call.in_words(protocol.error_of((await rpc.code()).name, await rpc.details() or "", trailers)))
            call.kind = next((str(value) for key, value in trailers or () if key == "x-tidegate-result"), "value")
            self._throttle.good()
        except grpc.RpcError as error:
            if call.trouble is not None:
                raise call.trouble from None
            failed = call.failed(error)
            unreachable = failed.unreachable
            raise failed from None
        except asyncio.CancelledError:
            if call.trouble is not None:
                raise call.trouble from None
            raise
        except Failed as failed:
            unreachable = failed.unreachable
            raise
        finally:
            if rpc is not None:
                rpc.cancel()
            self._balancer.done(address, unreachable)

    async def _offset(self, call: Call, address: Address) -> int:
        """How far an upload came in earlier attempts."""
        if not call.upload or not call.failures:
            return 0
        try:
            answer = await address.channel.unary_unary(protocol.UPLOAD_STATUS)(call.upload_request(), timeout=call.remaining(), metadata=call.routing())
            return call.resumed(int(protocol.first(answer, 2, 0)))
        except grpc.RpcError as error:
            failed = call.failed(error)
            if failed.error.code in ("NOT_FOUND", "UNIMPLEMENTED"):
                return 0
            raise failed from None

    async def _pick(self, call: Call) -> Address:
        if not self._started:
            await self._follow()
        try:
            address = self._balancer.pick(call.address if call.upload else "")
        except LookupError as error:
            raise Failed(told("UNAVAILABLE", str(error), "no_address")) from None
        call.address = address.name
        return address

    async def _follow(self) -> None:
        """Consul's first answer, and then its changes."""
        consul = self._consul
        assert consul is not None
        self._loop = loop = asyncio.get_running_loop()
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._started:
                return
            self._balancer.set(await loop.run_in_executor(None, consul.read))

            def changed(names: List[str]) -> None:
                try:
                    loop.call_soon_threadsafe(self._balancer.set, names)
                except RuntimeError:  # the loop has ended, and the client was not closed
                    consul.end()

            consul.follow(changed)
            self._started = True


async def _apart(messages: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Reads and compresses in a thread: the event loop goes on."""
    loop = asyncio.get_running_loop()
    end = object()
    while True:
        message: Any = await loop.run_in_executor(None, next, messages, end)
        if message is end:
            return
        yield message
