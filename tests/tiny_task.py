"""A task that a tiny classifier learns in seconds: one word in each text tells its label."""

import keras
import numpy as np

from kerasllm.backbones import Transformer
from kerasllm.config import TransformerConfig
from kerasllm.data.rows import Row
from kerasllm.models import BertClassifier
from kerasllm.tokenizers import WordPieceTokenizer

WORDS = {"negative": ("awful", "bad", "dull"), "positive": ("good", "great", "lovely")}
OTHERS = ("the", "film", "was", "and", "room", "soup", "really", "a", "bit", "today")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def rows(count, seed=0):
    """Rows of 2 to 5 words, as many of one label as of the other."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        label = sorted(WORDS)[i % 2]
        words = list(random.choice(OTHERS, random.integers(1, 5)))
        words.insert(random.integers(len(words) + 1), random.choice(WORDS[label]))
        found.append(Row({"text": " ".join(words), "label": label}, where=f"rows[{i}]"))
    return found


def tiny_config(vocab_size, **changes):
    """A config of one block without dropout, and with the changes that are asked for."""
    sizes = dict(num_layers=1, num_heads=2, embed_dim=32, ff_dim=64)
    still = dict(rate=0.0, attention_rate=0.0, initializer_range=0.1)
    return TransformerConfig(vocab_size, **{**sizes, **still, **changes})


def classifier(rate=0.1, dtype=None, seed=3, num_layers=1, max_length=16):
    """A fresh model with the vocabulary of `rows`."""
    keras.utils.set_random_seed(seed)
    tokenizer = WordPieceTokenizer(
        [*SPECIAL_TOKENS, *OTHERS, *(word for words in WORDS.values() for word in words)]
    )
    options = dict(num_layers=num_layers, max_length=max_length, rate=rate, attention_rate=rate)
    config = tiny_config(tokenizer.vocab_size, **options)
    bert = Transformer(config, dtype=dtype, name="bert")
    return BertClassifier(2, bert, rate=rate, labels=sorted(WORDS), tokenizer=tokenizer)
