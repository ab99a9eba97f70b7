"""What pretraining makes of plain text: rows of token ids, and what is to be found out of them.

A function that ends in `_rows` makes one that turns a piece of text (see `texts`) into rows. The
others make one that takes a batch of rows, and spoils it in the way of a paper. All random numbers
follow from a seed that is passed in, so that a run that died goes on with the same ones; this is
why keras-hub's `MaskedLMMaskGenerator`, whose numbers follow from nothing, is not used.
"""

import numpy as np
import tensorflow as tf

from kerasllm.data.batches import check_at_least_one
from kerasllm.data.texts import documents, sentences, single_lines
from kerasllm.tokenizers.rows_in_graph import make_batch

SPECIAL = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


# ------------------------------------------------------------------------------------ rows


def text_rows(tokenizer, max_length, *, packed=True, blank_lines=True):
    """Make the function from a piece of text to rows as BERT and RoBERTa read them.

    Args:
        tokenizer: of `kerasllm.tokenizers`.
        max_length: int, tokens in a row, special ones included.
        packed: bool, whether documents follow one another in a row, with the token that ends one
            between them; else each begins a row of its own.
        blank_lines: bool, whether a blank line parts documents.

    Returns:
        Function from a string scalar and a seed, which has no say, to a dict of int32
        `(rows, max_length)`: `token_ids`, `padding_mask` and, for BERT's kind, `segment_ids`.

    References:
        Liu et al. 2019, "RoBERTa", section 4.2 (full sentences; doc sentences).
    """
    graph, template = tokenizer.in_graph(), tokenizer._template
    room = template.room(max_length, with_pairs=False)

    def rows(piece, seed):
        ids = graph.encode(documents(piece, blank_lines))
        if packed:
            ids = _in_one(_followed_by(ids, _end(tokenizer)))
        return _filled(tokenizer, windows(ids, room), None, max_length)

    return rows


def causal_rows(tokenizer, max_length, *, packed=True, blank_lines=True):
    """Make the function from a piece of text to rows whose every token is to be foretold.

    A row has one token more than the model reads: the last is but foretold, and begins the next
    row. Attention does not stop where a document ends within a row: the token that ends it tells
    the model so, as GPT-3 learned it. With `packed=False` no row holds two documents.

    Args:
        tokenizer, max_length, packed, blank_lines: as of `text_rows`; the tokenizer must know a
            token that ends a text.

    Returns:
        Function from a string scalar and a seed, which has no say, to a dict of int32
        `(rows, max_length + 1)`: `token_ids`, `padding_mask`.

    Raises:
        ValueError: the tokenizer has no such token.

    References:
        Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.2 and appendix B.
    """
    graph, end = tokenizer.in_graph(), _end(tokenizer)
    if end is None:
        raise ValueError(
            "`tokenizer` must have a token that ends a text. Received: one with neither `eos` nor "
            "`sep` (train one with it)."
        )
    begin = getattr(tokenizer, "bos_id", None)
    begin = end if begin is None else begin

    def rows(piece, seed):
        ids = _followed_by(graph.encode(documents(piece, blank_lines)), end)
        if packed and begin == end:  # what ends a document begins the next one
            ids = _after(begin, _in_one(ids))
        else:
            ids = _after(begin, ids)
            ids = _in_one(ids) if packed else ids
        ids = windows(ids, max_length + 1, max_length)
        return {
            "token_ids": _dense(ids, max_length + 1, _pad(tokenizer)),
            "padding_mask": _dense(tf.ones_like(ids), max_length + 1, 0),
        }

    return rows


