"""Where the servers are, and which of them gets a call: the one with the fewest under way that did not just fail."""

import json
import random
import threading
import time
import urllib.parse
import urllib.request
from typing import Any, Callable, Dict, List, Sequence

# How long an address is avoided after a failure, doubled with each, at most MOST seconds.
FIRST, MOST = 1.0, 30.0


class Address:
    def __init__(self, name: str, channel: Any) -> None:
        self.name, self.channel = name, channel
        self.running = 0
        self.failures = 0
        self.avoid_until = 0.0


class Balancer:
    """Addresses with a channel each. `open` makes a channel, `close` ends one."""

    def __init__(self, names: Sequence[str], open: Callable[[str], Any], close: Callable[[Any], Any]) -> None:
        self._open, self._close = open, close
        self._lock = threading.Lock()
        self._addresses: Dict[str, Address] = {}
        self._closed = False
        self.set(names)

    def set(self, names: Sequence[str]) -> None:
        with self._lock:
            if self._closed:
                return
            gone = [name for name in self._addresses if name not in names]
            for name in names:
                if name not in self._addresses:
                    self._addresses[name] = Address(name, self._open(name))
            left = [self._addresses.pop(name) for name in gone]
        for address in left:
            if not address.running:
                self._close(address.channel)  # else its last call does

    def names(self) -> List[str]:
        return list(self._addresses)

    def pick(self, prefer: str = "") -> Address:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if not self._addresses:
                raise LookupError("no address is known")
            now = time.monotonic()
            fit = [each for each in self._addresses.values() if each.avoid_until <= now]
            if not fit:
                fit = [min(self._addresses.values(), key=lambda each: each.avoid_until)]
            chosen = next((each for each in fit if each.name == prefer), None)
            if chosen is None:
                least = min(each.running for each in fit)
                chosen = random.choice([each for each in fit if each.running == least])
            chosen.running += 1
            return chosen

    def done(self, address: Address, unreachable: bool) -> None:
        with self._lock:
            address.running -= 1
            if unreachable:
                address.failures += 1
                address.avoid_until = time.monotonic() + min(FIRST * 2 ** (address.failures - 1), MOST)
            else:
                address.failures, address.avoid_until = 0, 0.0
            last = not address.running and self._addresses.get(address.name) is not address
        if last:
            self._close(address.channel)

    def close(self) -> List[Any]:
        with self._lock:
            channels = [each.channel for each in self._addresses.values()]
            self._addresses, self._closed = {}, True
        return channels


class Consul:
    """Keeps a list of addresses as Consul has it: `consul://HOST:PORT/SERVICE?tag=v1`, healthy instances only."""

    def __init__(self, url: str) -> None:
        parsed = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qs(parsed.query)
        if not parsed.path.strip("/"):
            raise ValueError(f"{url}: consul://HOST:PORT/SERVICE")
        wanted = [("passing", "1"), *(("tag", tag) for tag in query.get("tag", [])), *(("dc", dc) for dc in query.get("dc", []))]
        self._token = query.get("token", [""])[0]
        self._url = f"http://{parsed.netloc}/v1/health/service/{parsed.path.strip('/')}?{urllib.parse.urlencode(wanted)}"
        self._index = 0
        self._ended = threading.Event()

    def read(self, wait: int = 0) -> List[str]:
        """Addresses as they stand; with `wait` when they have changed, or after so many seconds."""
        url = self._url + (f"&index={self._index}&wait={wait}s" if wait else "")
        request = urllib.request.Request(url, headers={"X-Consul-Token": self._token} if self._token else {})
        with urllib.request.urlopen(request, timeout=wait + 10) as answer:
            index = int(answer.headers.get("X-Consul-Index") or 0)
            entries = json.load(answer)
        self._index = index if index >= self._index else 0
        return sorted({f"{entry['Service'].get('Address') or entry['Node']['Address']}:{entry['Service']['Port']}" for entry in entries})

    def follow(self, changed: Callable[[List[str]], None]) -> None:
        """Calls `changed` with each new list, from a thread of its own, until `end`."""

        def run() -> None:
            while not self._ended.is_set():
                try:
                    names = self.read(wait=30)
                except Exception:  # Consul is away: what is known goes on
                    self._ended.wait(1.0)
                    continue
                if names and not self._ended.is_set():  # an empty list is rather Consul's trouble than that all are gone
                    changed(names)
                self._ended.wait(0.1)  # whatever answers at once, always

        threading.Thread(target=run, name="tidegate-consul", daemon=True).start()

    def end(self) -> None:
        self._ended.set()
