"""`tidegate demo`: the whole thing on this machine, and no caller sees a failure."""

import json
import signal

from harness.gateway import binary, command
from harness.process import marked
from harness.wait import until


def test_the_demo_breaks_things_and_no_caller_notices(tmp_path):
    done = command("demo", "--duration", "30s", "--json", timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout[done.stdout.index("{") :])
    flat = json.dumps(report)
    assert report["requests"] > 1000, flat
    assert report["failures"] == 0, flat
    assert report["chats"] > 50 and report["key_failovers"] >= 2 and report["model_calls"] > 50, flat
    assert {"key_revoked", "key_limited", "worker_kill"} <= {event["event"] for event in report["events"]}, flat


def test_the_demo_ends_on_an_interrupt_and_leaves_nothing(process, tmp_path):
    demo = process([binary(), "demo"], cwd=tmp_path)
    until(lambda: demo.running() and len(marked(demo.mark)) >= 2, 30, "demo runs")
    demo.signal(signal.SIGINT)
    assert demo.wait(30) == 0
    until(lambda: not marked(demo.mark), what="nothing left")