def pair_rows(tokenizer, max_length, *, sentence_order=False, blank_lines=True):
    """Make the function from a piece of text to rows of two texts, as BERT's and ALBERT's.

    A document is cut into spans that fill a row, at ends of sentences (lines, full stops), and each
    span is parted in two: between two of its sentences, a single one in its middle. In half of the
    rows the second text is then exchanged for that of another document of the piece; or, with
    `sentence_order`, for the first.

    Args:
        tokenizer: of `kerasllm.tokenizers`, which puts pairs into segments.
        max_length: int, tokens in a row, special ones included.
        sentence_order: bool.
        blank_lines: bool, whether a blank line parts documents.

    Returns:
        Function from a string scalar and a seed to a dict of int32 `(rows, max_length)`, as of
        `text_rows`, and `exchanged` `(rows,)`: 0 where the second text follows the first, else 1.

    References:
        Devlin et al. 2018, "BERT", section 3.1, task 2; Lan et al. 2019, "ALBERT", section 3.1.
    """
    graph, template = tokenizer.in_graph(), tokenizer._template
    room = template.room(max_length, with_pairs=True)

    def rows(piece, seed):
        parts = sentences(documents(piece, blank_lines))
        ids = graph.encode(parts.values)
        start, middle, stop, document = _halves(ids, parts.value_rowids(), room, seed)
        exchange = tf.random.stateless_uniform(tf.shape(start), seed + 1) < 0.5
        if sentence_order:
            first = tf.where(exchange, [middle, stop], [start, middle])
            second = tf.where(exchange, [start, middle], [middle, stop])
        else:
            other, there = _of_another(document, seed + 2)
            exchange &= there
            first = tf.stack([start, middle])
            second = tf.where(exchange, tf.gather([middle, stop], other, axis=1), [middle, stop])
        pairs = [_span(ids.values, *tf.unstack(ends), limit=room) for ends in (first, second)]
        return {
            **_filled(tokenizer, *pairs, max_length),
            "exchanged": tf.cast(exchange, tf.int32),
        }

    return rows


def denoising_rows(tokenizer, max_length, *, packed=True, blank_lines=True):
    """Make the function from a piece of text to rows without special tokens, of whole sentences.

    Args:
        tokenizer, packed, blank_lines: as of `text_rows`.
        max_length: int, tokens in a row, special ones included.

    Returns:
        Function from a string scalar and a seed, which has no say, to a dict of int32 `(rows,
        length)`: `token_ids`, `padding_mask`, `sentences`, the number of each token's sentence.
    """
    graph = tokenizer.in_graph()
    room = tokenizer._template.room(max_length, with_pairs=False)

    def rows(piece, seed):
        parts = sentences(documents(piece, blank_lines))
        ids = graph.encode(parts.values)
        number = tf.cast(ids.value_rowids(), tf.int32)
        number, ids = (
            parts.with_values(ids.with_values(each)).merge_dims(1, 2)
            for each in (number, ids.values)
        )
        if packed:
            number, ids = _in_one(number), _in_one(ids)
        ids, number = windows(ids, room), windows(number, room)
        return {
            "token_ids": _dense(ids, room, _pad(tokenizer)),
            "padding_mask": _dense(tf.ones_like(ids), room, 0),
            "sentences": _dense(number, room, -1),
        }

    return rows


def line_rows(tokenizer, max_length, *, pairs=False):
    """Make the function from a piece of text to rows of its lines.

    Args:
        tokenizer: of `kerasllm.tokenizers`.
        max_length: int, tokens in a row, special ones included; longer lines are cut.
        pairs: bool, whether a line holds two texts with a tab between; others are left out.

    Returns:
        Function from a string scalar and a seed, which has no say, to a dict of int32
        `(rows, texts, max_length)`, where `texts` is 2 with `pairs`, else 1: `token_ids`,
        `padding_mask` and, for BERT's kind, `segment_ids`.
    """
    graph = tokenizer.in_graph()
    texts = 2 if pairs else 1

    def rows(piece, seed):
        lines = single_lines(piece)
        if pairs:
            parts = tf.strings.split(lines, "\t")
            parts = tf.ragged.boolean_mask(parts, parts.row_lengths() > 1)
            lines = tf.reshape(parts[:, :2].to_tensor(shape=[None, 2]), [-1])
        made = _filled(tokenizer, graph.encode(lines), None, max_length)
        return {name: tf.reshape(x, [-1, texts, max_length]) for name, x in made.items()}

    return rows


