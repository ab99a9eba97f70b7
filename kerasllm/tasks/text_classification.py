"""Text classification: one label of several for a text, or for a pair of texts."""

import keras
import numpy as np

from kerasllm.data.batches import batches
from kerasllm.data.rows import label_ids, label_names, place_of
from kerasllm.evaluation import ClassificationResult, evaluate_scores
from kerasllm.models.text_classifier import TextClassifier

MODEL = TextClassifier
COLUMNS = ("text", "label")
OPTIONAL_COLUMNS = ("text_pair",)
INPUTS = ("text",)
MONITOR = "val_accuracy"
RESULT = ClassificationResult


def head(rows):
    """What a model's head must be for these rows: it has their labels."""
    return {"labels": label_names(rows)}


def texts(rows):
    """The texts of rows, for a vocabulary."""
    return [row[column] for row in rows for column in ("text", "text_pair") if column in row]


def loss():
    """The loss: cross entropy between logits and class ids."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def metrics():
    """The metrics shown while training."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    Args:
        model: `TextClassifier` with a tokenizer and labels.
        rows: list of dicts with `text` and `label`, and `text_pair` in all or in none.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.

    Returns:
        The pair (features, targets): dict of int32 `(rows, length)`, and int32 `(rows,)`.

    Raises:
        ValueError: a label is not among the model's, or a pair is incomplete (the message says in
            which row), there are no rows, or `max_length` is beyond the model's.
    """
    return features(model, rows, max_length), label_ids(rows, model.labels)


def features(model, rows, max_length=None):
    """Turn the texts of rows into the model's inputs, as `encode` does."""
    max_length = longest_row(model, max_length)
    return model.tokenizer([row["text"] for row in rows], pairs_of(rows), max_length=max_length)


def longest_row(model, max_length=None):
    """Return how many tokens a row of a model's inputs may have.

    Args:
        model: has `tokenizer` and `config`.
        max_length: int or None for all the model can take.

    Returns:
        int.

    Raises:
        ValueError: `max_length` is beyond the model's, or the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError(
            "`model` must have a tokenizer. Received: model.tokenizer=None (set it to the one that "
            "the model was trained with)."
        )
    longest = model.config.max_length
    if max_length is not None and max_length > longest:
        raise ValueError(
            f"`max_length` must be at most {longest}, the positions that the model knows. "
            f"Received: {max_length}."
        )
    return longest if max_length is None else max_length


def pairs_of(rows):
    """Return the second texts of rows.

    Args:
        rows: list of dicts, with `text_pair` in all or in none.

    Returns:
        list of str, or None.

    Raises:
        ValueError: a pair is incomplete (the message says in which row), or there are no rows.
    """
    if not rows:
        raise ValueError("`rows` must hold at least one row. Received: none.")
    pairs = [row["text_pair"] for row in rows if "text_pair" in row]
    if 0 < len(pairs) < len(rows):
        alone = next(i for i, row in enumerate(rows) if "text_pair" not in row)
        where = place_of(rows[alone], alone)
        raise ValueError(f"{where}: `text_pair` must be in all rows or in none (fill it in).")
    return pairs or None


def probabilities(logits):
    """Turn logits into probabilities, of one class out of all."""
    return keras.ops.softmax(logits, axis=-1)


def predict(model, rows, *, max_length=None, batch_size=32):
    """Give each row its class probabilities.

    Args:
        model: `TextClassifier` with a tokenizer.
        rows: list of dicts with `text`, and `text_pair` in all or in none.
        max_length: int or None, as for `encode`.
        batch_size: int.

    Returns:
        float32 `(rows, num_classes)`, each row summing to 1.
    """
    logits = logits_of(model, rows, max_length, batch_size)
    return keras.ops.convert_to_numpy(probabilities(logits))


def logits_of(model, rows, max_length=None, batch_size=32):
    """Run a model over rows.

    Args:
        model: `TextClassifier` with a tokenizer.
        rows: list of dicts with `text`, and `text_pair` in all or in none.
        max_length: int or None, as for `encode`.
        batch_size: int.

    Returns:
        float32 `(rows, num_classes)`.
    """
    inputs = features(model, rows, max_length)
    # Rows of like length share a batch, so little padding is computed; then back into order.
    order = np.argsort(inputs["padding_mask"].sum(axis=1), kind="stable")
    data = batches(
        {name: value[order] for name, value in inputs.items()},
        batch_size=batch_size,
        max_length=model.config.max_length,
    )
    return model.predict(data, verbose=0)[np.argsort(order)]


def answers(model, rows, scores):
    """Put class probabilities into words.

    Args:
        model: has `labels`, the names of the classes.
        rows: list of dicts.
        scores: float `(rows, num_classes)`.

    Returns:
        list of dicts: `label`, its `score`, and `scores` of all labels.
    """
    return [
        {
            "label": model.labels[int(row.argmax())],
            "score": float(row.max()),
            "scores": {label: float(score) for label, score in zip(model.labels, row)},
        }
        for row in np.asarray(scores)
    ]


def evaluate(model, rows, scores):
    """Compare class probabilities with the labels of rows.

    Args:
        model: has `labels`, the names of the classes.
        rows: list of rows with `text` and `label`.
        scores: float `(rows, num_classes)`.

    Returns:
        `evaluation.ClassificationResult`.

    Raises:
        ValueError: a row has a label that the model doesn't know.
    """
    return evaluate_scores(rows, scores, model.labels)
