"""Hosts outlive their supervisors: the next one adopts them with their workers as they are, and never two are left."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from harness.gateway import binary, command, route
from harness.model import Load, alive, call, service, workers
from harness.models import EXAMPLE
from harness.process import command_line
from harness.wait import until



def held(hold):
    """A model that can't be had as long as that file is there."""
    return EXAMPLE + f"\nwhile Path({str(hold)!r}).exists():\n    time.sleep(0.02)\n"


def config(*services, **more):
    first, *rest = services
    routes = [route([{"service": each["name"]}], name=each["name"], match={"path": {"prefix": f"/{each['name']}"}}) for each in rest]
    return {"routes": [*routes, route([{"service": first["name"]}], name="all")], "services": list(services), **more}


def answer(gateway, name="example", method="predict", body=None, timeout=30):
    return gateway.request("POST", f"/{name}/{method}", [("content-type", "application/json")], json.dumps(body or {}).encode(), timeout=timeout)


def pid(gateway, name="example"):
    answered = answer(gateway, name)
    assert answered.status == 200, (answered.status, answered.body)
    return json.loads(answered.body)["pid"]


def instances(gateway, name="example"):
    return next(each for each in gateway.api("services") if each["name"] == name)["instances"]


def ready(gateway, name="example"):
    return [each for each in instances(gateway, name) if each["state"] == "ready"]


def pids(gateway, name):
    return {each["pid"] for each in ready(gateway, name)}


def hosts(gateway):
    return [each for each in gateway.leftovers() if command_line(each)[1:3] == ["role", "host"]]


def behead(gateway):
    """kill -9 of the supervisor."""
    os.kill(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait(10)


def adopted(gateway):
    """Starts the next supervisor, which adopts the host."""
    gateway.start()
    until(lambda: '"host adopted"' in gateway.process.log(), 10, "the host is adopted")


def stops_clean(gateway):
    """SIGTERM leaves no process and nothing in the folder."""
    assert gateway.stop() == 0
    until(lambda: not gateway.leftovers(), 15, "nothing is left")
    left = [path.name for path in gateway.folder.glob("tidegate-data/run/*")]
    assert not [name for name in left if name.startswith(("h-", "host-", "gateway-", "i-"))], left


def count(gateway, message):
    return gateway.logs().count(f'"message":"{message}"')


# --- after the supervisor's death -----------------------------------------------------------------


def test_a_host_whose_supervisor_was_killed_under_load_is_adopted_as_it_is(tidegate, tmp_path, channel):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before, (host,) = workers(gateway), hosts(gateway)
    with Load([channel(gateway.port, retries=False) for _ in range(2)], rate=100, seconds=60) as load:
        for _ in range(3):
            seen = load.begun
            until(lambda: load.begun > seen + 50, 20, "load")  # noqa: B023
            behead(gateway)
            seen = load.begun
            until(lambda: load.begun > seen + 50, 20, "it serves without a supervisor")  # noqa: B023
            adopted(gateway)
            assert (workers(gateway), hosts(gateway)) == (before, [host])
        load.stop()
    assert not load.failures, load.failures[:5]
    assert set(load.answers) == set(before)
    assert count(gateway, "version loaded") == 2 and count(gateway, "host started") == 1, "no model was loaded again"
    stops_clean(gateway)


def test_an_adopted_host_is_seen_told_and_logged_as_one_that_was_started(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before = set(workers(gateway))
    behead(gateway)
    assert answer(gateway, method="spoken", body={"text": "while alone"}).status == 200
    until(lambda: "while alone" in gateway.processes[0].log(), 10, "who is alone goes on with the log that it has")
    adopted(gateway)
    assert answer(gateway, method="spoken", body={"text": "to the new one"}).status == 200
    lines = until(lambda: [line for line in gateway.access_log() if line.get("line") == "to the new one"], 10, "a worker's line")
    assert lines[0]["service"] == "example"
    assert "to the new one" in gateway.process.log(), "in the log of the supervisor that there is"
    shown = command("status", "services", "--admin", f"http://127.0.0.1:{gateway.admin_port}").stdout
    assert "2 of 2 ready" in shown, shown
    assert gateway.metric("tidegate_service_instances", service="example", state="ready") == 2
    gateway.process.signal(signal.SIGHUP)
    until(lambda: not before & set(workers(gateway)) and len(ready(gateway)) == 2, 30, "SIGHUP loads its models anew")


def test_what_changed_meanwhile_rolls_and_nothing_else(tidegate, tmp_path, channel):
    kept, changed, gone = service(tmp_path), service(tmp_path, name="changed"), service(tmp_path, name="gone")
    gateway = tidegate(config(kept, changed, gone))
    before = {name: until(lambda: pids(gateway, name), 30) for name in ("example", "changed", "gone")}  # noqa: B023
    (host,) = hosts(gateway)
    with Load([channel(gateway.port, retries=False)], rate=100, seconds=60) as load:
        behead(gateway)
        gateway.write(config(kept, {**changed, "env": {"A": "1"}}))
        adopted(gateway)
        until(lambda: pids(gateway, "changed") and not pids(gateway, "changed") & before["changed"], 30, "it has rolled")
        until(lambda: not any(alive(each) for each in before["gone"] | before["changed"]), 30, "the old workers ended")
        assert pids(gateway, "example") == before["example"] and hosts(gateway) == [host]
        load.stop()
    assert not load.failures, load.failures[:5]
    assert set(load.answers) == before["example"]
    assert pid(gateway, "changed") in pids(gateway, "changed")
    assert {each["name"] for each in gateway.api("services")} == {"changed", "example"}
    stops_clean(gateway)


def test_a_host_that_nobody_wants_any_more_goes(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path)))
    before = pid(gateway)
    behead(gateway)
    gateway.write({"routes": [{"name": "all", "respond": {"body": "none"}}]})
    gateway.start()
    until(lambda: not hosts(gateway) and not alive(before), 20, "it is gone")
    stops_clean(gateway)


