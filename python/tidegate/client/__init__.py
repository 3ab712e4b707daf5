"""Clients: `Client` for plain code, `AsyncClient` for asyncio. They need `pip install 'tidegate[client]'`."""

try:
    import grpc  # noqa: F401
except ImportError as error:
    raise ImportError("tidegate's clients need grpcio: pip install 'tidegate[client]'") from error

from ._async import AsyncClient
from ._common import Options
from ._retry import Retry
from ._sync import Client

__all__ = ["AsyncClient", "Client", "Options", "Retry"]
