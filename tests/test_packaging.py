"""The systemd unit and the container image name what there is, and a gateway runs as they start it."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess

import pytest

from harness.gateway import TOP, binary, simple
from harness.process import Process
from harness.wait import until

UNIT = TOP / "packaging/tidegate.service"
DOCKERFILE = (TOP / "Dockerfile").read_text()


def settings():
    found = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def test_systemd_understands_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze (scripts/install-test-deps)"
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/bin/tidegate", str(binary())))
    done = subprocess.run([analyze, "verify", "--man=no", "--recursive-errors=no", copy], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert done.returncode == 0 and not complaints, done.stderr


def test_the_unit_and_the_image_agree_on_every_path():
    unit = settings()
    program, word, folder = unit["ExecStart"].split()
    assert word == "up" and shlex.split(unit["ExecStartPre"]) == [program, "check", folder]
    assert folder == f"/etc/{unit['ConfigurationDirectory']}"
    assert unit["WorkingDirectory"] == f"/var/lib/{unit['StateDirectory']}"
    assert f'ENTRYPOINT ["{program}"]' in DOCKERFILE and f'CMD ["{word}", "{folder}"]' in DOCKERFILE
    assert f"tidegate {program}\n" in DOCKERFILE
    assert f"STATE_DIRECTORY={unit['WorkingDirectory']}\n" in DOCKERFILE and f"WORKDIR {unit['WorkingDirectory']}\n" in DOCKERFILE
    assert f"--home-dir {unit['WorkingDirectory']} --create-home {unit['User']}\nUSER {unit['User']}\n" in DOCKERFILE
    head = UNIT.read_text()[: UNIT.read_text().index("[Unit]")]
    for path in set(re.findall(r"/(?:usr|etc)/[\w./-]*\w", head)):
        assert path.startswith((program, folder, "/etc/systemd/system/tidegate.service")), path


class Manager:
    """What systemd is to a service: it sets the environment and listens to what the service says of itself."""

    def __init__(self, folder):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = folder / "notify"
        self.sock.bind(str(self.path))
        self.sock.setblocking(False)
        self.said = []

    def heard(self, words):
        while True:
            try:
                self.said.append(self.sock.recv(4096).decode())
            except BlockingIOError:
                break
        return any(words in each for each in self.said)


@pytest.fixture
def service(tmp_path, tidegate, server):
    """The service as the unit starts it, with other folders."""
    unit, manager = settings(), Manager(tmp_path)
    etc, state = tmp_path / "etc", tmp_path / "state"
    state.mkdir()
    gateway = tidegate(simple(server()), start=False)
    etc.mkdir()
    gateway.path = etc / "tidegate.yaml"
    gateway.write(simple(server()))
    words = [str(binary()) if word == "/usr/bin/tidegate" else word.replace("/etc/tidegate", str(etc)) for word in shlex.split(unit["ExecStart"])]
    gateway.processes.append(Process(words, tmp_path / "gateway-0" / "log-0.txt", env={"NOTIFY_SOCKET": str(manager.path), "STATE_DIRECTORY": str(state)}, cwd=state))
    gateway.wait_ready()
    return gateway, manager, etc, state


def test_the_unit_starts_reloads_and_stops_a_gateway(service, server):
    gateway, manager, etc, state = service
    until(lambda: manager.heard(f"MAINPID={gateway.process.pid}\nREADY=1"), what="the manager hears of it")
    assert gateway.get().status == 200
    assert [path.name for path in etc.iterdir()] == ["tidegate.yaml"], "nothing is written beside the configuration"
    assert (state / "run").is_dir()
    other = server()
    gateway.write(simple(other))
    reload = [word.replace("$MAINPID", str(gateway.process.pid)) for word in shlex.split(settings()["ExecReload"])]
    subprocess.run(reload, check=True, timeout=10)
    until(lambda: gateway.get().status == 200 and other.requests, what="the new configuration serves")
    assert gateway.stop() == 0
    assert manager.heard("STOPPING=1")


def test_the_signal_that_the_units_head_names_upgrades(service):
    gateway, manager, *_ = service
    head = UNIT.read_text()
    assert "--signal=USR2" in head
    old = gateway.process.pid
    gateway.process.signal(signal.SIGUSR2)

    def successor():
        manager.heard("")
        mains = [int(pid) for said in manager.said for pid in re.findall(r"MAINPID=(\d+)", said)]
        return [pid for pid in mains if pid != old]

    new = until(successor, 20, "another process is the main one")[-1]
    assert gateway.process.wait(30) == 0
    assert gateway.get().status == 200
    os.kill(new, signal.SIGTERM)
