"""nginx and HAProxy, to stand in front, behind, or beside as the measure."""

import os
import shutil

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


def answers(port, path="/"):
    """The status that a plain request gets."""
    return http1.get(port, path).status
