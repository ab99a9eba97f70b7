"""A tiny random classifier for the tests of exports, whose scores differ from text to text."""

import keras
import numpy as np

from kerasllm.backbones import Transformer
from kerasllm.config import TransformerConfig
from kerasllm.export.verify import SENTENCES
from kerasllm.models import BertClassifier
from kerasllm.tokenizers import WordPieceTokenizer

LABELS = ("bad", "très bon", "好")


def tiny_classifier(dtype="float32", seed=7, lowercase=True):
    """2 layers, 32 wide, random weights large enough that scores are far from equal."""
    keras.utils.set_random_seed(seed)
    tokenizer = WordPieceTokenizer.train(
        list(SENTENCES), vocab_size=300, min_frequency=1, lowercase=lowercase
    )
    config = TransformerConfig(
        tokenizer.vocab_size,
        num_layers=2,
        num_heads=2,
        embed_dim=32,
        ff_dim=64,
        max_length=64,
        initializer_range=0.3,
    )
    bert = Transformer(config, dtype=dtype)
    return BertClassifier(len(LABELS), bert, labels=LABELS, tokenizer=tokenizer)


def keras_scores(model, texts, max_length):
    """Probabilities of one text at a time, unpadded: nothing that an export does."""
    rows = []
    for text in texts:
        logits = np.array(model(model.tokenizer([text], max_length=max_length)), np.float64)
        rows.append(np.exp(logits[0]) / np.exp(logits[0]).sum())
    return np.array(rows)
