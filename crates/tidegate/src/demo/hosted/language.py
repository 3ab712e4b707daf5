"""The hosted model of `tidegate demo`: which language a sentence is in, told by its commonest words."""

import os
import time

from tidegate import Model

WORDS = {
    "de": "der die das und ist nicht ein eine zu mit auf sich".split(),
    "en": "the and is not a to of it was with at".split(),
    "es": "el la los y es no un una de que en con".split(),
    "fr": "le la les et est pas un une de que dans ne".split(),
}


class Language(Model):
    """Which of four languages a sentence is in."""

    def predict(self, text: str) -> dict:
        """The language with the most of its common words in the text, and which worker says so."""
        words = text.lower().split()
        found = {language: sum(word in common for word in words) for language, common in WORDS.items()}
        time.sleep(0.03)  # what a larger model would compute
        return {"language": max(found, key=found.get), "worker": os.environ["TIDEGATE_INSTANCE"]}
