"""What every worker does, whichever way its calls run: identity, loading, arguments, answers."""

import collections
import contextlib
import gc
import importlib
import inspect
import json
import logging
import os
import sys
import tempfile
import time
import traceback

from . import __version__
from . import _wire as wire
from ._describe import methods
from ._errors import Cancelled, Error, told
from ._model import Model, current
from ._values import FILE_FROM, BadResult, Held, argument, encode_json, no_room, parts_of, plain, spool

LONG = 1 << 40
# An exception's text is told up to so many characters.
LONGEST_MESSAGE = 64 << 10


class Unfit(Exception):
    """The class can't be had: told as FAILED."""

    def __init__(self, kind, message, trace=""):
        super().__init__(message)
        self.kind, self.trace = kind, trace


class Loaded:
    """One version in memory."""

    def __init__(self, model, specs):
        self.model = model
        self.users, self.retired = 0, False  # where several calls run at a time
        self.functions = {name: getattr(model, name) for name in specs}


class Running:
    """A call as its method may see it."""

    __slots__ = ("worker", "call", "method", "version", "deadline", "reload")

    def __init__(self, worker, call, method, version, deadline, reload):
        self.worker, self.call = worker, call
        self.method, self.version, self.reload = method, version, reload
        self.deadline = deadline

    def progress(self, told):
        try:
            self.worker.tell(wire.PROGRESS, self.call, told)
        except TypeError as error:
            raise TypeError(f"progress: {error}") from None
        except wire.Ended:  # the worker's own reading sees to that
            pass

    def remaining(self):
        """Seconds until nobody waits any longer, or None."""
        return None if self.deadline is None else self.deadline - time.monotonic()


class Logs(logging.Handler):
    """Log records become LOG frames."""

    def __init__(self, worker):
        super().__init__()
        self.worker = worker
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record):
        try:
            call = current.get()
            text = self.format(record)[:65536]
            worker = call.worker if call else self.worker
            worker.tell(wire.LOG, call.call if call else 0, {"level": record.levelname.lower(), "message": text, "logger": record.name})
        except Exception:  # never into the model
            pass


