"""The merges of byte-pair encoding, with TensorFlow's own operations, in all words at once."""

import numpy as np
import tensorflow as tf

NONE = np.iinfo(np.int32).max


class Merges:
    """A table of pairs of ids, what they become, and which comes first.

    Args:
        merges: list of `(left id, right id, new id)`, the first to be merged first.
        vocab_size: int, more than the largest id.
    """

    def __init__(self, merges, vocab_size):
        ranks = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}
        made = {(left, right): new for left, right, new in merges}
        pairs = sorted(ranks) or [(vocab_size, vocab_size)]  # a table must not be empty
        self._vocab_size = vocab_size
        self._keys = tf.constant([left * vocab_size + right for left, right in pairs], tf.int64)
        self._ranks = tf.constant([ranks.get(pair, NONE) for pair in pairs], tf.int32)
        self._made = tf.constant([made.get(pair, 0) for pair in pairs], tf.int32)
        self._all_at_once = _parts_come_first(ranks, made)

    def __call__(self, ids, word, num_words):
        """Merges the ids of each word until no pair of the table is left.

        Args:
            ids: int32 `(ids,)`, of all words one after another.
            word: int64 `(ids,)`, the number of the word of each.
            num_words: int64 scalar, the number of words.

        Returns:
            int32 `tf.RaggedTensor` `(num_words, None)`.
        """
        none = tf.zeros([0], tf.int32), tf.zeros([0], tf.int64)
        unknown = tf.TensorShape([None])
        _, _, ids, word = tf.while_loop(
            lambda ids, *_: tf.size(ids) > 0,
            lambda *state: self._round(*state, num_words),
            [ids, word, *none],
            [unknown] * 4,
        )
        order = tf.argsort(word, stable=True)
        ids, word = tf.gather(ids, order), tf.gather(word, order)
        return tf.RaggedTensor.from_value_rowids(ids, word, num_words, validate=False)

    def _round(self, ids, word, done_ids, done_word, num_words):
        """Merges, in each word, the pair that comes first; a word without one is done."""
        left, right, word_of = ids[:-1], ids[1:], word[:-1]
        key = tf.cast(left, tf.int64) * self._vocab_size + tf.cast(right, tf.int64)
        place = tf.minimum(tf.searchsorted(self._keys, key), self._keys.shape[0] - 1)
        known = (tf.gather(self._keys, place) == key) & (word_of == word[1:])
        rank = tf.where(known, tf.gather(self._ranks, place), NONE)
        lowest = tf.math.unsorted_segment_min(rank, word_of, num_words)
        merged = known & (rank == tf.gather(lowest, word_of))
        merged &= self._chosen(merged, word_of, num_words)
        ids = tf.concat([tf.where(merged, tf.gather(self._made, place), left), ids[-1:]], 0)
        kept = tf.concat([[True], ~merged], 0)
        busy = tf.gather(lowest, word) < NONE
        done = kept & ~busy
        done_ids = tf.concat([done_ids, tf.boolean_mask(ids, done)], 0)
        done_word = tf.concat([done_word, tf.boolean_mask(word, done)], 0)
        kept &= busy
        return tf.boolean_mask(ids, kept), tf.boolean_mask(word, kept), done_ids, done_word

    def _chosen(self, merged, word_of, num_words):
        """Which of the equal pairs of a word can be merged in one round."""
        position = tf.range(tf.size(merged))
        if not self._all_at_once:
            first = tf.where(merged, position, NONE)
            first = tf.math.unsorted_segment_min(first, word_of, num_words)
            return position == tf.gather(first, word_of)
        # Of a a a, the first two are merged: in a run of equal pairs, every other one.
        starts = merged & ~tf.concat([[False], merged], 0)[:-1]
        run = tf.maximum(tf.cumsum(tf.cast(starts, tf.int32)) - 1, 0)
        start = tf.gather(tf.concat([tf.boolean_mask(position, starts), [0]], 0), run)
        return (position - start) % 2 == 0


def _parts_come_first(ranks, made):
    """Whether each id is made before any pair that holds it is merged.

    Then no merge makes a pair of a lower rank, and all equal pairs of a word can be merged at
    once. It is so in a vocabulary that was learned by merging, not in each that was converted.
    """
    last = {}
    for pair, rank in ranks.items():
        last[made[pair]] = max(rank, last.get(made[pair], -1))
    return all(last.get(part, -1) < rank for pair, rank in ranks.items() for part in pair)
