"""The life of a hosted model: crashes, kills, reloads, drains; nobody's call is lost, nothing stays behind."""

import os
import signal
import sys
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.gateway import route
from harness.model import Chaos, Load, alive, call, failure, service, serving, spooled, workers
from harness.models import EXAMPLE
from harness.wait import until


def ready_workers(host):
    """Pids of the workers that take calls."""
    return [each["pid"] for service in host.api("services") for each in service["instances"] if each["state"] == "ready" and each["pid"] in workers(host)]


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("replicas", [1, 3])
def test_no_predict_fails_while_a_worker_is_killed_each_second(serve, channel, seconds, replicas):
    host = serve("Example", "--replicas", replicas)
    channels = [channel(host.port) for _ in range(4)]
    for each in channels:
        call(each)
    killed = set()
    with Load(channels, rate=200, seconds=10 * seconds, timeout=60) as load:
        for number in range(seconds):
            victims = until(lambda: [pid for pid in ready_workers(host) if pid not in killed], 30, "a worker that serves")
            # A second of load, of which the victim has had half a one at least.
            seen = load.begun
            until(lambda: load.begun >= max(200 * (number + 1), seen + 100), 30, "a second of load")
            victim = victims[number % len(victims)]
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        load.stop()
    assert not load.failures, load.failures[:5]
    assert sum(load.answers.values()) == load.begun >= 200 * seconds
    until(lambda: len(workers(host)) == replicas, 30, "all workers are back")


def test_a_call_that_kills_its_worker_is_told_and_the_next_one_is_answered(serve, channel):
    host = serve("Example", "--replicas", 2)
    ch = channel(host.port)
    code, details, metadata = failure(lambda: Chaos(ch, "dies").result())
    assert (code, metadata["x-tidegate-error"]) == ("UNAVAILABLE", "worker_crashed"), details
    assert call(ch, kwargs={"a": 1})["kwargs"] == {"a": 1}


POISON = EXAMPLE.replace('"""Gives back what it got, and who it is."""', 'if kwargs.get("poison"):\n            os.kill(os.getpid(), 9)')


def test_a_predict_that_kills_every_worker_ends_after_three(serve, channel):
    host = serve("Example", "--replicas", 2, source=POISON)
    ch = channel(host.port)
    code, details, metadata = failure(lambda: call(ch, kwargs={"poison": True}, timeout=60))
    assert (code, metadata["x-tidegate-error"]) == ("UNAVAILABLE", "worker_crashed"), details
    assert call(ch, kwargs={"a": 1}, timeout=30)["kwargs"] == {"a": 1}


def test_items_that_were_given_are_not_given_twice_when_a_worker_dies(serve, channel):
    host = serve("Example", "--replicas", 2)
    made = Chaos(channel(host.port), "count", {"n": 1000, "seconds": 0.05})
    got = []

    def read():
        for each in made.values():
            got.append(each)
            if len(got) == 5:
                os.kill(each["pid"], signal.SIGKILL)

    code, details, metadata = failure(read)
    assert (code, metadata["x-tidegate-error"]) == ("UNAVAILABLE", "worker_crashed"), details
    assert [each["n"] for each in got] == list(range(len(got))) and len(got) >= 5


def test_a_call_waits_for_the_only_worker_to_come_back(serve, channel):
    host = serve("Example")
    ch = channel(host.port)
    (pid,) = workers(host)
    os.kill(pid, signal.SIGKILL)
    assert call(ch, timeout=30)["pid"] != pid


def test_workers_end_with_the_host_and_new_ones_serve(serve, channel):
    host = serve("Example", "--replicas", 2)
    ch = channel(host.port)
    before = workers(host)
    assert len(before) == 2
    host.kill_role("host")
    until(lambda: not any(alive(pid) for pid in before), 3, "the workers of the host that died")
    assert call(ch, timeout=30)["pid"] not in before
    until(lambda: len(workers(host)) == 2, 20)


