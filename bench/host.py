#!/usr/bin/env python3
"""Measures servers of a Python model that does nothing; bench/host calls it.

  host.py [--part cost,chaos] [--peers tidegate,aio,…] [--rounds 5] [--secs 3] [--mib 1024] [--out FILE] [--table FILE]

cost   interleaved rounds: CPU seconds of all processes of the server for 100,000 calls, in a closed loop of 64 and at 500 calls/s
chaos  an input of --mib MiB through nginx and `chaos` by the Rust client, against `zstd -3 | zstd -d` of the same file
"""
import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
LOAD = os.path.join(os.environ.get("PEERBENCH_BIN", os.path.join(HERE, "tool", "target", "release")), "load")
TIDEGATE = os.environ.get("TIDEGATE_BIN", os.path.join(HERE, "..", "target", "dist", "tidegate"))
CALL = os.environ.get("TIDEGATE_CALL", os.path.join(HERE, "..", "target", "dist", "examples", "call"))
TICK = os.sysconf("SC_CLK_TCK")
PORT, HTTP_PORT, ADMIN, FRONT = 9510, 9511, 9512, 9513
MARK = "TIDEGATE_BENCH_MARK"
MODEL = """
from pathlib import Path
from tidegate import Model


class Nothing(Model):
    def predict(self):
        return None

    def size(self, binary_data: Path):
        with open(binary_data, "rb") as file:
            return file.seek(0, 2)
"""
# Input{kwargs_json: "{}"}
MESSAGE = "0a027b7d"
GRPC = ["grpc", "--conns", "4", "--message", MESSAGE, "--path", "/ai.AI/predict"]
HTTP = ["h1", "--conns", "64", "--json", "{}"]
# peer: {work: (port, load arguments)}; what is compared with what stands in RATIOS.
PEERS = {
    "tidegate": {"grpc": (PORT, GRPC), "http": (PORT, [*HTTP, "--path", "/nothing/predict"])},
    "aio": {"grpc": (PORT, GRPC)},
    "aio-bytes": {"grpc": (PORT, GRPC)},
    "mosec": {"http": (PORT, [*HTTP, "--path", "/inference"])},
    "ray": {"grpc": (PORT, GRPC), "http": (HTTP_PORT, [*HTTP, "--path", "/"])},
    "ray-fast": {"grpc": (PORT, GRPC), "http": (HTTP_PORT, [*HTTP, "--path", "/"])},
}
RATIOS = [("grpc", "aio"), ("grpc", "aio-bytes"), ("grpc", "ray"), ("grpc", "ray-fast"), ("http", "mosec"), ("http", "ray"), ("http", "ray-fast")]
# What Ray's documentation calls its high throughput mode: HAProxy in place of its own proxy, requests go from it to the replica directly.
RAY_FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


