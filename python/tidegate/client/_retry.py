"""When a call is tried again: gRPC's A6 (retries, throttling, pushback), and what the host says of its errors."""

import random
import threading
from dataclasses import dataclass
from typing import Any, FrozenSet, Iterable, Optional, Tuple

from .._errors import Error

# What the host says before the method has begun.
NEVER_RAN = frozenset(("not_ready", "draining", "upload_taken", "upload_offset", "upload_unknown"))
# Calls that may run twice, unless the caller says otherwise.
IDEMPOTENT = frozenset(("predict", "log"))


@dataclass(frozen=True)
class Retry:
    """How often and when a call is tried again.

    `attempts`: total, the first included; the pause before the n-th retry is min(initial × multiplier^(n-1), maximum) seconds, and up to a fifth more or less.
    """

    attempts: int = 5
    initial: float = 1.0
    maximum: float = 30.0
    multiplier: float = 2.0
    codes: FrozenSet[str] = frozenset(("UNAVAILABLE", "INTERNAL", "UNKNOWN"))

    def pause(self, failures: int) -> float:
        return random.uniform(0.8, 1.2) * min(self.initial * self.multiplier ** (failures - 1), self.maximum)

    def after(self, error: Error, failures: int, idempotent: bool, pushback: Optional[int]) -> Optional[float]:
        """Seconds until the next attempt, or None: no more."""
        if failures >= self.attempts or (pushback is not None and pushback < 0):
            return None
        unsent = error.reason in NEVER_RAN or error.message.startswith("failed to connect to all addresses")
        if error.reason in NEVER_RAN:
            pass
        elif error.code not in self.codes:
            return None
        elif error.reason and error.code != "UNAVAILABLE":
            return None  # the host knows what went wrong, and that it would again
        if not idempotent and not unsent:
            return None
        return pushback / 1000 if pushback is not None else self.pause(failures)


class Throttle:
    """A6's token bucket: when most calls fail, none are tried again. Large enough for many threads that meet one restart."""

    def __init__(self, most: float = 100.0, ratio: float = 0.1) -> None:
        self.most, self.ratio, self.tokens = most, ratio, most
        self._lock = threading.Lock()

    def good(self) -> None:
        with self._lock:
            self.tokens = min(self.most, self.tokens + self.ratio)

    def bad(self) -> bool:
        """Counts a failure; whether another attempt is allowed."""
        with self._lock:
            self.tokens = max(0.0, self.tokens - 1)
            return self.tokens > self.most / 2


def pushback(trailers: Optional[Iterable[Tuple[str, Any]]]) -> Optional[int]:
    for key, value in trailers or ():
        if key == "grpc-retry-pushback-ms":
            try:
                return int(value)
            except ValueError:
                return -1
    return None