@pytest.mark.parametrize("how", ["blocked", "holding the interpreter"])
def test_a_worker_that_works_ends_with_the_host(serve, channel, how):
    host = serve("Example")
    ch = channel(host.port)
    method, argument = ("slow", {"seconds": 60}) if how == "blocked" else ("held", {"gil": 6.0})
    made = Chaos(ch, method, argument)
    threading.Thread(target=lambda: failure(made.result), daemon=True).start()
    until(lambda: host.api("services") and _busy(host), 10, "the call runs")
    before = workers(host)
    host.kill_role("host")
    until(lambda: not any(alive(pid) for pid in before), 3, "the worker ended")
    assert call(ch, timeout=30)


def _busy(host):
    """Whether a worker has a call."""
    return any(instance["in_flight"] for each in host.api("services") for instance in each["instances"])


def test_the_gateways_death_leaves_the_workers_alone(serve, channel):
    host = serve("Example")
    before = workers(host)
    assert call(channel(host.port))["pid"] in before
    host.kill_role("gateway")
    until(host.ready, 20)
    assert call(channel(host.port), timeout=30)["pid"] in before
    assert workers(host) == before


def serving_by_health(ch):
    """Whether a balancer that asks for health would send calls."""
    try:
        return health_pb2_grpc.HealthStub(ch).Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_calls_finish_says_not_serving_and_leaves_nothing(serve, channel, number):
    host = serve("Example")
    ch = channel(host.port)
    results = []
    made = Chaos(ch, "slow", {"seconds": 3}, timeout=60)
    runs = threading.Thread(target=lambda: results.append(made.result()), daemon=True)
    runs.start()
    until(lambda: made.heartbeats, 10, "a heartbeat")
    asks = channel(host.port)
    assert serving_by_health(asks)
    host.process.signal(number)
    until(lambda: not serving_by_health(asks), 2, "not serving")
    assert not results
    assert host.process.wait(20) == 0
    runs.join(10)
    assert results and results[0]["slept"] == 3
    until(lambda: not host.leftovers(), 5, "no process left behind")
    assert spooled(host) == []


def test_who_watches_health_is_told_when_a_drain_begins(serve, channel):
    host = serve("Example", "--replicas", 2)
    ch, asks = channel(host.port), channel(host.port)
    until(lambda: serving_by_health(asks), 20, "serving")
    names = ["", "ai.AI", "example"]
    told = {name: [] for name in [*names, "unknown"]}
    ends = {}

    def watch(name):
        watching = health_pb2_grpc.HealthStub(asks).Watch(health_pb2.HealthCheckRequest(service=name), timeout=60)
        try:
            for each in watching:
                told[name].append(health_pb2.HealthCheckResponse.ServingStatus.Name(each.status))
        except grpc.RpcError as error:
            ends[name] = error.code().name

    watching = [threading.Thread(target=watch, args=(name,), daemon=True) for name in told]
    for each in watching:
        each.start()
    until(lambda: all(told.values()), 10, "a first answer to each")
    made = Chaos(ch, "slow", {"seconds": 4}, timeout=60)
    results = []
    runs = threading.Thread(target=lambda: results.append(made.result()), daemon=True)
    runs.start()
    until(lambda: made.heartbeats, 10, "a heartbeat")
    host.process.signal(signal.SIGTERM)
    until(lambda: all(told[name][-1] == "NOT_SERVING" for name in names), 3, "told while the call still runs")
    assert not results
    for each in watching:
        each.join(10)
    assert {name: told[name] for name in names} == {name: ["SERVING", "NOT_SERVING"] for name in names}
    assert told["unknown"] == ["SERVICE_UNKNOWN"]
    assert set(ends.values()) == {"UNAVAILABLE"}
    runs.join(10)
    assert results and host.process.wait(20) == 0


CHANGED = EXAMPLE.replace('return a + b', 'return a + b + 100')


