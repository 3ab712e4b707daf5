"""Ports and sockets on loopback."""

import os
import random
import socket
import struct

# Below the kernel's range for outgoing connections, so that no client's socket can take one meanwhile.
_LOW, _HIGH = 15000, 32000
_given = set()
_random = random.Random(os.getpid())


def free_port():
    """A port that nothing listens on and that this run hands out once."""
    for _ in range(1000):
        port = _random.randrange(_LOW, _HIGH)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free port on loopback")


def reset_on_close(sock):
    """Makes close() send RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
