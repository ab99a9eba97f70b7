"""Denoising: write a text again whose sentences are shuffled and spans are hidden, as in BART."""

import functools

import numpy as np

from kerasllm.data.pretraining import begun, denoising_rows, infilling
from kerasllm.data.texts import stream
from kerasllm.evaluation.language import LanguageResult
from kerasllm.models.seq2seq_lm import Seq2SeqLM
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

MODEL = Seq2SeqLM
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


def dataset(
    model,
    source,
    *,
    batch_size=32,
    max_length=None,
    training=True,
    seed=0,
    packed=True,
    blank_lines=True,
    rate=0.3,
    mean_span=3.0,
    permute=True,
    **streaming,
):
    """Make batches out of plain text, spoiled anew in each pass of training.

    Args:
        model: `Seq2SeqLM` with a tokenizer.
        source: path, pattern, list of either, list of texts, or rows with `text`; a blank line
            parts documents.
        batch_size: int, rows in a (global) batch.
        max_length: int or None, tokens in a row; None for all the model can take.
        training: bool, whether order and noise are other ones in each pass.
        seed: int.
        packed, blank_lines: of `data.pretraining.denoising_rows`.
        rate, mean_span, permute: of `data.pretraining.infilling`.
        **streaming: `steps`, `shard`, `service` and others of `data.texts.stream`.

    Returns:
        A `tf.data.Dataset` of known cardinality, of inputs, a dict of int32 `(batch, length)`: what
        the encoder reads, and what the decoder does; targets, int32 `(batch, length)`, and their
        weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, or an argument is out of its range.

    Example:
        >>> history = fit(model, dataset(model, "wiki/*.txt"), task="denoising")  # doctest: +SKIP

    References:
        Lewis et al. 2019, "BART", section 2.2.
    """
    length, tokenizer = longest_row(model, max_length), model.tokenizer
    spoil = infilling(tokenizer, length, rate=rate, mean_span=mean_span, permute=permute)
    return stream(
        source,
        denoising_rows(tokenizer, length, packed=packed, blank_lines=blank_lines),
        functools.partial(_spoiled, spoil, model.begin),
        **dict(batch_size=batch_size, training=training, seed=seed),
        **streaming,
    )


def _spoiled(spoil, begin, rows, seed):
    spoiled, whole = spoil(rows, seed)
    ids, mask = whole["token_ids"], whole["padding_mask"]
    inputs = {
        **{name: spoiled[name] for name in ("token_ids", "padding_mask")},
        "decoder_token_ids": begun(ids, begin),
        "decoder_padding_mask": mask,
    }
    return inputs, ids, mask


def predict(model, rows, *, max_length=None, batch_size=32):
    """Score how well the model writes each text again; how it is spoiled is always the same.

    Args:
        model: `Seq2SeqLM` with a tokenizer.
        rows: list of dicts with `text`.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.

    Returns:
        float64 `(rows, 3)`, as `evaluation.language.evaluate_tokens` takes it.
    """
    length, tokenizer = longest_row(model, max_length), model.tokenizer
    of_text = denoising_rows(tokenizer, length, blank_lines=False)

    def tokenize(texts):
        found = [of_text(text, None) for text in texts]
        return {name: _stacked([each[name] for each in found]) for name in found[0]}

    spoil = functools.partial(_spoiled, infilling(tokenizer, length), model.begin)
    options = dict(max_length=max_length, batch_size=batch_size, tokenize=tokenize)
    return scores(model, rows, spoil, **options)


def _stacked(rows):
    """The first row of each text, zeros where it has none."""
    return np.concatenate([np.pad(x, ((0, 1), (0, 0)))[:1] for x in map(np.asarray, rows)])
