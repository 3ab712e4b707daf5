"""`services:` in a configuration, and `tidegate serve`: what becomes of instances, and what callers see of it."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import yaml
from harness import http1
from harness.gateway import binary, command, route, simple
from harness.model import Load, alive, call, service, workers
from harness.models import EXAMPLE
from harness.process import command_line
from harness.wait import until


def config(*services, **more):
    routes = [route([{"service": each["name"]}], name=each["name"], match={"path": {"prefix": f"/{each['name']}"}}) for each in services[1:]]
    return {"routes": [*routes, route([{"service": services[0]["name"]}], name="all")], "services": list(services), **more}


def answer(gateway, name="example", method="predict", body=None, timeout=30):
    return gateway.request("POST", f"/{name}/{method}", [("content-type", "application/json")], json.dumps(body or {}).encode(), timeout=timeout)


def pid(gateway, name="example", **more):
    answered = answer(gateway, name, **more)
    assert answered.status == 200, (answered.status, answered.body)
    return json.loads(answered.body)["pid"]


def of(gateway, name="example"):
    return next(each for each in gateway.api("services") if each["name"] == name)


def ready(gateway, name="example"):
    return [each for each in of(gateway, name)["instances"] if each["state"] == "ready"]


def kill_host(gateway):
    """kill -9, and back when all of it is gone: its threads may hold connections a moment longer, and what is written to one is lost."""
    before = gateway.logs().count('"host started"')
    gateway.kill_role("host")
    until(lambda: gateway.logs().count('"host started"') > before, 10, "another host")


def test_a_service_answers_over_http_and_grpc_and_its_instances_share_the_work(tidegate, tmp_path, channel):
    gateway = tidegate(config(service(tmp_path, replicas=3)))
    until(lambda: len(ready(gateway)) == 3, 30, "three instances")
    assert json.loads(answer(gateway, body={"a": 1}).body)["kwargs"] == {"a": 1}
    with Load([channel(gateway.port)], rate=100, seconds=2) as load:
        load.finish()
    assert not load.failures and len(load.answers) == 3, (load.failures[:3], load.answers)
    seen = of(gateway)
    assert (seen["runs"], seen["replicas"], seen["ready"]) == ("model:Example", 3, 3)
    assert {each["pid"] for each in seen["instances"]} == set(workers(gateway))
    assert gateway.metric("tidegate_service_instances", service="example", state="ready") == 3
    until(lambda: gateway.metric("tidegate_service_calls_total", service="example") >= 200, 5, "calls are counted")
    shown = command("status", "services", "--admin", f"http://127.0.0.1:{gateway.admin_port}")
    assert shown.returncode == 0 and "model:Example" in shown.stdout and "3 of 3 ready" in shown.stdout, shown
    asked = command("status", "services", "--json", "--admin", f"http://127.0.0.1:{gateway.admin_port}")
    assert json.loads(asked.stdout)["services"][0]["name"] == "example"
    assert {each["kind"] for each in gateway.events()} >= {"instance_ready"}
    unknown = gateway.admin("/api/v1/services/nobody")
    assert unknown.status == 404 and b"no_such_service" in unknown.body


def test_a_request_waits_for_the_first_instance(tidegate, tmp_path):
    slow = "import time\ntime.sleep(3)\n" + EXAMPLE
    gateway = tidegate(config(service(tmp_path, source=slow)), ready=False)
    until(lambda: gateway.admin("/livez").status == 200, 20, "the gateway lives")
    assert not gateway.ready() and b"example" in gateway.admin("/readyz").body
    assert pid(gateway)
    assert gateway.ready()


def test_a_request_that_waits_in_vain_is_told_why(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, source="import time\ntime.sleep(600)\n", start_timeout="2s")), ready=False)
    until(lambda: gateway.admin("/livez").status == 200, 20, "the gateway lives")
    answered = answer(gateway)
    assert answered.status == 503 and answered.header("x-tidegate-error") == "service-not-ready", answered
    assert gateway.ready(), "other routes may be fine: readiness waits for the first start only"


def test_a_caller_who_leaves_while_it_waits_costs_nothing(tidegate, tmp_path):
    flag = tmp_path / "go"
    source = f"import os, time\nwhile not os.path.exists({str(flag)!r}):\n    time.sleep(0.05)\n" + EXAMPLE
    gateway = tidegate(config(service(tmp_path, source=source)), ready=False)
    until(lambda: gateway.admin("/livez").status == 200, 20, "the gateway lives")
    client = gateway.client()
    client.send(b"POST /example/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    until(lambda: gateway.metric("tidegate_inflight", target="") + gateway.metric("tidegate_inflight") > 0, 10, "it waits")
    client.close()
    until(lambda: gateway.metric("tidegate_inflight") == 0, 10, "it is gone")
    flag.write_text("")
    assert pid(gateway)


def test_with_a_fallback_nobody_waits(tidegate, tmp_path, server):
    other = server()
    asleep = service(tmp_path, source="import time\ntime.sleep(600)\n")
    wanted = {"services": [asleep], "routes": [route([{"service": "example"}], name="all", fallback=[{"upstream": "up"}])], "upstreams": simple(other)["upstreams"]}
    gateway = tidegate(wanted, ready=False)
    until(lambda: gateway.admin("/livez").status == 200, 20, "the gateway lives")
    assert answer(gateway, timeout=5).status == 200


def test_the_hosts_death_costs_who_waits_time_and_nobody_an_answer(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    before = set(workers(gateway))
    assert pid(gateway) in before
    kill_host(gateway)
    # At once: nobody has told the gateway yet.
    for _ in range(5):
        assert pid(gateway) not in before
    until(lambda: not any(alive(each) for each in before), 5, "the old workers ended")
    until(lambda: len(ready(gateway)) == 2, 20, "both are back")


def infer(gateway, timeout=30):
    """A predict in the words of the Open Inference Protocol."""
    tensor = {"name": "a", "datatype": "INT64", "shape": [1], "data": [1]}
    answered = gateway.request("POST", "/v2/models/example/infer", [("content-type", "application/json")], json.dumps({"inputs": [tensor]}).encode(), timeout=timeout)
    assert answered.status == 200, (answered.status, answered.body)
    return json.loads(answered.body)


ONCE = EXAMPLE.replace("class Example(Model):", "class Example(Model):\n    def tally(self, path):\n        with open(path, 'a') as out:\n            out.write('x')\n        time.sleep(30)\n", 1)


def test_a_host_killed_under_load_costs_no_predict(tidegate, tmp_path, channel):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 20)
    stop, failures, answered = threading.Event(), [], []

    def ask(how):
        while not stop.is_set():
            try:
                answered.append(how(gateway, timeout=60))
            except (AssertionError, OSError, http1.Closed) as error:
                failures.append(repr(error))

    asking = [threading.Thread(target=ask, args=(how,)) for how in (pid, pid, pid, infer)]
    channels = [channel(gateway.port, retries=False) for _ in range(2)]
    with Load(channels, rate=150, seconds=120, timeout=60) as load:
        for each in asking:
            each.start()
        try:
            for _ in range(3):
                seen, begun = len(answered), load.begun
                until(lambda: len(answered) > seen + 20 and load.begun > begun + 100, 30, "requests under way")  # noqa: B023
                kill_host(gateway)
                until(lambda: len(ready(gateway)) == 2, 30, "both are back")
        finally:
            stop.set()
            for each in asking:
                each.join(70)
        load.stop()
    assert not failures, failures[:5]
    assert not load.failures, load.failures[:5]
    assert sum(load.answers.values()) == load.begun


def test_what_may_not_run_twice_is_lost_with_its_host(tidegate, tmp_path, channel):
    gateway = tidegate(config(service(tmp_path, source=ONCE)))
    assert pid(gateway)
    seen = tmp_path / "seen"
    results = []
    asking = threading.Thread(target=lambda: results.append(answer(gateway, method="tally", body={"path": str(seen)}, timeout=60)), daemon=True)
    asking.start()
    until(lambda: seen.exists() and seen.read_text() == "x", 20, "the call runs")
    kill_host(gateway)
    asking.join(30)
    assert results and results[0].status == 502, results
    assert pid(gateway)
    assert seen.read_text() == "x"


def test_wherever_state_and_temporary_files_are_the_sockets_have_room(tidegate, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    state = deep / ("s" * 100)
    gateway = tidegate(config(service(tmp_path), state={"url": f"file:{state}"}), env={"TMPDIR": str(deep), "XDG_RUNTIME_DIR": str(deep)})
    assert pid(gateway)
    kill_host(gateway)
    assert pid(gateway)
    addresses = [each["address"] for each in ready(gateway)]
    assert addresses and all(len(each) < 108 + len("unix:") for each in addresses), addresses
    folders = {os.path.dirname(each.removeprefix("unix:")) for each in addresses}
    assert all(os.stat(folder).st_mode & 0o777 == 0o700 for folder in folders)
    assert gateway.stop() == 0
    assert not any(os.path.exists(folder) for folder in folders), folders


def test_the_gateways_death_touches_no_worker(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 20)
    before = workers(gateway)
    gateway.kill_role("gateway")
    assert pid(gateway) in before
    until(gateway.ready, 20)
    assert workers(gateway) == before and len(ready(gateway)) == 2


def test_a_reload_adds_changes_and_removes_services(tidegate, tmp_path):
    one, two = service(tmp_path), service(tmp_path, name="other")
    gateway = tidegate(config(one))
    first = pid(gateway)
    gateway.reload(config(one, two))
    assert pid(gateway, "other") != first
    until(lambda: len(ready(gateway)) == 1, 20)
    gateway.reload(config({**one, "replicas": 3}, two))
    until(lambda: len(ready(gateway)) == 3, 20, "three replicas")
    gateway.reload(config(two))
    until(lambda: len(workers(gateway)) == 1, 20, "its workers are gone")
    assert [each["name"] for each in gateway.api("services")] == ["other"]
    gateway.reload(simple("127.0.0.1:1"))
    until(lambda: "host" not in gateway.roles() and not workers(gateway), 20, "without services there is no host")
    gateway.reload(config(one))
    assert pid(gateway)


def test_another_version_is_loaded_before_the_old_one_goes(tidegate, tmp_path, channel):
    made = service(tmp_path, cls="KnowsVersions", replicas=2, version="v1")
    gateway = tidegate(config(made))
    ch = channel(gateway.port)
    assert call(ch)["version"] == "v1"
    with Load([ch], rate=100, seconds=20) as load:
        until(lambda: load.begun > 50, 10)
        gateway.reload(config({**made, "version": "v2"}))
        until(lambda: call(ch)["version"] == "v2", 20, "the other version")
        load.stop()
    assert not load.failures, load.failures[:5]
    until(lambda: {tuple(each["versions"]) for each in ready(gateway)} == {("v2",)}, 20, "v1 is gone")


def test_a_bad_configuration_leaves_the_services_alone(tidegate, tmp_path):
    made = service(tmp_path)
    gateway = tidegate(config(made))
    first = pid(gateway)
    gateway.reload(config({**made, "replicas": 0}), refused=True)
    assert pid(gateway) == first
    kill_host(gateway)
    assert pid(gateway), "a new host goes by what was accepted"


def test_an_upgrade_replaces_host_and_workers_without_a_lost_call(tidegate, tmp_path, channel):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 20)
    before = workers(gateway)
    channels = [channel(gateway.port, retries=False) for _ in range(2)]
    stop, failures, answered = threading.Event(), [], []

    def ask(n):
        while not stop.is_set():
            try:
                answered.append(pid(gateway))
            except (AssertionError, OSError, http1.Closed) as error:
                failures.append(repr(error))

    asking = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for each in asking:
        each.start()
    try:
        assert gateway.upgrade() == 0
        until(lambda: not any(alive(each) for each in before), 30, "the old workers ended")
        until(lambda: len(ready(gateway)) == 2, 20)
    finally:
        stop.set()
        for each in asking:
            each.join(40)
    assert not failures, failures[:5]
    assert set(answered) - set(before), "the new ones answered"
    assert call(channels[0])


def hosts(gateway):
    """Pids of host processes."""
    return [each for each in gateway.leftovers() if command_line(each)[1:3] == ["role", "host"]]


def replace(gateway):
    """`up --upgrade`, until the new supervisor's gateway takes requests; the old supervisor stays as long as its host."""
    gateway.start(False, "--upgrade")
    until(lambda: '"in charge"' in gateway.logs(), 20, "the new supervisor is in charge")