class Server:
    """A peer's processes: all that carry our mark, and their descendants."""

    def __init__(self, name, folder):
        self.name, self.mark = name, uuid.uuid4().hex
        self.log = os.path.join(folder, f"{name}.log")
        log = open(self.log, "ab")
        if name == "tidegate":
            with open(os.path.join(folder, "nothing.py"), "w", encoding="utf-8") as f:
                f.write(MODEL)
            words = [TIDEGATE, "serve", "nothing:Nothing", "--name", "nothing", "--path", folder, "--data", os.path.join(folder, "appdata"), "--python", sys.executable]
            words += ["--port", PORT, "--admin", f"127.0.0.1:{ADMIN}", "--workers", "1"]
        elif name == "mosec":
            words = [sys.executable, os.path.join(HERE, "host_mosec.py"), "--port", PORT, "--address", "127.0.0.1", "--log-level", "error"]
        else:
            words = [sys.executable, os.path.join(HERE, "host_peers.py"), name, PORT, *([HTTP_PORT] if name.startswith("ray") else [])]
        env = {**os.environ, MARK: self.mark, "RAY_USAGE_STATS_ENABLED": "0", **(RAY_FAST if name == "ray-fast" else {})}
        # HAProxy takes no socket whose path is longer than 97 bytes.
        for what, file in (("CONFIG_FILE_LOC", "haproxy.cfg"), ("SOCKET_PATH", "admin.sock"), ("SERVER_STATE_BASE", ""), ("SERVER_STATE_FILE", "state")):
            env[f"RAY_SERVE_HAPROXY_{what}"] = os.path.join(folder, "h", file)
        self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True, cwd=folder)

    def pids(self):
        found, parents, needle = set(), {}, f"{MARK}={self.mark}".encode()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/environ", "rb") as f:
                        if needle in f.read().split(b"\0"):
                            found.add(int(entry))
                    with open(f"/proc/{entry}/stat", encoding="utf-8") as f:
                        parents[int(entry)] = int(f.read().rsplit(")", 1)[1].split()[1])
                except OSError:
                    continue
        # A process that gives itself a title writes it over its environment.
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def cpu(self):
        """CPU seconds by process: {pid: (name, seconds)}."""
        used = {}
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                    name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
                fields = rest.split()
                used[pid] = (name, (int(fields[11]) + int(fields[12])) / TICK)
            except OSError:
                continue
        return used

    def wait(self, port, args, limit=90):
        """Until a call succeeds."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            if self.process.poll() is not None:
                with open(self.log, encoding="utf-8", errors="replace") as f:
                    raise SystemExit(f"{self.name} ended with {self.process.returncode}\n{f.read()[-2000:]}")
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    pass
                got = load(port, [*args, "--warm", "0", "--secs", "0.3"])
                if got["measured"] > 0 and got["errors"] == 0:
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.3)
        raise SystemExit(f"{self.name} does not answer")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        until = time.monotonic() + 5
        while (left := self.pids()) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


def load(port, args):
    out = subprocess.run([LOAD, args[0], "--addr", f"127.0.0.1:{port}", *args[1:]], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def put(rows, out, row):
    rows.append(row)
    print(row, flush=True)
    if out:
        out.write(json.dumps(row) + "\n")
        out.flush()


def cost(opts, folder, rows, out):
    names = [name for name in PEERS if name in opts.peers.split(",")]
    for round_ in range(opts.rounds):
        for name in names[round_ % len(names):] + names[: round_ % len(names)]:
            server = Server(name, folder)
            try:
                for work, (port, args) in PEERS[name].items():
                    server.wait(port, args)
                    for kind, more in (("full", ["--streams", "16"]), ("low", ["--rate", "500"])):
                        load(port, [*args, *more, "--warm", "0", "--secs", "1"])
                        before, began = server.cpu(), time.monotonic()
                        got = load(port, [*args, *more, "--warm", "0", "--secs", str(opts.secs)])
                        took, after = time.monotonic() - began, server.cpu()
                        by = {}
                        for pid, (process, seconds) in after.items():
                            by[process] = by.get(process, 0) + seconds - before.get(pid, ("", 0))[1]
                        cpu = sum(by.values())
                        row = {"peer": name, "work": work, "kind": kind, "round": round_, "calls": got["total"], "errors": got["errors"], "rps": round(got["total"] / took)}
                        row.update(cpu_per_100k=round(cpu / max(1, got["total"]) * 1e5, 2), p50_us=got["p50_us"], p99_us=got["p99_us"])
                        row["by"] = {process: round(seconds / max(1, got["total"]) * 1e5, 2) for process, seconds in by.items() if seconds > 0}
                        if got["errors"]:
                            row["first_error"] = got["first_error"]
                        put(rows, out, row)
            finally:
                server.stop()


def front(folder):
    """nginx before the server, as one has it: HTTP/2 in, gRPC on, the body as it comes."""
    path = os.path.join(folder, "nginx.conf")
    temp = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"""
{"user root;" if os.getuid() == 0 else ""} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; grpc_read_timeout 5s; {temp}
  server {{ listen 127.0.0.1:{FRONT} http2; location / {{ grpc_pass grpc://127.0.0.1:{PORT}; }} }}
}}""")
    nginx = os.environ.get("NGINX_BIN") or shutil.which("nginx") or "/usr/sbin/nginx"
    return subprocess.Popen([nginx, "-c", path, "-p", folder], stdin=subprocess.DEVNULL)


def chaos(opts, folder, rows, out):
    path = os.path.join(folder, "input")
    noise = os.urandom(4 << 20)
    with open(path, "wb") as f:
        # A quarter can't be compressed.
        for number in range(opts.mib):
            at = (number * 7919) % (3 << 20)
            f.write(noise[at : at + (1 << 18)] + bytes(3 << 18))
    server, nginx = Server("tidegate", folder), front(folder)
    try:
        server.wait(PORT, GRPC)
        server.wait(FRONT, GRPC)
        for round_ in range(opts.rounds):
            began = time.monotonic()
            subprocess.run("zstd -q -3 -T1 -c input | zstd -q -d -c > copy", shell=True, check=True, cwd=folder)
            copied = time.monotonic() - began
            os.remove(os.path.join(folder, "copy"))
            for work, port in (("chaos", FRONT), ("chaos without nginx", PORT)):
                before, began = server.cpu(), time.monotonic()
                made = subprocess.run([CALL, f"127.0.0.1:{port}", "size", "{}", path], capture_output=True, text=True, check=True)
                took, after = time.monotonic() - began, server.cpu()
                assert json.loads(made.stdout) == opts.mib << 20, made.stdout
                cpu = sum(seconds for _, seconds in after.values()) - sum(seconds for _, seconds in before.values())
                row = {"peer": "tidegate", "work": work, "round": round_, "mib": opts.mib, "copy_s": round(copied, 2), "chaos_s": round(took, 2)}
                put(rows, out, {**row, "ratio": round(copied / took, 2), "server_cpu_s": round(cpu, 2)})
    finally:
        server.stop()
        nginx.terminate()
        nginx.wait(20)
        os.remove(path)


def report(rows):
    lines = []
    for kind, words in (("full", "64 at a time"), ("low", "500 calls/s")):
        for work, peer in RATIOS:
            found = {(r["peer"], r["round"]): r["cpu_per_100k"] for r in rows if r.get("kind") == kind and r["work"] == work}
            rounds = [n for who, n in found if who == peer and ("tidegate", n) in found]
            if rounds:
                ratios = [found[peer, n] / found["tidegate", n] for n in rounds]
                ours, theirs = (statistics.median(found[who, n] for n in rounds) for who in ("tidegate", peer))
                if not lines:
                    lines = ["| | calls | Tidegate | other | other / Tidegate |", "|---|---|---|---|---|"]
                lines.append(f"| {peer}, {work} | {words} | {ours:.2f} | {theirs:.2f} | {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}] |")
    for work in ("chaos", "chaos without nginx"):
        copies = [r for r in rows if r["work"] == work]
        if copies:
            ratios, rates = [r["ratio"] for r in copies], [r["mib"] / r["chaos_s"] for r in copies]
            lines += [f"{work}: {statistics.median(rates):.0f} MiB/s, {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}] of the throughput of a copy through zstd -3"]
    return "\n".join(lines) + "\n"


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--part", default="cost,chaos")
    top.add_argument("--peers", default=",".join(PEERS))
    top.add_argument("--rounds", type=int, default=5)
    top.add_argument("--secs", type=float, default=3)
    top.add_argument("--mib", type=int, default=1024)
    top.add_argument("--out")
    top.add_argument("--table")
    opts = top.parse_args()
    rows, out = [], open(opts.out, "w", encoding="utf-8") if opts.out else None
    with tempfile.TemporaryDirectory(prefix="bh-") as folder:
        for part in opts.part.split(","):
            {"cost": cost, "chaos": chaos}[part](opts, folder, rows, out)
    table = report(rows)
    print(table)
    if opts.table:
        with open(opts.table, "w", encoding="utf-8") as f:
            f.write(table)


if __name__ == "__main__":
    main()
