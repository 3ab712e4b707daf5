#!/usr/bin/env python3
"""Measures gateways to LLM providers side by side on one machine; bench/llm calls it.

  llm.py run    [--part cost,memory,keys] [--work chat,stream,low] [--peers a,b] [--rounds 3] [--scale 1.0] [--requests 100000] [--left 10000] --out FILE
  llm.py report FILE...

cost    interleaved rounds: CPU of the proxy for a chat completion and for a chunk of a stream, latency added at a low rate
memory  RSS at the start, after --requests requests, after --left streams that their callers left, and after the same again
keys    under full load one of three keys begins to answer 401: errors seen by callers, time until another key has served
The backend, the load client and the pinning are those of bench.py; peers-llm.conf has the proxies.
"""
import argparse
import collections
import json
import os
import shutil
import signal
import statistics
import sys
import threading
import time
import urllib.request

import bench

bench.UP_H1, bench.UP_H2 = 9401, 9402
COST = ["direct", "nginx", "tidegate", "tidegate-anthropic", "smg", "portkey", "litellm"]
MEMORY = ["tidegate", "tidegate-anthropic", "smg", "portkey", "litellm"]
KEYS = ["tidegate", "portkey-keys", "litellm-keys"]
# Proxies too slow for --requests and --left: their share of it.
SHARE = {"litellm": 0.02, "portkey": 0.1, "smg": 0.2}
RATE, STREAMS, CONNECTIONS = 200, 100, 64
# Long enough for a p99 of forty requests a round at that rate.
LOW_SECONDS = 20


def works(peer, scale):
    """name: load arguments. The low rate is what the slowest of the fast proxies still takes easily."""
    rate, streams = int(peer.sets.get("RATE", RATE)), int(peer.sets.get("STREAMS", STREAMS))
    return {
        "chat": ["h1", "--chat", "--conns", str(CONNECTIONS), "--warm", "1", "--secs", str(3 * scale)],
        "stream": ["sse", "--streams", str(streams), "--waves", "2"],
        "low": ["h1", "--chat", "--conns", "16", "--rate", str(rate), "--warm", "1", "--secs", str(LOW_SECONDS * scale)],
    }


def start(peer):
    """From a clean folder: what an earlier run knew of keys is none of this one's business."""
    shutil.rmtree(os.path.join(bench.RUN, peer.name), ignore_errors=True)
    ms = peer.start()
    time.sleep(0.5)
    return ms


def cost(peers, opts, backend, out):
    names = [n for n in COST if n in peers]
    for round_ in range(opts.rounds):
        for name in names[round_ % len(names):] + names[:round_ % len(names)]:
            peer = peers[name]
            try:
                ms = start(peer)
                if ms is not None:
                    bench.put(out, {"peer": name, "work": "start", "round": round_, "startup_ms": ms, "rss": bench.memory(peer.pids(), "Rss")})
                for work, args in works(peer, opts.scale).items():
                    if work not in opts.work.split(","):
                        continue
                    got = bench.measure_args(peer, work, args, peer.port, backend)
                    bench.put(out, {**got, "round": round_})
                    time.sleep(0.2)
            except RuntimeError as e:
                bench.put(out, {"peer": name, "work": "start", "round": round_, "error": str(e)})
            finally:
                peer.stop()


