"""Causal language modelling: say what comes next in plain text, as GPT learned it."""

import functools

from kerasllm.data.pretraining import begun, causal_rows
from kerasllm.data.texts import stream
from kerasllm.evaluation.language import LanguageResult
from kerasllm.models.causal_lm import CausalLM
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

MODEL = CausalLM
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
    **streaming,
):
    """Make batches out of plain text, each token of which is foretold once.

    Args:
        model: `CausalLM` with a tokenizer.
        source: path, pattern, list of either, list of texts, or rows with `text`.
        batch_size: int, rows in a (global) batch.
        max_length: int or None, tokens in a row; None for all the model can take.
        training: bool, whether the order is another one in each pass.
        seed: int.
        packed: bool, whether documents follow one another in a row: attention then reaches back
            over the token that ends one. Else each begins a row of its own.
        blank_lines: bool, whether a blank line parts documents; else each file is one.
        **streaming: `steps`, `shard`, `service` and others of `data.texts.stream`.

    Returns:
        A `tf.data.Dataset` of known cardinality, of inputs, a dict of int32 `(batch, length)`;
        targets, int32 `(batch, length)`: the tokens that follow; and their weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, or an argument is out of its range.

    Example:
        >>> history = fit(model, dataset(model, "wiki/*.txt", max_length=256))  # doctest: +SKIP

    References:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.
    """
    length, tokenizer = longest_row(model, max_length), model.tokenizer
    return stream(
        source,
        causal_rows(tokenizer, length, packed=packed, blank_lines=blank_lines),
        _shifted,
        **dict(batch_size=batch_size, training=training, seed=seed),
        **streaming,
    )


def _shifted(rows, seed):
    inputs = {name: rows[name][:, :-1] for name in ("token_ids", "padding_mask")}
    return inputs, rows["token_ids"][:, 1:], rows["padding_mask"][:, 1:]


def predict(model, rows, *, max_length=None, batch_size=32):
    """Score how well the model foretells each text from its beginning.

    Args:
        model: `CausalLM` with a tokenizer.
        rows: list of dicts with `text`.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.

    Returns:
        float64 `(rows, 3)`, as `evaluation.language.evaluate_tokens` takes it.
    """
    begin = model._encode("")  # what stands before a text
    options = dict(max_length=max_length, batch_size=batch_size)
    return scores(model, rows, functools.partial(_begun, begin), **options)


def _begun(begin, batch, seed):
    ids, mask = batch["token_ids"], batch["padding_mask"]
    if begin and not (ids[:, 0] == begin[0]).all():
        ids, mask = begun(ids, begin[0]), begun(mask, 1)
    return _shifted({"token_ids": ids, "padding_mask": mask}, seed)
