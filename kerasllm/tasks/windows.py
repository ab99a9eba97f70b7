"""Windows of long texts, and the logits of their tokens: what tasks on tokens share."""

import keras
import numpy as np

from kerasllm.data.batches import batches
from kerasllm.tasks.text_classification import longest_row


def windows_of(model, texts, pairs=None, max_length=None, stride=None):
    """Cut texts, or the second texts of pairs, into rows that the model can take.

    Args:
        model: has `tokenizer` and `config`.
        texts: list of str.
        pairs: list of str, or None.
        max_length: int or None: the longest row; None for all the model can take.
        stride: int or None, tokens from the beginning of a window to the next; None for one window
            a text.

    Returns:
        `tokenizers.windows.Windows`.

    Raises:
        ValueError: there are no texts, `max_length` is beyond the model's, or the model has no
            tokenizer.
    """
    max_length = longest_row(model, max_length)
    if not texts:
        raise ValueError("`rows` must hold at least one row. Received: none.")
    return model.tokenizer.windows(texts, pairs, max_length=max_length, stride=stride)


def token_logits(model, inputs, batch_size=32):
    """Run a model and give each row the logits of its tokens.

    Args:
        model: `keras.Model` from `inputs` to float `(batch, length, values)`.
        inputs: dict of int32 `(rows, length)`, with `padding_mask`, padded on the right.
        batch_size: int.

    Returns:
        list of float arrays `(tokens, values)`, one a row, without padding.
    """
    lengths = inputs["padding_mask"].sum(axis=1)
    # Rows of like length share a batch, so little padding is computed.
    order = np.argsort(lengths, kind="stable")
    data = batches(
        {name: value[order] for name, value in inputs.items()},
        batch_size=batch_size,
        max_length=model.config.max_length,
    )
    found = [None] * len(order)
    for start, batch in zip(range(0, len(order), batch_size), data):
        rows = order[start : start + batch_size]
        # Not `predict`, which puts batches together as one array. Under a strategy each replica
        # computes the whole batch, so there are more rows than were given.
        logits = keras.ops.convert_to_numpy(model.predict_on_batch(batch))[: len(rows)]
        for row, values in zip(rows, logits):
            found[row] = values[: lengths[row]]
    return found
