"""The model classes that the tests serve. Written to a folder as model.py; the SDK is the one that the binary carries."""

EXAMPLE = '''
import hashlib, json, os, signal, sys, threading, time
from pathlib import Path
from tidegate import Model


class Example(Model):
    """Does what the tests ask for."""

    inputs = [("x", "FP32", [-1])]
    outputs = [("y", "FP32", [-1])]

    def predict(self, **kwargs):
        """Gives back what it got, and who it is."""
        binary = kwargs.pop("binary_data", None)
        if "x" in kwargs and not isinstance(kwargs["x"], (int, str)):
            return {"y": [2 * value for value in kwargs["x"]]}
        return {"kwargs": kwargs, "version": self.version, "pid": os.getpid(), "binary": len(binary) if binary else 0}

    def add(self, a: int, b: int = 1) -> int:
        return a + b

    def nothing(self):
        return None

    def slow(self, seconds: float = 1.0, key: str = ""):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(0.05, seconds))
        return {"slept": seconds, "pid": os.getpid()}

    def held(self, gil: float):
        """Holds the interpreter: no other Python thread of this process runs meanwhile."""
        sys.setswitchinterval(gil * 2)
        until = time.monotonic() + gil
        while time.monotonic() < until:
            pass
        sys.setswitchinterval(0.005)
        return {"held": gil}

    def digest(self, binary_data: Path = None, seconds: float = 0.0):
        """The hash of an upload, read from wherever it is."""
        size, hasher = 0, hashlib.sha256()
        if isinstance(binary_data, (bytes, bytearray, memoryview)):
            hasher.update(binary_data)
            size = len(binary_data)
        elif isinstance(binary_data, (str, os.PathLike)):
            with open(binary_data, "rb") as file:
                while block := file.read(1 << 20):
                    hasher.update(block)
                    size += len(block)
        else:
            while block := binary_data.read(1 << 20):
                hasher.update(block)
                size += len(block)
        time.sleep(seconds)
        return {"size": size, "sha256": hasher.hexdigest()}

    def count(self, n: int, seconds: float = 0.0, fail_at: int = -1):
        """Items one by one."""
        for number in range(n):
            if number == fail_at:
                raise ValueError(f"no item {number}")
            yield {"n": number, "pid": os.getpid()}
            time.sleep(seconds)

    def raises(self, message: str = "the weights are cold"):
        raise ValueError(message)

    def unserialisable(self):
        return {"x": object()}

    def dies(self, code: int = 9):
        os.kill(os.getpid(), signal.SIGKILL)

    def spoken(self, text: str):
        print(text, flush=True)
        print(text, file=sys.stderr, flush=True)
        return len(text)

    def train(self, steps: int = 3, binary_data=None):
        for step in range(steps):
            self.progress((step + 1) / steps, message=f"step {step + 1}")
        return {"steps": steps}

    def _hidden(self):
        return "never"


class KnowsVersions(Example):
    """Only versions v1, v2 and the default exist."""

    def __init__(self, version=None, **kwargs):
        if version not in (None, "", "default", "v1", "v2"):
            raise FileNotFoundError(f"no version {version}")


class Refuses(Model):
    def __init__(self, **kwargs):
        raise RuntimeError("the weights are gone")

    def predict(self):
        return 1


class NoPredict(Model):
    def other(self):
        return 1
'''
