"""The made-up gateway behind the dashboard: `crates/admin/examples/fake.rs`, driven over its standard input."""

import subprocess


class Gateway:
    """One run of the example; `do` makes something happen in it."""

    def __init__(self, binary, address="127.0.0.1:0", *arguments):
        self.process = subprocess.Popen(
            [binary, address, "--still", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline().split()
        assert line[:2] == ["listening", "on"], f"the example said {line!r}"
        self.url = line[2]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def address(self):
        return self.url.split("//")[1]

    def do(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