def windows(ids, length, stride=None):
    """Cut ragged rows into windows.

    Args:
        ids: ragged `(rows, None)`.
        length: int, the most in a window.
        stride: int, from one beginning to the next; None for `length`.

    Returns:
        ragged `(windows, None)`; the last one of a row may be shorter. A row that an earlier
        window has seen to its end makes no more.

    Example:
        >>> windows(tf.ragged.constant([[1, 2, 3, 4, 5], [6]]), 3, 2).to_list()
        [[1, 2, 3], [3, 4, 5]]
        >>> windows(tf.ragged.constant([[1, 2, 3, 4, 5], [6]]), 3).to_list()
        [[1, 2, 3], [4, 5], [6]]
    """
    stride = length if stride is None else stride
    # What overlaps is new in its first window alone.
    counts = -(-(ids.row_lengths() - (length - stride)) // stride)
    counts = tf.maximum(counts, 0)
    row = tf.repeat(tf.range(ids.nrows()), counts)
    number = tf.range(tf.size(row, tf.int64)) - tf.gather(tf.cumsum(counts, exclusive=True), row)
    start = tf.gather(ids.row_starts(), row) + number * stride
    return _span(ids.values, start, tf.gather(ids.row_limits(), row), limit=length)


def _span(values, start, stop, limit):
    """Ragged rows of `values[start:stop]`, each of `limit` values at most."""
    index = tf.ragged.range(start, tf.minimum(stop, start + limit))
    return tf.gather(values, index)


def _filled(tokenizer, first, second, max_length):
    """Rows with special tokens, padded to `max_length`."""
    pad = _pad(tokenizer)
    made = make_batch(tokenizer._template, first, second, max_length=max_length, pad_id=pad)
    return {
        name: _widened(x, max_length, pad if name == "token_ids" else 0) for name, x in made.items()
    }


def _widened(x, width, value):
    missing = width - tf.shape(x)[1]
    return tf.ensure_shape(tf.pad(x, [[0, 0], [0, missing]], constant_values=value), [None, width])


def _dense(ids, width, value):
    return tf.ensure_shape(ids.to_tensor(value, shape=[None, width]), [None, width])


def _in_one(ids):
    """All rows as one."""
    return tf.RaggedTensor.from_row_splits(ids.values, [0, tf.size(ids.values, tf.int64)])


def _followed_by(ids, token):
    return ids if token is None else tf.concat([ids, tf.fill([ids.nrows(), 1], token)], axis=1)


def _after(token, ids):
    return tf.concat([tf.fill([ids.nrows(), 1], token), ids], axis=1)


def _end(tokenizer):
    """The id of the token that ends a text, or None."""
    eos = getattr(tokenizer, "eos_id", None)
    return tokenizer.sep_id if eos is None else eos


def _pad(tokenizer):
    """The id in the padding, int."""
    return int(tokenizer([""], max_length=8, pad_to=8)["token_ids"][0, -1])


def _halves(ids, document, room, seed):
    """Where spans of sentences begin, are parted and end, and of which document each is.

    A span holds the sentences that begin in one stretch of `room` tokens of their document.
    """
    lengths, starts, limits = ids.row_lengths(), ids.row_starts(), ids.row_limits()
    first = tf.math.segment_min(starts, document)
    stretch = (starts - tf.gather(first, document)) // room
    new = (stretch[1:] != stretch[:-1]) | (document[1:] != document[:-1])
    span = tf.cumsum(tf.concat([[0], tf.cast(new, tf.int32)], axis=0))
    span = span[: tf.size(starts)]  # of each sentence; there may be none
    start, stop = tf.math.segment_min(starts, span), tf.math.segment_max(limits, span)
    stop = tf.minimum(stop, start + room)
    count = tf.math.segment_sum(tf.ones_like(lengths), span)
    # The first sentence of the second half, at random; a single one is parted in its middle.
    draw = tf.random.stateless_uniform(tf.shape(count), seed, dtype=tf.float64)
    behind = 1 + tf.cast(draw * tf.cast(count - 1, tf.float64), tf.int64)
    last = tf.size(starts, tf.int64) - 1
    at = tf.minimum(tf.cumsum(count, exclusive=True) + behind, last)
    middle = tf.where(count > 1, tf.gather(starts, at), (start + stop) // 2)
    # Sentences without tokens would leave a half empty.
    middle = tf.clip_by_value(middle, start + 1, tf.maximum(stop - 1, start + 1))
    kept = stop - start > 1
    document = tf.math.segment_min(document, span)
    return [tf.boolean_mask(each, kept) for each in (start, middle, stop, document)]


def _of_another(document, seed):
    """For each row, one of another document drawn evenly, and whether there is any."""
    rows = tf.size(document, tf.int64)
    _, index, counts = tf.unique_with_counts(document, tf.int64)  # documents stand in order
    own, first = tf.gather(counts, index), tf.gather(tf.cumsum(counts, exclusive=True), index)
    draw = tf.random.stateless_uniform(tf.shape(document), seed, dtype=tf.float64)
    other = tf.cast(draw * tf.cast(rows - own, tf.float64), tf.int64)
    other = tf.where(other < first, other, other + own)
    return tf.minimum(other, rows - 1), own < rows


# ------------------------------------------------------------------------------------ spoiling


def masking(
    tokenizer,
    *,
    rate=0.15,
    mask_rate=0.8,
    random_rate=0.1,
    whole_words=False,
):
    """Make the function that masks tokens of a batch, as BERT does.

    Of each row, `rate` of its tokens are chosen (rounded; at least one), never special ones. Of
    those, `mask_rate` become the mask token and `random_rate` another token drawn evenly; the rest
    stay as they are.

    Args:
        tokenizer: of `kerasllm.tokenizers`, with a mask token.
        rate, mask_rate, random_rate: float.
        whole_words: bool, whether words are chosen instead of tokens, as many as fit whole into
            that number of tokens.

    Returns:
        Function from a dict of int32 `(batch, length)`, with `token_ids` and `padding_mask`, and a
        seed, int64 `(2,)`, to a dict: `token_ids`, masked; `positions`, int32 `(batch, chosen)`, of
        the chosen tokens; `ids`, what stood there; `chosen`, int32, 1 where a row chose so many
        and 0 where not. Where no more can be chosen, `positions` are of tokens that stay.

    Raises:
        ValueError: the tokenizer has no mask token, or a rate is not between 0 and 1.

    References:
        Devlin et al. 2018, "BERT", section 3.1, task 1 and appendix A.1.
    """
    if getattr(tokenizer, "mask_id", None) is None:
        raise ValueError(
            "`tokenizer` must have a mask token. Received: one without (train a WordPiece "
            "vocabulary, or name its `special_tokens`)."
        )
    if not (0 < rate < 1 and min(mask_rate, random_rate) >= 0 and mask_rate + random_rate <= 1):
        raise ValueError(
            "`rate`, and `mask_rate` and `random_rate` together, must be between 0 and 1. "
            f"Received: {rate}, {mask_rate} and {random_rate}."
        )
    special = _special_ids(tokenizer)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size, dtype=np.int32), special)
    is_special = np.isin(np.arange(tokenizer.vocab_size), special)
    begins = word_begins(tokenizer) if whole_words else None

    def mask(rows, seed):
        ids = rows["token_ids"]
        free = (rows["padding_mask"] > 0) & ~tf.gather(is_special, ids)
        position, chosen = _chosen(free, _words(ids, begins), rate, seed)
        old = tf.gather(ids, position, batch_dims=1)
        draw = tf.random.stateless_uniform(tf.shape(old), seed + 1)
        index = tf.random.stateless_uniform(
            tf.shape(old), seed + 2, maxval=len(ordinary), dtype=tf.int32
        )
        new = tf.where(draw < mask_rate + random_rate, tf.gather(ordinary, index), old)
        new = tf.where(draw < mask_rate, tokenizer.mask_id, new)
        row = tf.range(tf.shape(ids)[0])[:, None] + tf.zeros_like(position)
        where = tf.stack([row, position], axis=-1)
        masked = tf.tensor_scatter_nd_update(ids, where, tf.where(chosen, new, old))
        return {
            "token_ids": masked,
            "positions": position,
            "ids": old,
            "chosen": tf.cast(chosen, tf.int32),
        }

    return mask


