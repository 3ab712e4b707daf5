"""Both clients as the tests make them."""

import asyncio

from tidegate import AsyncClient, Client
from tidegate.client import Retry

QUICK = Retry(initial=0.001, maximum=0.002)


class Waited:
    """The asynchronous client driven from plain code, so that one test is for both."""

    def __init__(self, *addresses, **options):
        self.loop = asyncio.new_event_loop()

        async def make():
            return AsyncClient(*addresses, **options)

        self.client = self.loop.run_until_complete(make())

    def call(self, *args, **more):
        return self.loop.run_until_complete(self.client.call(*args, **more))

    def stream(self, *args, **more):
        items = self.client.stream(*args, **more)
        try:
            while True:
                try:
                    yield self.loop.run_until_complete(items.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self.loop.run_until_complete(items.aclose())

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda **kwargs: self.loop.run_until_complete(method(**kwargs))

    def close(self):
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


KINDS = {"sync": Client, "async": Waited}
