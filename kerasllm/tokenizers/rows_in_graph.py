"""What `rows` does, with TensorFlow's tensors."""

import tensorflow as tf

from kerasllm.tokenizers.rows import FIRST, SECOND


def make_batch(template, first, second, *, max_length, pad_id):
    """Puts a batch together, padded on the right to its longest row, and at least two wide.

    Args:
        template: `kerasllm.tokenizers.rows.Template`.
        first: int32 `tf.RaggedTensor` `(batch, None)`.
        second: the same for the second texts, or None.
        max_length: int, the longest row.
        pad_id: int, the id in the padding.

    Returns:
        dict of int32 tensors `(batch, length)`.
    """
    room = template.room(max_length, second is not None)
    if second is None:
        parts, texts = template.single, {FIRST: first[:, :room]}
    else:
        keep = _keep_first(first.row_lengths(), second.row_lengths(), room)
        parts, texts = (
            template.pair,
            {FIRST: _head(first, keep), SECOND: _head(second, room - keep)},
        )
    batch = first.nrows()
    columns = [texts[part] if part in texts else tf.fill([batch, 1], part) for part, _ in parts]
    rows = tf.concat(columns, axis=1)
    # At least two columns, as no layer of a model takes the (0, 0) that an empty batch would be.
    lengths = rows.row_lengths()
    width = tf.reduce_max(tf.concat([lengths, [2]], axis=0))
    result = {
        "token_ids": _padded(rows, width, pad_id),
        "padding_mask": tf.sequence_mask(lengths, width, dtype=tf.int32),
    }
    if template.with_segments:
        kinds = [tf.ones_like(column) * segment for column, (_, segment) in zip(columns, parts)]
        result["segment_ids"] = _padded(tf.concat(kinds, axis=1), width, 0)
    return result


def _padded(rows, width, value):
    rows = rows.to_tensor(value)
    missing = width - tf.shape(rows, out_type=width.dtype)[1]
    return tf.pad(rows, [[0, 0], [0, missing]], constant_values=value)


def _keep_first(first, second, room):
    """`rows.keep_first` for tensors of lengths."""
    shorter = tf.minimum(first, room // 2)
    return tf.where(first <= second, shorter, room - tf.minimum(second, room // 2))


def _head(ids, keep):
    """The first `keep` (batch,) ids of each row."""
    row = ids.value_rowids()
    position = tf.range(tf.size(row, tf.int64)) - tf.gather(ids.row_starts(), row)
    kept = position < tf.gather(keep, row)
    values, row = tf.boolean_mask(ids.values, kept), tf.boolean_mask(row, kept)
    return tf.RaggedTensor.from_value_rowids(values, row, ids.nrows(), validate=False)