def test_an_adopted_host_that_dies_is_replaced(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before = set(workers(gateway))
    behead(gateway)
    adopted(gateway)
    gateway.kill_role("host")
    assert pid(gateway) not in before
    until(lambda: len(ready(gateway)) == 2 and not any(alive(each) for each in before), 20, "both are back")
    assert len(hosts(gateway)) == 1 and '"host died' in gateway.process.log()
    stops_clean(gateway)


def test_a_command_that_fails_leaves_what_it_found(tidegate, tmp_path):
    """Its listener is another's: the host that it has adopted goes on with the gateway that it did not replace."""
    gateway = tidegate(config(service(tmp_path)))
    before = pid(gateway)
    behead(gateway)
    good = gateway.path.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        main = gateway.complete({})["listeners"]
        gateway.write(config(service(tmp_path), listeners=[*main, {"name": "second", "address": "127.0.0.1:%d" % taken.getsockname()[1]}]))
        gateway.start(False)
        assert gateway.process.wait(20) == 1
    assert pid(gateway) == before
    gateway.path.write_text(good)
    adopted(gateway)
    assert pid(gateway) == before
    stops_clean(gateway)


def test_variables_are_those_of_the_supervisor_that_there_is(tidegate, tmp_path, channel):
    source = EXAMPLE + "\nclass Tells(Example):\n    def predict(self, **kwargs):\n        return {'pid': os.getpid(), 'token': os.environ['MODEL_TOKEN']}\n"
    made = service(tmp_path, cls="Tells", source=source, env={"MODEL_TOKEN": "${OUTER}"})
    gateway = tidegate(config(service(tmp_path, name="other"), made), env={"OUTER": "old", "UNUSED": "1"})
    before = {name: until(lambda: pids(gateway, name), 30) for name in ("other", "example")}  # noqa: B023
    (host,) = hosts(gateway)
    for number, token in enumerate(["old", "new"]):
        with Load([channel(gateway.port, retries=False)], rate=50, seconds=60) as load:
            behead(gateway)
            gateway.env = {"OUTER": token, "UNUSED": str(number)}
            adopted(gateway)
            until(lambda: json.loads(answer(gateway).body)["token"] == token, 30, "what is wanted")  # noqa: B023
            load.stop()
        assert not load.failures, load.failures[:5]
        assert (pids(gateway, "example") == before["example"]) == (token == "old")
    assert pids(gateway, "other") == before["other"] and hosts(gateway) == [host]
    stops_clean(gateway)


# --- killed in the middle of something ------------------------------------------------------------


def test_a_supervisor_killed_while_it_drains_is_followed_by_one_that_serves(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before, results = workers(gateway), []
    asking = threading.Thread(target=lambda: results.append(answer(gateway, method="slow", body={"seconds": 3}).status))
    asking.start()
    until(lambda: gateway.metric("tidegate_inflight") > 0, 10, "a call")
    gateway.process.signal(signal.SIGTERM)
    until(lambda: not gateway.ready(), 10, "it drains")
    behead(gateway)
    adopted(gateway)
    assert pid(gateway) in before and workers(gateway) == before
    asking.join(30)
    assert results == [200], "the gateway before has finished what it had"
    stops_clean(gateway)


STUBBORN = """
import http.server, os, signal, sys, threading, time
def leave():
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.02)
    os._exit(0)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=leave).start())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = b'{"pid": %d}' % os.getpid()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_host_that_drains_already_is_not_adopted_and_another_one_serves(tidegate, tmp_path):
    (tmp_path / "program.py").write_text(STUBBORN)
    go = tmp_path / "go"
    made = {"name": "example", "command": [sys.executable, str(tmp_path / "program.py"), "$PORT", str(go)], "protocol": "http1", "stop_grace": "60s"}
    gateway = tidegate(config(made))
    before, (host,) = pid(gateway), hosts(gateway)
    gateway.process.signal(signal.SIGTERM)
    until(lambda: not list(gateway.folder.glob("tidegate-data/run/host-*.sock")), 20, "the host drains")
    behead(gateway)
    gateway.start()
    after = pid(gateway)
    assert after != before and alive(host) and "host adopted" not in gateway.process.log()
    go.touch()
    until(lambda: not alive(host) and not alive(before), 20, "it has drained")
    assert pid(gateway) == after
    stops_clean(gateway)


def test_an_upgrade_whose_supervisor_is_killed_is_finished_by_the_next_one(tidegate, tmp_path, channel):
    hold = tmp_path / "hold"
    gateway = tidegate(config(service(tmp_path, source=held(hold))))
    before, (old,) = pid(gateway), hosts(gateway)
    with Load([channel(gateway.port, retries=False)], rate=100, seconds=100) as load:
        hold.touch()
        gateway.start(False, "--upgrade")
        until(lambda: len(hosts(gateway)) == 2 and '"host ready"' in gateway.process.log(), 30, "a host beside the other")
        (new,) = set(hosts(gateway)) - {old}
        behead(gateway)
        adopted(gateway)
        assert set(hosts(gateway)) == {old, new} and alive(before), "the old one serves until the new one can"
        assert gateway.processes[0].wait(30) == 0, "nothing is left to do for the first supervisor"
        hold.unlink()
        until(lambda: hosts(gateway) == [new] and not alive(before), 30, "the new one serves")
        load.stop()
    assert not load.failures, load.failures[:5]
    assert workers(gateway) == [pid(gateway)]
    stops_clean(gateway)


def test_a_successor_that_is_killed_before_it_has_taken_over_leaves_nothing(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path)))
    before, role = pid(gateway), gateway.roles()["gateway"]
    for _ in range(10):
        running = gateway.process
        gateway.start(False, "--upgrade", "--keep-hosts")
        until(lambda: '"gateway started"' in gateway.process.log(), 20, "it has begun")
        running.signal(signal.SIGSTOP)
        if '"in charge"' not in gateway.process.log():
            break
        # It was faster.
        running.signal(signal.SIGCONT)
        running.wait(20)
        role = gateway.roles()["gateway"]
    else:
        raise AssertionError("never in time")
    # Whether it has asked the running one to go or not: that has not done so.
    behead(gateway)
    gateway.processes.append(gateway.processes[-2])
    running.signal(signal.SIGCONT)
    until(lambda: {each for each in gateway.leftovers() if command_line(each)[1:3] == ["role", "gateway"]} == {role}, 20, "its gateway ends")
    assert pid(gateway) == before and running.running()
    stops_clean(gateway)


def test_a_host_that_does_not_answer_is_replaced_and_goes_when_it_can(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path)))
    before, (host,) = pid(gateway), hosts(gateway)
    behead(gateway)
    # Afterwards: the system wakes stopped processes up whose parent dies.
    os.kill(host, signal.SIGSTOP)
    try:
        gateway.start()
        until(lambda: '"it does not answer"' in gateway.process.log(), 20, "it is left alone")
        until(lambda: [each for each in ready(gateway) if each["pid"] != before], 30, "another one is ready")
    finally:
        os.kill(host, signal.SIGCONT)
    until(lambda: not alive(host) and not alive(before), 30, "it goes")
    assert workers(gateway) == [pid(gateway)]
    stops_clean(gateway)


# --- other builds ---------------------------------------------------------------------------------


@pytest.fixture
def other_build(tmp_path):
    """The same code as another file: another build, as far as anybody can see."""
    path = tmp_path / "other" / "tidegate"
    path.parent.mkdir()
    shutil.copy2(binary(), path)
    return path


def test_a_host_of_another_build_is_replaced_beside_without_a_lost_call(tidegate, tmp_path, channel, other_build):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before = workers(gateway)
    with Load([channel(gateway.port, retries=False)], rate=100, seconds=60) as load:
        behead(gateway)
        gateway.program = other_build
        gateway.start()
        until(lambda: not any(alive(each) for each in before) and len(ready(gateway)) == 2, 30, "the new one's workers")
        load.stop()
    assert not load.failures, load.failures[:5]
    until(lambda: len(hosts(gateway)) == 1, 20, "the one before has ended")
    assert "it is of another build" in gateway.process.log()
    stops_clean(gateway)


class Answering(threading.Thread):
    """Answers lines on a Unix socket: for each connection what `respond` makes of its first message."""

    def __init__(self, path, respond):
        super().__init__(daemon=True)
        path.unlink(missing_ok=True)
        self.path, self.respond, self.asked, self.open = path, respond, [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.asked.append(json.loads(connection.recv(65536).split(b"\n")[0])["message"])
            connection.sendall(json.dumps({"message": self.respond}).encode() + b"\n")
            self.open.append(connection)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.listener.close()
        for each in self.open:
            each.close()
        self.path.unlink(missing_ok=True)


def test_a_host_of_another_protocol_is_not_adopted(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path)), start=False)
    run = gateway.folder / "tidegate-data" / "run"
    run.mkdir(parents=True)
    hello = {"type": "hello", "pid": os.getpid(), "exe": "9.0.0", "hash": "", "grace_ms": 1000, "protocol": 99, "epoch": 3}
    with Answering(run / f"host-{os.getpid()}.sock", hello) as stranger:
        gateway.start()
        assert "version 99 of the hosts' protocol" in gateway.process.log()
        assert pid(gateway) and len(hosts(gateway)) == 1
        assert [(each["type"], each["epoch"]) for each in stranger.asked] == [("adopt", 1)]
    stops_clean(gateway)


def test_an_upgrade_over_a_host_without_its_supervisor_runs_new_code_without_a_lost_call(tidegate, tmp_path, channel):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before = workers(gateway)
    with Load([channel(gateway.port, retries=False)], rate=100, seconds=60) as load:
        behead(gateway)
        service(tmp_path, source=EXAMPLE.replace("def nothing(self):\n        return None", "def nothing(self):\n        return 'new'"))
        gateway.start(True, "--upgrade")
        until(lambda: not any(alive(each) for each in before) and len(ready(gateway)) == 2, 30, "the new one's workers")
        load.stop()
    assert not load.failures, load.failures[:5]
    assert json.loads(answer(gateway, method="nothing").body) == "new"
    until(lambda: len(hosts(gateway)) == 1, 20, "the one before has ended")
    stops_clean(gateway)


# --- up --upgrade --keep-hosts --------------------------------------------------------------------


def test_an_upgrade_that_keeps_hosts_replaces_all_else_without_a_lost_call(tidegate, tmp_path, channel, other_build):
    gateway = tidegate(config(service(tmp_path, replicas=2)))
    until(lambda: len(ready(gateway)) == 2, 30)
    before, (host,), role = workers(gateway), hosts(gateway), gateway.roles()["gateway"]
    with Load([channel(gateway.port, retries=False) for _ in range(2)], rate=100, seconds=60) as load:
        for program in (None, other_build):
            gateway.program, old = program, gateway.process
            gateway.start(False, "--upgrade", "--keep-hosts")
            until(lambda: '"host adopted"' in gateway.process.log(), 20, "the host is handed on")
            assert old.wait(30) == 0
            gateway.wait_ready()
        assert gateway.roles()["gateway"] != role and hosts(gateway) == [host] and workers(gateway) == before
        load.stop()
    assert not load.failures, load.failures[:5]
    assert set(load.answers) == set(before) and count(gateway, "version loaded") == 2
    # It follows what the new gateway accepts.
    gateway.reload(config(service(tmp_path, replicas=1)))
    until(lambda: len(workers(gateway)) == 1, 20, "one is left")
    # And an upgrade that keeps none runs the new code.
    assert gateway.upgrade() == 0
    until(lambda: not alive(host) and len(hosts(gateway)) == 1 and len(ready(gateway)) == 1, 30, "another host")
    stops_clean(gateway)


def test_a_kept_host_lives_when_both_supervisors_are_killed(tidegate, tmp_path):
    gateway = tidegate(config(service(tmp_path)))
    before = pid(gateway)
    gateway.start(False, "--upgrade", "--keep-hosts")
    until(lambda: '"host adopted"' in gateway.process.log(), 20)
    gateway.processes[0].wait(30)
    behead(gateway)
    gateway.start(False, "--upgrade", "--keep-hosts")
    until(lambda: '"host adopted"' in gateway.process.log(), 20, "also by an upgrade that keeps it")
    gateway.wait_ready()
    behead(gateway)
    adopted(gateway)
    assert pid(gateway) == before
    stops_clean(gateway)


def test_hosts_of_another_protocol_are_not_kept_and_nothing_is_touched(tidegate, tmp_path):
    """A running supervisor of another build stands for one: it holds the lock and offers its sockets."""
    gateway = tidegate(config(service(tmp_path)), start=False)
    run = gateway.folder / "tidegate-data" / "run"
    run.mkdir(parents=True)
    offer = {"type": "offer", "pid": os.getpid(), "version": "0.0.9", "notify_socket": None}
    with open(run / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for more, told in [({}, "version 0"), ({"host_protocol": 2}, "version 2")]:
            with Answering(run / "supervisor.sock", {**offer, **more}) as running:
                made = command("up", gateway.path, "--upgrade", "--keep-hosts", cwd=gateway.folder)
                assert made.returncode == 1 and "cannot be kept" in made.stderr and told in made.stderr, made.stderr
                assert "--keep-hosts" in made.stderr
                (asked,) = running.asked
                assert (asked["type"], asked["keep_hosts"]) == ("upgrade", True)
    assert sorted(path.name for path in run.iterdir()) == ["lock"]


def test_hosts_are_kept_in_an_upgrade_only(tmp_path):
    made = subprocess.run([binary(), "up", "x.yaml", "--keep-hosts"], capture_output=True, text=True, timeout=30)
    assert made.returncode == 2 and "--upgrade" in made.stderr
    shown = subprocess.run([binary(), "up", "--help"], capture_output=True, text=True, timeout=30).stdout
    assert "--keep-hosts" in shown


# --- tidegate serve -------------------------------------------------------------------------------


def test_a_model_that_cannot_be_had_is_the_answer_to_the_serve_that_adopts_it(serve, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    host = serve(source=held(hold) + "\nraise ValueError('no weights')\n", ready=False)
    until(lambda: workers(host), 20, "a worker that is not ready")
    behead(host)
    host.start(False)
    until(lambda: '"host adopted"' in host.process.log(), 20, "it is adopted")
    hold.unlink()
    assert host.process.wait(30) == 1
    assert "no weights" in host.process.log().splitlines()[-1]
    until(lambda: not host.leftovers(), 10, "nothing is left")


def test_serve_adopts_its_model_and_watches_it_if_that_is_asked_now(serve, channel):
    host = serve("Example")
    (before,) = workers(host)
    behead(host)
    assert call(channel(host.port))["pid"] == before
    host.start(True, "--reload")
    until(lambda: '"message":"serving"' in host.process.log(), 20, "it says that it serves")
    assert '"host adopted"' in host.process.log() and workers(host) == [before]
    part = host.code / "model.part"
    part.write_text(EXAMPLE + "\n# changed\n")
    part.rename(host.code / "model.py")
    until(lambda: not alive(before) and len(workers(host)) == 1, 30, "another worker, with the changed source")
    assert "a model's source has changed" in host.process.log()
    assert host.stop() == 0
    until(lambda: not host.leftovers(), 10, "nothing is left")