def test_a_successor_that_never_is_ready_leaves_the_host_before_serving_and_says_so(tidegate, tmp_path):
    good = service(tmp_path)
    gateway = tidegate(config(good))
    before = pid(gateway)
    gateway.write(config({**good, "python": {**good["python"], "class": "model:Missing"}}))
    replace(gateway)
    loops = until(lambda: [each for each in of(gateway)["instances"] if each["state"] == "crash_loop"], 30, "the new one can't start")
    assert "Missing" in loops[0]["cause"] and loops[0]["since_ms"] >= 0
    assert pid(gateway) == before and len(hosts(gateway)) == 2
    shown = command("status", "services", "--admin", f"http://127.0.0.1:{gateway.admin_port}").stdout
    assert "its successor is not ready for" in shown and "the workers before serve on" in shown, shown
    assert "crash_loop" in shown and "Missing" in shown, shown
    # Back to what was: one host is left, of whatever kind, and nobody waits for the other.
    gateway.reload(config(good))
    until(lambda: len(hosts(gateway)) == 1 and not alive(before), 30, "one host and its worker")
    assert gateway.processes[0].wait(30) == 0, "nor does anybody wait for it"
    after = pid(gateway)
    assert workers(gateway) == [after] and [each["pid"] for each in of(gateway)["instances"]] == [after]
    assert gateway.stop() == 0
    until(lambda: not gateway.leftovers(), 10, "nothing is left")


