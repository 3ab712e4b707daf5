#!/usr/bin/env python3
"""Measures proxies side by side on one machine; see README.md.

  bench.py run    [--peers a,b] [--work W1,W2] [--rounds 5] [--out FILE] [--cores 0] [--scale 1.0]
  bench.py report FILE...
  bench.py list
"""
import argparse
import collections
import json
import os
import re
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.environ.get("PEERBENCH_BIN", os.path.join(HERE, "tool", "target", "release"))
RUN = os.environ.get("PEERBENCH_RUN", os.path.join(os.environ.get("TMPDIR", "/tmp"), "peerbench"))
LOAD_CORE = int(os.environ.get("PEERBENCH_LOAD_CORE", "1"))
# Not "$NGINX": nginx itself reads that variable, as a list of sockets to inherit.
for _name in ("envoy", "nginx", "haproxy", "tidegate"):
    os.environ.setdefault(_name.upper() + "_BIN", _name)
UP_H1, UP_H2 = 9001, 9002
TICK = os.sysconf("SC_CLK_TCK")

# name: (which port, load arguments, what it is). {s} are seconds scaled by --scale.
WORK = collections.OrderedDict([
    ("W1", ("port", "h1 --conns 64 --warm 1 --secs {s3}", "HTTP/1.1 POST 1 KiB -> 1 KiB, 64 connections")),
    ("W2", ("port2", "grpc --conns 4 --streams 32 --warm 1 --secs {s3}", "gRPC unary 1 KiB, 4 connections x 32 streams")),
    ("W3", ("port", "sse --streams 100 --waves 2", "SSE, 100 streams x 200 tokens, one each 10 ms")),
    ("W3f", ("port", "sse --streams 300 --waves 1", "SSE, 300 streams x 200 tokens, one each 10 ms: 30,000 tokens/s offered")),
    ("W4", ("port", "upload --bytes 1073741824", "1 GiB upload, HTTP/1.1 Content-Length")),
    ("W4c", ("port", "upload --bytes 1073741824 --chunked", "1 GiB upload, HTTP/1.1 chunked")),
    ("W4g", ("port2", "upload --bytes 1073741824 --h2", "1 GiB upload, gRPC client stream")),
    ("W4s", ("port", "upload --bytes 134217728 --path /upload?delay_us=500", "128 MiB upload to a slow reader")),
    ("W5", ("port", "idle --conns 10000 --max-secs 60", "10,000 idle keep-alive connections")),
    ("W6", ("port", "h1 --conns 16 --rate 500 --warm 1 --secs {s8}", "HTTP/1.1 at 500 requests/s")),
    ("W6g", ("port2", "grpc --conns 4 --rate 500 --warm 1 --secs {s8}", "gRPC at 500 requests/s")),
    ("C1", ("port", "h1 --chat --conns 64 --warm 1 --secs {s3}", "chat completion, no stream, 64 connections")),
    ("C6", ("port", "h1 --chat --conns 16 --rate 50 --warm 2 --secs {s8}", "chat completion at 50 requests/s")),
    ("C3", ("port", "sse --streams 20 --waves 1", "SSE, 20 streams x 200 tokens, one each 10 ms")),
    ("C5", ("port", "idle --conns 2000 --max-secs 60 --chat", "2,000 idle keep-alive connections")),
])
# The proxy is started afresh before these, so that memory left by earlier runs does not count.
FRESH = {"W4", "W4g", "W4s", "W5", "C1", "C5"}
GROUPS = {
    "wire": ["W1", "W2", "W3", "W3f", "W4", "W4c", "W4g", "W4s", "W5", "W6", "W6g"],
    "chat": ["C1", "C3", "W3"],
    "llm": ["C1", "C3", "C5", "C6"],
}


