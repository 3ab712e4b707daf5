"""The .proto files of tests/protos, compiled when first asked for."""

import sys
from functools import lru_cache
from pathlib import Path

import grpc

_FOLDER = str(Path(__file__).resolve().parents[1] / "protos")


@lru_cache(maxsize=None)
def load(name):
    """Messages and services of `name`.proto."""
    if _FOLDER not in sys.path:
        sys.path.append(_FOLDER)
    return grpc.protos_and_services(f"{name}.proto")