def _words(ids, begins):
    """The number of each token's word in its row, int32 `(batch, length)`."""
    if begins is None:
        return tf.range(tf.shape(ids)[1]) + tf.zeros_like(ids)
    return tf.cumsum(tf.cast(tf.gather(begins, ids), tf.int32), axis=1)


def _chosen(free, word, rate, seed):
    """Positions `(batch, count)` of tokens to be masked, and which of them are."""
    length = free.shape[1] or tf.shape(free)[1]
    most = tf.maximum(1, tf.cast(tf.round(rate * tf.cast(length, tf.float32)), tf.int32))
    if isinstance(length, int):
        most = max(1, round(rate * length))
    # All tokens of a word draw the same number, so that they stand together when sorted.
    draw = tf.random.stateless_uniform([tf.shape(free)[0], length + 1], seed)
    draw = tf.where(free, tf.gather(draw, word, batch_dims=1), -1.0)
    _, order = tf.math.top_k(draw, tf.minimum(most + 1, length))  # of equals, the first comes first
    wanted = tf.round(rate * tf.reduce_sum(tf.cast(free, tf.float32), axis=1))
    wanted = tf.clip_by_value(tf.cast(wanted, tf.int32), 1, most)[:, None]
    words = tf.gather(tf.where(free, word, -1), order, batch_dims=1)
    # The word of the first token that is one too many does not fit whole.
    split = tf.gather(words, tf.minimum(wanted, tf.shape(words)[1] - 1), batch_dims=1)
    fits = (words != split) | (wanted >= tf.shape(words)[1])
    there = tf.gather(free, order, batch_dims=1)
    chosen = (tf.range(tf.shape(order)[1]) < wanted) & fits & there
    return order[:, :most], chosen[:, :most]