class Peer:
    def __init__(self, line):
        cells = [c.strip() for c in line.split("|", 6)]
        if len(cells) != 7:
            raise SystemExit(f"peers.conf: seven cells wanted: {line}")
        self.name, self.cores, port, port2, work, sets, self.command = cells
        self.port, self.port2 = int(port), int(port2)
        self.work = []
        for w in work.split():
            self.work += [x for x in GROUPS.get(w, [w]) if x not in self.work]
        self.sets = dict(s.split("=", 1) for s in sets.split())
        # What the load client adds to each request for this proxy alone.
        self.load = ["--headers", self.sets.pop("HEADERS")] if "HEADERS" in self.sets else []
        self.proc = None

    def start(self):
        """Starts the proxy; gives milliseconds from exec to its first good answer."""
        if self.command == "-":
            return None
        run = os.path.join(RUN, self.name)
        os.makedirs(run, exist_ok=True)
        names = {"port": self.port, "port2": self.port2, "run": run, "up_h1": f"127.0.0.1:{UP_H1}",
                 "up_h2": f"127.0.0.1:{UP_H2}", "up_h1_port": UP_H1, "up_h2_port": UP_H2}

        def config(match):
            with open(os.path.join(HERE, "peers", match.group(1))) as f:
                text = f.read()
            for k, v in {**{k.upper(): v for k, v in names.items()}, **self.sets}.items():
                text = text.replace(f"@{k}@", str(v))
            path = os.path.join(run, match.group(1))
            with open(path, "w") as f:
                f.write(text)
            return path

        command = re.sub(r"\{cfg:([^}]+)\}", config, self.command)
        for k, v in names.items():
            command = command.replace("{" + k + "}", str(v))
        argv = shlex.split(os.path.expandvars(command))
        from_disk(argv[0])
        env = {**os.environ, **self.sets}
        log = open(os.path.join(run, "log.txt"), "ab")
        began = time.monotonic()
        self.proc = spawn(argv, cores(self.cores), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        chat = [] if "W1" in self.work else ["--chat"]
        got = load(["ping", "--addr", f"127.0.0.1:{self.port}", "--max-secs", "90"] + chat + self.load, 100)
        ms = (time.monotonic() - began) * 1000
        if got.get("errors"):
            self.stop()
            raise RuntimeError(f"{self.name} gave no good answer: {got}; see {run}/log.txt")
        if "W2" in self.work:
            got = load(["ping", "--addr", f"127.0.0.1:{self.port2}", "--h2", "--max-secs", "10"], 20)
            if got.get("errors"):
                self.stop()
                raise RuntimeError(f"{self.name} gave no good gRPC answer: {got}")
        return ms

    def stop(self):
        if self.proc is None:
            return
        # The group was made by spawn() for this proxy alone.
        for sig, wait in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            try:
                os.killpg(self.proc.pid, sig)
                self.proc.wait(wait)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        try:
            os.killpg(self.proc.pid, signal.SIGKILL)  # children that outlived the parent
        except ProcessLookupError:
            pass
        self.proc = None

    def pids(self):
        return tree(self.proc.pid) if self.proc else []


def from_disk(program, done=set()):
    """Has a program read from disk, as after a boot. One that was just written lies in the page cache in large pieces, of which more is
    mapped (2 MiB more for Tidegate's two processes); the peers' came with their packages long ago."""
    path = shutil.which(program)
    if path and path not in done:
        done.add(path)
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cores(text):
    out = set()
    for part in text.split(","):
        a, _, b = part.partition("-")
        out |= set(range(int(a), int(b or a) + 1))
    return out


def spawn(argv, on, **kw):
    def prepare():
        os.sched_setaffinity(0, on)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for want in (65536, hard):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (want, max(want, hard)))
                break
            except (ValueError, OSError):
                continue
    return subprocess.Popen(argv, preexec_fn=prepare, start_new_session=True, **kw)


