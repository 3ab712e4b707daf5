#!/usr/bin/env python3
"""Tidegate against each peer, round by round: the cost of the one over the cost of the other, as a table and a plot.

Absolute figures of a shared machine say little; two proxies measured one after the other in the same round say much more. Every figure
is one where less is better: below 1.00 Tidegate is ahead.
"""

import argparse
import json
import statistics
import sys

US = "tidegate-1"
PEERS = ["haproxy-1", "nginx-1", "envoy-gov-1", "envoy-1"]
# workload: (what is compared, how it is read from a run)
FIGURES = {
    "W1": ("CPU-s per 100,000 requests, HTTP/1.1", "cpu_per_100k"),
    "W2": ("CPU-s per 100,000 calls, gRPC", "cpu_per_100k"),
    "W3": ("CPU-s per 100,000 tokens, SSE", "cpu_per_100k"),
    "W4": ("CPU-s per GiB uploaded, HTTP/1.1", "cpu_s"),
    "W4g": ("CPU-s per GiB uploaded, gRPC stream", "cpu_s"),
    "W5": ("RSS with 10,000 idle connections", "rss_idle"),
    "W6": ("latency added at 500 requests/s, p50", "added"),
    "W6g": ("latency added at 500 gRPC calls/s, p50", "added"),
}


def read(paths):
    runs = {}
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                run = json.loads(line)
                runs[run["work"], run["peer"], run["round"]] = run
    return runs


def value(runs, work, peer, round_):
    run = runs.get((work, peer, round_))
    if not run or run.get("error"):
        return None
    key = FIGURES[work][1]
    if key != "added":
        return run.get(key)
    direct = runs.get((work, "direct", round_))
    return run["p50_us"] - direct["p50_us"] if direct and run.get("p50_us") else None


def ratios(runs, work, peer):
    rounds = sorted({r for w, p, r in runs if w == work and p == US})
    pairs = [(value(runs, work, US, r), value(runs, work, peer, r)) for r in rounds]
    return [a / b for a, b in pairs if a and b and b > 0]


def plot(rows, path):
    """Bars from 0 to 2, the line of equality in the middle."""
    wide, bar, left = 760, 14, 330
    height = 60 + sum(26 + bar * len(cells) for _, cells in rows)
    unit = (wide - left - 60) / 2
    colour = {"haproxy-1": "#2b6cb0", "nginx-1": "#2f855a", "envoy-gov-1": "#b7791f", "envoy-1": "#975a16"}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{wide}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="15">Tidegate / peer: shorter is better, 1.00 is equal</text>',
    ]
    y = 44
    for what, cells in rows:
        out.append(f'<text x="12" y="{y + 12}" fill="#1a202c">{what}</text>')
        for peer, mid in cells:
            width = min(mid, 2.0) * unit
            out.append(f'<rect x="{left}" y="{y + 2}" width="{width:.0f}" height="{bar - 3}" fill="{colour[peer]}"/>')
            out.append(f'<text x="{left + width + 4:.0f}" y="{y + 11}" font-size="10" fill="#4a5568">{mid:.2f} {peer}</text>')
            y += bar
        y += 26
    line = left + unit
    out.append(f'<line x1="{line}" y1="34" x2="{line}" y2="{height - 8}" stroke="#c53030" stroke-dasharray="4 3"/></svg>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("files", nargs="+")
    top.add_argument("--svg", help="also draws the ratios")
    opts = top.parse_args()
    runs = read(opts.files)
    peers = [p for p in PEERS if any(peer == p for _, peer, _ in runs)]
    print(f"| {US} / | " + " | ".join(peers) + " |")
    print("|---" * (len(peers) + 1) + "|")
    rows = []
    for work, (what, _) in FIGURES.items():
        cells, drawn = [], []
        for peer in peers:
            found = ratios(runs, work, peer)
            if not found:
                cells.append("-")
                continue
            mid = statistics.median(found)
            drawn.append((peer, mid))
            cells.append(f"{mid:.2f} [{min(found):.2f}-{max(found):.2f}]")
        if drawn:
            rows.append((f"{work} {what}", drawn))
            print(f"| {work} {what} | " + " | ".join(cells) + " |")
    if not rows:
        sys.exit(f"nothing to compare: no run of {US} beside a peer")
    if opts.svg:
        plot(rows, opts.svg)


if __name__ == "__main__":
    main()
