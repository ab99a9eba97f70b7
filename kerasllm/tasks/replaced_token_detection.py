"""Replaced token detection: a generator fills in tokens, a detector finds them, as in ELECTRA."""

import functools

import keras
from keras import ops

from kerasllm.data.pretraining import masking, text_rows
from kerasllm.data.texts import stream
from kerasllm.evaluation.language import LanguageResult
from kerasllm.models.replaced_token_detection import ReplacedTokenDetection
from kerasllm.tasks.language_modeling import (
    answers,
    evaluate,
    evaluate_batches,
    scores,
    texts,
    token_loss,
    token_metrics,
)
from kerasllm.tasks.masked_lm import head
from kerasllm.tasks.text_classification import longest_row

MODEL = ReplacedTokenDetection
COLUMNS = ("text",)
OPTIONAL_COLUMNS = ()
INPUTS = ("text",)
MONITOR = "val_loss"
RESULT = LanguageResult
MASK_RATE, RANDOM_RATE = 0.85, 0.0  # the rest stays, as in the published code
WEIGHT = 50.0  # of the detector's loss: section 3.1 and table 6 of the paper

__all__ = [
    "answers", "dataset", "evaluate", "evaluate_batches", "head", "loss", "metrics", "predict",
    "texts",
]  # fmt: skip


@keras.saving.register_keras_serializable(package="kerasllm")
class DetectionLoss(keras.losses.Loss):
    """Binary cross entropy of the detector, from logits that are above 0 where it is right.

    Args:
        weight: float, factor on it.
        reduction: str: by default the mean over the tokens, each with its weight.
        **kwargs: of `keras.losses.Loss`.

    Example:
        >>> loss = DetectionLoss(weight=1.0)
        >>> round(float(loss(np.ones((1, 1)), np.zeros((1, 1), "float32"))), 4)
        0.6931

    References:
        Clark et al. 2020, "ELECTRA", section 2.
    """

    def __init__(self, weight=WEIGHT, reduction="mean_with_sample_weight", **kwargs):
        super().__init__(reduction=reduction, **kwargs)
        self.weight = weight

    def call(self, y_true, y_pred):
        return self.weight * ops.softplus(-y_pred)

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}


def loss():
    """The losses, which are summed: the generator's, and `WEIGHT` times the detector's."""
    return {"tokens": token_loss(), "detected": DetectionLoss()}


def metrics():
    """The metrics shown while training: the generator's, and the share of tokens told rightly."""
    right = keras.metrics.MeanMetricWrapper(_right, name="accuracy")
    return {"tokens": token_metrics(), "detected": [right]}


def _right(y_true, y_pred):
    return ops.cast(y_pred > 0, "float32")


def dataset(
    model,
    source,
    *,
    batch_size=32,
    max_length=None,
    training=True,
    seed=0,
    whole_words=False,
    packed=True,
    blank_lines=True,
    rate=0.15,
    mask_rate=MASK_RATE,
    random_rate=RANDOM_RATE,
    **streaming,
):
    """Make batches out of plain text, masked anew in each pass of training.

    Args:
        model: `ReplacedTokenDetection` with a tokenizer.
        source: path, pattern, list of either, list of texts, or rows with `text`; a blank line
            parts documents.
        batch_size: int, rows in a (global) batch.
        max_length: int or None, tokens in a row; None for all the model can take.
        training: bool, whether order and masks are other ones in each pass.
        seed: int.
        whole_words: bool, whether words are masked as wholes.
        packed, blank_lines: of `data.pretraining.text_rows`.
        rate, mask_rate, random_rate: of `data.pretraining.masking`.
        **streaming: `steps`, `shard`, `service` and others of `data.texts.stream`.

    Returns:
        A `tf.data.Dataset` of known cardinality, of the inputs of `ReplacedTokenDetection`, and
        targets and weights, dicts of `tokens` and `detected`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, or an argument is out of its range.

    Example:
        >>> history = fit(model, dataset(model, "wiki/*.txt", max_length=128))  # doctest: +SKIP

    References:
        Clark et al. 2020, "ELECTRA", section 2 and appendix A.
    """
    length, tokenizer = longest_row(model, max_length), model.tokenizer
    options = dict(rate=rate, mask_rate=mask_rate, random_rate=random_rate)
    return stream(
        source,
        text_rows(tokenizer, length, packed=packed, blank_lines=blank_lines),
        functools.partial(_masked, masking(tokenizer, whole_words=whole_words, **options)),
        **dict(batch_size=batch_size, training=training, seed=seed),
        **streaming,
    )


def _masked(mask, rows, seed):
    masked = mask(rows, seed)
    inputs = {
        **rows,
        "masked_token_ids": masked["token_ids"],
        "masked_positions": masked["positions"],
        "masked_weights": masked["chosen"],
    }
    real = rows["padding_mask"]
    targets = {"tokens": masked["ids"], "detected": real * 0 + 1}
    return inputs, targets, {"tokens": masked["chosen"], "detected": real}


def predict(model, rows, *, max_length=None, batch_size=32):
    """Score how well the generator finds tokens of each text; the masks are always the same.

    Args:
        model: `ReplacedTokenDetection` with a tokenizer.
        rows: list of dicts with `text`.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.

    Returns:
        float64 `(rows, 3)`, as `evaluation.language.evaluate_tokens` takes it.
    """
    longest_row(model, max_length)  # it needs a tokenizer
    mask = masking(model.tokenizer, mask_rate=MASK_RATE, random_rate=RANDOM_RATE)
    mask = functools.partial(_masked, mask)
    options = dict(max_length=max_length, batch_size=batch_size)
    return scores(model, rows, mask, output="tokens", **options)