def test_a_hangup_reloads_the_model_without_a_lost_call(serve, channel):
    host = serve("Example", "--replicas", 2)
    ch = channel(host.port)
    before = workers(host)
    assert Chaos(ch, "add", {"a": 1, "b": 1}).result() == 2
    long = Chaos(ch, "slow", {"seconds": 4})
    done = []
    runs = threading.Thread(target=lambda: done.append(long.result()), daemon=True)
    runs.start()
    until(lambda: long.heartbeats, 10, "the long call runs")
    with Load([ch], rate=100, seconds=15) as load:
        until(lambda: load.begun > 20, 10)
        (host.code / "model.py").write_text(CHANGED)
        host.process.signal(signal.SIGHUP)
        until(lambda: Chaos(ch, "add", {"a": 1, "b": 1}).result() == 102, 30, "the new model answers")
        until(lambda: not any(pid in workers(host) for pid in before), 30, "all workers are new")
        load.stop()
    runs.join(20)
    assert not load.failures, load.failures[:5]
    assert done and done[0]["slept"] == 4
    assert len(workers(host)) == 2


def test_a_change_of_the_source_reloads_the_model_when_asked_for(serve, channel):
    host = serve("Example", "--reload")
    ch = channel(host.port)
    with Load([ch], rate=50, seconds=30) as load:
        until(lambda: load.begun > 10, 10)
        part = host.code / "model.part"
        part.write_text(CHANGED)
        part.rename(host.code / "model.py")
        until(lambda: Chaos(ch, "add", {"a": 1, "b": 1}).result() == 102, 30, "the new model answers")
        load.stop()
    assert not load.failures, load.failures[:5]


def test_a_reload_that_does_not_load_leaves_the_old_model(serve, channel):
    host = serve("Example")
    ch = channel(host.port)
    (host.code / "model.py").write_text("raise RuntimeError('half written')")
    host.process.signal(signal.SIGHUP)
    until(lambda: "half written" in host.logs(), 20, "the cause is told")
    for _ in range(20):
        assert Chaos(ch, "add", {"a": 1, "b": 1}).result() == 2


# --- bad input ---------------------------------------------------------------------------------


def told(host, *words, timeout=20):
    """Waits until the log and the admin API tell the cause."""
    until(lambda: all(word in host.logs() for word in words), timeout, f"the log tells {words}")
    return until(lambda: [each for each in host.api("services") if all(word in str(each) for word in words)], timeout, f"the API tells {words}")


@pytest.mark.parametrize(
    "cls, words",
    [
        ("no_such_module:Example", ("no_such_module",)),
        ("model:NoSuchClass", ("NoSuchClass",)),
        ("model:Refuses", ("the weights are gone", "RuntimeError")),
        ("model:os", ("os",)),
    ],
)
def test_a_class_that_cannot_be_had_is_told_and_callers_get_the_cause(tidegate, tmp_path, channel, cls, words):
    made = service(tmp_path, start_timeout="3s")
    made["python"]["class"] = cls
    host = tidegate({"routes": [route([{"service": "example"}])], "services": [made]}, ready=False)
    until(lambda: host.admin("/livez").status == 200, 20)
    told(host, *words)
    code, details, _ = failure(lambda: call(channel(host.port), timeout=20))
    assert code == "UNAVAILABLE", (code, details)
    assert not serving(host.port)