def load(args, limit):
    p = spawn([os.path.join(BIN, "load")] + args, {LOAD_CORE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
        return {"total": 0, "errors": 1, "first_error": "load client over its time limit"}
    if p.returncode:
        return {"total": 0, "errors": 1, "first_error": err.decode()[-300:]}
    return json.loads(out.decode().strip().splitlines()[-1])


def tree(root):
    kids = collections.defaultdict(list)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                kids[int(f.read().rsplit(")", 1)[1].split()[1])].append(int(pid))
        except OSError:
            pass
    out, todo = [], [root]
    while todo:
        pid = todo.pop()
        if os.path.exists(f"/proc/{pid}/stat"):
            out.append(pid)
        todo += kids[pid]
    return out


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as f:
                cells = f.read().rsplit(")", 1)[1].split()
            ticks += int(cells[11]) + int(cells[12])
        except OSError:
            pass
    return ticks / TICK


def memory(pids, key):
    """Sum over the processes, MiB. key: Rss or Pss (now), VmHWM (peak since mark_peak)."""
    kib = 0
    for pid in pids:
        name = "status" if key == "VmHWM" else "smaps_rollup"
        try:
            with open(f"/proc/{pid}/{name}") as f:
                for line in f:
                    if line.startswith(key + ":"):
                        kib += int(line.split()[1])
        except OSError:
            pass
    return kib / 1024


def mark_peak(pids):
    for pid in pids:
        try:
            with open(f"/proc/{pid}/clear_refs", "w") as f:
                f.write("5")
        except OSError:
            pass


def core_busy():
    out = {}
    with open("/proc/stat") as f:
        for line in f:
            if re.match(r"cpu\d", line):
                c = line.split()
                t = [int(x) for x in c[1:9]]
                out[int(c[0][3:])] = (sum(t) - t[3] - t[4], sum(t))
    return out


def measure(peer, work, scale, backend):
    """One run; made again, twice at most, when other programs took over a tenth of a core."""
    for left in (2, 1, 0):
        got = measure_once(peer, work, scale, backend)
        got["tries"] = 3 - left
        if got["foreign"] <= 0.10 or got.get("errors"):
            break
        time.sleep(2)
    return got


def measure_once(peer, work, scale, backend):
    which, args, _ = WORK[work]
    args = re.sub(r"\{s(\d+)\}", lambda m: str(float(m.group(1)) * scale), args).split()
    return measure_args(peer, work, args, getattr(peer, which), backend)


def measure_args(peer, work, args, port, backend):
    argv = args[:1] + ["--addr", f"127.0.0.1:{port}"] + args[1:] + peer.load
    pids = peer.pids()
    rss0, pss0 = memory(pids, "Rss"), memory(pids, "Pss")
    mark_peak(pids)
    def ours():
        kids = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cpu_seconds(peer.pids()) + cpu_seconds([backend.pid]) + kids.ru_utime + kids.ru_stime + time.process_time()

    busy0, cpu0, ours0, t0 = core_busy(), cpu_seconds(pids), ours(), time.monotonic()
    if args[0] == "idle":
        got = measure_idle(argv, pids)
    else:
        got = load(argv, 200)
    pids = peer.pids()
    wall, cpu, mine, busy1 = time.monotonic() - t0, cpu_seconds(pids) - cpu0, ours() - ours0, core_busy()
    got.update(peer=peer.name, work=work, wall=wall, cpu_s=cpu, rss_before=rss0, pss_before=pss0,
               rss_after=memory(pids, "Rss"), peak_rss=memory(pids, "VmHWM"))
    if got.get("total"):
        got["cpu_per_100k"] = cpu / got["total"] * 1e5
    # CPU that neither the proxy, the load client, the backend nor this script used, in cores.
    got["foreign"] = max(0.0, sum(busy1[c][0] - busy0[c][0] for c in busy0) / TICK - mine) / wall
    for c in busy0:
        span = busy1[c][1] - busy0[c][1]
        got[f"core{c}_busy"] = (busy1[c][0] - busy0[c][0]) / span if span else 0
    return got


def measure_idle(argv, pids):
    p = spawn([os.path.join(BIN, "load")] + argv, {LOAD_CORE}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first = json.loads(p.stdout.readline() or b"{}")
    time.sleep(1)
    cpu0 = cpu_seconds(pids)
    time.sleep(3)
    held = {"held": first.get("ready", 0), "open_s": first.get("open_s"), "rss_idle": memory(pids, "Rss"),
            "pss_idle": memory(pids, "Pss"), "idle_cpu_pct": (cpu_seconds(pids) - cpu0) / 3 * 100}
    try:
        out, _ = p.communicate(b"\n", timeout=60)
        got = json.loads(out.decode().strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        p.kill()
        got = {"total": 0, "errors": 1, "first_error": "idle client did not end"}
    return {**got, **held}


def read_peers(extra, name="peers.conf"):
    lines = []
    with open(os.path.join(HERE, name)) as f:
        lines += f.read().splitlines()
    for path in filter(None, os.environ.get("PEERBENCH_EXTRA", "").split(":")) if extra else ():
        with open(path) as f:
            lines += f.read().splitlines()
    peers = [Peer(s) for s in lines if s.strip() and not s.lstrip().startswith("#")]
    return collections.OrderedDict((p.name, p) for p in peers)


def run(opts):
    peers = read_peers(True)
    names = opts.peers.split(",") if opts.peers else list(peers)
    works = opts.work.split(",") if opts.work else list(WORK)
    for n in names:
        if n not in peers:
            raise SystemExit(f"no peer {n} in peers.conf")
    for w in works:
        if w not in WORK:
            raise SystemExit(f"no workload {w}")
    os.makedirs(RUN, exist_ok=True)
    backend = spawn([os.path.join(BIN, "backend"), "--h1", str(UP_H1), "--h2", str(UP_H2)], {LOAD_CORE})
    time.sleep(0.3)
    if backend.poll() is not None:
        raise SystemExit("backend did not start (ports taken, or PEERBENCH_BIN wrong)")
    out = open(opts.out, "a")
    try:
        for round_ in range(opts.rounds):
            # Interleaved: every peer once a round, in an order that turns by one each round.
            order = names[round_ % len(names):] + names[:round_ % len(names)]
            for name in order:
                peer = peers[name]
                todo = [w for w in works if w in peer.work]
                if not todo:
                    continue
                if opts.cores and peer.cores != "-":
                    peer.cores = opts.cores
                try:
                    for n, work in enumerate(todo):
                        if n == 0 or work in FRESH:
                            peer.stop()
                            ms = peer.start()
                            time.sleep(0.5)
                            pids = peer.pids()
                            if ms is not None:
                                put(out, {"peer": name, "work": "start", "round": round_, "startup_ms": ms,
                                          "rss": memory(pids, "Rss"), "pss": memory(pids, "Pss")})
                        got = measure(peer, work, opts.scale, backend)
                        got["round"] = round_
                        put(out, got)
                        time.sleep(0.3)
                except RuntimeError as e:
                    put(out, {"peer": name, "work": "start", "round": round_, "error": str(e)})
                finally:
                    peer.stop()
    finally:
        os.killpg(backend.pid, signal.SIGTERM)
        backend.wait()


def put(out, row):
    out.write(json.dumps(row) + "\n")
    out.flush()
    show = {k: (round(v, 2) if isinstance(v, float) else v) for k, v in row.items()
            if k in ("round", "peer", "work", "rps", "errors", "cpu_per_100k", "mib_per_s", "startup_ms", "error",
                     "tokens_per_s", "peak_rss", "rss_idle", "p50_us", "p99_us", "core0_busy", "core1_busy", "foreign", "tries", "first_error")
            and v is not None}
    print(show, flush=True)


# ------------------------------------------------------------------ report

def report(opts):
    rows = []
    for path in opts.files:
        with open(path) as f:
            rows += [json.loads(s) for s in f if s.strip()]
    by = collections.OrderedDict()
    for r in rows:
        by.setdefault(r["work"], collections.OrderedDict()).setdefault(r["peer"], []).append(r)

    def cell(values, form="{:.0f}"):
        values = [v for v in values if v is not None]
        if not values:
            return "-"
        mid = form.format(statistics.median(values))
        lo, hi = form.format(min(values)), form.format(max(values))
        return mid if lo == hi else f"{mid} [{lo}-{hi}]"

    def col(rs, *path):
        out = []
        for r in rs:
            v = r
            for p in path:
                v = v.get(p) if isinstance(v, dict) else None
            out.append(v)
        return out

    def ratio(work, rs, *path):
        base = {r["round"]: r for r in by[work].get("direct", [])}
        out = []
        for r in rs:
            a, b = col([r], *path)[0], col([base.get(r["round"], {})], *path)[0]
            if a and b:
                out.append(a / b)
        return out

    def table(work, head, line):
        if work not in by:
            return
        print(f"\n### {work}: {WORK[work][2] if work in WORK else 'start'}\n")
        print("| peer | " + " | ".join(head) + " | errors | n |")
        print("|---" * (len(head) + 3) + "|")
        for peer, rs in by[work].items():
            bad = sum(r.get("errors") or 0 for r in rs) + sum("error" in r for r in rs)
            print(f"| {peer} | " + " | ".join(line(peer, rs)) + f" | {bad} | {len(rs)} |")

    table("start", ["ms to first answer", "RSS MiB", "PSS MiB"], lambda p, rs: [
        cell(col(rs, "startup_ms")), cell(col(rs, "rss"), "{:.1f}"), cell(col(rs, "pss"), "{:.1f}")])
    for w in ("W1", "W2", "C1"):
        table(w, ["requests/s", "ratio to direct", "p50 us", "p99 us", "proxy CPU-s/100k", "=> requests/s a core", "core 0 / 1 busy", "peak RSS MiB"],
              lambda p, rs, w=w: [
                  cell(col(rs, "rps")), cell(ratio(w, rs, "rps"), "{:.3f}"), cell(col(rs, "p50_us")), cell(col(rs, "p99_us")),
                  *(("-", "-") if p == "direct" else
                    (cell(col(rs, "cpu_per_100k"), "{:.2f}"), cell([1e5 / v for v in col(rs, "cpu_per_100k") if v]))),
                  f"{100 * statistics.median(col(rs, 'core0_busy')):.0f}% / {100 * statistics.median(col(rs, 'core1_busy')):.0f}%",
                  "-" if p == "direct" else cell(col(rs, "peak_rss"), "{:.1f}")])
    for w in ("W3", "W3f", "C3"):
        table(w, ["tokens/s", "TTFB p50 us", "TTFB p99 us", "token transit p50 us", "transit p99 us", "proxy CPU-s/100k tokens", "peak RSS MiB"],
              lambda p, rs: [
                  cell(col(rs, "tokens_per_s")), cell(col(rs, "ttfb", "p50_us")), cell(col(rs, "ttfb", "p99_us")),
                  cell(col(rs, "transit", "p50_us")), cell(col(rs, "transit", "p99_us")),
                  "-" if p == "direct" else cell(col(rs, "cpu_per_100k"), "{:.2f}"),
                  "-" if p == "direct" else cell(col(rs, "peak_rss"), "{:.1f}")])
    for w in ("W4", "W4c", "W4g", "W4s"):
        table(w, ["MiB/s", "ratio to direct", "proxy CPU-s", "RSS before MiB", "peak RSS MiB"], lambda p, rs, w=w: [
            cell(col(rs, "mib_per_s")), cell(ratio(w, rs, "mib_per_s"), "{:.2f}"),
            *(("-", "-", "-") if p == "direct" else
              (cell(col(rs, "cpu_s"), "{:.2f}"), cell(col(rs, "rss_before"), "{:.1f}"), cell(col(rs, "peak_rss"), "{:.1f}")))])
    for w in ("W5", "C5"):
        table(w, ["held", "alive of last 100", "RSS before MiB", "RSS idle MiB", "KiB a connection", "idle CPU %"], lambda p, rs: [
            cell(col(rs, "held")), cell(col(rs, "alive_of_last_100")), *(("-",) * 4 if p == "direct" else (
                cell(col(rs, "rss_before"), "{:.1f}"), cell(col(rs, "rss_idle"), "{:.1f}"),
                cell([(r["rss_idle"] - r["rss_before"]) * 1024 / r["held"] for r in rs if r.get("held")], "{:.1f}"),
                cell(col(rs, "idle_cpu_pct"), "{:.1f}")))])
    for w in ("W6", "W6g", "C6"):
        table(w, ["p50 us", "p99 us", "p99.9 us", "p50 added", "p99 added", "p99.9 added", "proxy CPU-s/100k"],
              lambda p, rs, w=w: [
                  cell(col(rs, "p50_us")), cell(col(rs, "p99_us")), cell(col(rs, "p999_us")),
                  *(("-",) * 4 if p == "direct" else (
                      *(cell(added(by[w].get("direct", []), rs, k)) for k in ("p50_us", "p99_us", "p999_us")),
                      cell(col(rs, "cpu_per_100k"), "{:.2f}")))])


def added(direct, rs, key):
    base = {r["round"]: r.get(key) for r in direct}
    return [r[key] - base[r["round"]] for r in rs if r.get(key) and base.get(r["round"])]


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = top.add_subparsers(dest="do", required=True)
    p = sub.add_parser("run")
    p.add_argument("--peers")
    p.add_argument("--work")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", default="peers.jsonl")
    p.add_argument("--cores", help="pin every proxy here instead of where peers.conf says")
    p.add_argument("--scale", type=float, default=1.0, help="multiplies the seconds of the timed runs")
    p = sub.add_parser("report")
    p.add_argument("files", nargs="+")
    sub.add_parser("list")
    opts = top.parse_args()
    if opts.do == "run":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is ended too
        run(opts)
    elif opts.do == "report":
        report(opts)
    else:
        for name, peer in read_peers(True).items():
            print(f"{name:12} cores {peer.cores:4} ports {peer.port} {peer.port2}  {' '.join(peer.work)}")
        for name, (_, args, what) in WORK.items():
            print(f"{name:4} {what}  ({args})")


if __name__ == "__main__":
    sys.exit(main())