def _special_ids(tokenizer):
    ids = (getattr(tokenizer, f"{role}_id", None) for role in SPECIAL)
    return sorted({i for i in ids if i is not None})


def word_begins(tokenizer):
    """Say which tokens begin a word: others go on with that before them.

    Of WordPiece, those that don't begin with `##`; else those that begin with a space.

    Args:
        tokenizer: of `kerasllm.tokenizers`.

    Returns:
        NumPy bool `(vocab_size,)`. Special tokens begin one.
    """
    tokens = getattr(tokenizer, "vocab", None)
    if tokens is not None:
        begins = [not token.startswith("##") for token in tokens]
    else:
        tokens = map(tokenizer.token, range(tokenizer.vocab_size))
        begins = [token.startswith(("Ġ", "▁", "Ċ")) for token in tokens]
    begins = np.array(begins)
    begins[_special_ids(tokenizer)] = True
    return begins


def infilling(tokenizer, max_length, *, rate=0.3, mean_span=3.0, permute=True):
    """Make the function that spoils a batch as BART does: sentences shuffled, spans masked.

    Spans, with lengths drawn from a Poisson distribution, are each replaced by one mask token,
    until `rate` of a row's tokens are gone; a span of length 0 puts a mask token between two.

    Args:
        tokenizer: of `kerasllm.tokenizers`, with a mask token.
        max_length: int, the most tokens in a row, special ones included.
        rate: float.
        mean_span: float, mean length of a span.
        permute: bool, whether the sentences of a row are shuffled first.

    Returns:
        Function from the rows of `denoising_rows` and a seed, int64 `(2,)`, to the pair of the
        spoiled rows and the whole ones, with special tokens: dicts of int32 `(batch, max_length)`,
        `token_ids` and `padding_mask`. A spoiled row is cut where its mask tokens made it longer.

    Raises:
        ValueError: the tokenizer has no mask token.

    References:
        Lewis et al. 2019, "BART", section 2.2 and 4.2.
    """
    if getattr(tokenizer, "mask_id", None) is None:
        raise ValueError("`tokenizer` must have a mask token. Received: one without.")

    def spoil(rows, seed):
        ids, mask = rows["token_ids"], rows["padding_mask"]
        lengths = tf.reduce_sum(mask, axis=1)
        whole = tf.RaggedTensor.from_tensor(ids, lengths)
        if permute:
            ids = tf.gather(ids, _shuffled(rows["sentences"], mask, seed), batch_dims=1)
        spans, slot = _spans(lengths, ids.shape[1] or tf.shape(ids)[1], rate, mean_span, seed + 1)
        spoiled = _with_spans(ids, lengths, spans, slot, tokenizer.mask_id)
        return [_filled(tokenizer, each, None, max_length) for each in (spoiled, whole)]

    return spoil


def begun(ids, token):
    """Shift rows to the right by one token: what a decoder reads to foretell them.

    Args:
        ids: int32 `(batch, length)`.
        token: int, the new first one; the last one falls out.

    Returns:
        int32 `(batch, length)`.

    Example:
        >>> begun(np.array([[5, 6, 7]], "int32"), 2).numpy().tolist()
        [[2, 5, 6]]
    """
    return tf.concat([tf.fill([tf.shape(ids)[0], 1], token), ids[:, :-1]], axis=1)