def test_errors_of_calls_are_precise_and_leave_the_worker_alone(serve, channel):
    host = serve("KnowsVersions")
    ch = channel(host.port)
    pids = workers(host)
    cases = [
        (lambda: call(ch, "predict", raw=b"{"), "INVALID_ARGUMENT", "bad_arguments", ""),
        (lambda: call(ch, "predict", raw=b"[1]"), "INVALID_ARGUMENT", None, ""),
        (lambda: call(ch, "predict", raw=b"\xff\xfe"), "INVALID_ARGUMENT", None, ""),
        (lambda: call(ch, "predict", {"_aipod_x": 1}), "INVALID_ARGUMENT", "reserved_argument", "_aipod_x"),
        (lambda: call(ch, "predict", {"_aipod": 1}), "INVALID_ARGUMENT", "reserved_argument", "_aipod"),
        (lambda: Chaos(ch, "add", {"wrong": 1}).result(), "INVALID_ARGUMENT", "bad_arguments", "wrong"),
        (lambda: Chaos(ch, "add", {}).result(), "INVALID_ARGUMENT", "bad_arguments", "a"),
        (lambda: Chaos(ch, "unserialisable").result(), "INTERNAL", None, "object"),
        (lambda: Chaos(ch, "raises", {"message": "cold"}).result(), "INTERNAL", "model_error", "cold"),
        (lambda: Chaos(ch, "_hidden").result(), "UNIMPLEMENTED", "unknown_method", "_hidden"),
        (lambda: Chaos(ch, "none_such").result(), "UNIMPLEMENTED", "unknown_method", "none_such"),
        (lambda: call(ch, version="v9"), "NOT_FOUND", "unknown_version", "v9"),
        (lambda: call(ch, version="../../etc"), "INVALID_ARGUMENT", "bad_version", ""),
    ]
    for number, (made, code, reason, word) in enumerate(cases):
        got, details, metadata = failure(made)
        assert got == code and word in details, (number, got, details)
        assert reason is None or metadata["x-tidegate-error"] == reason, (number, metadata)
        assert "Traceback" not in details and "model.py" not in details, details
    until(lambda: "Traceback" in host.logs() and 'raise ValueError(message)' in host.logs(), 10, "the traceback is in the log")
    assert call(ch, version="v1")["version"] == "v1"
    assert workers(host) == pids


def test_a_class_without_the_method_is_told_to_the_caller_alone(serve, channel):
    host = serve("NoPredict")
    ch = channel(host.port)
    code, details, _ = failure(lambda: call(ch, timeout=20))
    assert code == "UNIMPLEMENTED" and "predict" in details
    assert Chaos(ch, "other").result() == 1


def test_what_a_model_prints_is_in_the_log(serve, channel):
    host = serve("Example")
    assert Chaos(channel(host.port), "spoken", {"text": "a line of the model"}).result() == 19
    until(lambda: host.logs().count("a line of the model") >= 2, 10, "both lines")


CHATTY = EXAMPLE.replace('"""Gives back what it got, and who it is."""', 'print("x" * 2000, flush=True)\n        print("y" * 2000, file=sys.stderr, flush=True)')


def test_a_reader_of_the_log_that_stalls_holds_up_no_call(serve, channel, tmp_path):
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        host = serve("Example", source=CHATTY, prefix=("sh", "-c", f'exec "$0" "$@" 2>{fifo}'))
        ch = channel(host.port)
        # 4 MiB of lines beyond what the pipe and the queue take; and then some.
        for number in range(3000):
            assert call(ch, kwargs={"a": number}, timeout=20)["kwargs"] == {"a": number}
        beats = Chaos(ch, "slow", {"seconds": 3.0})
        assert beats.result() and beats.heartbeats >= 2
        # It reads again: the log goes on, and says that something is missing.
        os.set_blocking(reader, True)
        seen = b""
        while b"lines of the log were dropped" not in seen[-100_000:]:
            piece = os.read(reader, 1 << 20)
            assert piece, "the log has ended"
            seen += piece
        drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 20), b"")])
        drain.start()
        host.end()
        drain.join(20)
        assert not drain.is_alive()
    finally:
        os.close(reader)


def test_a_model_that_crashes_at_every_start_is_told_and_tried_again(serve, channel, tmp_path):
    flag = tmp_path / "fit"
    source = f"import os, signal\nif not os.path.exists({str(flag)!r}):\n    os.kill(os.getpid(), signal.SIGKILL)\n" + EXAMPLE
    host = serve("Example", source=source, ready=False)
    until(lambda: host.admin("/livez").status == 200, 20)
    until(lambda: "crash_loop" in str(host.api("services")), 40, "the state is crash_loop")
    flag.write_text("")
    assert call(channel(host.port), timeout=60)


