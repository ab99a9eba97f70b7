"""Batches of token ids for Keras: rows of like length together, padded little, seeded."""

import itertools

import numpy as np
import tensorflow as tf


def batches(
    features,
    targets=None,
    batch_size=32,
    *,
    sample_weight=None,
    shuffle=False,
    seed=0,
    length_multiple=8,
    max_length=None,
    window=50,
    drop_remainder=False,
    sampled=False,
):
    """Make a finite `tf.data.Dataset` of padded batches for `fit`, `evaluate` and `predict`.

    With `shuffle`, each iteration permutes all rows, cuts the permutation into windows of `window`
    batches, sorts each window by length, cuts it into batches, and shuffles their order. So a batch
    holds rows of like length and little padding, and is still another one in each epoch.
    The order depends on `seed`, on how often the dataset was iterated before, and, as all of
    `tf.data`, on the global seed if `tf.random.set_seed` has set one.
    (To `fit`, pass `shuffle=False` then: Keras warns that it can't shuffle a dataset itself.)
    Without `shuffle` the rows keep their order, so that predictions line up with them.

    Args:
        features: dict, name → int rows: a list of sequences of any length, or an array
            `(rows, length)`. Each name has the same lengths, but those that begin with
            `"decoder_"` may have others. Arrays with a `"padding_mask"` among them
            (`"decoder_padding_mask"`), as a tokenizer gives them, lose their padding first.
        targets: array-like `(rows, …)`, or None.
        batch_size: int, rows in a (global) batch.
        sample_weight: array-like `(rows,)` for the loss, or `(rows, length)`, one a token; then so
            are the targets, and both are cut and padded with 0 as the features are (as those of
            the decoder, if there are some). Or None. Needs `targets`.
        shuffle: bool, shuffle and group by length.
        seed: int.
        length_multiple: int; a batch is padded with 0 to the next multiple, so that few distinct
            shapes are traced and compiled.
        max_length: int, or None; no batch is padded beyond it. Pass the model's where it is no
            multiple of `length_multiple`.
        window: int, batches in a window. A larger one pads less and shuffles less well.
        drop_remainder: bool, leave out the rows that do not fill a batch; with `shuffle`, others
            in each epoch. Under a `tf.distribute` strategy an uneven batch trains differently.
        sampled: bool, whether each batch holds each row with the same chance, whatever the other
            batches hold, and so `batch_size` rows in the mean, as differential privacy asks.

    Returns:
        A `tf.data.Dataset` of known cardinality: `features`, `(features, targets)` or `(features,
        targets, sample_weight)`, with each feature int32 `(batch, length)`.

    Raises:
        ValueError: an argument, or the number or length of rows, is not as above.

    Example:
        >>> data = batches({"token_ids": [[5, 6, 7], [8]]}, targets=[1, 0], length_multiple=4)
        >>> for x, y in data:
        ...     print(x["token_ids"].numpy().tolist(), y.numpy().tolist())
        [[5, 6, 7, 0], [8, 0, 0, 0]] [1, 0]
    """
    check_at_least_one(batch_size=batch_size, length_multiple=length_multiple, window=window)
    if sample_weight is not None and targets is None:
        raise ValueError("`sample_weight` must come with `targets`. Received: None (pass both).")
    sides = _sides(features)
    features = {name: rows for side in sides for name, rows in _ragged(side).items()}
    lengths = [features[next(iter(side))].row_lengths() for side in sides]  # (rows,) each
    rows, longest = len(lengths[0]), max(int(tf.reduce_max(each)) for each in lengths)
    if max_length is not None and longest > max_length:
        raise ValueError(
            f"`max_length` must be at least the length of each row. Received: {max_length}, and a "
            f"row of {longest} (truncate when you tokenize)."
        )
    others = {"targets": targets, "sample_weight": sample_weight}
    others = {name: np.asarray(each) for name, each in others.items() if each is not None}
    for name, each in others.items():
        if each.ndim == 0 or len(each) != rows:
            raise ValueError(f"`{name}` must have {rows} rows. Received: shape {each.shape}.")
    if np.ndim(sample_weight) == 2:
        others = {name: _of_tokens(name, each, lengths[-1]) for name, each in others.items()}
    # Tensors are captured by the dataset once; arrays would be copied into its graph.
    others = [x if isinstance(x, tf.RaggedTensor) else tf.constant(x) for x in others.values()]
    lengths = tf.add_n(lengths)

    data = tf.data.Dataset.range(rows)
    if sampled:
        data = _sampled(rows, batch_size, seed)
    elif shuffle:
        windows = data.shuffle(rows, seed=seed).batch(window * batch_size)
        data = _by_length(
            windows.map(lambda index: (index,)),
            lambda index: tf.gather(lengths, index),
            batch_size,
            seed,
            drop_remainder,
            rows,
        )
    else:
        data = data.batch(batch_size, drop_remainder=drop_remainder)

    def gather(index):
        taken = {name: tf.gather(values, index) for name, values in features.items()}
        static = batch_size if drop_remainder else None
        padded = _padded(taken, length_multiple, max_length, static)
        if not others:
            return padded
        taken = (tf.gather(each, index) for each in others)
        return padded, *(
            _padded({"": x}, length_multiple, max_length, static)[""]
            if isinstance(x, tf.RaggedTensor)
            else x
            for x in taken
        )

    return data.map(gather, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def text_batches(
    dataset,
    tokenizer,
    *,
    max_length,
    batch_size=32,
    shuffle=False,
    seed=0,
    length_multiple=8,
    window=50,
    drop_remainder=False,
):
    """Tokenize a `tf.data.Dataset` of texts in its graph and batch it as `batches` does.

    For text that does not fit in memory, or comes from a pipeline of your own. With `shuffle`, the
    stream is cut into windows as it comes, and each window is grouped by length and its batches are
    shuffled; to mix over a wider range, call the dataset's own `shuffle` before.

    Args:
        dataset: `tf.data.Dataset`, unbatched, of string scalars `text`, `(text, target)` or
            `(text, target, sample_weight)`.
        tokenizer: has `in_graph()`, e.g. `kerasllm.tokenizers.WordPieceTokenizer`.
        max_length: int; longer texts are truncated, and no batch is padded beyond it.
        batch_size, shuffle, seed, length_multiple, window, drop_remainder: as in `batches`.

    Returns:
        A `tf.data.Dataset` of `features`, `(features, targets)` or `(features, targets,
        sample_weight)`, with each feature int32 `(batch, length)`. Its cardinality is known where
        that of `dataset` is.

    Raises:
        ValueError: `dataset` or a number is not as above.

    Example:
        >>> from kerasllm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good"])
        >>> texts = tf.data.Dataset.from_tensor_slices((["good good", "good"], [1, 0]))
        >>> for x, y in text_batches(texts, tokenizer, max_length=16):
        ...     print(x["padding_mask"].numpy().tolist(), y.numpy().tolist())
        [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]] [1, 0]
    """
    check_at_least_one(batch_size=batch_size, length_multiple=length_multiple, window=window)
    specs = dataset.element_spec if isinstance(dataset.element_spec, tuple) else None
    text = specs[0] if specs else dataset.element_spec
    if getattr(text, "dtype", None) != tf.string or text.shape.rank != 0:
        raise ValueError(
            f"`dataset` must be unbatched, of `text` or `(text, target)` with string scalars "
            f"`text`. Received: {dataset.element_spec}."
        )
    in_graph = tokenizer.in_graph()

    def tokenize(texts, *others):
        encoded = in_graph(texts, max_length=max_length)
        lengths = tf.reduce_sum(encoded["padding_mask"], axis=1)
        features = {
            name: tf.RaggedTensor.from_tensor(ids, lengths=lengths) for name, ids in encoded.items()
        }
        return (features, *others)

    def pad(features, *others):
        static = batch_size if drop_remainder else None
        padded = _padded(features, length_multiple, max_length, static)
        return (padded, *others) if specs else padded

    size = window * batch_size if shuffle else batch_size
    data = dataset.batch(size, drop_remainder=drop_remainder and not shuffle)
    data = data.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE)
    if shuffle:
        data = _by_length(
            data,
            lambda features, *_: features["padding_mask"].row_lengths(),
            batch_size,
            seed,
            drop_remainder,
            int(dataset.cardinality()),
        )
    return data.map(pad, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _sampled(rows, batch_size, seed):
    """The rows of each batch, drawn with the chance `batch_size / rows` each."""

    def draw(seed):
        chosen = tf.random.stateless_uniform((rows,), [seed, 0]) < batch_size / rows
        return tf.where(chosen)[:, 0]

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return seeds.take(-(-rows // batch_size)).map(draw)


def _by_length(windows, lengths_of, batch_size, seed, drop_remainder, rows):
    """Cut each window of rows into batches of like length, in a shuffled order.

    Args:
        windows: `tf.data.Dataset` of tuples of tensors with one row each for `batch_size * window`
            rows.
        lengths_of: function from the tensors of a tuple to the lengths of its rows `(rows,)`.
        batch_size, seed, drop_remainder: as in `batches`.
        rows: int, rows in all windows together; negative if that is not known.
    """

    def cut(seed, window):
        lengths = lengths_of(*window)
        count = tf.shape(lengths)[0]
        if drop_remainder:  # before sorting: rows at random, not the longest ones
            count -= count % batch_size
        order = tf.argsort(lengths[:count], stable=True)
        starts = tf.range(0, count, batch_size)
        starts = tf.random.experimental.stateless_shuffle(starts, seed=[seed, 0])

        def batch(start):
            index = order[start : start + batch_size]
            return tf.nest.map_structure(lambda each: tf.gather(each, index), window)

        return tf.data.Dataset.from_tensor_slices(starts).map(batch)

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    data = tf.data.Dataset.zip(seeds, windows).flat_map(cut)
    if rows < 0:
        return data
    count = rows // batch_size if drop_remainder else -(-rows // batch_size)
    return data.apply(tf.data.experimental.assert_cardinality(count))


def _sides(features):
    """Split features into those of the encoder and those of the decoder, if there are such."""
    decoder = {name: x for name, x in features.items() if name.startswith("decoder_")}
    others = {name: x for name, x in features.items() if name not in decoder}
    return [side for side in (others, decoder) if side] or [features]


def _of_tokens(name, values, lengths):
    """One value a token as a ragged tensor with the features' lengths."""
    if values.ndim != 2 or values.shape[1] < int(tf.reduce_max(lengths)):
        raise ValueError(
            f"`{name}` must have a value for each token, as `sample_weight` has. Received: shape "
            f"{values.shape}."
        )
    return tf.RaggedTensor.from_tensor(values, lengths=lengths)


def _ragged(features):
    """Return the features as int32 ragged tensors `(rows, None)` that share their row splits."""
    mask = features.get("padding_mask", features.get("decoder_padding_mask"))
    if getattr(mask, "ndim", None) == 2:
        mask = np.asarray(mask, bool)
        lengths = mask.sum(axis=1)
        features = {name: np.asarray(array) for name, array in features.items()}
        shapes = {name: array.shape for name, array in features.items()}
        if set(shapes.values()) != {mask.shape}:
            raise ValueError(f"`features` must be arrays of one shape. Received: {shapes}.")
        flat = {name: array[mask].astype(np.int32) for name, array in features.items()}
    else:
        lengths = None
        flat = {}
        for name, rows in features.items():
            own = np.fromiter(map(len, rows), np.int64, len(rows))
            lengths = own if lengths is None else lengths
            if not np.array_equal(own, lengths):
                first = next(iter(features))
                raise ValueError(
                    f"`features` must have rows of the same lengths. Received: other ones in "
                    f"`{name}` than in `{first}`."
                )
            flat[name] = np.fromiter(itertools.chain.from_iterable(rows), np.int32, own.sum())
    if lengths is None or not len(lengths):
        raise ValueError(f"`features` must hold rows. Received: {dict(features)}.")
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return {
        name: tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        for name, values in flat.items()
    }


def _padded(features, length_multiple, max_length, batch_size):
    """Pad the ragged features of one batch to tensors `(batch, length)`."""

    def pad(rows):
        length = tf.maximum(-(-tf.reduce_max(rows.row_lengths()) // length_multiple), 1)
        length = length * length_multiple
        if max_length is not None:
            length = tf.minimum(length, max_length)
        return tf.ensure_shape(rows.to_tensor(shape=tf.stack([-1, length])), [batch_size, None])

    return {name: pad(rows) for name, rows in features.items()}


def check_at_least_one(**numbers):
    """Check that arguments, given by name, are integers of at least 1.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {number!r}.")