def twins(rows, seed):
    """Put texts that belong together one after the other: a text and its pair, or itself again.

    Args:
        rows: dict of int32 `(batch, texts, length)`, as of `line_rows`, with `padding_mask`.
        seed: has no say: what makes two of one text is dropout.

    Returns:
        The pair of a dict of int32 `(2 * batch, length)`, cut where all rows end, and int32
        `(2 * batch,)`: the number of the pair that each is of.

    References:
        Gao et al. 2021, "SimCSE", section 3.
    """
    batch, texts, length = tf.unstack(tf.shape(rows["padding_mask"]))
    longest = tf.reduce_max(tf.reduce_sum(rows["padding_mask"], axis=-1))
    longest = tf.minimum(-(-longest // 8) * 8, length)  # few lengths, so that little is traced
    inputs = {
        name: tf.reshape(tf.repeat(x[:, :, :longest], 2 // texts, axis=1), [2 * batch, longest])
        for name, x in rows.items()
    }
    return inputs, tf.repeat(tf.range(batch), 2)


def pair_batches(inputs, targets, batch_size=32, *, shuffle=False, seed=0):
    """Make batches of pairs, whose texts follow one another.

    Args:
        inputs: dict of int `(2 * pairs, length)`, as of a tokenizer, with `padding_mask`: the first
            and second text of each pair in turn.
        targets: array `(pairs,)`.
        batch_size: int, pairs in a (global) batch.
        shuffle: bool, whether each pass has another order.
        seed: int.

    Returns:
        A `tf.data.Dataset` of known cardinality, of `(inputs, targets)`: dict of int `(2 * batch,
        length)`, cut where all rows end, and `(2 * batch,)`, the target of the pair that each is
        of.

    Raises:
        ValueError: there are no pairs, or not as many targets.

    Example:
        >>> inputs = {"token_ids": [[5, 6], [7, 0]], "padding_mask": [[1, 1], [1, 0]]}
        >>> for x, y in pair_batches(inputs, [0.5]):
        ...     print(x["token_ids"].numpy().tolist(), y.numpy().tolist())
        [[5, 6], [7, 0]] [0.5, 0.5]
    """
    check_at_least_one(batch_size=batch_size)
    inputs = {name: np.asarray(x, np.int32) for name, x in inputs.items()}
    targets, texts = np.asarray(targets), len(inputs["padding_mask"])
    if not texts or texts != 2 * len(targets):
        raise ValueError(
            "`targets` must be one for each of at least one pair of texts. Received: "
            f"{len(targets)} for {texts} texts."
        )
    rows = {name: x.reshape(len(targets), 2, -1) for name, x in inputs.items()}
    data = tf.data.Dataset.from_tensor_slices((rows, targets.astype("float32")))
    if shuffle:
        data = data.shuffle(len(targets), seed=seed)
    data = data.batch(batch_size)
    data = data.map(lambda rows, targets: (twins(rows, seed)[0], tf.repeat(targets, 2)))
    return data.prefetch(tf.data.AUTOTUNE)


def _shuffled(sentence, mask, seed):
    """The order of tokens in which sentences are shuffled and the padding stays last."""
    new = tf.pad(sentence[:, 1:] != sentence[:, :-1], [[0, 0], [1, 0]])
    number = tf.cumsum(tf.cast(new, tf.int32), axis=1)
    draw = tf.random.stateless_uniform(tf.shape(mask), seed)
    draw = tf.where(mask > 0, tf.gather(draw, number, batch_dims=1), 2.0)
    return tf.argsort(draw, axis=1, stable=True)


def _spans(lengths, width, rate, mean, seed):
    """For each place before a token that stays: the length of a span there, and whether there is.

    Both `(batch, width + 1)`.
    """
    batch = tf.shape(lengths)[0]
    budget = tf.cast(tf.math.ceil(rate * tf.cast(lengths, tf.float32)), tf.int32)[:, None]
    drawn = tf.random.stateless_poisson([batch, width + 1], seed, mean, dtype=tf.int32)
    before = tf.cumsum(drawn, axis=1, exclusive=True)
    drawn = tf.minimum(drawn, tf.maximum(budget - before, 0))  # the last one is cut
    count = tf.reduce_sum(tf.cast(before < budget, tf.int32), axis=1, keepdims=True)
    stay = lengths[:, None] - tf.reduce_sum(drawn, axis=1, keepdims=True)
    # As many places as there are spans, drawn evenly among those of tokens that stay.
    draw = tf.random.stateless_uniform([batch, width + 1], seed + 1)
    draw = tf.where(tf.range(width + 1) <= stay, draw, 2.0)
    rank = tf.argsort(tf.argsort(draw, axis=1), axis=1)
    slot = (rank < count) & (draw < 2.0)
    return tf.where(slot, tf.gather(drawn, rank, batch_dims=1), 0), slot


def _with_spans(ids, lengths, spans, slot, mask_id):
    """Ragged rows in which each span is one mask token."""
    width = tf.shape(slot)[1]
    source = tf.range(width) + tf.cumsum(spans, axis=1)  # of the token behind each place
    stays = source < lengths[:, None]
    token = tf.gather(ids, tf.minimum(source, width - 2), batch_dims=1)
    values = tf.stack([tf.fill(tf.shape(token), mask_id), token], axis=-1)
    kept = tf.stack([slot, stays], axis=-1)
    flat = [tf.shape(ids)[0], 2 * width]
    return tf.ragged.boolean_mask(tf.reshape(values, flat), tf.reshape(kept, flat))
