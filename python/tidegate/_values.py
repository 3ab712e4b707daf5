"""Arguments and results: JSON, and the parts beside it (bytes, files, tensors)."""

import array
import dataclasses
import datetime
import decimal
import enum
import errno
import io
import json
import math
import os
import stat
import struct
import sys
import tempfile
import uuid
from pathlib import Path

from ._errors import told

# Open Inference Protocol type: (numpy's name, code of struct and memoryview, bytes an element)
DATATYPES = {
    "BOOL": ("bool", "?", 1),
    "UINT8": ("uint8", "B", 1),
    "UINT16": ("uint16", "H", 2),
    "UINT32": ("uint32", "I", 4),
    "UINT64": ("uint64", "Q", 8),
    "INT8": ("int8", "b", 1),
    "INT16": ("int16", "h", 2),
    "INT32": ("int32", "i", 4),
    "INT64": ("int64", "q", 8),
    "FP16": ("float16", "e", 2),
    "FP32": ("float32", "f", 4),
    "FP64": ("float64", "d", 8),
}
_BY_NUMPY = {name: (datatype, size) for datatype, (name, _, size) in DATATYPES.items()}

# A result of more bytes than this goes to the host in a file where both see the same ones.
FILE_FROM = 4 << 20


class File:
    """A file as a result: its content is what the caller gets. With `remove` it is removed when it was sent."""

    def __init__(self, path: "os.PathLike[str] | str", remove: bool = False) -> None:
        self.path = Path(path)
        self.remove = remove


# --- JSON ---


def _other(value):
    """What the JSON encoder does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset, range)) or type(value).__name__ in ("dict_keys", "dict_values", "deque"):
        return list(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("bytes can't stand inside JSON: return them alone, or as text")
    dump = getattr(value, "model_dump", None)  # pydantic
    if callable(dump):
        return dump(mode="json")
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return value.tolist()
    if hasattr(value, "__array__"):  # tensors of other libraries
        return _numpy_of(value).tolist()
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} can't be written as JSON".replace("builtins.", ""))


_slow = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_other)


def _make_encoder():
    """The C encoder, made once: JSONEncoder.encode makes one a call."""
    try:
        from json.encoder import c_make_encoder, encode_basestring

        encoder = c_make_encoder(None, _other, encode_basestring, None, ":", ",", False, False, False)
        if "".join(encoder({"a": [1, "é"]}, 0)) == '{"a":[1,"é"]}':
            return lambda value: "".join(encoder(value, 0)).encode()
    except Exception:  # another Python's encoder
        pass
    return lambda value: _slow.encode(value).encode()


_encode = _make_encoder()


class BadResult(Exception):
    """A result that can't be told to the caller."""


