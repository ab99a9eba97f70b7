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
    return TokenLoss()


@keras.saving.register_keras_serializable(package="kerasllm")
class TokenLoss(keras.losses.Loss):
    """`keras.losses.SparseCategoricalCrossentropy` of logits, made for many classes.

    On a CPU, TensorFlow's own operation takes more than twice as long as a softmax, from which loss
    and gradient follow too. Where the vocabulary is most of a small model, that is a sixth of a
    training step.

    Args:
        reduction: str, of `keras.losses.Loss`.
        name: str.
        **kwargs: of `keras.losses.Loss`.

    Call arguments:
        y_true: int `(…)`, classes.
        y_pred: float32 `(…, classes)`, logits.

    Returns:
        float32, scalar.

    Example:
        >>> round(float(TokenLoss()(np.array([[1]]), np.zeros((1, 1, 2), "float32"))), 4)
        0.6931
    """

    def __init__(self, reduction="mean_with_sample_weight", name="token_loss", **kwargs):
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true, y_pred):
        return cross_entropy(y_true, y_pred)


def cross_entropy(y_true, y_pred):
    """The loss of each token, as `TokenLoss` computes it.

    Args:
        y_true: int `(…)`, classes.
        y_pred: float32 `(…, classes)`, logits.

    Returns:
        float32 `(…)`.
    """
    ids = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")

    @ops.custom_gradient
    def losses(logits):
        shares = ops.softmax(logits, axis=-1)
        # The largest share, e^(its logit) / the sum of all, is never too small for a logarithm.
        highest, share = (ops.max(x, axis=-1, initial=-np.inf) for x in (logits, shares))
        log_sum = highest - ops.log(share)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            rows = ops.arange(ops.shape(ids)[0], dtype="int32")
            at = ops.stack([rows, ids[:, 0]], axis=1)
            less = ops.take_along_axis(shares, ids, axis=1)[:, 0] - 1.0
            return ops.scatter_update(shares, at, less) * ops.expand_dims(upstream, 1)

        return log_sum - ops.take_along_axis(logits, ids, axis=1)[:, 0], gradient

    flat = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
    return ops.reshape(losses(flat), ops.shape(y_pred)[:-1])


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
