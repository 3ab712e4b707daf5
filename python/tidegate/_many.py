"""Several calls at a time: the main thread reads, methods run in threads, `async` ones on an event loop of their own thread."""

import asyncio
import contextlib
import ctypes
import inspect
import queue
import threading
import traceback

from . import _wire as wire
from ._errors import Cancelled
from ._model import current
from ._process import end
from ._worker import LONG, Worker


class Job:
    """A call that waits or runs."""

    def __init__(self, call):
        self.call = call
        self.spec = None  # of its method; a LOAD or BATCH has none
        self.change = threading.Condition()
        self.credit = 0
        self.cancelled = False
        self.thread = None  # that runs its method now, and may be interrupted
        self.task = self.more = None  # on the event loop

    def enter(self):
        """From here on this thread may be interrupted."""
        with self.change:
            if self.cancelled:
                raise Cancelled
            self.thread = threading.get_ident()

    def leave(self):
        with self.change:
            self.thread = None

    def cancel(self, loop):
        with self.change:
            self.cancelled = True
            if self.thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(Cancelled))
                self.thread = None
            self.change.notify()
        if self.task is not None:
            loop.call_soon_threadsafe(self.task.cancel)

    def add(self, items, loop):
        with self.change:
            self.credit += items
            self.change.notify()
        if self.more is not None:
            loop.call_soon_threadsafe(self.more.set)

    def take(self):
        """Waits for the right to send one item."""
        with self.change:
            self.change.wait_for(lambda: self.credit > 0 or self.cancelled)
            if self.cancelled:
                raise Cancelled
            self.credit -= 1


