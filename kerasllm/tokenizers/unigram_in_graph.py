"""The likeliest pieces of words, by SentencePiece's Unigram model, inside a graph.

Sums of scores are made in the order and precision of the `tokenizers` package, so that ties fall
out alike.
"""

import numpy as np
import tensorflow as tf

CODE_BITS = 21
UNKNOWN_PENALTY = 10.0  # how much less than the least likely piece an unknown character scores


class Unigram:
    """The pieces of a vocabulary, as a trie.

    Args:
        pieces: list of `(piece, score)` in the order of their ids; a piece that no text may have
            is None.
        unk_id: int, the id of what is in no piece.
    """

    def __init__(self, pieces, unk_id):
        nodes, piece_of = {}, [-1]
        for index, (piece, _) in enumerate(pieces):
            node = 0
            for char in piece or "":
                edge = node << CODE_BITS | ord(char)
                node = nodes.setdefault(edge, len(nodes) + 1)
                if node == len(piece_of):
                    piece_of.append(-1)
            if piece:
                piece_of[node] = index
        edges = sorted(nodes) or [-1]
        self._edges = tf.constant(edges, tf.int64)
        self._nodes = tf.constant([nodes.get(edge, 0) for edge in edges], tf.int32)
        self._piece_of = tf.constant(piece_of, tf.int32)
        scores = np.array([score for _, score in pieces], np.float64)
        self._scores = tf.constant(scores)
        self._unk_id, self._unk_score = unk_id, scores.min() - UNKNOWN_PENALTY
        self._max_length = max([1, *(len(piece) for piece, _ in pieces if piece)])

    def __call__(self, words):
        """Gives the ids of the pieces of strings `(batch,)`, a ragged int32 `(batch, None)`."""
        codes = tf.strings.unicode_decode(words, "UTF-8")
        lengths = codes.row_lengths()
        ids = self._pieces_that_end(codes)
        scores = tf.where(ids >= 0, tf.gather(self._scores, tf.maximum(ids, 0)), -np.inf)
        is_unknown = ids[:, :1] < 0
        ids = tf.concat([tf.where(is_unknown, self._unk_id, ids[:, :1]), ids[:, 1:]], 1)
        first = tf.where(is_unknown, tf.constant(self._unk_score, tf.float64), scores[:, :1])
        scores = tf.concat([first, scores[:, 1:]], 1)
        end, length = self._best(scores, codes.row_starts(), lengths)
        order = tf.argsort(end)
        end, length = tf.gather(end, order), tf.gather(length, order)
        ids = tf.gather_nd(ids, tf.stack([end, tf.cast(length, tf.int64) - 1], axis=1))
        word = tf.gather(codes.value_rowids(), end)
        # Unknown characters one after another are one.
        again = (ids[1:] == self._unk_id) & (ids[:-1] == self._unk_id) & (word[1:] == word[:-1])
        kept = tf.concat([[True], ~again], 0)[: tf.size(ids)]
        ids, word = tf.boolean_mask(ids, kept), tf.boolean_mask(word, kept)
        return tf.RaggedTensor.from_value_rowids(ids, word, codes.nrows(), validate=False)

    def _pieces_that_end(self, codes):
        """Ids `(characters, max_length)` of the pieces of each length that end at a character."""
        code = tf.cast(codes.values, tf.int64)
        count = tf.size(code)
        left = tf.gather(codes.row_splits[1:], codes.value_rowids()) - tf.range(
            tf.size(code, tf.int64)
        )  # characters from here to the end of the word
        padded = tf.pad(code, [[0, self._max_length]])
        node, alive, columns = tf.zeros_like(code), tf.ones_like(code, tf.bool), []
        for length in range(1, self._max_length + 1):
            edge = tf.bitwise.left_shift(node, tf.constant(CODE_BITS, tf.int64))
            edge += padded[length - 1 : length - 1 + count]
            place = tf.minimum(tf.searchsorted(self._edges, edge), self._edges.shape[0] - 1)
            alive &= (tf.gather(self._edges, place) == edge) & (left >= length)
            node = tf.where(alive, tf.cast(tf.gather(self._nodes, place), tf.int64), 0)
            ids = tf.where(alive, tf.gather(self._piece_of, node), -1)
            columns.append(tf.pad(ids, [[length - 1, 0]], constant_values=-1)[:count])
        return tf.stack(columns, axis=1)

    def _best(self, scores, starts, lengths):
        """Ends and lengths of the pieces of the best way through each word, in no order.

        Words go through together, character by character, the longest first, so that those which
        have ended are the last of them.
        """
        order = tf.argsort(lengths, direction="DESCENDING")
        lengths, starts = tf.gather(lengths, order), tf.gather(starts, order)
        longest = tf.reduce_max(tf.concat([lengths, [1]], 0))
        # How many words have at least 1, 2, … characters, and where their choices begin.
        going = tf.size(lengths, tf.int64) - tf.searchsorted(
            tf.reverse(lengths, [0]), tf.range(1, longest + 1), out_type=tf.int64
        )
        begins = tf.cumsum(going, exclusive=True)
        sizes = tf.range(1, self._max_length + 1)

        def step(position, window, choices):
            count = going[position]
            # window[:, i] is the best score up to i + 1 characters before the end of this step.
            found = window[:count] + tf.gather(scores, starts[:count] + position)
            best = tf.reduce_max(found, axis=1, keepdims=True)
            # Of equal ones that with the longest piece, which is found first.
            choice = tf.reduce_max(tf.where(found == best, sizes, 0), axis=1)
            window = tf.concat([best, window[:count, :-1]], axis=1)
            return position + 1, window, choices.write(tf.cast(position, tf.int32), choice)

        window = tf.concat(
            [[0.0], tf.fill([self._max_length - 1], tf.constant(-np.inf, tf.float64))], 0
        )
        window = tf.tile(window[None], [tf.size(lengths), 1])
        choices = tf.TensorArray(
            tf.int32, tf.cast(longest, tf.int32), infer_shape=False, element_shape=[None]
        )
        _, _, choices = tf.while_loop(
            lambda position, *_: position < longest,
            step,
            [tf.constant(0, tf.int64), window, choices],
            [tf.TensorShape([]), tf.TensorShape([None, None]), None],
        )
        return self._back(choices.concat(), begins, starts, lengths)

    def _back(self, choices, begins, starts, lengths):
        """Follows the choices from the ends of the words to their beginnings."""

        def step(rank, position, ends, sizes):
            size = tf.gather(choices, tf.gather(begins, position - 1) + rank)
            ends = tf.concat([ends, tf.gather(starts, rank) + position - 1], 0)
            sizes = tf.concat([sizes, size], 0)
            position -= tf.cast(size, tf.int64)
            return (*_where_any(position > 0, rank, position), ends, sizes)

        rank = tf.range(tf.size(lengths, tf.int64))
        unknown = tf.TensorShape([None])
        state = (*_where_any(lengths > 0, rank, lengths), starts[:0], choices[:0])
        _, _, ends, sizes = tf.while_loop(
            lambda rank, *_: tf.size(rank) > 0, step, state, (unknown,) * 4
        )
        return ends, sizes


def _where_any(kept, *parts):
    return tuple(tf.boolean_mask(part, kept) for part in parts)
