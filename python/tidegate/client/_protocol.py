"""`ai.AI` on the wire: messages, results, errors. Four fields of protobuf need no protobuf."""

import json
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from .._errors import CODES, Error, told
from .._values import encode_arguments, tensor

UNARY = frozenset(("initialize", "train", "predict", "log"))
CHAOS = "/ai.AI/chaos"
UPLOAD_STATUS = "/tidegate.Uploads/Status"
PONG = b"PONG"
LEVEL = 3
CHUNK = 128 << 10


def zstd() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("streamed calls need zstandard: pip install 'tidegate[client]'") from error
    return zstandard


# --- protobuf ---


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(*fields: Tuple[int, bytes]) -> bytes:
    """A message of length-delimited fields."""
    return b"".join(_varint(number << 3 | 2) + _varint(len(value)) + value for number, value in fields if value)


def fields(data: bytes) -> Iterator[Tuple[int, Any]]:
    """(number, value) of a message: bytes or int."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield key >> 3, data[at : at + size]
        at += size


def first(data: bytes, number: int, default: Any = b"") -> Any:
    return next((value for found, value in fields(data) if found == number), default)


def raw(data: bytes) -> bytes:
    return message((1, data))


def of_raw(data: bytes) -> bytes:
    return first(data, 1)


def progress_of(data: bytes) -> bytes:
    """What a message tells of how far the call is; nothing: it is another one."""
    return first(data, 2) if data[:1] == b"\x12" else b""


# --- arguments and results ---


def unary_input(kwargs: Dict[str, Any], version: str, binary: bytes) -> bytes:
    return message((1, encode_arguments(kwargs)), (2, version.encode()), (3, binary))


def unary_result(data: bytes) -> Any:
    text = of_raw(data)
    return json.loads(text) if text else None


def opening(kwargs: Dict[str, Any], version: str, size: Optional[int], has_input: bool) -> bytes:
    """The first message of `chaos`."""
    reserved = [name for name in kwargs if name.startswith("_aipod") or name == "version"]
    if reserved:
        raise told("INVALID_ARGUMENT", f"the argument {reserved[0]!r} is reserved" + (": give it as an option" if reserved == ["version"] else ""), "reserved_argument")
    first_message = dict(kwargs)
    if version:
        first_message["version"] = version
    if not has_input:
        first_message["_aipod_binary_size"] = None
    elif size is not None:
        first_message["_aipod_binary_size"] = size
    return raw(zstd().ZstdCompressor(level=LEVEL).compress(encode_arguments(first_message)))


def compressed(blocks: Iterable[bytes], ending: Callable[[], None]) -> Iterator[bytes]:
    """Blocks of bytes as messages of one zstd stream. `ending` is called before that with its end is given."""
    chunker = zstd().ZstdCompressor(level=LEVEL).chunker(chunk_size=CHUNK)
    for block in blocks:
        for chunk in chunker.compress(block):
            yield raw(chunk)
    ending()
    for chunk in chunker.finish():
        yield raw(chunk)


class Results:
    """Puts values together from the messages of an answer: `add` gives a tuple with the value, or None while it is not whole."""

    def __init__(self) -> None:
        self._decompressor: Any = None
        self._value: Any = None
        self._parts: List[Dict[str, Any]] = []
        self._missing = 0
        self._data = bytearray()

    def add(self, data: bytes) -> Optional[Tuple[Any]]:
        if data == PONG or not data:
            return None
        if self._decompressor is None:
            self._decompressor = zstd().ZstdDecompressor()
        content = self._decompressor.decompressobj().decompress(data)
        if self._missing:
            self._data += content
            self._missing -= len(content)
            if self._missing > 0:
                return None
            return (self._whole(),)
        value = json.loads(content) if content else None
        if isinstance(value, dict) and "_aipod_parts" in value:
            self._value, self._parts = value.get("_aipod_value"), value["_aipod_parts"]
            self._missing, self._data = sum(part["size"] for part in self._parts), bytearray()
            return None if self._missing else (self._whole(),)
        return (value,)

    def _whole(self) -> Any:
        made, at = {}, 0
        for part in self._parts:
            data = bytes(self._data[at : at + part["size"]])
            at += part["size"]
            made[part.get("name", "")] = tensor(part["datatype"], part.get("shape") or [], data) if part.get("datatype") else data
        self._missing = 0
        if self._value is None:
            return made[""] if list(made) == [""] else made
        return {**self._value, **made} if isinstance(self._value, dict) else (self._value, made)


# --- errors ---


def error_of(code: str, details: str, trailers: Iterable[Tuple[str, Any]]) -> Error:
    """A status as an exception, with the reason and the model's exception where the host told them."""
    reason, exception, word = "", None, ""
    for key, value in trailers or ():
        if key == "x-tidegate-error":
            word = value
        elif key == "grpc-status-details-bin":
            try:
                reason, exception = _error_info(value)
            except (IndexError, ValueError, UnicodeDecodeError):
                continue
    error = told(code if code in CODES else "UNKNOWN", details, reason or word)
    error.exception = exception
    return error


def _error_info(status: bytes) -> Tuple[str, Optional[str]]:
    for number, value in fields(status):
        if number != 3 or not first(value, 1).endswith(b"google.rpc.ErrorInfo"):
            continue
        info = first(value, 2)
        entries = {first(entry, 1): first(entry, 2) for number, entry in fields(info) if number == 3}
        exception = entries.get(b"exception")
        return first(info, 1).decode(), exception.decode() if exception else None
    return "", None
