"""Waiting for a condition, never for a time."""

import time


def until(condition, timeout=10.0, what="condition", every=0.01):
    """Polls `condition` until it is truthy and returns its value; fails after `timeout` seconds.

    An AssertionError or OSError inside the condition counts as "not yet"; the last one is shown when time is up.
    """
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except (AssertionError, OSError, LookupError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}; last seen: {last!r}")
        time.sleep(every)
