"""Tasks on one tiny backbone: a text's label, its stars, its hidden words, and what is like it."""

import keras
import tiny_task
from tiny_task import classifier

from kerasllm.models import MaskedLM, PairMaskedLM, SentenceEncoder, TextClassifier
from kerasllm.training import MultiTask

STARS = {"negative": 1.0, "positive": 2.0}
TASKS = {"stars": "text_regression", "alike": "similarity"}  # those that `task_of` would not find


def rows(count, seed=0):
    """Rows for all of them."""
    found = tiny_task.rows(count, seed)
    return [type(row)({**row, "score": STARS[row["label"]]}, row.where) for row in found]


def paired(rows):
    """Each with the next one as the second text of a pair."""
    pairs = zip(rows, [*rows[1:], rows[0]])
    return [type(row)({**row, "text_pair": other["text"]}, row.where) for row, other in pairs]


def on_one_backbone(*names, **options):
    """Models by name, on the backbone and with the tokenizer of `sentiment`."""
    sentiment = classifier(**options)
    shared = {"family": "bert", "tokenizer": sentiment.tokenizer}
    keras.utils.set_random_seed(1)
    makers = {
        "sentiment": lambda: sentiment,
        "stars": lambda: TextClassifier(1, sentiment.backbone, sentiment.rate, **shared),
        "masked": lambda: MaskedLM(sentiment.backbone, **shared),
        "masked_pairs": lambda: PairMaskedLM(sentiment.backbone, **shared),
        "alike": lambda: SentenceEncoder(sentiment.backbone, **shared),
    }
    return {name: makers[name]() for name in names}


def several(weights, steps=None, **options):
    """The models of these names as one."""
    tasks = {name: TASKS[name] for name in weights if name in TASKS}
    return MultiTask(on_one_backbone(*weights, **options), weights, tasks=tasks, steps=steps)
