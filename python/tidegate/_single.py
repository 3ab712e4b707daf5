"""One call at a time, in the main thread: no hand-over between threads on the way of a call."""

import inspect
import select
import signal
import socket
import threading
import time
import traceback

from . import _wire as wire
from ._errors import Cancelled
from ._model import current
from ._process import end
from ._worker import LONG, Worker

# A result waits for those of the calls behind it only while calls take less than this many seconds.
QUICK = 0.0002


class Single(Worker):
    def __init__(self, sock, name, identity):
        super().__init__(sock, name, identity)
        # Who reads the connection: the main thread while `running` is 0, else `watch`; the change is made under `reading`.
        self.reading = threading.Lock()
        self.running = self.count = 0
        self.wake, self.parked = threading.Event(), False
        # The call whose method runs now and may be interrupted; the one that is to be; the stream and its credit.
        self.now = self.cut = self.streaming = self.credit = 0
        self.telling = False  # a frame is sent that must be whole
        self.main = threading.get_ident()

    def start(self):
        signal.signal(signal.SIGURG, self.interrupted)
        self.busy()
        threading.Thread(target=watch, args=(self,), name="tidegate-watch", daemon=True).start()

    def busy(self):
        """From here on `watch` reads, if it takes long."""
        self.count += 1
        self.running = self.count
        if self.parked:
            self.wake.set()

    def idle(self):
        with self.reading:
            self.running = 0

    def interrupted(self, *_):
        if self.cut and self.cut == self.now and not self.telling:
            self.cut = 0
            raise Cancelled

    def tell(self, kind, call, told):
        if threading.get_ident() != self.main:
            return self.link.send(kind, call, told)
        self.telling = True
        try:
            self.link.send(kind, call, told)
        finally:
            self.telling = False
            self.interrupted()  # what came meanwhile

    def overhear(self, flags):
        """Reads once: what concerns a running call at once, the rest into the backlog."""
        fresh = []
        self.link.read(fresh, flags)
        for frame in fresh:
            kind = frame[0]
            if kind == wire.CALL:
                self.backlog.append(frame)
            elif kind == wire.CANCEL:
                self.cancel(frame[1])
            elif kind == wire.CREDIT:
                if frame[1] == self.streaming:
                    self.credit += wire.load_json(frame[2])["items"]
            elif kind == wire.PING:
                self.link.send(wire.PONG, frame[1], None, bytes(frame[3]))
            else:
                self.backlog.append(frame)

    def cancel(self, call):
        if call == self.now or call == self.streaming:
            self.cut = call
            if call == self.now:
                signal.pthread_kill(self.main, signal.SIGURG)
        elif self.forget(call):
            self.error(call, Cancelled())
            self.link.flush()
        elif any(call == frame[1] or (frame[0] == wire.BATCH and str(call).encode() in frame[2]) for frame in self.backlog):
            self.cancelled.add(call)

    def serve(self):
        """Until DRAIN (returns) or the end of the connection (raises Ended)."""
        link, backlog = self.link, self.backlog
        self.idle()
        while True:
            if not backlog:
                link.flush()
                self.overhear(0)
                continue
            kind, call, meta, data = backlog.popleft()
            if kind == wire.CALL:
                began = time.perf_counter()
                self.safely(call, meta, data)
                with self.reading:
                    self.running = 0
                if backlog and time.perf_counter() - began > QUICK:
                    link.flush()
            elif kind == wire.DRAIN:
                return
            else:
                self.busy()
                self.other(kind, call, meta, data)
                self.idle()

    def other(self, kind, call, meta, data):
        if kind in (wire.LOAD, wire.RELEASE):
            self.control(kind, call, meta)
        elif kind == wire.BATCH:
            self.run_batch(call, meta, data)
        elif kind == wire.DATA:
            complete = self.piece(call, bool(meta), data)
            if complete:
                try:
                    self.safely(call, wire.dump_json(complete[0]), complete[1])
                finally:
                    complete[2].close()
        else:
            raise wire.Ended(f"a frame of an unknown type: {kind}")

    def safely(self, call, meta, data):
        """Runs a call. An interrupt that comes when its method is already over ends nothing else."""
        try:
            self.call(call, meta, data)
        except Cancelled:
            self.now = 0
            self.error(call, Cancelled())

    def call(self, call, meta, data):
        self.count += 1
        self.running = self.count
        if self.parked:
            self.wake.set()
        spec = kwargs = held = None
        try:
            if self.cancelled and call in self.cancelled:
                self.cancelled.discard(call)
                raise Cancelled
            meta = wire.load_json(meta)
            if "parts" in meta and self.collect(call, meta, data):
                return
            spec, function, kwargs, held, running = self.begin(call, meta, data)
            current.set(running)
            if spec.batch:
                self.batch(spec, function, [(call, kwargs)])
                return
            if spec.cancel:
                self.now = call
            value = function(**kwargs)
            self.now = 0
            if hasattr(value, "__next__") and (spec.stream or inspect.isgenerator(value)):
                self.stream(call, value, meta.get("credit", LONG), spec)
            else:
                self.answer(wire.RESULT, call, value)
                value = None
                if spec.reload:
                    self.release(running.version)
        except BaseException as error:
            self.now = 0
            if isinstance(error, wire.Ended):
                raise
            self.error(call, error, spec, kwargs)
        finally:
            if held is not None:
                held.close()

    def stream(self, call, items, credit, spec):
        """Gives the items of a generator as they come, as far as there is credit."""
        self.streaming, self.credit = call, credit
        try:
            while True:
                while self.credit <= 0 and self.cut != call:
                    self.link.flush()
                    number = self.running
                    self.idle()
                    self.overhear(0)
                    self.running = number
                if self.cut == call:
                    raise Cancelled
                if spec.cancel:
                    self.now = call
                try:
                    item = next(items)
                except StopIteration:
                    self.now = 0
                    break
                self.now = 0
                self.answer(wire.ITEM, call, item)
                self.credit -= 1
                self.link.flush()
            self.link.put(wire.DONE, call)
            if spec.reload:
                self.release(current.get().version)
        finally:
            self.now = 0
            self.streaming = self.cut = 0
            close = getattr(items, "close", None)
            if close is not None:
                close()


def watch(worker, wait=0.05, idle=20):
    """The thread that reads the connection while a call of the main thread runs long.

    Nothing is handed over for a short call: the thread looks every 50 ms whether the same call still runs, and sleeps when there are none.
    """
    poll = select.poll()
    poll.register(worker.link.sock, select.POLLIN)
    seen, quiet = 0, 0
    while True:
        time.sleep(wait)
        number = worker.running
        if not number or number != seen:
            quiet = 0 if number or worker.count != seen else quiet + 1
            seen = worker.count
            if quiet > idle:
                worker.parked = True
                if worker.count == seen and not worker.running:
                    worker.wake.wait()
                worker.wake.clear()
                worker.parked = False
                quiet = 0
            continue
        quiet = 0
        try:
            worker.link.flush()  # what was held back for the sake of this call
            while worker.running == number:
                if not poll.poll(1000):
                    continue
                with worker.reading:
                    if worker.running == number:
                        worker.overhear(socket.MSG_DONTWAIT)
        except wire.Ended:
            worker.lost()
            while worker.running == number:  # a worker on another machine finishes its call, and connects again
                time.sleep(0.05)
        except Exception:
            traceback.print_exc()
            end()
