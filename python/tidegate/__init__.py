"""Models behind Tidegate: `Model` and its decorators for those who write them, `Client` and `AsyncClient` for those who call them.

    from tidegate import Model

    class Sentiment(Model):
        def predict(self, text: str) -> dict: ...

    $ tidegate serve model:Sentiment
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from ._errors import Cancelled, Error
from ._model import Model, batched, cancellable, reloads, retryable, time_left
from ._values import File

if TYPE_CHECKING:
    from .client import AsyncClient, Client

__all__ = ["AsyncClient", "Cancelled", "Client", "Error", "File", "Model", "batched", "cancellable", "reloads", "retryable", "time_left"]


def __getattr__(name: str) -> Any:
    # The clients need grpcio: only those who use them import it.
    if name in ("Client", "AsyncClient"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
