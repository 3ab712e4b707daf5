"""A real Consul agent in development mode, and its HTTP API."""

import json
import subprocess

from . import http1
from .gateway import TOP
from .net import free_port
from .process import Process
from .wait import until


class Consul:
    def __init__(self, folder):
        self.folder = folder
        self.path = subprocess.run([TOP / "scripts/install-consul"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.strip()
        self.port = free_port()
        self.ports = {name: free_port() for name in ("serf-lan", "serf-wan", "server")}
        self.starts, self.process = 0, None
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.starts += 1
        config = {"ports": {"serf_lan": self.ports["serf-lan"], "serf_wan": self.ports["serf-wan"], "server": self.ports["server"], "dns": -1, "grpc": -1}}
        words = [self.path, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={self.port}", "-log-level=warn", "-disable-host-node-id", f"-hcl={json.dumps(config)}"]
        self.process = Process(words, self.folder / f"consul-{self.starts}.txt")
        until(self._has_leader, 30, "Consul elects a leader")

    def _has_leader(self):
        assert self.process.running(), self.process.log()
        answer = self.call("GET", "/v1/status/leader")
        # A leader answers catalogue questions only after its own node is registered.
        return answer.status == 200 and len(answer.body) > 4 and b"ServiceID" in self.call("GET", "/v1/health/service/consul").body

    def call(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        try:
            return http1.request(self.port, method, path, [], data, host="127.0.0.1")
        except http1.Closed as closed:
            raise OSError(str(closed)) from None

    def register(self, service, identity, port, address="127.0.0.1", tags=(), weights=None, check=None):
        """Registers an instance; without a check of its own it counts as passing at once."""
        body = {"Name": service, "ID": identity, "Address": address, "Port": port, "Tags": list(tags)}
        if weights:
            body["Weights"] = weights
        if check:
            body["Check"] = check
        answer = self.call("PUT", "/v1/agent/service/register", body)
        assert answer.status == 200, answer

    def deregister(self, identity):
        assert self.call("PUT", f"/v1/agent/service/deregister/{identity}").status == 200

    def set_ttl(self, identity, status):
        assert self.call("PUT", f"/v1/agent/check/{status}/service:{identity}").status == 200

    def instances(self, service):
        return json.loads(self.call("GET", f"/v1/health/service/{service}").body)

    def stop(self):
        self.process.kill()

    def end(self):
        if self.process:
            self.process.end()
