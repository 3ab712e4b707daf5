"""The base class of models, and the decorators of their methods."""

import contextvars
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, Optional, Sequence, Tuple, TypeVar, Union

from ._errors import Error

F = TypeVar("F", bound=Callable[..., Any])

# The call that runs here: set by the worker.
current: "contextvars.ContextVar[Any]" = contextvars.ContextVar("tidegate_call", default=None)


def time_left() -> Optional[float]:
    """Seconds until nobody waits for the running call any longer; None where there is no deadline."""
    call = current.get()
    return None if call is None else call.remaining()


class TrainingLog:
    """The log of a training: JSON lines {progress, data, message, stage, status, timestamp}."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(
        self,
        progress: Optional[float] = None,
        data: Any = None,
        message: Optional[str] = None,
        stage: Optional[str] = None,
        status: str = "running",
        **more: Any,
    ) -> None:
        line = {"progress": progress, "data": data, "message": message, "stage": stage, "status": status, "timestamp": int(time.time()), **more}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def read_all(self) -> List[Dict[str, Any]]:
        """Every line; one that is only half written is left out."""
        lines = []
        try:
            with open(self.path, encoding="utf-8") as file:
                for line in file:
                    try:
                        lines.append(json.loads(line))
                    except ValueError:
                        continue
        except FileNotFoundError:
            pass
        return lines


class Model:
    """A model. Public methods can be called from outside; those that begin with `_`, and the ones of its life, can't.

    One object serves one version. Its life: `__init__`, `warm_up()`, calls, `release()`.
    """

    # What the model says of itself; tensors of `predict` as (name, datatype, shape), -1 for any length.
    info: ClassVar[Dict[str, Any]] = {}
    inputs: ClassVar[Sequence[Tuple[str, str, Sequence[int]]]] = ()
    outputs: ClassVar[Sequence[Tuple[str, str, Sequence[int]]]] = ()

    version: str
    datapath: Path

    def __new__(cls, *_: Any, version: Optional[str] = None, datapath: Union["os.PathLike[str]", str, None] = None, **__: Any) -> "Model":
        # Here, so that they are known even where __init__ does not call ours.
        self = super().__new__(cls)
        self.version = version or "default"
        self.datapath = Path(datapath or "appdata/")
        return self

    def __init__(self, version: Optional[str] = None, datapath: Union["os.PathLike[str]", str, None] = None, **kwargs: Any) -> None:
        """Loads the model: override it, take `**kwargs` and pass them on, or take nothing."""

    # --- files ---

    def model_dir(self, *names: str, mkdir: bool = True, clear: bool = False) -> Path:
        """The folder of this version, or one below it."""
        folder = self.datapath.joinpath("models", self.version, *names)
        if clear and folder.exists():
            shutil.rmtree(folder)
        if mkdir:
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def model_info_path(self) -> Path:
        return self.model_dir(mkdir=False) / "model.json"

    @property
    def model_info(self) -> Any:
        """What `initialize` was given. NOT_FOUND before."""
        path = self.model_info_path
        try:
            stat = path.stat()
            known = self.__dict__.get("_model_info")
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if known is None or known[0] != stamp:  # another worker may have written it
                known = self._model_info = (stamp, json.loads(path.read_text(encoding="utf-8")))
            return known[1]
        except FileNotFoundError:
            raise Error("NOT_FOUND", f"version {self.version!r} was not initialized: there is no {path}") from None

    @property
    def training_log(self) -> TrainingLog:
        return TrainingLog(self.model_dir(mkdir=False) / "trainning.log")  # aipod's spelling, so that its files are read

    trainning_logger = training_log

    # --- its life ---

    def warm_up(self) -> Any:
        """Called once after the load, before the first call: run a typical input."""

    def release(self) -> Any:
        """Gives back what the model holds (memory of a GPU, files). Called once, when no call runs."""
        self.dispose()

    def dispose(self) -> None:
        """aipod's name of `release`."""
        self.disposed = True

    def progress(self, progress: float, message: Optional[str] = None, stage: Optional[str] = None, status: str = "running", data: Any = None) -> None:
        """Tells how far a long call is, from 0 to 1: whoever called, the host's log, and of a training its own, which `log()` reads."""
        call = current.get()
        if call is None or call.reload:  # a training
            self.training_log.append(progress=progress, data=data, message=message, stage=stage, status=status)
        if call is not None:
            call.progress({"progress": progress, "message": message, "stage": stage, "status": status, "data": data})

    # --- what callers may call ---

    def initialize(self, **kwargs: Any) -> Any:
        """Makes the version's folder anew and writes model.json into it."""
        folder = self.model_dir(clear=True)
        part = folder / "model.json.part"
        part.write_text(json.dumps(kwargs, indent=4, ensure_ascii=False), encoding="utf-8")
        os.replace(part, self.model_info_path)
        return {"result": True}

    def train(self, **kwargs: Any) -> Any:
        """Trains the model; afterwards it is loaded anew."""
        raise NotImplementedError(f"{type(self).__name__} has no train method")

    def predict(self, **kwargs: Any) -> Any:
        """Answers a call."""
        raise NotImplementedError(f"{type(self).__name__} has no predict method")

    def log(self, name: str = "trainning", **kwargs: Any) -> Any:
        """The log of the training, line by line."""
        if name not in ("trainning", "training"):
            raise Error("NOT_FOUND", f"no log {name!r}; there is 'training'")
        return self.training_log.read_all()


# These take no binary input, though any keyword.
Model.initialize.__tidegate_plain__ = True  # type: ignore[attr-defined]
Model.log.__tidegate_plain__ = True  # type: ignore[attr-defined]

# Of a model's life, not for callers, whoever wrote the class.
LIFE = frozenset(("warm_up", "release", "dispose", "progress", "model_dir"))


def batched(max_size: int = 32, max_delay: float = 0.005) -> Callable[[F], F]:
    """Calls are gathered, at most `max_size` or what came within `max_delay` seconds of the first.

    The method gets each parameter as a list and answers with a list of as many; an item that is an exception fails its own call alone.
    """
    if not 1 <= max_size <= 1 << 16:
        raise ValueError(f"max_size is from 1 to 65536, not {max_size}")
    if not 0 <= max_delay <= 60:
        raise ValueError(f"max_delay is from 0 to 60 seconds, not {max_delay}")

    def mark(method: F) -> F:
        method.__tidegate_batch__ = {"max_size": max_size, "max_delay_us": round(max_delay * 1e6)}  # type: ignore[attr-defined]
        return method

    return mark


def retryable(yes: bool = True) -> Callable[[F], F]:
    """Whether a call may run again when a worker dies before it answered. Without it: `predict` and `log` yes, all others no."""

    def mark(method: F) -> F:
        method.__tidegate_retry__ = yes  # type: ignore[attr-defined]
        return method

    return mark


def cancellable(yes: bool = True) -> Callable[[F], F]:
    """Whether a call is broken off when nobody waits for it any longer. Without it: yes, except `train`, which goes on to its end."""

    def mark(method: F) -> F:
        method.__tidegate_cancel__ = yes  # type: ignore[attr-defined]
        return method

    return mark


def reloads(yes: bool = True) -> Callable[[F], F]:
    """Whether the version is loaded anew after the method has succeeded. Without it: only after `train`."""

    def mark(method: F) -> F:
        method.__tidegate_reload__ = yes  # type: ignore[attr-defined]
        return method

    return mark
