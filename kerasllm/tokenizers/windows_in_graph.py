"""What `windows` does, with TensorFlow's tensors."""

import tensorflow as tf

from kerasllm.tokenizers.rows import SECOND
from kerasllm.tokenizers.rows_in_graph import make_batch


def make_windows(template, first, second, *, max_length, stride, pad_id):
    """Cuts the second texts of pairs into windows.

    Args:
        template: `kerasllm.tokenizers.rows.Template`.
        first: int32 `tf.RaggedTensor` `(batch, None)`, of which a row keeps at most half of what it
            has room for.
        second: the same of the texts that are cut.
        max_length: int, the longest row, special tokens included.
        stride: int, tokens from the beginning of a window to that of the next, at most as many as
            a window holds.
        pad_id: int, the id in the padding.

    Returns:
        `(inputs, row, tokens, before)`: a dict of int32 tensors `(windows, length)`; int64
        `(windows,)`, the pair that each is of; int64 `tf.RaggedTensor` `(windows, None)`, which of
        `second.values` a window holds; and int64 `(windows,)`, the tokens in a window before them.
    """
    room = template.room(max_length, True)
    first = first[:, : room // 2]
    length, space = second.row_lengths(), room - first.row_lengths()
    step = tf.minimum(tf.constant(stride, tf.int64), space)
    more = tf.maximum(length - space, 0)  # than the first window holds
    count = 1 + (more + step - 1) // step
    row = tf.repeat(tf.range(tf.size(count, tf.int64)), count)
    number = tf.range(tf.size(row, tf.int64)) - tf.gather(tf.cumsum(count, exclusive=True), row)
    begin = number * tf.gather(step, row)
    end = tf.minimum(begin + tf.gather(space, row), tf.gather(length, row))
    start = tf.gather(second.row_starts(), row)
    tokens = tf.ragged.range(start + begin, start + end)
    first = tf.gather(first, row)
    pieces = tokens.with_values(tf.gather(second.values, tokens.values))
    inputs = make_batch(template, first, pieces, max_length=max_length, pad_id=pad_id)
    special = [part for part, _ in template.pair].index(SECOND) - 1
    return inputs, row, tokens, first.row_lengths() + special
