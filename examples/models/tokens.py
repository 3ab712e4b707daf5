"""Text word by word, as server-sent events: a chain of words that follow each other in this very file's text.

    tidegate serve tokens:Tokens --path examples/models
    curl -N -d '{"prompt": "the tide", "limit": 8}' http://127.0.0.1:50051/tokens/generate
"""

import collections
import random
import time
from typing import Iterator

from tidegate import Model

TEXT = """
the tide comes in and the tide goes out . the gate opens when the tide comes in and the gate closes when the tide goes out .
a ship waits before the gate until the tide comes in . a ship that waits before the gate is safe when the storm comes .
the keeper opens the gate and the ship goes out with the tide . when the storm comes the keeper closes the gate .
"""


class Tokens(Model):
    """A Markov chain over words."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.next = collections.defaultdict(list)
        words = TEXT.split()
        for one, other in zip(words, words[1:]):
            self.next[one].append(other)

    def generate(self, prompt: str = "the", limit: int = 20, seed: int = 0, pause: float = 0.02) -> Iterator[dict]:
        """Words that may follow the prompt, one by one, up to a full stop."""
        chance = random.Random(seed)
        word = (prompt.split() or ["the"])[-1]
        for number in range(limit):
            word = chance.choice(self.next.get(word) or self.next["the"])
            yield {"token": word, "index": number}
            if word == ".":
                return
            time.sleep(pause)

    def predict(self, prompt: str = "the", limit: int = 20, seed: int = 0) -> dict:
        """The same, all at once."""
        return {"text": " ".join(each["token"] for each in self.generate(prompt, limit, seed, pause=0))}
