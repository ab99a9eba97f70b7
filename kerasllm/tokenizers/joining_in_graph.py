"""From the texts of tokens to texts, inside a graph."""

import tensorflow as tf


def as_ragged(ids):
    """Gives int32 ids `(batch, length)` as a ragged tensor, whatever they are given as."""
    if isinstance(ids, tf.RaggedTensor):
        return ids
    return tf.RaggedTensor.from_tensor(tf.convert_to_tensor(ids, tf.int32))


def without(ids, silent):
    """Leaves out of ragged `ids` those at whose place `silent`, bool `(vocab_size,)`, is true."""
    return tf.ragged.boolean_mask(ids, ~tf.gather(silent, ids))


def texts_of(ids, texts, first):
    """Looks up the text of each token.

    Args:
        ids: int32 `tf.RaggedTensor` `(batch, None)`.
        texts: string `(vocab_size,)`, what each token is within a text.
        first: string `(vocab_size,)`, what each is at the beginning of one.

    Returns:
        string `(tokens,)`, of all rows.
    """
    row, values = ids.value_rowids(), ids.values
    is_first = tf.range(tf.size(row, tf.int64)) == tf.gather(ids.row_starts(), row)
    return tf.where(is_first, tf.gather(first, values), tf.gather(texts, values))


def join(texts, ids):
    """Joins the `texts` of all tokens of ragged `ids` to strings `(batch,)`."""
    rows = tf.cast(ids.nrows(), tf.int32)
    return tf.strings.unsorted_segment_join(texts, ids.value_rowids(), rows)
