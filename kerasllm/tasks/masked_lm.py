"""Masked language modelling: find the tokens that are hidden in plain text, as BERT learned it."""

import functools

from kerasllm.data.pretraining import masking, text_rows
from kerasllm.data.texts import stream
from kerasllm.evaluation.language import LanguageResult
from kerasllm.models.masked_lm import POSITIONS, MaskedLM
from kerasllm.tasks.language_modeling import (
    answers,
    evaluate,
    evaluate_batches,
    scores,
    texts,
    token_loss,
    token_metrics,
)
from kerasllm.tasks.text_classification import longest_row

MODEL = MaskedLM
COLUMNS = ("text",)
OPTIONAL_COLUMNS = ()
INPUTS = ("text",)
MONITOR = "val_loss"
RESULT = LanguageResult

__all__ = [
    "answers", "dataset", "evaluate", "evaluate_batches", "head", "loss", "metrics", "predict",
    "texts",
]  # fmt: skip

loss, metrics = token_loss, token_metrics


def head(rows):
    """What a model's head must be for these rows: nothing of its own."""
    return {}


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
    mask_rate=0.8,
    random_rate=0.1,
    **streaming,
):
    """Make batches out of plain text, masked anew in each pass of training.

    Args:
        model: `MaskedLM` with a tokenizer.
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
        A `tf.data.Dataset` of known cardinality, of inputs (a dict, with `masked_positions`, int32
        `(batch, masked)`), targets, int32 `(batch, masked)`, and their weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, or an argument is out of its range.

    Example:
        >>> data = dataset(model, "wiki/*.txt", max_length=128)  # doctest: +SKIP
        >>> history = fit(model, data, dataset(model, "dev.txt", training=False))  # doctest: +SKIP

    References:
        Devlin et al. 2018, "BERT", section 3.1, task 1.
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
    inputs = {**rows, "token_ids": masked["token_ids"], POSITIONS: masked["positions"]}
    return inputs, masked["ids"], masked["chosen"]


def predict(model, rows, *, max_length=None, batch_size=32):
    """Score how well the model finds tokens of each text; which are masked is always the same.

    Args:
        model: `MaskedLM` with a tokenizer.
        rows: list of dicts with `text`.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.

    Returns:
        float64 `(rows, 3)`, as `evaluation.language.evaluate_tokens` takes it.
    """
    longest_row(model, max_length)  # it needs a tokenizer
    mask = functools.partial(_masked, masking(model.tokenizer))
    return scores(model, rows, mask, max_length=max_length, batch_size=batch_size)
