"""What the tasks of pretraining share: losses over tokens, perplexity, texts scored one by one."""

import functools

import keras
import numpy as np
import scipy.special
from keras import ops

from kerasllm.evaluation.language import LanguageResult, evaluate_tokens
from kerasllm.tasks.text_classification import longest_row


def token_loss():
    """The loss: cross entropy between logits and ids, over the tokens that count.

    Returns:
        `keras.losses.Loss`, which divides by the sum of the weights: rows may have more or fewer
        tokens to be found.
    """
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def token_metrics():
    """The metrics shown while training: perplexity, and how often the true token is likeliest."""
    return [Perplexity(), keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


@keras.saving.register_keras_serializable(package="kerasllm")
class Perplexity(keras.metrics.SparseCategoricalCrossentropy):
    """e to the mean cross entropy of all tokens so far.

    Args:
        name: str.
        from_logits: bool, whether predictions are logits.
        **kwargs: of `keras.metrics.SparseCategoricalCrossentropy`.

    Example:
        >>> metric = Perplexity()
        >>> metric.update_state(np.array([[1]]), np.array([[[0.0, 0.0]]], "float32"))
        >>> round(float(metric.result()), 4)
        2.0

    References:
        Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition tasks".
    """

    def __init__(self, name="perplexity", from_logits=True, **kwargs):
        super().__init__(name=name, from_logits=from_logits, **kwargs)

    def result(self):
        return ops.exp(super().result())


def texts(rows):
    """The texts of rows, for a vocabulary.

    Args:
        rows: list of dicts with `text`.

    Returns:
        list of str.
    """
    return [row["text"] for row in rows]


def scores(model, rows, batch_of, *, max_length=None, batch_size=32, output=None, tokenize=None):
    """Score the tokens of texts, each a row of its own.

    Args:
        model: a model with a tokenizer.
        rows: list of dicts with `text`.
        batch_of: function from a dict of arrays, as the tokenizer gives it, and a seed to inputs,
            targets and weights.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.
        output: str or None, the one of several outputs, targets and weights that has tokens.
        tokenize: function from a list of texts to what `batch_of` takes; None for the tokenizer.

    Returns:
        float64 `(rows, 3)`, as `evaluation.language.evaluate_tokens` takes it.

    Raises:
        ValueError: there are no rows, or `max_length` is beyond the model's.
    """
    length, found = longest_row(model, max_length), []
    if not rows:
        raise ValueError("`rows` must hold at least one row. Received: none.")
    if tokenize is None:
        tokenize = functools.partial(model.tokenizer, max_length=length, pad_to=length)
    for start in range(0, len(rows), batch_size):
        part = [row["text"] for row in rows[start : start + batch_size]]
        inputs, *others = batch_of(tokenize(part), np.array([0, start]))
        batch = (model.predict_on_batch(inputs), *others)
        batch = (np.asarray(each if output is None else each[output]) for each in batch)
        found += [_scored(*row) for row in zip(*batch)]
    return np.array(found)


def _scored(logits, targets, weights):
    """The scores of one text; of all of a batch at once they would fill a machine's memory."""
    logits, targets = logits[weights > 0].astype("float64"), targets[weights > 0]
    true = logits[np.arange(len(targets)), targets]
    losses = scipy.special.logsumexp(logits, axis=-1) - true
    return losses.sum(), len(targets), (logits.argmax(axis=-1) == targets).sum()


def answers(model, rows, outputs):
    """Put the scores of texts into words.

    Args:
        model: has no say.
        rows: list of dicts with `text`.
        outputs: of `scores`.

    Returns:
        list of dicts: `perplexity` of a text, share of its tokens that were foretold (`accuracy`),
        both None where there are none, and how many were scored (`tokens`).
    """
    return [
        {
            "perplexity": float(np.exp(loss / tokens)) if tokens else None,
            "accuracy": float(right / tokens) if tokens else None,
            "tokens": int(tokens),
        }
        for loss, tokens, right in np.asarray(outputs)
    ]


def evaluate(model, rows, outputs):
    """Sum up the scores of texts.

    Args:
        model: has no say.
        rows: list of dicts with `text`.
        outputs: of `scores`.

    Returns:
        `evaluation.language.LanguageResult`.
    """
    return evaluate_tokens(outputs, texts(rows))


def evaluate_batches(model, batches, metrics) -> LanguageResult:
    """Sum up how well the tokens of batches are found, and how well all else is that they ask for.

    Args:
        model: a model that a task of pretraining trains.
        batches: what the task's `dataset` gives without `training`.
        metrics: what the task's `metrics` gives: a list, or a dict of lists, of `tokens` first.

    Returns:
        `evaluation.language.LanguageResult`, with the metrics of other outputs in `others`.
    """
    named = isinstance(metrics, dict)
    metrics = metrics if named else {"tokens": metrics}
    tokens = rows = 0
    for inputs, *others in batches:
        batch = [model.predict_on_batch(inputs), *others]
        outputs, targets, weights = batch if named else [{"tokens": part} for part in batch]
        for name, group in metrics.items():
            for metric in group:
                metric.update_state(targets[name], outputs[name], sample_weight=weights[name])
        tokens += int(np.count_nonzero(weights["tokens"]))
        rows += len(weights["tokens"])
    perplexity, accuracy, *others = (
        (f"{name} {metric.name}", float(metric.result()))
        for name, group in metrics.items()
        for metric in group
    )
    return LanguageResult(
        perplexity=perplexity[1],
        accuracy=accuracy[1],
        loss=float(np.log(perplexity[1])),
        tokens=tokens,
        rows=rows,
        others=dict(others),
    )
