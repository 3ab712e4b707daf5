"""How glad or sad a text is: a list of words and Python's own library.

    tidegate serve sentiment:Sentiment --path examples/models --replicas 2
    curl -d '{"text": "not a bad day at all, lovely!"}' http://127.0.0.1:50051/sentiment/predict
"""

import re

from tidegate import Error, Model

WEIGHTS = {
    **dict.fromkeys("good nice fine glad happy enjoy pleasant thanks friendly".split(), 1.0),
    **dict.fromkeys("great love loved lovely excellent wonderful perfect brilliant best".split(), 2.0),
    **dict.fromkeys("bad sad slow poor boring dull problem expensive unfriendly".split(), -1.0),
    **dict.fromkeys("awful hate hated terrible horrible worst broken useless".split(), -2.0),
}
STRONGER = {"very", "really", "so", "absolutely"}
NEGATIONS = {"not", "no", "never", "hardly", "isn't", "wasn't", "don't", "didn't"}


class Sentiment(Model):
    """Sentiment of English text by a list of words."""

    def predict(self, text: str) -> dict:
        """Label and score, from -1 (sad) to 1 (glad), of a text."""
        if not text.strip():
            raise Error("INVALID_ARGUMENT", "the text is empty")
        score, factor, words = 0.0, 1.0, []
        for word in re.findall(r"[a-z']+|[.,;!?]", text.lower()):
            if word in NEGATIONS:
                factor = -0.8
            elif word in STRONGER:
                factor *= 1.5
            elif word in WEIGHTS:
                score += factor * WEIGHTS[word]
                words.append(word)
                factor = 1.0
            elif word in ".,;!?":
                factor = 1.0
        score = round(score / (1 + abs(score)), 3)
        label = "glad" if score > 0.1 else "sad" if score < -0.1 else "neither"
        return {"label": label, "score": score, "words": words}
