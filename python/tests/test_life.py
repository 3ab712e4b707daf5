"""How a worker lives and ends."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

SIMPLE = """
    import os, time
    from tidegate import Model, cancellable, time_left
    class M(Model):
        def predict(self, n=0): return n
        def left(self): return time_left()
        def sleep(self, seconds, sign=None):
            if sign: open(sign, "w").close()
            time.sleep(seconds)
            return "slept"
        def spin(self):
            while True: pass
        def hold(self):
            import ctypes
            ctypes.PyDLL(None).sleep(100)
        @cancellable(False)
        def whole(self, sign):
            open(sign, "w").close()
            time.sleep(0.3)
            open(sign + ".done", "w").close()
"""


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.mark.parametrize(
    "source, name, kind, message",
    [
        ("", "nowhere:M", "ModuleNotFoundError", "there is no module 'nowhere'"),
        ("import nowhere_else", "model:M", "ModuleNotFoundError", "model needs a module that is not installed: nowhere_else"),
        ("class Other: pass", "model:M", "NoClass", "model has no class 'M'; it has Other"),
        ("M = 5", "model:M", "NoClass", "model:M is a int, not a class"),
        ("1/0", "model:M", "ZeroDivisionError", "model can't be imported: division by zero"),
        ("raise SystemExit(2)", "model:M", "SystemExit", "model can't be imported"),
        ("def f(:", "model:M", "SyntaxError", "model can't be imported"),
        ("class M: pass", "model:M", "NoMethods", "has no public method"),
        ("class M: pass", "model", "BadName", "module:Class"),
    ],
)
def test_a_class_that_cannot_be_had_is_told(host, source, name, kind, message):
    worker = host(source, name=name)
    frame = worker.next("READY", "FAILED")
    assert (frame.name, frame.meta["kind"]) == ("FAILED", kind) and message in frame.meta["message"], frame
    assert worker.process.wait(10) == 1


def test_a_constructor_that_raises_is_an_error_of_the_load_and_the_worker_goes_on(host):
    worker = host(
        """
        from tidegate import Model
        class M(Model):
            def __init__(self, version, **kwargs):
                super().__init__(version, **kwargs)
                if version == "bad": raise RuntimeError("no weights")
                if version == "empty": self.model_info
                if version == "absent": open(self.model_dir() / "weights")
            def predict(self): return self.version
        """
    )
    worker.ready()
    worker.send("LOAD", 5, {"version": "bad"})
    meta = worker.next().meta
    assert (meta["code"], meta["reason"], meta["kind"], meta["message"]) == ("INTERNAL", "load_failed", "RuntimeError", "no weights")
    assert "no weights" in meta["traceback"]
    worker.send("LOAD", 6, {"version": "empty"})
    meta = worker.next().meta
    assert (meta["code"], meta["reason"]) == ("NOT_FOUND", "unknown_version")
    worker.send("LOAD", 7, {"version": "absent"})
    meta = worker.next().meta
    assert (meta["code"], meta["reason"]) == ("NOT_FOUND", "unknown_version") and "'absent'" in meta["message"]
    assert not (Path(worker.welcome["data"]) / "models" / "absent").exists()
    assert worker.call("predict").value == "default"
    assert worker.call("predict", version="v2").value == "v2", "loaded for the call"


@pytest.mark.parametrize("version", ["..", ".", "a/b", "a\\b", "a\0b", "x" * 200])
def test_a_version_is_one_name(host, version):
    worker = host(SIMPLE)
    worker.ready()
    assert worker.call("predict", version=version).meta["reason"] == "unknown_version"


def test_plain_classes_serve_too_and_get_what_they_ask_for(host):
    worker = host(
        """
        class M:
            def __init__(self, version): self.name = version
            def predict(self): return self.name
        """
    )
    worker.ready("v7")
    assert worker.call("predict", version="v7").value == "v7"


def test_a_model_lives_load_warm_up_calls_release(host, tmp_path):
    worker = host(
        f"""
        from tidegate import Model
        def note(word): print(word, file=open({str(tmp_path / 'notes')!r}, "a"))
        class M(Model):
            def __init__(self): note("init " + self.version)
            def warm_up(self): note("warm")
            def predict(self): note("call")
            def release(self): note("release " + self.version)
        """
    )
    worker.ready("v1", "v2")
    worker.call("predict", version="v1")
    worker.send("RELEASE", 8, {"version": "v2"})
    assert worker.next().name == "RELEASED"
    worker.send("DRAIN", 0)
    assert worker.process.wait(10) == 0
    assert (tmp_path / "notes").read_text().split("\n")[:-1] == ["init v1", "warm", "init v2", "warm", "call", "release v2", "release v1"]


def test_initialize_train_and_log_as_in_aipod(host):
    worker = host(
        """
        from tidegate import Model
        class M(Model):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                path = self.model_dir() / "weights"
                self.weights = path.read_text() if path.exists() else ""
            def train(self, epochs):
                for epoch in range(epochs):
                    self.progress((epoch + 1) / epochs, message="epoch", stage="fit")
                (self.model_dir() / "weights").write_text(f"{self.model_info['size']}x{epochs}")
                return {"trained": True}
            def predict(self): return self.weights
        """
    )
    about = worker.ready("v1")
    assert about["methods"]["train"]["reload"] and not about["methods"]["train"]["retry"] and not about["methods"]["predict"]["reload"]
    assert worker.call("initialize", version="v1", size=3, name="é").value == {"result": True}
    folder = Path(worker.welcome["data"]) / "models" / "v1"
    assert json.loads((folder / "model.json").read_text()) == {"size": 3, "name": "é"}
    assert worker.call("train", version="v1", epochs=2).value == {"trained": True}
    told = [frame for frame in worker.others if frame.name == "PROGRESS"]
    assert [frame.meta["progress"] for frame in told] == [0.5, 1.0] and told[0].call == 1 and told[0].meta["stage"] == "fit"
    assert worker.call("predict", version="v1").value == "3x2", "loaded anew after the training"
    lines = worker.call("log", version="v1").value
    assert [line["progress"] for line in lines] == [0.5, 1.0]
    assert set(lines[0]) == {"progress", "data", "message", "stage", "status", "timestamp"} and lines[0]["status"] == "running"
    with open(folder / "trainning.log", "a") as file:
        file.write('{"progress": ')  # half a line
    assert len(worker.call("log", version="v1").value) == 2
    worker.send("LOAD", 9, {"version": "v1"})
    assert worker.next().meta == {"version": "v1", "info": {"size": 3, "name": "é"}}


def test_calls_sent_ahead_are_answered_in_their_order(host):
    worker = host(SIMPLE)
    worker.ready()
    for call in range(1, 200):
        worker.begin(call, "predict", {"n": call})
    assert [worker.next().value for _ in range(1, 200)] == list(range(1, 200))


def test_a_method_may_ask_how_long_somebody_waits(host):
    worker = host(SIMPLE)
    worker.ready()
    worker.begin(1, "left", deadline_ms=60_000)
    assert 0 < worker.next().value <= 60
    assert worker.call("left").value is None


def test_a_cancelled_call_is_broken_off_at_once_and_the_next_one_runs(host, tmp_path):
    worker = host(SIMPLE)
    worker.ready()
    for call, method in ((1, "sleep"), (3, "spin")):
        sign = tmp_path / f"sign-{call}"
        worker.begin(call, method, {"seconds": 60, "sign": str(sign)} if method == "sleep" else {})
        if method == "sleep":
            wait_for(sign.exists, "the call runs")
        worker.begin(call + 1, "predict", {"n": call})
        worker.send("CANCEL", call)
        answers = [worker.next(), worker.next()]
        assert answers[0].meta["code"] == "CANCELLED" and answers[1].value == call


def test_a_cancelled_call_that_waits_never_begins(host, tmp_path):
    worker = host(SIMPLE)
    worker.ready()
    sign = tmp_path / "sign"
    worker.begin(1, "sleep", {"seconds": 0.3})
    worker.begin(2, "sleep", {"seconds": 0, "sign": str(sign)})
    worker.send("CANCEL", 2)
    assert worker.next().value == "slept"
    assert worker.next().meta["code"] == "CANCELLED" and not sign.exists()


def test_a_call_that_is_not_cancellable_goes_on_to_its_end(host, tmp_path):
    worker = host(SIMPLE)
    worker.ready()
    sign = tmp_path / "sign"
    worker.begin(1, "whole", {"sign": str(sign)})
    wait_for(sign.exists, "the call runs")
    worker.send("CANCEL", 1)
    assert worker.next().name == "RESULT" and (tmp_path / "sign.done").exists()


def test_pings_are_answered_while_a_call_runs(host, tmp_path):
    worker = host(SIMPLE)
    worker.ready()
    worker.begin(1, "sleep", {"seconds": 60, "sign": str(tmp_path / "sign")})
    wait_for((tmp_path / "sign").exists, "the call runs")
    worker.send("PING", 0, data=b"abc")
    pong = worker.next()
    assert pong.name == "PONG" and pong.data == b"abc"


@pytest.mark.parametrize("method", [None, "sleep", "spin"])
def test_the_end_of_the_connection_ends_the_worker_within_a_second(host, method):
    worker = host(SIMPLE, leash=False)
    worker.ready()
    if method:
        worker.begin(1, method, {"seconds": 60} if method == "sleep" else {})
        worker.send("PING", 0)
        assert worker.next().name == "PONG"
    began = time.monotonic()
    worker.sock.close()
    worker.process.wait(10)
    assert time.monotonic() - began < 1.5


def test_the_leash_ends_a_worker_whose_interpreter_is_held(host):
    worker = host(SIMPLE)
    worker.ready()
    worker.begin(1, "hold")
    wait_for(lambda: Path(f"/proc/{worker.process.pid}/wchan").read_text() == "hrtimer_nanosleep" or "S (sleeping)" in Path(f"/proc/{worker.process.pid}/status").read_text(), "it sleeps")
    began = time.monotonic()
    os.close(worker.leash)
    assert worker.process.wait(10) == -signal.SIGKILL and time.monotonic() - began < 1.5


def test_children_of_the_model_end_with_the_worker(host):
    worker = host(
        """
        import subprocess
        class M:
            def child(self): return subprocess.Popen(["sleep", "1000"]).pid
            def spin(self):
                while True: pass
        """
    )
    worker.ready()
    pid = worker.call("child").value
    worker.begin(2, "spin")
    worker.sock.close()
    worker.process.wait(10)

    def gone():
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone, "the child ended")


def test_what_a_model_prints_and_logs(host):
    worker = host(
        """
        import logging
        class M:
            def predict(self):
                print("printed", flush=False)
                logging.getLogger("mine").warning("told %s", 5)
        """
    )
    worker.ready()
    worker.call("predict", call=12)
    told = [frame for frame in worker.others if frame.name == "LOG"]
    assert [(frame.call, frame.meta) for frame in told] == [(12, {"level": "warning", "message": "told 5", "logger": "mine"})]
    assert "printed\n" in worker.log()


def test_without_a_host_it_says_what_it_is_for():
    import subprocess
    import sys

    from fakehost import PACKAGE

    env = {key: value for key, value in os.environ.items() if key != "TIDEGATE_WORKER"}
    run = subprocess.run([sys.executable, "-m", "tidegate.worker", "m:M"], env={**env, "PYTHONPATH": str(PACKAGE)}, capture_output=True, text=True)
    assert run.returncode == 2 and "tidegate serve" in run.stderr


@pytest.mark.parametrize("concurrency", [1, 2])
def test_over_tcp_input_comes_in_pieces_and_the_worker_connects_again(host, tmp_path, concurrency):
    worker = host(
        """
        import typing
        from tidegate import Model
        class M(Model):
            count = 0
            def predict(self, data: bytes): self.count += 1; return len(data)
            def counted(self): return self.count
            def give(self): return b"x" * (9 << 20)
        """,
        tcp=True,
        concurrency=concurrency,
        env={"TIDEGATE_SPOOL": str(tmp_path)},
    )
    worker.ready()
    worker.begin(1, "predict", {}, parts=[{"name": "", "stream": True}])
    assert worker.next("WANT").meta["bytes"] > 0
    worker.send("DATA", 1, data=b"x" * 1000, flags=1)
    assert worker.next("WANT").meta == {"bytes": 1000}
    worker.send("DATA", 1, data=b"y" * 500)
    assert worker.next().value == 1500
    worker.begin(2, "predict", {}, parts=[{"name": "", "stream": True}])
    worker.send("CANCEL", 2)
    assert worker.next().meta["code"] == "CANCELLED"
    assert not list(tmp_path.glob("input-*"))
    ((part, data),) = worker.call("give").parts()
    assert "file" not in part and len(data) == 9 << 20
    worker.sock.close()
    worker.accept()
    assert worker.hello.meta["loaded"] == [""]
    assert worker.next().name == "READY"
    assert worker.call("counted").value == 1, "the model is the same one"
    worker.send("DRAIN", 0)
    assert worker.process.wait(10) == 0


NO_ROOM = """
    import resource
    from tidegate import Model
    class M(Model):
        def predict(self, data: bytes): return len(data)
        def small_disk(self): resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        def give(self, size): return b"x" * size