class Many(Worker):
    @classmethod
    def of(cls, single, concurrency):
        """Goes on with what a worker has that began with one call at a time (its class says only now what it needs)."""
        self = cls.__new__(cls)
        self.__dict__.update(single.__dict__)
        self.concurrency = concurrency
        self.jobs = queue.SimpleQueue()
        self.active = {}
        self.loading = threading.Lock()  # one load at a time; never taken by the event loop's thread, which a load may wait for
        self.counting = threading.Lock()  # who uses which model; held for a moment
        self.loop = None
        if any(spec.is_async for spec in self.specs.values()):
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, name="tidegate-loop", daemon=True).start()
        for number in range(concurrency):
            threading.Thread(target=self._run_jobs, name=f"tidegate-{number}", daemon=True).start()
        return self

    def _run_loop(self):
        asyncio.set_event_loop(self.loop)
        self.limit = asyncio.Semaphore(self.concurrency)
        self.loop.run_forever()

    def serve(self):
        self.active = {}
        while True:
            while self.backlog:
                self.take(*self.backlog.popleft())
            if self.draining and not self.active:
                return
            try:
                self.link.read(self.backlog)
            except wire.Ended:
                if self.draining and not self.active:
                    return
                raise

    def take(self, kind, call, meta, data):
        if kind == wire.CALL:
            meta = wire.load_json(meta)
            if "parts" not in meta or not self.collect(call, meta, data):
                self.dispatch(call, meta, data, None)
        elif kind == wire.DATA:
            complete = self.piece(call, bool(meta), data)
            if complete:
                self.dispatch(call, *complete)
        elif kind == wire.CANCEL:
            job = self.active.get(call)
            if job is not None:
                if job.spec is None or job.spec.cancel:
                    job.cancel(self.loop)
            elif self.forget(call):
                self.error(call, Cancelled())
                self.link.flush()
        elif kind == wire.CREDIT:
            job = self.active.get(call)
            if job is not None:
                job.add(wire.load_json(meta)["items"], self.loop)
        elif kind == wire.PING:
            self.link.send(wire.PONG, call, None, bytes(data))
        elif kind in (wire.LOAD, wire.RELEASE):
            self.later(call, self.control, kind, call, meta)
        elif kind == wire.BATCH:
            self.later(call, self.run_batch, call, meta, data)
        elif kind == wire.DRAIN:
            self.draining = True
        else:
            raise wire.Ended(f"a frame of an unknown type: {kind}")

    def later(self, call, function, *arguments):
        """Runs in a thread of the pool."""
        job = Job(call)
        key = ("control", id(job))
        self.active[key] = job
        self.jobs.put((key, function, arguments))

    def dispatch(self, call, meta, data, spooled):
        job = self.active[call] = Job(call)
        job.spec = spec = self.specs.get(meta.get("method"))
        job.credit = meta.get("credit", LONG)
        if spec is not None and spec.is_async and not spec.batch:
            self.loop.call_soon_threadsafe(self._start, job, meta, data, spooled)
        else:
            self.jobs.put((call, self.run, (job, meta, data, spooled)))

    def done(self, key):
        self.link.flush()
        self.active.pop(key, None)
        if self.draining and not self.active:
            self.link.wake()

    # --- threads ---

    def _run_jobs(self):
        while True:
            key, function, arguments = self.jobs.get()
            while True:  # an interrupt that comes when the method is already over ends nothing
                try:
                    function(*arguments)
                    self.done(key)
                    break
                except Cancelled:
                    function, arguments = self.nothing, ()
                except wire.Ended:
                    break
                except BaseException:  # a thread that is gone would keep its call and its place: the process goes instead
                    traceback.print_exc()
                    end()

    def nothing(self):
        """In place of a call that was answered."""

    def run(self, job, meta, data, spooled):
        spec = kwargs = held = None
        version = meta.get("version") or ""
        try:
            job.enter()
            job.leave()
            with self.using(version) as loaded:
                spec, function, kwargs, held, running = self.begin(job.call, meta, data, loaded)
                current.set(running)
                if spec.batch:
                    self.batch(spec, function, [(job.call, kwargs)])
                    return
                if spec.cancel:
                    job.enter()
                value = function(**kwargs)
                job.leave()
                if hasattr(value, "__next__") and (spec.stream or inspect.isgenerator(value)):
                    self.stream(job, value, spec, version)
                    return
                if spec.reload:  # whoever has the answer must not meet the model of before
                    self.release(version)
                self.answer(wire.RESULT, job.call, value)
        except BaseException as error:
            job.leave()
            if isinstance(error, wire.Ended):
                raise
            self.error(job.call, error, spec, kwargs)
        finally:
            close(held, spooled)

    def stream(self, job, items, spec, version):
        try:
            while True:
                job.take()
                if spec.cancel:
                    job.enter()
                try:
                    item = next(items)
                except StopIteration:
                    break
                finally:
                    job.leave()
                self.answer(wire.ITEM, job.call, item)
                self.link.flush()
            if spec.reload:
                self.release(version)
            self.link.put(wire.DONE, job.call)
        finally:
            last = getattr(items, "close", None)
            if last is not None:
                last()

    def tell(self, kind, call, told):
        job = self.active.get(call)
        if job is None or job.thread != threading.get_ident():
            return self.link.send(kind, call, told)
        job.leave()
        self.nothing()  # an interrupt that is on its way comes here
        try:
            self.link.send(kind, call, told)
        finally:
            job.enter()

    # --- the event loop ---

    def _start(self, job, meta, data, spooled):
        if job.cancelled:  # a task that has not begun would end without a word
            close(spooled)
            self.error(job.call, Cancelled())
            with contextlib.suppress(wire.Ended):
                self.done(job.call)
            return
        job.more = asyncio.Event()
        job.task = self.loop.create_task(self.run_async(job, meta, data, spooled))
        if job.cancelled:  # just now; behind its first step
            self.loop.call_soon(job.task.cancel)

    async def run_async(self, job, meta, data, spooled):
        spec = kwargs = held = loaded = None
        version = meta.get("version") or ""
        try:
            async with self.limit:
                while (loaded := self.hold(version)) is None:
                    await self.loop.run_in_executor(None, self.load, version)
                spec, function, kwargs, held, running = self.begin(job.call, meta, data, loaded)
                current.set(running)
                value = function(**kwargs)
                if inspect.isawaitable(value):
                    value = await value
                if hasattr(value, "__aiter__"):
                    await self.stream_async(job, value, spec, version)
                else:
                    if spec.reload:
                        self.release(version)
                    self.answer(wire.RESULT, job.call, value)
        except asyncio.CancelledError:
            self.error(job.call, Cancelled())
        except wire.Ended:
            pass
        except BaseException as error:
            self.error(job.call, error, spec, kwargs)
        finally:
            job.task = None
            close(held, spooled)
            if loaded is not None and self.let_go(loaded):
                # A thread's work: the model may need this loop for it, or hold it up.
                self.later(job.call, self.dispose, loaded, version)
            try:
                self.done(job.call)
            except wire.Ended:
                pass

    async def stream_async(self, job, items, spec, version):
        try:
            while True:
                while job.credit <= 0:
                    job.more.clear()
                    if job.credit <= 0:
                        await job.more.wait()
                job.credit -= 1
                try:
                    item = await items.__anext__()
                except StopAsyncIteration:
                    break
                self.answer(wire.ITEM, job.call, item)
                self.link.flush()
            if spec.reload:
                self.release(version)
            self.link.put(wire.DONE, job.call)
        finally:
            last = getattr(items, "aclose", None)
            if last is not None:
                await last()

    def wait_for(self, result):
        if self.loop is None:
            super().wait_for(result)
        else:
            self.settle(result)

    def settle(self, value):
        if not inspect.isawaitable(value):
            return value
        return asyncio.run_coroutine_threadsafe(_awaited(value), self.loop).result()

    # --- versions: a model is disposed of when no call uses it any longer ---

    def load(self, version):
        with self.loading:
            return super().load(version)

    def hold(self, version):
        """The model of a version, if it is loaded; it stays until `let_go`."""
        with self.counting:
            loaded = self.models.get(version)
            if loaded is not None:
                loaded.users += 1
            return loaded

    def let_go(self, loaded):
        """Whether that was the last call of a model that is to be disposed of."""
        with self.counting:
            loaded.users -= 1
            return loaded.retired and not loaded.users

    @contextlib.contextmanager
    def using(self, version):
        while (loaded := self.hold(version)) is None:
            self.load(version)
        try:
            yield loaded
        finally:
            if self.let_go(loaded):
                self.dispose(loaded, version)

    def release(self, version):
        with self.counting:
            loaded = self.models.pop(version, None)
            if loaded is None:
                return
            loaded.retired = True
            if loaded.users:
                return
        self.dispose(loaded, version)


def close(*held):
    """What a call had of files."""
    for each in held:
        if each is not None:
            each.close()


async def _awaited(value):
    return await value
