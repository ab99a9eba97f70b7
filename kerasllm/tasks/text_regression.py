"""Text regression: a number for a text, or for a pair of texts, as how similar they are."""

import keras
import numpy as np

from kerasllm.data.rows import place_of
from kerasllm.evaluation.numbers import NumbersResult, evaluate_numbers
from kerasllm.models.text_classifier import TextClassifier
from kerasllm.tasks import text_classification

MODEL = TextClassifier
COLUMNS = ("text", "score")
OPTIONAL_COLUMNS = ("text_pair",)
INPUTS = ("text",)
MONITOR = "val_loss"
RESULT = NumbersResult

texts = text_classification.texts


def head(rows):
    """What a model's head must be, whatever the rows: one output."""
    return {"labels": ("score",)}


def loss():
    """The loss: mean squared error."""
    return keras.losses.MeanSquaredError()


def metrics():
    """The metrics shown while training: the mean absolute error."""
    return [keras.metrics.MeanAbsoluteError(name="error")]


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    Args:
        model: `TextClassifier` with one class and a tokenizer.
        rows: list of dicts with `text` and `score`, and `text_pair` in all or in none.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.

    Returns:
        The pair (features, targets): dict of int32 `(rows, length)`, and float32 `(rows, 1)`.

    Raises:
        ValueError: a score is no number, there are no rows, or `max_length` is beyond the model's.
    """
    inputs = text_classification.features(model, rows, max_length)
    return inputs, numbers_of(rows)[:, np.newaxis]


def numbers_of(rows):
    """Return the scores of rows.

    Args:
        rows: list of dicts with `score`, a number or how one is written.

    Returns:
        float32 `(rows,)`.

    Raises:
        ValueError: one is no finite number; the message says in which row.
    """
    return np.array([_number(row, place) for place, row in enumerate(rows)], np.float32)


def _number(row, place):
    try:
        number = float(row["score"])
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(
            f"{place_of(row, place)}: `score` must be a number. Received: {row['score']!r:.80}."
        )
    return number


def probabilities(logits):
    """A number is what the model gives."""
    return logits


def predict(model, rows, *, max_length=None, batch_size=32):
    """Give each row its number.

    Args:
        model: `TextClassifier` with one class and a tokenizer.
        rows: list of dicts with `text`, and `text_pair` in all or in none.
        max_length: int or None, as for `encode`.
        batch_size: int.

    Returns:
        float32 `(rows,)`.
    """
    return text_classification.logits_of(model, rows, max_length, batch_size)[:, 0]


def answers(model, rows, outputs):
    """Put numbers into words.

    Args:
        model: `TextClassifier`.
        rows: list of dicts.
        outputs: float `(rows,)`.

    Returns:
        list of dicts: `score`.
    """
    return [{"score": float(output)} for output in np.asarray(outputs)]


def evaluate(model, rows, outputs):
    """Compare numbers with those of rows.

    Args:
        model: `TextClassifier`.
        rows: list of rows with `text` and `score`.
        outputs: float `(rows,)`.

    Returns:
        `evaluation.NumbersResult`.
    """
    return evaluate_numbers(rows, numbers_of(rows), outputs)