class Worker:
    def __init__(self, sock, name, identity):
        self.link = wire.Link(sock)
        self.name, self.identity = name, identity
        self.backlog = collections.deque()
        self.models = {}
        self.specs = {}
        self.cls = None
        self.welcome = {}
        self.files = True
        self.streams = {}
        self.cancelled = set()
        self.draining = False

    # --- its life ---

    def hello(self):
        self.link.send(wire.HELLO, 0, {"protocol": 1, "pid": os.getpid(), "sdk": __version__, "language": "python", "loaded": list(self.models), **self.identity})
        while not self.backlog:
            self.link.read(self.backlog)
        kind, _, meta, _ = self.backlog.popleft()
        if kind != wire.WELCOME:
            raise wire.Ended("the host did not answer HELLO with WELCOME")
        self.welcome = wire.load_json(meta) if meta else {}
        self.files = self.welcome.get("files", True)
        self.name = self.name or self.welcome.get("class") or ""

    def prepare(self):
        """Imports the class and tells what it serves."""
        self.cls = find(self.name)
        try:
            self.specs = methods(self.cls)
        except Exception as error:
            raise Unfit(type(error).__name__, f"{self.name} can't be described: {error}", traceback.format_exc()) from error
        if not self.specs:
            raise Unfit("NoMethods", f"{self.name} has no public method: define predict(self, …)")
        self.tensors = {key: [_tensor(each) for each in getattr(self.cls, key, ())] for key in ("inputs", "outputs")}
        info = getattr(self.cls, "info", None)
        self.ready = {
            "class": self.name,
            "methods": {name: spec.about() for name, spec in self.specs.items()},
            "info": info if isinstance(info, dict) else {},
            **self.tensors,
        }

    def load(self, version):
        """The model of a version, constructed and warm."""
        known = self.models.get(version)
        if known is not None:
            return known
        name = version or "default"
        if name in (".", "..") or "/" in name or "\\" in name or "\0" in name or len(name) > 128:
            raise told("INVALID_ARGUMENT", f"{name!r} is no name of a version", "unknown_version")
        data = self.welcome.get("data") or "appdata/"
        folder = os.path.join(data, "models", name)
        known = os.path.exists(folder)
        try:
            model = construct(self.cls, name, data)
            warm = getattr(model, "warm_up", None)
            if callable(warm):
                self.wait_for(warm())
        except Exception as error:
            if not known:
                with contextlib.suppress(OSError):  # the constructor may have made it; callers choose names
                    os.rmdir(folder)
                if isinstance(error, FileNotFoundError):
                    raise told("NOT_FOUND", f"there is no version {name!r}: {error}", "unknown_version") from error
            if isinstance(error, Error) and error.code == "NOT_FOUND":
                error.reason = error.reason or "unknown_version"
            raise
        loaded = self.models[version] = Loaded(model, self.specs)
        gc.collect()
        gc.freeze()
        return loaded

    def info(self, loaded):
        try:
            info = getattr(loaded.model, "model_info", None)
            told = isinstance(info, dict) and len(wire.dump_json(info)) < wire.LONGEST_META
        except Exception:  # not initialized, or nothing that JSON can say
            return {}
        return info if told else {}

    def release(self, version):
        loaded = self.models.pop(version, None)
        if loaded is not None:
            self.dispose(loaded, version)

    def dispose(self, loaded, version):
        """Has a model that no call uses give back what it holds."""
        gc.unfreeze()
        for name in ("release", "dispose"):
            last = getattr(loaded.model, name, None)
            if callable(last):
                try:
                    self.wait_for(last())
                except Exception:
                    logging.getLogger("tidegate").exception("release of version %r failed", version)
                break
        last, loaded.model, loaded.functions = None, None, {}  # the last that held it
        gc.collect()

    def release_all(self):
        for version in list(self.models):
            self.release(version)

    def wait_for(self, result):
        """A hook of the model may be `async`."""
        if inspect.isawaitable(result):
            import asyncio

            asyncio.run(_awaited(result))

    def control(self, kind, call, meta):
        """LOAD and RELEASE: answered in their turn."""
        version = (wire.load_json(meta) if meta else {}).get("version") or ""
        if kind == wire.RELEASE:
            self.release(version)
            self.link.put(wire.RELEASED, call, {"version": version})
            return
        try:
            loaded = self.load(version)
        except BaseException as error:
            self.error(call, error, reason="load_failed")
            if not isinstance(error, (Exception, Cancelled)):
                self.link.flush()
                raise
        else:
            self.link.put(wire.LOADED, call, {"version": version, "info": self.info(loaded)})

    # --- arguments ---

    @contextlib.contextmanager
    def using(self, version):
        """The model of a version, which stays until its call is over."""
        yield self.models.get(version) or self.load(version)

    def begin(self, call, meta, data, loaded=None):
        """A CALL as (spec, function, kwargs, held, running); `held` is None where nothing must be given back."""
        method = meta.get("method")
        spec = self.specs.get(method)
        if spec is None:
            raise told("UNIMPLEMENTED", f"{self.name} has no public method {method!r}", "unknown_method")
        version = meta.get("version") or ""
        loaded = loaded or self.models.get(version) or self.load(version)
        parts = meta.get("parts")
        held = None
        if parts:
            kwargs, held = self.arguments(spec, meta, data, parts)
        else:
            kwargs = _keywords(data) if data else {}
        deadline = meta.get("deadline_ms")
        if deadline is not None:
            deadline = time.monotonic() + deadline / 1000
        return spec, loaded.functions[method], kwargs, held, Running(self, call, method, version, deadline, spec.reload)

    def arguments(self, spec, meta, data, parts):
        at = meta.get("json", 0)
        kwargs = _keywords(data[:at]) if at else {}
        view = memoryview(data)
        held = Held()
        try:
            for part in parts:
                name = part.get("name") or spec.binary
                if not name:
                    raise told("INVALID_ARGUMENT", f"{spec.says()} takes no binary input", "bad_arguments")
                if name in kwargs:
                    raise told("INVALID_ARGUMENT", f"{spec.name}: {name!r} is given twice", "bad_arguments")
                own = None
                if "file" not in part:
                    own = view[at : at + part["size"]]
                    at += part["size"]
                value = argument(part, own, spec.kinds.get(name, "bytes"), held)
                if "datatype" in part and name in spec.plain:
                    value = plain(value, spec.plain[name])
                kwargs[name] = value
        except BaseException:
            held.close()
            raise
        return kwargs, held

    def collect(self, call, meta, data):
        """A call whose input comes as DATA: it begins when all of it is here. Returns whether this is one."""
        parts = meta.get("parts")
        if not parts or not any(part.get("stream") for part in parts):
            return False
        held = Held()
        try:
            handle, path = tempfile.mkstemp(prefix="input-", dir=os.environ.get("TIDEGATE_SPOOL"))
        except OSError as error:
            self.refuse(call, error)
            return True
        file = held.opened(os.fdopen(handle, "wb"))
        if sys.platform == "linux":  # without a name from here on: nothing is left behind, however the process ends
            os.unlink(path)
            path = f"/proc/{os.getpid()}/fd/{handle}"
        else:
            held.temporary(path)
        self.streams[call] = (meta, bytes(data), file, path, held)
        self.link.send(wire.WANT, call, {"bytes": FILE_FROM})
        return True

    def piece(self, call, more, data):
        """A DATA frame. Returns the CALL that is complete now, as (meta, data, what holds its input)."""
        stream = self.streams.get(call)
        if stream is None:  # cancelled meanwhile
            return None
        meta, sofar, file, path, held = stream
        try:
            file.write(data)
            if not more:
                file.flush()
        except OSError as error:
            self.forget(call)
            self.refuse(call, error)
            return None
        if more:
            self.link.send(wire.WANT, call, {"bytes": len(data)})
            return None
        del self.streams[call]
        size = file.tell()
        for part in meta["parts"]:
            if part.pop("stream", False):
                part["file"], part["size"] = path, size
        return meta, sofar, held

    def refuse(self, call, error):
        """The input of a call can't be kept: what still comes of it is skipped."""
        self.error(call, no_room(error, "input") or error)
        self.link.flush()

    def forget(self, call):
        """A call was cancelled while its input was still coming."""
        stream = self.streams.pop(call, None)
        if stream is not None:
            stream[4].close()
        return stream is not None

    # --- answers ---

    def tell(self, kind, call, told):
        """Sends what a model says while it runs: whole, also if its call is cancelled in the middle of that."""
        self.link.send(kind, call, told)

    def answer(self, kind, call, value):
        """Puts a result or an item."""
        made = None if type(value) in (dict, str, list, int, float, bool, type(None)) and not _tensors(value) else parts_of(value)
        if made is None:
            data = encode_json(value)
            if len(data) <= wire.LONGEST:
                self.link.put(kind, call, None, data)
            else:
                self.link.put_long(kind, call, b"", [data])
            return
        text, parts, buffers = made
        if self.files and sum(len(each) for each in buffers) > FILE_FROM:
            parts, buffers = spool(parts, buffers, os.environ.get("TIDEGATE_SPOOL")), []
        elif not self.files:
            parts, buffers = _inline(parts, buffers)
        self.link.put_long(kind, call, wire.dump_json({"json": len(text), "parts": parts}), [text, *buffers])

    def error(self, call, error, spec=None, kwargs=None, reason="model_error"):
        """Puts ERROR for what a model raised. Never raises itself: a call without an answer would keep its place for ever."""
        try:
            told = _told_of(error, spec, kwargs, reason)
        except Exception as trouble:  # the model's own class of exception
            told = {"code": "INTERNAL", "reason": reason, "kind": type(error).__name__, "message": f"it can't be told: {type(trouble).__name__}"}
        self.link.put(wire.ERROR, call, told)

    def batch(self, spec, function, calls):
        """Runs a batch of (call, kwargs) and answers each."""
        fitting, results = [], {}
        for call, kwargs in calls:
            misfit = spec.misfit(kwargs)
            if misfit:
                results[call] = told("INVALID_ARGUMENT", misfit, "bad_arguments")
            else:
                fitting.append((call, kwargs))
        if fitting:
            names = spec.parameters + sorted({name for _, kwargs in fitting for name in kwargs}.difference(spec.parameters))
            lists = {name: [kwargs.get(name, spec.defaults.get(name)) for _, kwargs in fitting] for name in names}
            try:
                gathered = self.settle(function(**lists))
                if not hasattr(gathered, "__len__") or isinstance(gathered, (str, bytes, dict)):
                    raise BadResult(f"{spec.name} is batched: it must give a list, not a {type(gathered).__name__}")
                if len(gathered) != len(fitting):
                    raise BadResult(f"{spec.name} gave {len(gathered)} results for a batch of {len(fitting)}")
                results.update(zip((call for call, _ in fitting), gathered))
            except BaseException as error:
                results.update((call, error) for call, _ in fitting)
        for call, value in results.items():
            try:
                if isinstance(value, BaseException):
                    raise value
                self.answer(wire.RESULT, call, value)
            except BaseException as error:
                self.error(call, error)

    def run_batch(self, call, meta, data):
        """A BATCH frame."""
        meta = wire.load_json(meta)
        calls, at = [], 0
        for each in meta["calls"]:
            call, size = each["call"], each["json"]
            text = data[at : at + size]
            at += size
            try:
                if call in self.cancelled:
                    self.cancelled.discard(call)
                    raise Cancelled
                calls.append((call, _keywords(text) if size else {}))
            except BaseException as error:
                self.error(call, error)
        if not calls:
            return
        try:
            with self.using(meta.get("version") or "") as loaded:
                spec, function, _, _, running = self.begin(calls[0][0], {"method": meta.get("method"), "version": meta.get("version")}, b"", loaded)
                current.set(running)
                self.batch(spec, function, calls)
        except BaseException as error:  # before the method: `batch` answers whatever it raises
            for call, _ in calls:
                self.error(call, error)

    def settle(self, value):
        """What a method gave, awaited where it must be."""
        return value


