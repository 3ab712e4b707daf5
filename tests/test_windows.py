"""HTTP/2 windows grow where they hold traffic up, and only there; who stops reading holds up nobody else."""

import h2.events
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from harness import http2, tunnel, upstream
from harness.gateway import simple
from harness.wait import until

START, LARGEST, LARGEST_CONNECTION = 256 << 10, 4 << 20, 8 << 20
INITIAL_WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


class Uploader(http2.Client):
    """Sends a body as fast as the windows allow, over a line that holds as much as they do: a ping is answered after what the
    windows allowed was sent."""

    def __init__(self, port, size):
        super().__init__(port)
        self.auto = False
        self.left, self.windows, self.given = size, {0: 65535}, 0
        self.stream_start = START
        while INITIAL_WINDOW not in self.settings:
            self._handle(self.next_frame())
        self.stream_start = self.settings[INITIAL_WINDOW]
        self.largest, self.pings_seen = self.stream_start, 0
        self.number = self.request(http2.request_headers("POST", "/up", more=[("content-length", str(size))]), end=False)
        self.windows[self.number] = self.stream_start

    def run(self):
        held = []
        while not self.streams[self.number].done:
            sent = self._send()
            if sent or not held:
                for ping in held:
                    self.frame(PingFrame(0, ping.opaque_data), "ACK")
                held.clear()
                frame = self.next_frame()
                self._handle(frame)
                if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                    self.pings_seen += 1
                    held.append(frame)
            else:
                for ping in held:
                    self.frame(PingFrame(0, ping.opaque_data), "ACK")
                held.clear()
        return self.streams[self.number]

    def _send(self):
        total = 0
        while self.left:
            room = min(self.windows[0], self.windows[self.number], 16384, self.left)
            if room <= 0:
                break
            self.left -= room
            self.windows[0] -= room
            self.windows[self.number] -= room
            total += room
            self.frame(DataFrame(self.number, b"u" * room), *(["END_STREAM"] if not self.left else []))
        return total

    def _handle(self, frame):
        if isinstance(frame, WindowUpdateFrame):
            self.windows[frame.stream_id] = self.windows.get(frame.stream_id, 0) + frame.window_increment
            if frame.stream_id == 0:
                self.given += frame.window_increment
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            if INITIAL_WINDOW in frame.settings and hasattr(self, "number"):
                self.windows[self.number] += frame.settings[INITIAL_WINDOW] - self.largest
                self.largest = frame.settings[INITIAL_WINDOW]
            self.frame(SettingsFrame(0), "ACK")


def test_a_caller_that_fills_its_window_gets_a_larger_one_within_bounds(tidegate, server):
    size = 64 << 20
    gateway = tidegate(simple(server(upstream.swallow(), read_body=False)))
    with Uploader(gateway.port, size) as client:
        assert client.stream_start == START
        answer = client.run()
        assert answer.status == 200 and answer.body == b"%d" % size
        assert START < client.largest <= LARGEST
        # What was given beyond what was sent is the window of the connection.
        assert 65535 + client.given - size <= LARGEST_CONNECTION


def test_small_bodies_cost_no_pings(tidegate, server):
    gateway = tidegate(simple(server(upstream.ok())))
    with Uploader(gateway.port, 1000) as client:
        assert client.run().status == 200
        assert client.pings_seen == 0 and client.largest == START


def test_window_updates_for_every_frame_of_a_long_download_are_no_flood(tidegate, server):
    size, got, frames = 32 << 20, 0, 0
    gateway = tidegate(simple(server(upstream.download(size))))
    with http2.Client(gateway.port) as client:
        stream = client.streams.setdefault(client.request(), http2.Stream())
        while not stream.done:
            frames += isinstance(client.next_frame(), DataFrame)
            got += len(stream.body)
            stream.body = b""
    assert stream.ended and got == size and frames > 2000


class Bulk(tunnel.Server):
    """Answers `/bulk` with two megabytes, as the windows allow, and anything else at once."""

    def __init__(self):
        super().__init__(connect=False)
        self.ends = []

    def _serve(self, end):
        self.ends.append(end)
        super()._serve(end)

    def _take(self, end, event):
        if isinstance(event, h2.events.RequestReceived) and dict(event.headers)[":path"] == "/bulk":
            self.requests.append(dict(event.headers))
            end.codec.send_headers(event.stream_id, [(":status", "200")])
            end.send(event.stream_id, b"b" * (2 << 20), end=True)
        else:
            if isinstance(event, h2.events.StreamReset):
                end.pending.pop(event.stream_id, None)
            super()._take(end, event)

    def stalled(self):
        """Whether all that is left to send waits for windows."""
        return all(end.codec.local_flow_control_window(stream) == 0 for end in list(self.ends) for stream in list(end.pending))


def test_callers_that_stop_reading_hold_up_nobody_on_the_connection_they_share(tidegate):
    behind = Bulk()
    gateway = tidegate(simple(behind, upstream_more={"protocol": "http2", "connection_pool": {"max_connections": 1}}), workers=1)
    stopped = [http2.Client(gateway.port, settings={INITIAL_WINDOW: 0}) for _ in range(40)]
    try:
        for caller in stopped:
            caller.request(http2.request_headers(path="/bulk"))
        until(lambda: len(behind.requests) == 40 and behind.stalled(), what="as much sent as may be")
        for _ in range(3):
            assert gateway.get("/other", timeout=5).body == b"ok"
        assert behind.connections == 1
        # One that reads on gets all of it.
        with http2.Client(gateway.port) as reader:
            answer = reader.response(reader.request(http2.request_headers(path="/bulk")))
            assert answer.ended and len(answer.body) == 2 << 20
    finally:
        for caller in stopped:
            caller.close()
        behind.stop()
