"""What of a class callers may call, and how."""

import inspect
import io
import pathlib
import typing

from ._model import LIFE, Model

_BINARY = {
    bytes: "bytes",
    bytearray: "bytes",
    memoryview: "bytes",
    pathlib.Path: "path",
    pathlib.PurePath: "path",
    typing.BinaryIO: "file",
    typing.IO: "file",
    io.BufferedReader: "file",
    io.BufferedIOBase: "file",
    io.RawIOBase: "file",
    io.IOBase: "file",
    io.BytesIO: "file",
}
_BY_NAME = {"bytes": "bytes", "Path": "path", "pathlib.Path": "path", "BinaryIO": "file", "typing.BinaryIO": "file", "IO[bytes]": "file", "typing.IO[bytes]": "file"}
_STREAMS = ("Iterator", "Generator", "AsyncIterator", "AsyncGenerator", "AsyncIterable")


class Spec:
    """A public method: what its signature and decorators say."""

    def __init__(self, name, function, bound=False):
        """`bound`: the function takes no `self`."""
        self.name = name
        self.function = function
        self.signature = inspect.signature(function)
        parameters = list(self.signature.parameters.values())
        if parameters and not bound:
            parameters = parameters[1:]
        hints = _hints(function)
        named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        self.parameters = [each.name for each in named]
        self.defaults = {each.name: each.default for each in named if each.default is not each.empty}
        self.any = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self.kinds = {}
        for each in named:
            kind = _kind(hints.get(each.name, each.annotation))
            if kind or each.name == "binary_data":
                self.kinds[each.name] = kind or "bytes"
        # Parameters that want no tensor: a tensor becomes what they say.
        self.plain = {each.name: kind for each in named for kind in [_plain(hints.get(each.name, each.annotation))] if kind}
        # The argument of a binary input that has no name of its own.
        self.binary = "binary_data" if "binary_data" in self.kinds else next(iter(self.kinds), "binary_data" if self.any and not hasattr(function, "__tidegate_plain__") else None)
        inner = inspect.unwrap(function)
        self.is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
        self.stream = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner) or _streams(hints.get("return", self.signature.return_annotation))
        marked = lambda mark, default: getattr(function, f"__tidegate_{mark}__", default)  # noqa: E731
        self.retry = marked("retry", name in ("predict", "log"))
        self.reload = marked("reload", name == "train")
        self.cancel = marked("cancel", name != "train")
        self.batch = marked("batch", None)
        if self.batch and self.stream:
            raise TypeError(f"{name} is a generator: it can't be batched")

    def about(self):
        doc = inspect.cleandoc(getattr(self.function, "__doc__", None) or "")
        told = {
            "stream": self.stream,
            "retry": self.retry,
            "parameters": self.parameters,
            "any": self.any,
            "reload": self.reload,
            "doc": doc.split("\n\n")[0],
        }
        if self.binary:
            told["binary"] = self.binary
        if self.batch:
            told["batch"] = self.batch
        return told

    def says(self):
        """The signature in words: `predict(text, limit=10)`."""
        names = [f"{name}={self.defaults[name]!r}" if name in self.defaults else name for name in self.parameters]
        return f"{self.name}({', '.join(names + (['**kwargs'] if self.any else []))})"

    def misfit(self, kwargs):
        """Why these arguments do not fit, or None."""
        unknown = [] if self.any else [name for name in kwargs if name not in self.parameters]
        missing = [name for name in self.parameters if name not in kwargs and name not in self.defaults]
        if not unknown and not missing:
            return None
        troubles = []
        if missing:
            troubles.append(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        if unknown:
            troubles.append(f"there is no {_listed(unknown)}")
        return f"{self.says()}: {'; '.join(troubles)}"


def _listed(names):
    return ", ".join(repr(name) for name in names)


def _hints(function):
    try:
        return typing.get_type_hints(function)
    except Exception:  # a name that is not there at run time
        return {}


def _kind(annotation):
    if isinstance(annotation, str):
        text = annotation.replace(" ", "").replace("|None", "")
        if text.startswith("Optional[") or text.startswith("typing.Optional["):
            text = text[text.index("[") + 1 : -1]
        return _BY_NAME.get(text)
    for each in (annotation, typing.get_origin(annotation), *typing.get_args(annotation)):
        try:
            if each in _BINARY:
                # list[bytes] and the like are JSON's business.
                if each in typing.get_args(annotation) and typing.get_origin(annotation) in (list, dict, tuple, set):
                    return None
                return _BINARY[each]
        except TypeError:  # not hashable
            continue
    return None


def _plain(annotation):
    """str, int, float, bool or list, where that is what is wanted."""
    if isinstance(annotation, str):
        return {"str": str, "int": int, "float": float, "bool": bool, "list": list}.get(annotation.split("[")[0].lower())
    kind = typing.get_origin(annotation) or annotation
    return kind if kind in (str, int, float, bool, list) else None


def _streams(annotation):
    if isinstance(annotation, str):
        return annotation.split("[")[0].split(".")[-1] in _STREAMS
    origin = typing.get_origin(annotation) or annotation
    return getattr(origin, "__name__", "") in _STREAMS


def methods(cls):
    """The public methods of a class by name."""
    found = {}
    for name in dir(cls):
        if name.startswith("_") or name in LIFE:
            continue
        plain = inspect.getattr_static(cls, name)
        if isinstance(plain, type) or isinstance(plain, property) or not callable(getattr(cls, name, None)):
            continue
        if name in ("predict", "train") and _only_announced(plain):
            continue
        bound = isinstance(plain, (staticmethod, classmethod))
        found[name] = Spec(name, getattr(cls, name) if bound else plain, bound)
    return found


def _only_announced(function):
    """Whether it is a base class's method that only says that there is none."""
    return function in (Model.predict, Model.train) or getattr(function, "__module__", "") == "aipod.model"