async def _awaited(result):
    return await result


def _keywords(text):
    """Keyword arguments as the caller sent them."""
    try:
        return wire.load_arguments(text)
    except ValueError as error:
        raise told("INVALID_ARGUMENT", f"the arguments can't be read: {error}", "bad_arguments") from None


def _told_of(error, spec, kwargs, reason):
    """ERROR's meta."""
    code, kind, trace = "INTERNAL", type(error).__name__, ""
    try:
        message = str(error)
    except BaseException as trouble:
        message = f"{kind}, whose text can't be had: {type(trouble).__name__}"
    if isinstance(error, Cancelled):
        code, reason, message = "CANCELLED", "cancelled", "nobody waits for this call any longer"
    elif isinstance(error, Error):
        code, reason, message = str(error.code), str(error.reason), str(error.message)
        kind = "" if type(error) is Error else kind
    elif isinstance(error, BadResult):
        reason = "bad_result"
    elif isinstance(error, NotImplementedError):
        code, reason = "UNIMPLEMENTED", "unknown_method"
    else:
        misfit = spec.misfit(kwargs) if isinstance(error, TypeError) and spec and kwargs is not None else None
        if misfit:
            code, reason, kind, message = "INVALID_ARGUMENT", "bad_arguments", "TypeError", misfit
        else:
            trace = "".join(traceback.format_exception(type(error), error, _of_model(error.__traceback__)))
            if isinstance(error, MemoryError):
                code, reason = "RESOURCE_EXHAUSTED", "memory"
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}… ({len(message)} characters)"
    return {"code": code, "reason": reason, "kind": kind, "message": message or kind, "traceback": trace[-32768:]}


