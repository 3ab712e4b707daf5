"""`tidegate serve`: what it says of its flags, when it says that it serves, and what it leaves when it can't."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from harness import http1
from harness.gateway import binary
from harness.model import Chaos, call, workers
from harness.models import EXAMPLE
from harness.net import free_port
from harness.process import alive, marked
from harness.wait import until


def run(folder, *words, timeout=60, python=sys.executable, admin="off"):
    more = [*(["--python", python] if python else []), *(["--admin", admin] if admin else [])]
    words = [binary(), "serve", *map(str, words), "--data", folder / "data", *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


# --- two of them -------------------------------------------------------------------------------


def test_a_second_serve_is_refused_and_touches_nothing_of_the_first(serve, channel):
    host = serve("Example", "--replicas", 2)
    kept = host.data / ".tidegate" / f"example-{host.port}" / "serve.yaml"
    before, pids = kept.read_bytes(), workers(host)
    words = ["serve", "model:Other", "--name", "example", "--path", host.code, "--data", host.data, "--port", host.port, "--replicas", 1, "--python", sys.executable]
    second = subprocess.run([binary(), *map(str, words)], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert second.returncode == 1, second.stderr
    for word in ("another `tidegate serve`", f"pid {host.process.pid}", "--port", "--name", "--data", "--state"):
        assert word in second.stderr, second.stderr
    assert "--upgrade" not in second.stderr
    assert kept.read_bytes() == before
    host.process.signal(signal.SIGHUP)
    until(lambda: not set(pids) & set(workers(host)) and len(workers(host)) == 2, 30, "two new workers of the same class")
    assert Chaos(channel(host.port), "add", {"a": 1}).result() == 2


def test_each_of_several_on_any_port_has_a_state_of_its_own(tmp_path, process):
    (tmp_path / "model.py").write_text(EXAMPLE)
    words = ["serve", "model:Example", "--port", "0", "--address", "127.0.0.1", "--admin", "off", "--data", tmp_path / "data", "--python", sys.executable]
    several = [process([binary(), *words], cwd=tmp_path) for _ in range(3)]
    for each in several:
        until(lambda: '"message":"serving"' in each.log(), 40, "it serves")  # noqa: B023
    ports = [re.search(r'"address":"127.0.0.1:(\d+)","admin"', each.log())[1] for each in several]
    assert len(set(ports)) == 3
    states = {path.name for path in (tmp_path / "data" / ".tidegate").iterdir()}
    assert states == {"example-0", "example-0-2", "example-0-3"}
    for each, port in zip(several, ports, strict=True):
        assert http1.get(int(port), "/v2/health/ready").status == 200
        assert each.stop() == 0
    assert not (tmp_path / "data" / ".tidegate").exists(), "nobody is going to look for it again"


def livez(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10) as answer:
        return answer.status


def test_several_that_begin_at_once_have_an_admin_port_each(tmp_path, process):
    (tmp_path / "model.py").write_text(EXAMPLE)
    words = ["serve", "model:Example", "--port", "0", "--address", "127.0.0.1", "--python", sys.executable, "--data"]
    several = [process([binary(), *words, tmp_path / f"data-{n}"], cwd=tmp_path) for n in range(4)]
    for each in several:
        until(lambda: '"message":"serving"' in each.log(), 40, "it serves")  # noqa: B023
    ports = [int(re.search(r'"admin":"127.0.0.1:(\d+)"', each.log())[1]) for each in several]
    assert len(set(ports)) == 4 and 0 not in ports, ports
    for each, port in zip(several, ports, strict=True):
        assert livez(port) == 200
        # A reload listens where it did.
        each.signal(signal.SIGHUP)
        until(lambda: each.log().count('"message":"worker ready"') == 2, 40, "it is reloaded")  # noqa: B023
        assert livez(port) == 200
    for each in several:
        assert each.stop() == 0


def test_an_upgrade_keeps_the_admin_port_that_nobody_named(tmp_path, process):
    (tmp_path / "model.py").write_text(EXAMPLE)
    first = process(words := [binary(), "serve", "model:Example", "--port", str(free_port()), "--address", "127.0.0.1", "--python", sys.executable], cwd=tmp_path)
    until(lambda: '"message":"serving"' in first.log(), 40, "it serves")
    second = process([*words, "--upgrade"], cwd=tmp_path)
    until(lambda: '"message":"serving"' in second.log(), 40, "the next one serves")
    assert first.wait(30) == 0
    ports = [re.search(r'"admin":"127.0.0.1:(\d+)"', each.log())[1] for each in (first, second)]
    assert ports[0] == ports[1]
    assert second.stop() == 0


# --- a start that fails ------------------------------------------------------------------------


def left(mark):
    return [pid for pid in marked(mark) if alive(pid)]


@pytest.mark.parametrize(
    "source, cls, python, words",
    [
        (None, "nowhere:Model", sys.executable, ["there is no module 'nowhere'"]),
        ("import os\nos._exit(7)", "model:Model", sys.executable, ["it ended with status 7"]),
        ("", "model:Model", "/bin/true", ["before it was a worker", "/bin/true", "3.9"]),
        ("class Model:\n    def __init__(self): raise ValueError('no weights')\n    def predict(self): pass", "model:Model", sys.executable, ["no weights"]),
    ],
    ids=["no module", "os._exit", "no python", "constructor"],
)
def test_a_start_that_fails_ends_with_its_cause_and_leaves_nothing(tmp_path, source, cls, python, words):
    if source is not None:
        (tmp_path / "model.py").write_text(source)
    mark = f"serve-{os.getpid()}-{tmp_path.name}"
    command = [binary(), "serve", cls, "--port", "0", "--data", tmp_path / "data", "--python", python, "--admin", f"unix:{tmp_path}/admin.sock", "--replicas", "2"]
    made = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        env={**os.environ, "TIDEGATE_TEST_MARK": mark},
    )  # fmt: skip
    # Looked at before anything else: nothing may go on behind the command's end.
    assert not left(mark)
    assert made.returncode == 1, made.stderr[-3000:]
    last = json.loads(made.stderr.splitlines()[-1])
    assert last["message"] == "not started" and all(word in last["reason"] for word in words), last
    assert '"serving"' not in made.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_socket()]


# --- what it says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, told",
    [
        (["m:M:x"], "write module:Class"),
        (["../m:M"], "m:M --path .."),
        (["m.py:M"], "without its folder and .py: m:M"),
        (["m:M", "--name", "a b"], "--name"),
        (["m:M", "--version", "a/b"], "--version"),
        (["m:M", "--python", "none/such/python"], "--python: there is no file"),
        (["m:M", "--path", "none"], "--path"),
    ],
)
def test_flags_are_told_in_their_own_words(tmp_path, words, told):
    made = run(tmp_path, *words, python=None)
    assert made.returncode == 2 and told in made.stderr, made.stderr
    assert "serve:" not in made.stderr and "serve.yaml" not in made.stderr
    assert not (tmp_path / "data").exists(), "nothing is written"


def test_an_admin_address_is_told_as_its_flag(tmp_path):
    made = run(tmp_path, "m:M", admin="nowhere")
    assert made.returncode == 2 and made.stderr.startswith("error: --admin: "), made.stderr


def test_a_port_in_use_is_told_as_its_flag(tmp_path):
    (tmp_path / "model.py").write_text(EXAMPLE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = run(tmp_path, "model:Example", "--address", "127.0.0.1", "--port", port)
    assert made.returncode == 1 and f"--port (127.0.0.1:{port}): the address is in use" in made.stderr, made.stderr


def test_an_interpreter_by_a_path_is_that_of_the_current_folder(tmp_path):
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    made = run(tmp_path, "m:M", "--print-config", python="venv/bin/python")
    assert made.returncode == 0, made.stderr
    assert f'"executable":"{folder}/python"' in made.stdout
    assert "executable" not in run(tmp_path, "m:M", "--print-config", python=None).stdout


SPEAKS = EXAMPLE + "\nprint('hello from the model')\n"


def test_in_a_log_all_is_json_and_the_port_is_the_real_one(tmp_path, process):
    (tmp_path / "model.py").write_text(SPEAKS)
    words = ["serve", "model:Example", "--port", "0", "--address", "127.0.0.1", "--admin", "127.0.0.1:0", "--data", tmp_path / "data", "--python", sys.executable]
    host = process([binary(), *words], cwd=tmp_path)
    until(lambda: '"message":"serving"' in host.log(), 30, "it says that it serves")
    told = [json.loads(line) for line in host.log().splitlines()]
    assert [line["line"] for line in told if line.get("line")] == ["hello from the model"]
    names = [line["message"] for line in told]
    assert names.index("worker ready") < names.index("serving"), "not before it does"
    (serving,) = [line for line in told if line["message"] == "serving"]
    assert (serving["class"], serving["service"]) == ("model:Example", "example")
    port, admin = (int(serving[key].rsplit(":", 1)[1]) for key in ("address", "admin"))
    assert http1.get(port, "/v2/health/ready").status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/livez", timeout=10) as answer:
        assert answer.status == 200


def test_on_a_terminal_it_says_where_it_serves_and_what_the_model_writes(tmp_path, process):
    (tmp_path / "model.py").write_text(SPEAKS)
    master, terminal = pty.openpty()
    words = [binary(), "serve", "model:Example", "--port", "0", "--admin", "off", "--data", tmp_path / "data", "--python", sys.executable]
    host = subprocess.Popen([str(word) for word in words], cwd=tmp_path, stderr=terminal, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    try:
        while b"(HTTP and gRPC)" not in shown:
            shown += os.read(master, 65536)
        port = int(re.search(rb"serving model:Example as example on 0\.0\.0\.0:(\d+) \(HTTP and gRPC\)", shown)[1])
        assert http1.get(port, "/v2/health/ready").status == 200
        assert b"example-0 | hello from the model" in shown
    finally:
        host.terminate()
        reading = os.fdopen(master, "rb", closefd=True)
        try:
            while reading.read1(65536):
                pass
        except OSError:  # the last writer is gone
            pass
        reading.close()
        assert host.wait(30) == 0


# --- loading anew ------------------------------------------------------------------------------

CHANGED = EXAMPLE.replace("return a + b", "return a + b + 100")


def replace(path, text):
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


def test_its_own_log_beside_the_model_is_no_change_of_it(tmp_path, process, channel):
    """As in `tidegate serve … --reload > serve.log`."""
    (tmp_path / "model.py").write_text(EXAMPLE)
    words = ["serve", "model:Example", "--port", "0", "--address", "127.0.0.1", "--admin", "off", "--reload", "--python", sys.executable]
    host = process([binary(), *words], cwd=tmp_path)
    log = tmp_path / "process-0.txt"
    assert log.exists(), "it is in the model's folder"
    until(lambda: '"message":"serving"' in host.log(), 30, "it serves")
    port = int(re.search(r'"address":"127.0.0.1:(\d+)","admin"', host.log())[1])
    ch = channel(port)
    call(ch, "initialize", {"rate": 1})
    (tmp_path / "notes.txt").write_text("not a source")
    replace(tmp_path / "model.py", CHANGED)
    until(lambda: Chaos(ch, "add", {"a": 1, "b": 1}).result() == 102, 30, "the new model answers")
    until(lambda: "models loaded anew" in host.log(), 20)
    assert host.log().count("source has changed") == 1


GATED = """
class Gated(Example):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        gate, number = Path(os.environ["GATE"]), {number}
        with open(gate / "began", "a") as file:
            file.write(f"{{number}}\\n")
        while number and not (gate / "open").exists():
            time.sleep(0.01)

    def number(self):
        return {number}
"""


def test_a_reload_that_is_under_way_is_finished_before_the_next(serve, channel, tmp_path):
    gated = lambda number: EXAMPLE + GATED.format(number=number)  # noqa: E731
    host = serve("Gated", "--reload", source=gated(0), env={"GATE": str(tmp_path)})
    ch, began = channel(host.port), tmp_path / "began"
    for number in (1, 2, 3):
        replace(host.code / "model.py", gated(number))
        until(lambda number=number: host.logs().count("source has changed") == number, 20, "the change is seen")
        if number == 1:
            until(lambda: "1" in began.read_text().split(), 20, "the first reload is under way")
    assert Chaos(ch, "number").result() == 0
    (tmp_path / "open").touch()
    until(lambda: host.logs().count("models loaded anew") == 2, 30, "one for the first change, one for the others")
    assert Chaos(ch, "number").result() == 3
    assert began.read_text().split() == ["0", "1", "3"] and "not loaded anew" not in host.logs()