# --- versions and limits -----------------------------------------------------------------------

LOADS = EXAMPLE + """

class Counted(Example):
    def __init__(self, version=None, **kwargs):
        with open(os.environ["LOADS"], "a") as file:
            file.write(f"{version}\\\\n")
        time.sleep(0.2)
"""


def test_versions_are_loaded_once_and_the_least_used_goes(serve, channel, tmp_path):
    loads = tmp_path / "loads"
    source = LOADS.replace("\\\\n", "\\n")
    host = serve("Counted", "--max-loaded", 2, source=source, env={"LOADS": str(loads)})
    ch = channel(host.port)
    together = [threading.Thread(target=lambda: call(ch, version="v1")) for _ in range(8)]
    for each in together:
        each.start()
    for each in together:
        each.join(30)
    lines = lambda: loads.read_text().split()  # noqa: E731
    assert lines().count("v1") == 1
    for version in ("v1", "v2", "v1", "v2"):
        assert call(ch, version=version)["version"] == version
    assert lines().count("v1") == 1 and lines().count("v2") == 1
    call(ch, version="v3")
    call(ch, version="v2")
    assert lines().count("v2") == 1
    call(ch, version="v1")
    assert lines().count("v1") == 2


def test_versions_that_are_not_there_cost_the_loaded_one_no_place(serve, channel, tmp_path):
    loads = tmp_path / "loads"
    source = LOADS.replace("\\\\n", "\\n") + '        if version not in ("default", "v1") and not self.model_dir(mkdir=False).exists():\n            raise FileNotFoundError("no weights")\n        if (self.model_dir(mkdir=False) / "weights").exists():\n            raise ValueError("torn")\n'
    host = serve("Counted", source=source, env={"LOADS": str(loads)})
    ch = channel(host.port)
    assert call(ch, version="v1")["version"] == "v1"
    for _ in range(5):
        code, _, metadata = failure(lambda: call(ch, version="v7"))
        assert (code, metadata["x-tidegate-error"]) == ("NOT_FOUND", "unknown_version")
        assert call(ch, version="v1")["version"] == "v1"
    lines = lambda: loads.read_text().split()  # noqa: E731
    for number in range(5):
        assert failure(lambda: call(ch, version=f"made-up-{number}"))[0] == "NOT_FOUND"
    assert call(ch, version="v1")["version"] == "v1"
    assert lines().count("v7") == 1 and lines().count("v1") == 1, lines()
    assert lines().count("made-up-3") == 1
    # Its folder comes: it is there at once.
    (host.data / "models" / "v7").mkdir(parents=True)
    assert call(ch, version="v7")["version"] == "v7"
    # What has a folder takes a place before it is loaded; what does not load does so once.
    (host.data / "models" / "broken" / "weights").mkdir(parents=True)
    for _ in range(3):
        assert failure(lambda: call(ch, version="broken"))[0] == "INTERNAL"
        assert call(ch, version="v7")["version"] == "v7"
    assert lines().count("broken") == 3 and lines().count("v7") == 3, lines()


def test_bounds_of_uploads_follow_a_reload(tidegate, tmp_path, channel):
    def config(**limits):
        return {"routes": [route([{"service": "example"}])], "services": [service(tmp_path, limits=limits)]}

    host = tidegate(config(upload="8MiB"))
    until(lambda: call(channel(host.port)), 20)
    body = os.urandom(2 << 20)
    post = lambda: host.request("POST", "/example/digest", [("content-type", "application/octet-stream")], body)  # noqa: E731
    assert post().status == 200
    host.reload(config(upload="1MiB"))
    until(lambda: post().status == 413, 10, "the bound of uploads is followed")
    host.reload(config(upload="8MiB"))
    until(lambda: post().status == 200, 10, "the bound of uploads is followed again")


def limited(tmp_path, **limits):
    return {"routes": [route([{"service": "example"}])], "services": [service(tmp_path, limits=limits)]}


