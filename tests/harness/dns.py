"""A small DNS server over UDP: A, AAAA and SRV records that a test can change."""

import socket
import struct
import threading

from .net import free_port

A, AAAA, SRV = 1, 28, 33


class Dns:
    """`records`: {(name, type): [data]}; data is an address, or (priority, weight, port, target)."""

    def __init__(self, ttl=1):
        self.records, self.ttl, self.port = {}, ttl, free_port()
        self.questions, self.broken = [], False
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", self.port))
        self.tcp = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def end(self):
        self.sock.close()
        self.tcp.close()

    def _serve(self):
        while True:
            try:
                query, peer = self.sock.recvfrom(4096)
                self.sock.sendto(self._answer(query), peer)
            except OSError:
                return

    def _answer(self, query):
        name, at = _name(query, 12)
        kind = struct.unpack(">H", query[at : at + 2])[0]
        question = query[12 : at + 4]
        self.questions.append((name, kind))
        if self.broken:
            return query[:2] + struct.pack(">HHHHH", 0x8182, 1, 0, 0, 0) + question  # SERVFAIL
        found = self.records.get((name, kind), [])
        known = any(key[0] == name for key in self.records)
        answers = b"".join(b"\xc0\x0c" + struct.pack(">HHI", kind, 1, self.ttl) + _data(kind, each) for each in found)
        code = 0x8180 if known else 0x8183
        return query[:2] + struct.pack(">HHHHH", code, 1, len(found), 0, 0) + question + answers


def _name(message, at):
    labels = []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels).lower(), at + 1


def _data(kind, value):
    if kind == SRV:
        priority, weight, port, target = value
        encoded = b"".join(bytes([len(p)]) + p.encode() for p in target.split(".")) + b"\0"
        data = struct.pack(">HHH", priority, weight, port) + encoded
    else:
        data = socket.inet_pton(socket.AF_INET if kind == A else socket.AF_INET6, value)
    return struct.pack(">H", len(data)) + data
