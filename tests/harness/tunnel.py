"""Both ends of a tunnel over HTTP/2 (RFC 8441), on the h2 package: it knows the rules and breaks none."""

import socket
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

CONNECT_PROTOCOL = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL


class _End:
    """One end of a connection: a socket and the codec, with what is to be sent as the windows allow."""

    def __init__(self, sock, client):
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.codec = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding="utf-8"))
        self.pending, self.ending = {}, set()

    def begin(self, settings=()):
        self.codec.initiate_connection()
        if settings:
            self.codec.update_settings(dict(settings))
        self.flush()

    def flush(self):
        for stream in list(self.pending):
            self._push(stream)
        data = self.codec.data_to_send()
        if data:
            self.sock.sendall(data)

    def send(self, stream, data=b"", end=False):
        self.pending[stream] = self.pending.get(stream, b"") + data
        if end:
            self.ending.add(stream)
        self.flush()

    def _push(self, stream):
        data = self.pending[stream]
        while data:
            room = min(self.codec.local_flow_control_window(stream), self.codec.max_outbound_frame_size)
            if room <= 0:
                break
            self.codec.send_data(stream, data[:room])
            data = data[room:]
        self.pending[stream] = data
        if not data:
            del self.pending[stream]
            if stream in self.ending:
                self.ending.discard(stream)
                self.codec.end_stream(stream)

    def events(self):
        """What the next bytes say; `None` at the end of the connection."""
        try:
            data = self.sock.recv(1 << 17)
        except ConnectionError:
            return None
        if not data:
            return None
        events = self.codec.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.codec.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return events


class Server:
    """Answers an extended CONNECT with `status` and sends back what comes through it; anything else is answered with 200."""

    def __init__(self, connect=True, status=200):
        self.connect, self.status = connect, status
        self.requests, self.resets, self.connections = [], [], 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(_End(sock, client=False),), daemon=True).start()

    def _serve(self, end):
        if self.connect:
            # In the first settings, as RFC 8441 wants it.
            end.codec.local_settings = h2.settings.Settings(client=False, initial_values={CONNECT_PROTOCOL: 1})
        end.begin()
        with end.sock:
            while True:
                events = end.events()
                if events is None:
                    return
                for event in events:
                    self._take(end, event)
                end.flush()

    def _take(self, end, event):
        if isinstance(event, h2.events.RequestReceived):
            headers = dict(event.headers)
            self.requests.append(headers)
            if ":protocol" not in headers:
                end.codec.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                end.send(event.stream_id, b"ok", end=True)
            elif self.status == 200:
                end.codec.send_headers(event.stream_id, [(":status", "200"), ("sec-websocket-protocol", "chat")])
            else:
                end.codec.send_headers(event.stream_id, [(":status", str(self.status)), ("x-why", "not today")], end_stream=True)
        elif isinstance(event, h2.events.DataReceived) and self.status == 200:
            end.send(event.stream_id, event.data)
        elif isinstance(event, h2.events.StreamEnded) and self.requests[-1].get(":protocol") and self.status == 200:
            end.send(event.stream_id, end=True)
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.error_code)


class Tunnel:
    """A caller: `Tunnel(port).open("/chat")`, then bytes."""

    def __init__(self, port, timeout=10.0):
        self.end = _End(socket.create_connection(("127.0.0.1", port), timeout=timeout), client=True)
        self.end.begin()
        self.status, self.headers, self.trailers = None, {}, None
        self.received, self.ended, self.reset, self.stream = b"", False, None, None
        self.wait(lambda: self.end.codec.remote_settings.enable_connect_protocol == 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end.sock.close()

    def open(self, path="/", protocol="websocket", more=(("sec-websocket-version", "13"),)):
        self.stream = self.end.codec.get_next_available_stream_id()
        self.status, self.received, self.ended, self.reset = None, b"", False, None
        head = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":path", path), (":authority", "test.local"), *more]
        self.end.codec.send_headers(self.stream, head)
        self.end.flush()
        self.wait(lambda: self.status is not None or self.reset is not None)
        return self

    def send(self, data, end=False):
        self.end.send(self.stream, data, end)

    def exactly(self, size):
        self.wait(lambda: len(self.received) >= size)
        data, self.received = self.received[:size], self.received[size:]
        return data

    def cancel(self):
        self.end.codec.reset_stream(self.stream, h2.errors.ErrorCodes.CANCEL)
        self.end.flush()

    def wait(self, condition):
        while not condition():
            events = self.end.events()
            assert events is not None, "the connection ended"
            for event in events:
                self._take(event)
            self.end.flush()

    def _take(self, event):
        if getattr(event, "stream_id", None) != self.stream:
            return
        if isinstance(event, h2.events.ResponseReceived):
            self.headers = dict(event.headers)
            self.status = int(self.headers[":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.received += event.data
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.reset = event.error_code
