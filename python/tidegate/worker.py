"""`python -m tidegate.worker module:Class`: a process that runs a model for its host."""

import os
import sys
import threading
import time

from . import _wire as wire
from ._process import end, identity, leash
from ._worker import Logs, Unfit

# A worker on another machine connects again for so many seconds.
AGAIN = 30.0


def main(name=""):
    address = os.environ.get("TIDEGATE_WORKER")
    if not address:
        print("tidegate.worker is started by a host (tidegate serve, or tidegate up with services); TIDEGATE_WORKER is not set", file=sys.stderr)
        return 2
    leash()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        sock = wire.connect(address)
    except (OSError, ValueError) as error:
        print(f"tidegate.worker: no host at {address}: {error}", file=sys.stderr)
        return 1
    tune()
    from ._single import Single

    worker = Single(sock, name, identity())
    remote = address.startswith("tcp:")
    worker.lost = lambda: lose(remote)
    try:
        worker.hello()
        listen_to_logs(worker)
        worker.start()
        worker.prepare()
        worker = suited(worker)
        worker.link.send(wire.READY, 0, worker.ready)
        while True:
            try:
                worker.serve()
                break
            except wire.Ended:
                if not remote or worker.draining or not again(worker, address):
                    raise
    except Unfit as error:
        worker.link.send(wire.FAILED, 0, {"kind": error.kind, "message": str(error), "traceback": error.trace})
        return 1
    except wire.Ended:
        guard = threading.Timer(0.8, end)
        guard.daemon = True
        guard.start()
        worker.release_all()
        end(1)
    worker.release_all()
    worker.link.flush()
    worker.link.sock.close()
    return 0


def suited(worker):
    """A worker as its class and its host want it."""
    concurrency = max(1, int(worker.welcome.get("concurrency") or 1))
    if concurrency == 1 and not any(spec.is_async for spec in worker.specs.values()):
        return worker
    from ._many import Many

    worker.idle()
    return Many.of(worker, concurrency)


# What ends a worker on another machine that was not connected again.
guards: "list[threading.Timer]" = []


def lose(remote):
    """The connection ended while a call runs."""
    if not remote:
        end(1)
    guard = threading.Timer(AGAIN, end)
    guard.daemon = True
    guard.start()
    guards.append(guard)



def again(worker, address):
    """Connects again, with what is loaded."""
    until = time.monotonic() + AGAIN
    pause = 0.1
    while time.monotonic() < until:
        try:
            worker.link.renew(wire.connect(address))
            worker.backlog.clear()
            worker.hello()
            worker.link.send(wire.READY, 0, worker.ready)
        except (OSError, wire.Ended):
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
            continue
        while guards:
            guards.pop().cancel()
        return True
    return False


def tune():
    """Fewer collections: what a call makes is mostly freed by its reference counts."""
    import gc

    gc.set_threshold(20_000, 50, 50)


def listen_to_logs(worker):
    import logging

    root = logging.getLogger()
    root.addHandler(Logs(worker))
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)


if __name__ == "__main__":
    code = main(*sys.argv[1:2])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the model must not keep the process.
    os._exit(code)
