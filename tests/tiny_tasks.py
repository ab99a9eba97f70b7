"""Tasks on one tiny backbone: the label of a text, its stars, and which of its words are hidden."""

import keras
import tiny_task
from tiny_task import classifier

from kerasllm.models import MaskedLM, TextClassifier
from kerasllm.training import MultiTask

STARS = {"negative": 1.0, "positive": 2.0}
TASKS = {"stars": "text_regression"}  # of the names, those that `task_of` would not find


def rows(count, seed=0):
    """Rows for all three."""
    found = tiny_task.rows(count, seed)
    return [type(row)({**row, "score": STARS[row["label"]]}, row.where) for row in found]


def on_one_backbone(*names, **options):
    """Models by name, on the backbone and with the tokenizer of `sentiment`."""
    sentiment = classifier(**options)
    shared = {"family": "bert", "tokenizer": sentiment.tokenizer}
    keras.utils.set_random_seed(1)
    makers = {
        "sentiment": lambda: sentiment,
        "stars": lambda: TextClassifier(1, sentiment.backbone, sentiment.rate, **shared),
        "masked": lambda: MaskedLM(sentiment.backbone, **shared),
    }
    return {name: makers[name]() for name in names}


def several(weights, steps=None, **options):
    """The models of these names as one."""
    tasks = {name: TASKS[name] for name in weights if name in TASKS}
    return MultiTask(on_one_backbone(*weights, **options), weights, tasks=tasks, steps=steps)