def test_a_call_beyond_its_time_is_ended_and_the_worker_serves_on(tidegate, tmp_path, channel):
    host = tidegate(limited(tmp_path, call_time="1s"))
    ch = channel(host.port)
    until(lambda: call(ch), 20)
    code, details, metadata = failure(lambda: Chaos(ch, "held", {"gil": 20.0}, timeout=60).result())
    assert (code, metadata["x-tidegate-error"]) == ("DEADLINE_EXCEEDED", "call_time"), details
    assert call(ch, timeout=20)


STUBBORN = """
import asyncio, os
from tidegate import Model


class Stubborn(Model):
    async def predict(self):
        return os.getpid()

    async def stays(self):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    async def waits(self, seconds: float):
        await asyncio.sleep(seconds)
        return os.getpid()

    async def items(self):
        yield 1
        await self.stays()
"""


def test_a_coroutine_that_does_not_let_itself_be_cancelled_costs_its_worker(tidegate, tmp_path, channel):
    made = service(tmp_path, cls="Stubborn", source=STUBBORN, concurrency=4, limits={"call_time": "1s"})
    host = tidegate({"routes": [route([{"service": "example"}])], "services": [made]})
    ch = channel(host.port)
    before = until(lambda: call(ch), 20)
    # One that lets itself be cancelled costs nobody anything.
    code, details, metadata = failure(lambda: Chaos(ch, "waits", {"seconds": 60}, timeout=60).result())
    assert (code, metadata["x-tidegate-error"]) == ("DEADLINE_EXCEEDED", "call_time"), details
    assert call(ch) == before
    code, details, metadata = failure(lambda: Chaos(ch, "stays", timeout=60).result())
    assert (code, metadata["x-tidegate-error"]) == ("DEADLINE_EXCEEDED", "call_time") and "1000 ms" in details, details
    until(lambda: call(ch, timeout=20) != before, 20, "another worker")
    assert "a call was beyond `limits.call_time` and did not stop" in host.logs()


def test_a_worker_that_takes_too_much_memory_is_ended(tidegate, tmp_path, channel):
    greedy = EXAMPLE.replace("def nothing(self):", "def greedy(self):\n        x = bytearray(600 << 20)\n        time.sleep(30)\n\n    def nothing(self):")
    config = {"routes": [route([{"service": "example"}])], "services": [service(tmp_path, source=greedy, limits={"memory": "300MiB"})]}
    host = tidegate(config)
    ch = channel(host.port)
    until(lambda: call(ch), 20)
    code, details, metadata = failure(lambda: Chaos(ch, "greedy", timeout=25).result())
    assert (code, metadata["x-tidegate-error"]) == ("RESOURCE_EXHAUSTED", "memory_limit"), details
    assert call(ch, timeout=20)


def test_a_full_queue_is_told_at_once(tidegate, tmp_path, channel):
    host = tidegate(limited(tmp_path, queue=3))
    ch = channel(host.port)
    until(lambda: call(ch), 20)
    made = [Chaos(ch, "slow", {"seconds": 2}) for _ in range(12)]
    ended = []
    for each in made:
        try:
            ended.append(each.result()["slept"])
        except Exception as error:  # noqa: BLE001 - grpc's errors are classes of their own
            ended.append((error.code().name, dict(error.trailing_metadata())["x-tidegate-error"]))
    full = ended.count(("RESOURCE_EXHAUSTED", "queue_full"))
    assert full == 12 - 1 - 3 or full == 12 - 1 - 3 - 4, ended
    assert call(ch, timeout=20)


def test_a_command_that_listens_on_its_port_is_a_service(tidegate, tmp_path):
    command = [sys.executable, "-u", "-c", "import http.server, os; http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), http.server.SimpleHTTPRequestHandler).serve_forever()"]
    host = tidegate({"routes": [route([{"service": "files"}])], "services": [{"name": "files", "command": command, "protocol": "http1", "replicas": 2}]})
    until(lambda: host.get("/").status == 200, 20)
    assert {host.get("/").status for _ in range(10)} == {200}
