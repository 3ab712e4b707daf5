"""A training that tells how far it is: logistic regression over an uploaded CSV file, Python's own library only.

    tidegate serve training:Classifier --name classifier --path examples/models --data /tmp/classifier
    curl -d '{"epochs": 40, "rate": 0.5}' 'http://127.0.0.1:50051/classifier/initialize?version=v1'
    curl -H 'content-type: text/csv' --data-binary @points.csv 'http://127.0.0.1:50051/classifier/train?version=v1'
    curl -N -H 'accept: text/event-stream' -H 'content-type: text/csv' --data-binary @points.csv 'http://127.0.0.1:50051/classifier/train?version=v1'
    curl -d '{}' 'http://127.0.0.1:50051/classifier/log?version=v1'
    curl -d '{"features": [2.0, 1.0]}' 'http://127.0.0.1:50051/classifier/predict?version=v1'

With events the caller sees each epoch as it ends; so does the Python client, as a bar on a terminal or by `on_progress=`. Each line of the file is the features of one point and at last its class, 0 or 1. The file may have gigabytes: it is on the disk when `train` begins.
"""

import csv
import json
import math
from pathlib import Path

from tidegate import Error, Model


class NotTrained(Error):
    """Callers are told the name, too."""


class Classifier(Model):
    """Logistic regression, one version a training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        file = self.model_dir(mkdir=False) / "weights.json"
        self.weights = json.loads(file.read_text()) if file.exists() else None

    def train(self, points: Path, epochs: int = 0) -> dict:
        """Learns from a CSV file. `epochs` beats the one that initialize was given."""
        rate = self.model_info.get("rate", 0.1)
        epochs = epochs or self.model_info.get("epochs", 10)
        weights, loss, count = None, 0.0, 0
        for epoch in range(epochs):
            loss, count = 0.0, 0
            with open(points, newline="") as file:
                for line in csv.reader(file):
                    try:
                        *features, label = map(float, line)
                    except ValueError:
                        raise Error("INVALID_ARGUMENT", f"line {count + 1} is no list of numbers: {','.join(line)[:80]}") from None
                    weights = weights or [0.0] * (len(features) + 1)
                    if len(features) != len(weights) - 1:
                        raise Error("INVALID_ARGUMENT", f"line {count + 1} has {len(features)} features, the first one has {len(weights) - 1}")
                    probability = _probability(weights, features)
                    error = label - probability
                    weights = [weight + rate * error * value for weight, value in zip(weights, [*features, 1.0])]
                    loss -= math.log(max(probability if label else 1 - probability, 1e-12))
                    count += 1
            if not count:
                raise Error("INVALID_ARGUMENT", "the file has no line")
            self.progress((epoch + 1) / epochs, stage="fit", message=f"epoch {epoch + 1} of {epochs}", data={"loss": round(loss / count, 4)})
        (self.model_dir() / "weights.json").write_text(json.dumps(weights))
        return {"points": count, "loss": round(loss / count, 4)}

    def predict(self, features: list) -> dict:
        """The probability that a point is of class 1."""
        if self.weights is None:
            raise NotTrained("FAILED_PRECONDITION", f"version {self.version!r} was not trained")
        if len(features) != len(self.weights) - 1:
            raise Error("INVALID_ARGUMENT", f"{len(self.weights) - 1} features are wanted, not {len(features)}")
        return {"probability": round(_probability(self.weights, features), 4)}


def _probability(weights, features):
    score = sum(weight * value for weight, value in zip(weights, features)) + weights[-1]
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, score))))
