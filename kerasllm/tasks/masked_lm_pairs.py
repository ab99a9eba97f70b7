"""BERT's pretraining, and ALBERT's: hidden tokens, and whether two texts follow one another."""

import functools

import keras
import numpy as np

from kerasllm.data.pretraining import masking, pair_rows
from kerasllm.data.texts import stream
from kerasllm.evaluation.language import LanguageResult
from kerasllm.models.masked_lm import POSITIONS
from kerasllm.models.pair_masked_lm import PairMaskedLM
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

MODEL = PairMaskedLM
COLUMNS = ("text",)
OPTIONAL_COLUMNS = ()
INPUTS = ("text",)
MONITOR = "val_loss"
RESULT = LanguageResult

__all__ = [
    "answers", "dataset", "evaluate", "evaluate_batches", "head", "loss", "metrics", "predict",
    "texts",
]  # fmt: skip


def loss():
    """The losses, which are summed: cross entropy of the hidden tokens, and of the pairs."""
    return {
        "tokens": token_loss(),
        "pair": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }


def metrics():
    """The metrics shown while training: of tokens perplexity and accuracy, of pairs accuracy."""
    return {
        "tokens": token_metrics(),
        "pair": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    }


def dataset(
    model,
    source,
    *,
    batch_size=32,
    max_length=None,
    training=True,
    seed=0,
    sentence_order=None,
    whole_words=False,
    blank_lines=True,
    rate=0.15,
    **streaming,
):
    """Make batches out of plain text: pairs drawn and masked anew in each pass of training.

    Args:
        model: `PairMaskedLM` with a tokenizer.
        source: path, pattern, list of either, list of texts, or rows with `text`; a blank line
            parts documents. The best text has each sentence on a line of its own.
        batch_size: int, rows in a (global) batch.
        max_length: int or None, tokens in a row; None for all the model can take.
        training: bool, whether order, pairs and masks are other ones in each pass.
        seed: int.
        sentence_order: bool or None: whether texts that don't follow one another are the same two
            in the other order (ALBERT), or from two documents (BERT); None for the family's way.
        whole_words: bool, whether words are masked as wholes.
        blank_lines: of `data.pretraining.pair_rows`.
        rate: float, share of the tokens that are hidden.
        **streaming: `steps`, `shard`, `service` and others of `data.texts.stream`.

    Returns:
        A `tf.data.Dataset` of known cardinality, of inputs, and targets and weights, dicts of
        `tokens` and `pair`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, or an argument is out of its range.

    Example:
        >>> history = fit(model, dataset(model, "wiki/*.txt", max_length=128))  # doctest: +SKIP

    References:
        Devlin et al. 2018, "BERT", section 3.1; Lan et al. 2019, "ALBERT", section 3.1.
    """
    length, tokenizer = longest_row(model, max_length), model.tokenizer
    if sentence_order is None:
        sentence_order = model.family == "albert"
    options = dict(sentence_order=sentence_order, blank_lines=blank_lines)
    return stream(
        source,
        pair_rows(tokenizer, length, **options),
        functools.partial(_masked, masking(tokenizer, rate=rate, whole_words=whole_words)),
        **dict(batch_size=batch_size, training=training, seed=seed),
        **streaming,
    )


def _masked(mask, rows, seed):
    rows = dict(rows)
    exchanged = rows.pop("exchanged")
    masked = mask(rows, seed)
    inputs = {**rows, "token_ids": masked["token_ids"], POSITIONS: masked["positions"]}
    weights = {"tokens": masked["chosen"], "pair": exchanged * 0 + 1}
    return inputs, {"tokens": masked["ids"], "pair": exchanged}, weights


def predict(model, rows, *, max_length=None, batch_size=32):
    """Score how well the model finds tokens of each text; which are masked is always the same.

    Args:
        model: `PairMaskedLM` with a tokenizer.
        rows: list of dicts with `text`.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.

    Returns:
        float64 `(rows, 3)`, as `evaluation.language.evaluate_tokens` takes it.
    """
    longest_row(model, max_length)  # it needs a tokenizer
    mask = masking(model.tokenizer)

    def masked(batch, seed):
        return _masked(mask, {**batch, "exchanged": np.zeros(len(batch["token_ids"]))}, seed)

    options = dict(max_length=max_length, batch_size=batch_size)
    return scores(model, rows, masked, output="tokens", **options)
