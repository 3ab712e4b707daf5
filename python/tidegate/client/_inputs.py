"""Binary inputs: bytes, a path, a file, or an iterable of bytes."""

import io
import os
import threading
from typing import Any, Iterator, Optional

BLOCK = 1 << 20


def is_input(value: Any) -> bool:
    """Whether an argument is a binary input: no JSON."""
    return isinstance(value, (bytes, bytearray, memoryview, os.PathLike)) or hasattr(value, "read") or hasattr(value, "__next__")


class Input:
    """A binary input. `size` is None where it is not known before; `again` says whether it can be read from any place once more."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.used = False
        self._turn = 0
        self._reading = threading.Lock()
        self.size: Optional[int] = None
        self.again = True
        if isinstance(value, (bytes, bytearray, memoryview)):
            self.value = memoryview(value).cast("B")
            self.size = len(self.value)
        elif isinstance(value, os.PathLike):
            self.size = os.stat(value).st_size
        elif hasattr(value, "read"):
            try:
                self.start = value.tell()
                self.size = value.seek(0, io.SEEK_END) - self.start
                value.seek(self.start)
            except (OSError, AttributeError, io.UnsupportedOperation):
                self.size, self.again = None, False
        elif hasattr(value, "__iter__"):
            self.again = False
        else:
            raise TypeError(f"an input is bytes, a path, a file or an iterable of bytes, not a {type(value).__name__}")

    @property
    def repeatable(self) -> bool:
        return self.again or not self.used

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on."""
        self.used = True
        value = self.value
        if isinstance(value, memoryview):
            for at in range(offset, len(value), BLOCK):
                yield bytes(value[at : at + BLOCK])
        elif isinstance(value, os.PathLike):
            with open(value, "rb") as file:
                file.seek(offset)
                while True:
                    block = file.read(BLOCK)
                    if not block:
                        return
                    yield block
        elif hasattr(value, "read"):
            yield from self._read(value, offset)
        else:
            yield from value

    def _read(self, file: Any, offset: int) -> Iterator[bytes]:
        """A file that is not ours: an earlier attempt may still be reading it, and must stop."""
        with self._reading:
            self._turn += 1
            turn = self._turn
            if self.again:
                file.seek(self.start + offset)
        while True:
            with self._reading:
                if turn != self._turn:
                    return
                block = file.read(BLOCK)
            if not block:
                return
            yield block

    def all(self) -> bytes:
        return b"".join(self.blocks())