def test_a_host_before_goes_with_all_when_its_successor_never_was_ready(tidegate, tmp_path):
    good = service(tmp_path)
    gateway = tidegate(config(good))
    before = pid(gateway)
    gateway.write(config({**good, "python": {**good["python"], "class": "model:Missing"}}))
    replace(gateway)
    until(lambda: len(hosts(gateway)) == 2, 20, "both")
    assert gateway.stop() == 0
    until(lambda: not gateway.leftovers() and not alive(before), 10, "nothing is left")


def test_a_stop_leaves_the_folders_as_they_were(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    assert pid(gateway)
    assert gateway.stop() == 0
    until(lambda: not gateway.leftovers(), 5, "nothing is left")
    left = [path.name for path in gateway.folder.glob("tidegate-data/run/*")]
    assert not [name for name in left if name.startswith(("h-", "host-", "i-"))], left


HEALTHY = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/healthz":
            self.send_response(200 if os.path.exists(sys.argv[2]) else 503)
        else:
            self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_command_that_is_scaled_down_gets_no_request_any_more_when_it_is_told_to_end(tidegate, tmp_path):
    (tmp_path / "program.py").write_text(HEALTHY.replace("def do_GET", "def do_POST(self):\n        self.do_GET()\n    def do_GET"))
    made = {"name": "example", "command": [sys.executable, str(tmp_path / "program.py"), "$PORT", "x"], "replicas": 3}
    gateway = tidegate(config(made))
    until(lambda: len(ready(gateway)) == 3, 20)
    stop, failures, answered = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                status = gateway.request("POST", "/", [], b"x", timeout=30).status
                (answered if status == 200 else failures).append(status)
            except (OSError, http1.Closed) as error:
                failures.append(repr(error))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for each in asking:
        each.start()
    try:
        until(lambda: len(answered) > 100, 20, "requests")
        gateway.reload(config({**made, "replicas": 1}))
        until(lambda: len(of(gateway)["instances"]) == 1, 20, "two are gone")
    finally:
        stop.set()
        for each in asking:
            each.join(30)
    assert not failures, failures[:5]


def test_a_command_is_ready_when_its_health_check_passes(tidegate, tmp_path):
    (tmp_path / "program.py").write_text(HEALTHY)
    healthy = tmp_path / "healthy"
    program = [sys.executable, str(tmp_path / "program.py"), "$PORT", str(healthy)]
    check = {"http": "/healthz", "interval": "100ms", "timeout": "100ms", "unhealthy_after": 2}
    gateway = tidegate(config({"name": "example", "command": program, "health_check": check}), ready=False)
    waits = until(lambda: [each for each in of(gateway)["instances"] if each["cause"]], 20, "a first check")
    assert waits[0]["state"] == "starting" and "503" in waits[0]["cause"], waits
    results = []
    asking = threading.Thread(target=lambda: results.append(gateway.get("/", timeout=30).status), daemon=True)
    asking.start()
    healthy.touch()
    asking.join(30)
    assert results == [200]
    assert [each["state"] for each in of(gateway)["instances"]] == ["ready"]
    # One that is ill later gets no requests until it is well again: they wait.
    healthy.unlink()
    until(lambda: [m for m in next(u for u in gateway.api("upstreams") if u["name"] == "example")["members"] if m["state"] != "healthy"], 10, "ill")
    (failing,) = until(lambda: [each for each in of(gateway)["instances"] if each["state"] == "failing"], 10, "it is told")
    assert "503" in failing["cause"] and of(gateway)["ready"] == 0, failing
    assert gateway.metric("tidegate_service_instances", service="example", state="failing") == 1
    assert gateway.metric("tidegate_service_instances", service="example", state="ready") == 0
    shown = command("status", "services", "--admin", f"http://127.0.0.1:{gateway.admin_port}").stdout
    assert "0 of 1 ready" in shown and "failing" in shown and "503" in shown, shown
    asking = threading.Thread(target=lambda: results.append(gateway.get("/", timeout=30).status), daemon=True)
    asking.start()
    healthy.touch()
    asking.join(30)
    assert results == [200, 200]
    (well,) = until(lambda: ready(gateway), 10, "it is told to be ready again")
    assert (well["pid"], well["restarts"], well["cause"]) == (failing["pid"], 0, "")


def test_a_command_that_goes_on_failing_its_health_check_is_started_anew(tidegate, tmp_path):
    (tmp_path / "program.py").write_text(HEALTHY)
    healthy = tmp_path / "healthy"
    healthy.touch()
    program = [sys.executable, str(tmp_path / "program.py"), "$PORT", str(healthy)]
    check = {"http": "/healthz", "interval": "100ms", "timeout": "100ms", "unhealthy_after": 2}
    gateway = tidegate(config({"name": "example", "command": program, "health_check": check, "restart_after": 4}))
    (before,) = until(lambda: ready(gateway), 20)
    healthy.unlink()
    (ill,) = until(lambda: [each for each in of(gateway)["instances"] if each["restarts"]], 20, "it is started anew")
    assert ill["state"] == "starting" and "503" in ill["cause"], ill
    healthy.touch()
    (after,) = until(lambda: ready(gateway), 20)
    assert after["pid"] != before["pid"]
    assert "it failed 4 checks in a row" in after["cause"], after
    shown = command("status", "services", "--admin", f"http://127.0.0.1:{gateway.admin_port}").stdout
    assert "1 of 1 ready" in shown and "last death: it failed" in shown, shown
    assert "it failed 4 checks in a row" in gateway.logs()


def test_a_served_model_needs_nothing_of_providers(serve):
    host = serve("Example")
    until(lambda: len([each for each in host.api("services")[0]["instances"] if each["state"] == "ready"]) == 1, 20)
    assert "virtual keys" not in host.logs() and "keys/prober" not in host.logs()
    assert host.api("keys") == [] if host.admin("/api/v1/keys").status == 200 else True
    assert host.stop() == 0


def test_a_command_gets_its_port_in_words_and_as_a_variable(tidegate, tmp_path):
    text = "import http.server, os, sys\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200); self.end_headers(); self.wfile.write(f'{os.getpid()} {sys.argv[1] == os.environ[\"PORT\"]} {os.environ[\"GREETING\"]}'.encode())\nhttp.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()"
    made = {"name": "files", "command": [sys.executable, "-c", text, "$PORT"], "protocol": "http1", "replicas": 2, "env": {"GREETING": "hello"}}
    gateway = tidegate(config(made))
    until(lambda: len(ready(gateway, "files")) == 2, 20)
    answers = {gateway.get("/").text() for _ in range(40)}
    assert len(answers) == 2 and all(each.endswith("True hello") for each in answers), answers
    victim = int(answers.pop().split()[0])
    os.kill(victim, signal.SIGKILL)
    for _ in range(40):
        assert gateway.get("/").status == 200
    until(lambda: len(ready(gateway, "files")) == 2, 20, "it is back")
    died = [each for each in gateway.events("worker_died") if each["subject"] == "files"]
    assert died and "signal 9" in died[0]["cause"]


# --- tidegate serve ----------------------------------------------------------------------------


def run(folder, *words, timeout=60):
    made = subprocess.run(
        [binary(), "serve", *map(str, words), "--data", folder / "data", "--python", sys.executable, "--admin", "off"],
        cwd=folder, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return made


@pytest.mark.parametrize(
    "source, cls, words",
    [
        ("", "nowhere:Model", ["nowhere"]),
        ("", "model:Missing", ["Missing"]),
        ("raise RuntimeError('no weights')", "model:Model", ["RuntimeError", "no weights", "Traceback", "model.py"]),
        ("def broken(:", "model:Model", ["SyntaxError"]),
        ("from tidegate import Model\nclass Bad(Model):\n    def __init__(self, *a, **k):\n        raise ValueError('too cold')", "model:Bad", ["ValueError", "too cold", "Traceback"]),
    ],
)
def test_a_model_that_cannot_be_had_is_the_answer_to_the_command(tmp_path, source, cls, words):
    (tmp_path / "model.py").write_text(source)
    made = run(tmp_path, cls, "--port", 0)
    assert made.returncode == 1, (made.returncode, made.stderr[-3000:])
    assert all(word in made.stderr for word in words), made.stderr[-3000:]


def test_wrong_words_are_told_at_once(tmp_path):
    for words, told in [
        (("model",), "module:Class"),
        (("model:M", "--replicas", 0), "replicas"),
        (("model:M", "--path", tmp_path / "none"), "--path"),
        (("not a module:M",), "write module:Class"),
    ]:
        made = run(tmp_path, *words)
        assert made.returncode == 2 and told in made.stderr, (words, made.stderr)


def test_the_configuration_that_serve_stands_for_can_be_printed_and_used(tmp_path, tidegate):
    (tmp_path / "model.py").write_text(EXAMPLE)
    made = run(tmp_path, "model:Example", "--replicas", 2, "--max-loaded", 3, "--print-config")
    assert made.returncode == 0, made.stderr
    printed = yaml.safe_load(made.stdout)
    (only,) = printed["services"]
    assert (only["name"], only["replicas"], only["versions"]["max_loaded"]) == ("example", 2, 3)
    assert printed["listeners"][0]["address"] == "0.0.0.0:50051"
    gateway = tidegate({"services": printed["services"], "routes": printed["routes"]})
    assert pid(gateway)
