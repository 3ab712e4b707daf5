"""The program under test: `tidegate up` with a config in a folder of its own."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import yaml

from . import http1
from .net import free_port
from .process import Process, alive, command_line, marked, started
from .wait import until

TOP = Path(__file__).resolve().parents[2]


def binary():
    """The binary under test: $TIDEGATE_BIN, or the newest that cargo built here."""
    named = os.environ.get("TIDEGATE_BIN")
    if named:
        return Path(named).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    built = [path for profile in ("release", "debug") if (path := target / profile / "tidegate").exists()]
    if not built:
        raise RuntimeError("no tidegate binary: run `cargo build --release`, or scripts/test which does")
    return max(built, key=lambda path: path.stat().st_mtime)


def command(*arguments, timeout=30, **more):
    """Runs a subcommand to its end: exit code, output, errors."""
    return subprocess.run(
        [str(binary()), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **more
    )


def route(to, name=None, **more):
    """A route to an upstream by name, or to a list of targets."""
    target = [{"upstream": to}] if isinstance(to, str) else to
    return {"name": name or (to if isinstance(to, str) else "route"), "to": target, **more}


def upstream(name, *endpoints, **more):
    """An upstream of servers, ports or addresses."""
    return {"name": name, "endpoints": [endpoint(each) for each in endpoints], **more}


def endpoint(what, **more):
    if isinstance(what, dict):
        return what
    if isinstance(what, int):
        what = f"127.0.0.1:{what}"
    return {"address": getattr(what, "address", what), **more}


def simple(*endpoints, upstream_more=None, **route_more):
    """The smallest config: one route to one upstream `up`."""
    return {
        "routes": [route("up", name="all", **route_more)],
        "upstreams": [upstream("up", *endpoints, **(upstream_more or {}))],
    }


class Gateway:
    """One `tidegate up`. Listener `main` and the admin address are added to the config unless it has them."""

    # Another build than the one under test.
    program = None

    def __init__(self, folder, config, workers=2, env=None, start=True, ready=True):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workers, self.env = workers, env or {}
        self.port, self.admin_port = free_port(), free_port()
        self.path = self.folder / "tidegate.yaml"
        self.processes = []
        self.config = None
        self.write(config)
        if start:
            self.start(ready)

    def complete(self, config):
        """The config with the parts that every test needs."""
        config = dict(config)
        config.setdefault("admin", {"address": f"127.0.0.1:{self.admin_port}"})
        config.setdefault("listeners", [{"name": "main", "address": f"127.0.0.1:{self.port}"}])
        config.setdefault("shutdown", {"grace": "10s"})
        return config

    def write(self, config):
        """Writes the config file whole: a watcher never sees half of it."""
        if isinstance(config, str):
            text = config
        else:
            self.config = self.complete(config)
            text = yaml.safe_dump(self.config, sort_keys=False)
        part = self.path.with_suffix(".part")
        part.write_text(text)
        part.rename(self.path)

    def start(self, ready=True, *more):
        command_words = [self.program or binary(), "up", self.path, "--workers", self.workers, *more]
        log = self.folder / f"log-{len(self.processes)}.txt"
        self.processes.append(Process(command_words, log, env=self.env, cwd=self.folder))
        if ready:
            self.wait_ready()
        return self

    @property
    def process(self):
        return self.processes[-1]

    def wait_ready(self, timeout=20):
        def condition():
            if not self.process.running():
                raise RuntimeError(f"tidegate ended with {self.process.popen.returncode}\n{self.process.log()[-6000:]}")
            return self.ready()

        until(condition, timeout, "gateway ready")

    # --- traffic ---

    def client(self, **more):
        return http1.Client(self.port, **more)

    def request(self, method="GET", target="/", headers=(), body=None, **more):
        return http1.request(self.port, method, target, headers, body, **more)

    def get(self, target="/", headers=(), **more):
        return self.request("GET", target, headers, **more)

    # --- admin ---

    def admin(self, path, method="GET", body=None, headers=()):
        return http1.request(self.admin_port, method, path, headers, body, host="127.0.0.1", timeout=10)

    def api(self, path):
        """A list or object of the admin API."""
        answer = self.admin(f"/api/v1/{path}")
        assert answer.status == 200, (answer.status, answer.body)
        value = json.loads(answer.body)
        name = path.split("?")[0].split("/")[0]
        return value[name] if isinstance(value, dict) and isinstance(value.get(name), list) else value

    def ready(self):
        try:
            return self.admin("/readyz").status == 200
        except (OSError, http1.Closed):
            return False

    def upstream(self, name="up"):
        return next(each for each in self.api("upstreams") if each["name"] == name)

    def member(self, address, name="up"):
        address = getattr(address, "address", address)
        return next(each for each in self.upstream(name)["members"] if each["id"] == address)

    def members(self, name="up"):
        return {each["id"]: each["state"] for each in self.upstream(name)["members"]}

    def events(self, kind=None):
        return [event for event in self.api("events?limit=1000") if kind in (None, event["kind"])]

    def metrics(self):
        """The metrics as {name: [(labels, value)]}."""
        answer = self.admin("/metrics")
        assert answer.status == 200, answer
        return parse_metrics(answer.text())

    def metric(self, name, **labels):
        """Sum over the samples that carry these labels."""
        samples = self.metrics().get(name, [])
        return sum(value for have, value in samples if all(have.get(key) == want for key, want in labels.items()))

    def generation(self):
        return self.api("config")["generation"]

    def reload(self, config, refused=False):
        """Writes a new config, signals, and waits until it runs (or is refused)."""
        before = self.api("config")
        self.write(config)
        self.process.signal(signal.SIGHUP)
        if refused:
            return until(lambda: self.api("config")["refused"], what="reload refused")
        return until(lambda: self.generation() > before["generation"], what="reload done")

    # --- life ---

    def roles(self):
        """The role processes: {role: pid}; of several (one may be draining) the newest. Orphans count too."""
        found = {}
        for pid in sorted(self.leftovers(), key=started):
            words = command_line(pid)
            if "role" in words[1:-1]:
                found[words[words.index("role") + 1]] = pid
        return found

    def kill_role(self, role="gateway"):
        """kill -9 of one role; returns the pid that was."""
        pid = until(lambda: self.roles().get(role), what=f"a {role} process")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), what="role dead")
        return pid

    def upgrade(self):
        """`up --upgrade` from a second process, which takes over; waits until the first has ended."""
        old = self.process
        self.start(False, "--upgrade")
        code = old.wait(30)
        self.wait_ready()
        return code

    def stop(self, timeout=30):
        """SIGTERM; the exit code."""
        return self.process.stop(timeout)

    def logs(self):
        return "".join(process.log() for process in self.processes)

    def access_log(self):
        """JSON lines of the access log that came out so far."""
        lines = []
        for line in self.logs().splitlines():
            if line.startswith("{"):
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    continue
        return lines

    def leftovers(self):
        return [pid for process in self.processes for pid in marked(process.mark)]

    def end(self):
        """Ends everything; fails when it did not end in good order or anything panicked."""
        running = [process for process in self.processes if process.running()]
        try:
            for process in running:
                process.signal(signal.SIGTERM)
            for process in running:
                process.wait(30)
            until(lambda: not self.leftovers(), 10, "no process left behind")
        finally:
            for process in self.processes:
                process.end()
        panics = [line for line in self.logs().splitlines() if "panicked at" in line]
        assert not panics, panics


def parse_metrics(text):
    """Prometheus text format."""
    families = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        matched = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
        assert matched, f"not a metric line: {line!r}"
        name, labels, value = matched.groups()
        pairs = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""))
        families.setdefault(name, []).append((pairs, float(value)))
    return families
