"""Multi-label classification: any number of several labels for a text, or for a pair of texts."""

import keras
import numpy as np

from kerasllm.data.rows import label_names, place_of
from kerasllm.evaluation.multi_label import MultiLabelResult, evaluate_label_sets
from kerasllm.models.text_classifier import TextClassifier
from kerasllm.tasks import text_classification

MODEL = TextClassifier
COLUMNS = ("text", "labels")
OPTIONAL_COLUMNS = ("text_pair",)
INPUTS = ("text",)
MONITOR = "val_loss"
RESULT = MultiLabelResult
LIKELY = 0.5  # a label is given where it is likelier than not
SEPARATOR = "|"  # between the labels of a row in a table

texts = text_classification.texts


def head(rows):
    """What a model's head must be for these rows: it has their labels."""
    labels = [{"label": name} for row in rows for name in labels_of(row)]
    if not labels:
        raise ValueError(f"`rows` must have labels. Received: {len(rows)} rows without any.")
    return {"labels": label_names(labels)}


def labels_of(row):
    """Return the labels of a row.

    Args:
        row: dict with `labels`, a list of str, or one str with `|` between them.

    Returns:
        list of str, maybe none.

    Raises:
        ValueError: `labels` is something else.

    Example:
        >>> labels_of({"labels": "sport|politics"}), labels_of({"labels": []})
        (['sport', 'politics'], [])
    """
    labels = row["labels"]
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(SEPARATOR) if label.strip()]
    if not isinstance(labels, (list, tuple, set)):
        raise ValueError(
            f"{place_of(row)}: `labels` must be a list, or a str with `{SEPARATOR}` between. "
            f"Received: {labels!r:.80}."
        )
    return [str(label) for label in labels]


def loss():
    """The loss: cross entropy of each label by itself, the mean over all."""
    return keras.losses.BinaryCrossentropy(from_logits=True)


def metrics():
    """The metrics shown while training: the share of labels that are rightly given or not."""
    return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)]


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    Args:
        model: `TextClassifier` with a tokenizer and labels.
        rows: list of dicts with `text` and `labels`, and `text_pair` in all or in none.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.

    Returns:
        The pair (features, targets): dict of int32 `(rows, length)`, and float32 `(rows,
        num_classes)`, 1 for each label of a row.

    Raises:
        ValueError: a label is not among the model's, there are no rows, or `max_length` is beyond
            the model's.
    """
    inputs = text_classification.features(model, rows, max_length)
    return inputs, targets_of(rows, model.labels)


def targets_of(rows, labels):
    """Return 1 for each label that a row has.

    Args:
        rows: list of dicts with `labels`.
        labels: sequence of str, names of the classes.

    Returns:
        float32 `(rows, classes)`.

    Raises:
        ValueError: a row has another label; the message says which row.
    """
    places = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(rows), len(labels)), np.float32)
    for number, row in enumerate(rows):
        for label in labels_of(row):
            if label not in places:
                raise ValueError(
                    f"{place_of(row, number)}: `labels` must be some of {', '.join(labels)}. "
                    f"Received: {label!r}."
                )
            targets[number, places[label]] = 1
    return targets


def probabilities(logits):
    """Turn logits into probabilities, each label's by itself."""
    return keras.ops.sigmoid(logits)


def predict(model, rows, *, max_length=None, batch_size=32):
    """Give each row the probability of each label.

    Args:
        model: `TextClassifier` with a tokenizer.
        rows: list of dicts with `text`, and `text_pair` in all or in none.
        max_length: int or None, as for `encode`.
        batch_size: int.

    Returns:
        float32 `(rows, num_classes)`, each value from 0 to 1.
    """
    logits = text_classification.logits_of(model, rows, max_length, batch_size)
    return keras.ops.convert_to_numpy(probabilities(logits))


def answers(model, rows, scores):
    """Put probabilities into words.

    Args:
        model: has `labels`, the names of the classes.
        rows: list of dicts.
        scores: float `(rows, num_classes)`.

    Returns:
        list of dicts: `labels`, those that are likelier than not; and `scores` of all.
    """
    return [
        {
            "labels": [name for name, score in zip(model.labels, row) if score > LIKELY],
            "scores": {name: float(score) for name, score in zip(model.labels, row)},
        }
        for row in np.asarray(scores)
    ]


def evaluate(model, rows, scores):
    """Compare probabilities with the labels of rows.

    Args:
        model: has `labels`, the names of the classes.
        rows: list of rows with `text` and `labels`.
        scores: float `(rows, num_classes)`.

    Returns:
        `evaluation.MultiLabelResult`.

    Raises:
        ValueError: a row has a label that the model doesn't know.
    """
    targets = targets_of(rows, model.labels)
    return evaluate_label_sets(rows, targets, scores, model.labels, LIKELY)
