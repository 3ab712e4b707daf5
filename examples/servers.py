#!/usr/bin/env python3
"""Stand-ins for models, to try the examples with. Python's own library is all they need.

    python3 examples/servers.py 8501 8502 8503              one server a port, on 127.0.0.1
    python3 examples/servers.py --tls certificates 8501     over TLS; who calls must show a certificate of the same authority

Each answers every request with its port, in a process of its own. These paths make it behave badly (call them on the server's own
port, not through the gateway):

    /fail?count=5       the next five requests get a 500
    /slow?seconds=3     every request takes that long from now on
    /die                the process ends at once, as if killed
"""

import argparse
import os
import signal
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    wbufsize = -1  # head and body go out in one packet: the second of two would wait for the first to be acknowledged
    fail, slow = 0, 0.0

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        query, port = dict(parse_qsl(url.query)), self.server.server_port
        if url.path == "/die":
            os._exit(1)
        if url.path == "/fail":
            Model.fail = int(query.get("count", 1))
            return self.send(200, f"{port} will fail {Model.fail} times")
        if url.path == "/slow":
            Model.slow = float(query.get("seconds", 1))
            return self.send(200, f"{port} will take {Model.slow:g} s")
        time.sleep(Model.slow)
        if Model.fail > 0 and url.path != "/healthz":
            Model.fail -= 1
            return self.send(500, f"{port} failed")
        return self.send(200, str(port))

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def send(self, status, text):
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_):
        pass  # a caller that left


def serve(server, tls):
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{tls}/server.pem", f"{tls}/server.key")
        context.load_verify_locations(f"{tls}/ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tls", metavar="FOLDER", help="with server.pem, server.key and ca.pem")
    options.add_argument("ports", type=int, nargs="+")
    given = options.parse_args()
    try:
        # All of them listen before the first process is made: a port that is taken is told, and leaves none running.
        servers = [Server(("127.0.0.1", port), Model) for port in given.ports]
    except OSError as error:
        raise SystemExit(f"servers.py: {error.strerror}: one of the ports {given.ports}") from None
    children = []
    for server in servers:
        child = os.fork()
        if child == 0:
            for other in servers:
                if other is not server:
                    other.socket.close()
            try:
                serve(server, given.tls)
            except KeyboardInterrupt:
                os._exit(0)
        children.append(child)
    for server in servers:
        server.socket.close()

    def end(*_):
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it was told to die
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    while children:
        try:
            os.wait()
        except ChildProcessError:
            break


if __name__ == "__main__":
    main()
