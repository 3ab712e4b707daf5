"""The process of a worker: what it is called, how it ends, what ends it."""

import os
import select
import signal
import sys


def leash():
    """Has the kernel kill this process when the host closes its end of a pipe, even while native code holds the interpreter."""
    number = os.environ.get("TIDEGATE_LEASH")
    if not number or sys.platform != "linux":
        return
    import fcntl

    handle = int(number)
    fcntl.fcntl(handle, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(handle, getattr(fcntl, "F_SETSIG", 10), signal.SIGKILL)
    fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if poll.poll(0):  # it was closed before
        os._exit(1)


def end(code=1):
    """Ends the process at once, and what it started."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    if code and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(code)


def identity():
    env = os.environ
    return {
        "token": env.get("TIDEGATE_TOKEN", ""),
        "service": env.get("TIDEGATE_SERVICE", ""),
        "instance": env.get("TIDEGATE_INSTANCE", ""),
        "revision": env.get("TIDEGATE_REVISION", ""),
        "epoch": int(env.get("TIDEGATE_EPOCH") or 0),
    }