"""


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_result_that_finds_no_room_on_the_disk_is_told_and_leaves_nothing(host, tmp_path, concurrency):
    spool = tmp_path / "spool"
    spool.mkdir()
    worker = host(NO_ROOM, concurrency=concurrency, env={"TIDEGATE_SPOOL": str(spool)})
    worker.ready()
    worker.call("small_disk")
    told = worker.call("give", size=8 << 20).meta
    assert (told["code"], told["reason"]) == ("RESOURCE_EXHAUSTED", "disk_full") and "result" in told["message"]
    assert not list(spool.iterdir())
    assert worker.call("give", size=10).name == "RESULT"


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("missing", [False, True], ids=["full", "no folder"])
def test_an_input_that_finds_no_room_on_the_disk_fails_its_call_alone(host, tmp_path, concurrency, missing):
    spool = tmp_path / "spool"
    spool.mkdir()
    worker = host(NO_ROOM, tcp=True, concurrency=concurrency, env={"TIDEGATE_SPOOL": str(spool)})
    worker.ready()
    worker.call("small_disk")
    if missing:
        spool.rmdir()
    worker.begin(2, "predict", {}, parts=[{"name": "", "stream": True}])
    if missing:
        told = worker.next("ERROR")
    else:
        for number in range(3):
            worker.send("DATA", 2, data=bytes(1 << 20), flags=1)
        told = worker.next("ERROR")
        worker.send("DATA", 2, data=bytes(10))
    assert told.call == 2 and told.meta["reason"] == ("model_error" if missing else "disk_full")
    assert worker.call("give", call=3, size=10).name == "RESULT"