def _tensors(value):
    """Whether a dict may be one of tensors: its first value is no plain one."""
    if type(value) is not dict or "numpy" not in sys.modules:
        return False
    for each in value.values():
        return hasattr(each, "dtype")
    return False


def _inline(parts, buffers):
    """Files of a result as bytes, for a host that does not see our files."""
    given = []
    for part in parts:
        if "file" in part:
            with open(part["file"], "rb") as file:
                buffers = [*buffers, file.read()]
            if part.get("remove"):
                os.unlink(part["file"])
            part = {"name": part["name"], "size": len(buffers[-1])}
        given.append(part)
    return given, buffers


def _of_model(trace):
    """A traceback without our own frames at its beginning."""
    here = os.path.dirname(__file__)
    while trace is not None and trace.tb_next is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == here:
        trace = trace.tb_next
    return trace


def _tensor(each):
    if isinstance(each, dict):
        return {"name": each["name"], "datatype": each["datatype"], "shape": list(each["shape"])}
    name, datatype, shape = each
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def find(name):
    """The class that `module:Class` names."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise Unfit("BadName", f"a model is named module:Class, not {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise Unfit("ModuleNotFoundError", f"there is no module {error.name!r} in {os.getcwd()} or on Python's path") from error
        raise Unfit("ModuleNotFoundError", f"{module_name} needs a module that is not installed: {error.name}", traceback.format_exc()) from error
    except BaseException as error:
        raise Unfit(type(error).__name__, f"{module_name} can't be imported: {error}", traceback.format_exc()) from error
    found = module
    for word in class_name.split("."):
        found = getattr(found, word, None)
        if found is None:
            have = sorted(each for each, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__)
            raise Unfit("NoClass", f"{module_name} has no class {class_name!r}" + (f"; it has {', '.join(have)}" if have else ""))
    if not isinstance(found, type):
        raise Unfit("NoClass", f"{name} is a {type(found).__name__}, not a class")
    return found


def construct(cls, version, datapath):
    """A model of the class, with as much of its version and folder as its constructor takes."""
    given = {"version": version, "datapath": datapath}
    accepts = inspect.signature(cls.__init__).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in accepts.values()):
        given = {name: value for name, value in given.items() if name in accepts}
    if issubclass(cls, Model):
        model = cls.__new__(cls, version=version, datapath=datapath)
        model.__init__(**given)
        return model
    if cls.__init__ is object.__init__:
        return cls()
    return cls(**given)
