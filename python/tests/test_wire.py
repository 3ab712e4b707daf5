"""Frames on a connection that several threads write to."""

import socket
import threading

import pytest

from tidegate import _wire as wire


@pytest.fixture
def link():
    """A link, and what its other end reads: `link.read_all(n)` gives n frames as (kind, call, length of the data)."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    link, other = wire.Link(ours), wire.Link(theirs)

    def read_all(count):
        got = []
        while len(got) < count:
            other.read(got)
        return [(kind, call, len(data)) for kind, call, _, data in got]

    link.read_all = read_all
    yield link
    ours.close()
    theirs.close()


def test_a_frame_that_is_put_while_another_thread_sends_is_sent_too(link, monkeypatch):
    made = wire.pack

    def pack(*fields):
        link.flush()  # a thread that sends comes between
        return made(*fields)

    link.put(wire.PONG, 1)
    monkeypatch.setattr(wire, "pack", pack)
    link.put(wire.RESULT, 2, None, b"ab")
    link.put(wire.RESULT, 3, None, bytes(70_000))
    link.flush()
    assert link.read_all(3) == [(wire.PONG, 1, 0), (wire.RESULT, 2, 2), (wire.RESULT, 3, 70_000)]


def test_a_large_frame_is_not_divided_by_one_of_another_thread(link):
    class Out(list):
        """Another thread puts a frame behind each step."""

        def append(self, frame):
            super().append(frame)
            self.other()

        def extend(self, frames):
            super().extend(frames)
            self.other()

        def other(self):
            link.out = plain
            link.put(wire.RESULT, 9, None, b"cd")
            plain[:0] = self

    plain = []
    link.out = Out()
    link.put(wire.RESULT, 1, None, bytes(70_000))
    link.flush()
    assert link.read_all(2) == [(wire.RESULT, 1, 70_000), (wire.RESULT, 9, 2)]


@pytest.mark.parametrize("size", [0, 65_535, 65_536, wire.LONGEST + 1])
def test_data_of_every_length_arrives_as_it_was(link, size):
    data = bytes(range(256)) * (size // 256 + 1)
    writer = threading.Thread(target=link.send, args=(wire.RESULT, 5, {"json": 1}, data[:size]))
    writer.start()
    assert link.read_all(1) == [(wire.RESULT, 5, size)]
    writer.join()