def memory(peers, opts, backend, out):
    for name in (n for n in MEMORY if n in peers):
        peer = peers[name]
        share = SHARE.get(name, 1)
        requests, waves = int(opts.requests * share), max(1, int(opts.left * share) // STREAMS)
        rss, pss = [], []

        def take():
            time.sleep(1)  # what is freed late, is freed
            rss.append(bench.memory(peer.pids(), "Rss"))
            pss.append(bench.memory(peer.pids(), "Pss"))

        try:
            start(peer)
            take()
            row = {"peer": name, "work": "memory", "requests": 0, "left": 0, "errors": 0}
            for _ in range(2):
                args = ["h1", "--chat", "--conns", str(CONNECTIONS), "--warm", "0", "--secs", "180", "--requests", str(requests)]
                got = bench.measure_args(peer, "memory", args, peer.port, backend)
                row["requests"] += got["total"]
                row["errors"] += got["errors"]
                take()
                args = ["sse", "--streams", str(STREAMS), "--waves", str(waves), "--leave-after", "5"]
                got = bench.measure_args(peer, "memory", args, peer.port, backend)
                row["left"] += got.get("left", 0)
                row["errors"] += got["errors"]
                row["first_error"] = row.get("first_error") or got.get("first_error")
                take()
            row.update(rss=rss, pss=pss, peak_rss=got["peak_rss"], open_streams=control("report")["streams"])
            out.write(json.dumps(row) + "\n")
            out.flush()
            print(row, flush=True)
        except RuntimeError as e:
            bench.put(out, {"peer": name, "work": "memory", "error": str(e)})
        finally:
            peer.stop()


def control(path):
    method = "GET" if path == "report" else "POST"
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{bench.UP_H1}/control/{path}", method=method), timeout=10) as got:
        return json.load(got)


def keys(peers, opts, backend, out):
    for round_ in range(opts.rounds):
        for name in (n for n in KEYS if n in peers):
            peer = peers[name]
            try:
                start(peer)
                control("reset")
                control("dead?key=nobody's")  # from now on the backend writes down
                death = threading.Timer(1 + opts.scale, control, ["dead?key=sk-mock-1"])
                death.start()
                args = ["h1", "--chat", "--ids", "--conns", str(CONNECTIONS), "--warm", "0", "--secs", str(2 + 2 * opts.scale)]
                got = bench.measure_args(peer, "keys", args, peer.port, backend)
                death.join()
                row = {**got, **control("report"), "round": round_}
                out.write(json.dumps(row) + "\n")
                out.flush()
                print({k: row[k] for k in ("peer", "total", "errors", "first_error", "refused", "refusing_us", "first_good_us", "rescued",
                                           "not_rescued", "first_rescue_us", "rescue_p50_us", "rescue_max_us", "by_key")}, flush=True)
            except RuntimeError as e:
                bench.put(out, {"peer": name, "work": "keys", "round": round_, "error": str(e)})
            finally:
                peer.stop()
    control("reset")


def run(opts):
    peers = bench.read_peers(False, "peers-llm.conf")
    if opts.peers:
        unknown = set(opts.peers.split(",")) - set(peers)
        if unknown:
            raise SystemExit(f"no such peer: {', '.join(sorted(unknown))}")
        peers = {n: p for n, p in peers.items() if n in opts.peers.split(",")}
    parts = {"cost": cost, "memory": memory, "keys": keys}
    os.makedirs(bench.RUN, exist_ok=True)
    backend = bench.spawn([os.path.join(bench.BIN, "backend"), "--h1", str(bench.UP_H1), "--h2", str(bench.UP_H2)], {bench.LOAD_CORE})
    time.sleep(0.3)
    if backend.poll() is not None:
        raise SystemExit("backend did not start (ports taken, or PEERBENCH_BIN wrong)")
    try:
        with open(opts.out, "a") as out:
            for part in opts.part.split(","):
                parts[part](peers, opts, backend, out)
    finally:
        os.killpg(backend.pid, signal.SIGTERM)
        backend.wait()


# ------------------------------------------------------------------ report

def report(opts):
    rows = []
    for path in opts.files:
        with open(path) as f:
            rows += [json.loads(s) for s in f if s.strip()]
    by = collections.OrderedDict()
    for r in rows:
        by.setdefault((r["work"], r["peer"]), []).append(r)

    def cell(values, form="{:.2f}"):
        values = [v for v in values if v is not None]
        if not values:
            return "-"
        mid, lo, hi = (form.format(f(values)) for f in (statistics.median, min, max))
        return mid if lo == hi else f"{mid} [{lo}-{hi}]"

    def ratios(work, peer):
        """Ours over theirs, round by round."""
        ours = {r["round"]: r.get("cpu_per_100k") for r in by.get((work, "tidegate"), [])}
        return [ours[r["round"]] / r["cpu_per_100k"] for r in by.get((work, peer), []) if ours.get(r["round"]) and r.get("cpu_per_100k")]

    costs = [p for p in COST if p != "direct" and any((w, p) in by for w in ("chat", "stream", "low"))]
    if costs:
        print("| | CPU-s per 100,000 chat completions | Tidegate / it | CPU-s per 100,000 chunks | Tidegate / it "
              "| added p50 ms | added p99 ms | errors | rounds |\n" + "|---" * 9 + "|")
    for p in costs:
        chat, stream, low = (by.get((w, p), []) for w in ("chat", "stream", "low"))
        direct = by.get(("low", "direct"), [])
        add = [cell([v / 1000 for v in bench.added(direct, low, k)]) for k in ("p50_us", "p99_us")]
        bad = sum(r.get("errors") or 0 for r in chat + stream + low) + sum("error" in r for r in by.get(("start", p), []))
        print(f"| {p} | {cell([r.get('cpu_per_100k') for r in chat])} | {cell(ratios('chat', p), '{:.3f}')} "
              f"| {cell([r.get('cpu_per_100k') for r in stream])} | {cell(ratios('stream', p), '{:.3f}')} "
              f"| {add[0]} | {add[1]} | {bad} | {len(chat)} |")
    held = [p for p in MEMORY if ("memory", p) in by]
    if held:
        print("\n| RSS, MiB | requests | streams left | at the start | after the requests | after the streams | the same again | peak | errors |\n"
              + "|---" * 9 + "|")
    for p in held:
        for r in by["memory", p]:
            if "error" in r:
                print(f"| {p} | {r['error']} |")
                continue
            a, b, c, d, e = (f"{v:.1f}" for v in r["rss"])
            print(f"| {p} | 2 x {r['requests'] // 2:,} | 2 x {r['left'] // 2:,} | {a} | {b} | {c} | {d}, {e} | {r['peak_rss']:.1f} | {r['errors']} |")
    died = [p for p in KEYS if ("keys", p) in by]
    if died:
        print("\n| a key dies | requests | errors | answers 401 | first 401 → another key has served that request, ms "
              "| slowest request that met a 401, ms | first → last 401, ms |\n" + "|---" * 7 + "|")
    for p in died:
        rs = [r for r in by["keys", p] if "error" not in r]
        ms = lambda k: cell([r[k] / 1000 for r in rs if r.get(k) is not None])  # noqa: E731
        print(f"| {p} | {sum(r['total'] for r in rs):,} | {sum(r['errors'] for r in rs)} | {cell([r['refused'] for r in rs], '{:.0f}')} "
              f"| {ms('first_rescue_us')} | {ms('rescue_max_us')} | {ms('refusing_us')} |")


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = top.add_subparsers(dest="do", required=True)
    p = sub.add_parser("run")
    p.add_argument("--part", default="cost,memory,keys")
    p.add_argument("--work", default="chat,stream,low", help="of the part cost")
    p.add_argument("--peers")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--scale", type=float, default=1.0, help="multiplies the seconds of the timed runs")
    p.add_argument("--requests", type=int, default=100_000)
    p.add_argument("--left", type=int, default=10_000)
    p.add_argument("--out", required=True)
    p = sub.add_parser("report")
    p.add_argument("files", nargs="+")
    opts = top.parse_args()
    if opts.do == "run":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is ended too
        run(opts)
    else:
        report(opts)


if __name__ == "__main__":
    sys.exit(main())