def encode_json(value):
    """JSON text of a value; BadResult says what can't be written, and where in the result it is."""
    try:
        return _encode(value)
    except RecursionError:
        raise BadResult("the result holds itself, or is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise BadResult(f"the result holds text that is no Unicode: {error}") from None
    except Exception as error:
        where, why = _find(value, "result", 0) or ("result", str(error))
        raise BadResult(f"{where}: {why}") from error


def encode_arguments(kwargs):
    """JSON text of a call's keyword arguments; TypeError or ValueError says which can't be written."""
    try:
        return _encode(kwargs)
    except RecursionError:
        raise ValueError("the arguments hold themselves, or are nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"the arguments hold text that is no Unicode: {error}") from None
    except Exception as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        for name, value in kwargs.items():
            found = _find(value, str(name), 0)
            if found:
                raise kind(f"argument {found[0]}: {found[1]}") from None
        raise kind(f"the arguments can't be written: {error}") from error


def _find(value, where, depth):
    """The first place that JSON can't say."""
    if depth > 50 or value is None or isinstance(value, (str, bool, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (where, f"{value!r} is no number in JSON")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, (str, int, float, bool, type(None))):
                return where, f"the key {key!r} is a {type(key).__name__}; JSON's keys are text"
            found = _find(each, f"{where}[{key!r}]", depth + 1)
            if found:
                return found
        return None
    if isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            found = _find(each, f"{where}[{index}]", depth + 1)
            if found:
                return found
        return None
    try:
        return _find(_other(value), where, depth + 1)
    except Exception as error:
        return where, str(error) or type(error).__name__


# --- results ---


def parts_of(value):
    """(json, parts, buffers) of a result that is no plain JSON, or None: parts as the protocol has them, without files yet."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        view = memoryview(value)
        return b"null", [{"name": "", "size": view.nbytes}], [view if view.contiguous else view.tobytes()]
    if isinstance(value, (File, Path)):
        file = value if isinstance(value, File) else File(value)
        try:
            about = file.path.stat()
        except (OSError, ValueError) as error:
            raise BadResult(f"the file of the result can't be read: {error}") from error
        if not stat.S_ISREG(about.st_mode):
            raise BadResult(f"{file.path} can't be a result: it is {'a folder' if stat.S_ISDIR(about.st_mode) else 'no file'}")
        name = str(file.path.absolute())
        if name != name.encode("utf-8", "replace").decode():
            raise BadResult(f"{name!r} can't be a result: its name is no Unicode")
        part = {"name": "", "file": name, "size": about.st_size}
        if file.remove:
            part["remove"] = True
        return b"null", [part], []
    if _is_tensor(value):
        part, data = _tensor_part("", value)
        return b"null", [part], [data]
    if type(value) is dict and value and all(_is_tensor(each) and isinstance(name, str) for name, each in value.items()):
        made = [_tensor_part(name, each) for name, each in value.items()]
        return b"null", [part for part, _ in made], [data for _, data in made]
    return None


def spool(parts, buffers, folder):
    """Moves the bytes of a result into one file a part, or leaves none."""
    moved = []
    try:
        for part, data in zip(parts, buffers):
            handle, path = tempfile.mkstemp(prefix=f"result-{os.getpid()}-", dir=folder)
            moved.append({**part, "file": path, "remove": True})
            with os.fdopen(handle, "wb") as file:
                file.write(data)
    except BaseException as error:
        for part in moved:
            os.unlink(part["file"])
        raise no_room(error, "result") or error
    return moved


def no_room(error, what):
    """What is told of a failure to write, if the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return told("RESOURCE_EXHAUSTED", f"the worker has no room for the {what}", "disk_full")
    return None


def _is_tensor(value):
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _numpy_of(value):
    import numpy

    return numpy.asarray(value)


def _tensor_part(name, value):
    shape = list(value.shape)
    kind = value.dtype.kind
    if kind in "OSU":
        data = bytearray()
        for each in value.ravel().tolist():
            each = each if isinstance(each, bytes) else str(each).encode()
            data += struct.pack("<I", len(each)) + each
        return {"name": name, "size": len(data), "datatype": "BYTES", "shape": shape}, data
    found = _BY_NUMPY.get(value.dtype.name)
    if found is None:
        if value.dtype.name == "bfloat16":
            found = "BF16", 2
        else:
            raise BadResult(f"an array of {value.dtype} has no type in the Open Inference Protocol; use astype")
    import numpy

    little = numpy.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    data = memoryview(little.reshape(-1).view(numpy.uint8))
    return {"name": name, "size": data.nbytes, "datatype": found[0], "shape": shape}, data


# --- arguments ---


class Held:
    """What an argument needs until the call was answered: open files, temporary ones."""

    def __init__(self):
        self._open = []
        self._remove = []

    def opened(self, file):
        self._open.append(file)
        return file

    def temporary(self, path):
        self._remove.append(path)
        return path

    def close(self):
        for file in self._open:
            try:
                file.close()
            except Exception:  # a model's own trouble with its file ends here
                pass
        for path in self._remove:
            try:
                os.unlink(path)
            except OSError:
                pass


def argument(part, data, kind, held):
    """A part as the method wants it. `data`: its bytes, or None where they are in a file; `kind`: bytes, file or path."""
    if "datatype" in part:
        if data is None:
            with open(part["file"], "rb") as file:
                data = file.read()
        return tensor(part["datatype"], part.get("shape") or [], data)
    if kind == "file":
        return held.opened(io.BytesIO(data) if data is not None else open(part["file"], "rb"))
    if kind == "path":
        if data is None:
            return Path(part["file"])
        if hasattr(os, "memfd_create"):  # a file in memory: none is left behind, however the process ends
            memory = held.opened(os.fdopen(os.memfd_create("input"), "wb"))
            memory.write(data)
            memory.flush()
            return Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        handle, path = tempfile.mkstemp(prefix="input-", dir=os.environ.get("TIDEGATE_SPOOL"))
        held.temporary(path)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        return Path(path)
    if data is None:
        with open(part["file"], "rb") as file:
            return file.read()
    return data if isinstance(data, bytes) else bytes(data)


def tensor(datatype, shape, data):
    """A numpy array (not writable), or a memoryview of that shape where there is no numpy; of BYTES an array or list of bytes."""
    count = math.prod(shape)
    try:
        import numpy
    except ImportError:
        numpy = None
    if datatype == "BYTES":
        items, at, view = [], 0, memoryview(data)
        while at < len(view):
            if at + 4 > len(view):
                raise _bad_tensor(datatype, shape, len(data))
            (size,) = struct.unpack_from("<I", view, at)
            at += 4
            if at + size > len(view):
                raise _bad_tensor(datatype, shape, len(data))
            items.append(bytes(view[at : at + size]))
            at += size
        if len(items) != count:
            raise _bad_tensor(datatype, shape, len(data))
        if numpy is None:
            return _nested(items, shape)
        flat = numpy.empty(count, dtype=object)
        flat[:] = items
        return flat.reshape(shape)
    known = DATATYPES.get(datatype)
    if known is None:
        raise told("INVALID_ARGUMENT", f"tensors of {datatype} are not known here", "bad_arguments")
    name, code, size = known
    if len(data) != count * size:
        raise _bad_tensor(datatype, shape, len(data))
    if numpy is not None:
        return numpy.frombuffer(data, dtype=numpy.dtype(name).newbyteorder("<")).reshape(shape)
    if sys.byteorder == "big" and size > 1:
        swapped = array.array(code, bytes(data))
        swapped.byteswap()
        data = swapped.tobytes()
    view = memoryview(data).cast("B")
    if not shape or not count:
        return view.cast(code)
    return view.cast(code, shape)


def plain(value, kind):
    """A tensor as a list, or as its only element, for a parameter that says so."""
    value = value.tolist() if hasattr(value, "tolist") else value
    value = _decoded(value)
    if kind is list:
        return value if isinstance(value, list) else [value]
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _decoded(value):
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return value


def _bad_tensor(datatype, shape, size):
    return told("INVALID_ARGUMENT", f"{size} bytes are no tensor of {datatype} {shape}", "bad_arguments")


def _nested(items, shape):
    for axis in reversed(shape[1:]):
        items = [items[at : at + axis] for at in range(0, len(items), axis)] if axis else []
    return items
