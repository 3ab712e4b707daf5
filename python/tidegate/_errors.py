"""Errors that a model may choose, and the one that ends a cancelled call."""

from typing import Any, Optional, Tuple

CODES = frozenset(
    "CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED "
    "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED".split()
)


class Error(Exception):
    """An error with a status of the model's own choice: `raise tidegate.Error("NOT_FOUND", "no such user")`.

    `code` is the name of a gRPC status. A caller is told the type as well, so that `class NoSuchUser(Error)` is a word for programs. A client raises it, too:
    there `reason` is the host's short word for what happened, and `exception` the type that the model raised.
    """

    def __init__(self, code: str, message: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"{code!r} is no gRPC status; one of {', '.join(sorted(CODES))}")
        super().__init__(message or code)
        self.code = code
        self.message = message or code
        self.reason = ""  # the host tells one by the code
        self.exception: Optional[str] = None

    def __reduce__(self) -> Tuple[Any, ...]:
        return (told, (self.code, self.message, self.reason, self.exception))


def told(code: str, message: str, reason: str, exception: Optional[str] = None) -> Error:
    """An error of Tidegate's own, with a reason of its fixed set."""
    error = Error(code, message)
    error.reason, error.exception = reason, exception
    return error


class Cancelled(BaseException):
    """Raised inside a call that nobody waits for any longer. No Exception: `except Exception` does not keep it."""
