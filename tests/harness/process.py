"""Child processes: started with their output in a file, ended for certain, and none left behind."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from .wait import until

# Every process that a test starts carries this in its environment, its own children too: leftovers are found by it.
MARK = "TIDEGATE_TEST_MARK"


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def started(pid):
    """When the process was started, in ticks since boot; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except OSError:
        return 0


def command_line(pid):
    """The words the process was started with."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def marked(mark):
    """Living processes that carry the mark."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0") and alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def resident_kib(pid):
    """Resident memory of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def open_files(pid):
    """Number of open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def owns_port(pid, port):
    """Whether the process has a TCP connection over IPv4 from this local port."""
    wanted = f":{port:04X}"
    inodes = {fields[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if (fields := line.split())[1].endswith(wanted)}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry).removeprefix("socket:[").rstrip("]") in inodes:
                return True
        except OSError:
            continue
    return False


class Process:
    """One child process and the file that its output goes to."""

    def __init__(self, command, log, env=None, cwd=None, stdin=False):
        self.command = [str(word) for word in command]
        self.log_path = Path(log)
        self.mark = uuid.uuid4().hex
        with open(self.log_path, "ab") as out:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), MARK: self.mark},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.popen.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout=30):
        """Exit code (negative: the signal that ended it)."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} still runs after {timeout} s\n{self.log()[-4000:]}") from None

    def kill(self):
        """As kill -9: no chance to say goodbye."""
        if self.running():
            self.popen.kill()
        self.popen.wait(10)

    def stop(self, timeout=30):
        """SIGTERM, then the exit code."""
        if self.running():
            self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def end(self):
        """For clean-up: whatever still carries our mark is killed."""
        if self.running():
            self.popen.kill()
            self.popen.wait(10)
        for pid in marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        until(lambda: not marked(self.mark), what="processes gone after kill")
        if self.popen.stdin:
            self.popen.stdin.close()


def python(module, *arguments):
    """Command line that runs a module of the harness in a process of its own."""
    return [sys.executable, "-u", "-m", module, *[str(word) for word in arguments]]
