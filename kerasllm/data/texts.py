"""Plain text for pretraining: files of any size as a stream of batches, sharded and restartable.

A text is cut into pieces of about a megabyte, at blank lines, and small files are put together to
such pieces. A piece is read when its turn comes, becomes rows of token ids, and rows become
batches. Pieces come in another order in each pass over the data, and so do rows; the order depends
on the seed and on the pass alone.
"""

import pathlib
import re

import numpy as np
import tensorflow as tf

from kerasllm.data.batches import check_at_least_one

PIECE_BYTES = 2**20
SEARCHED_BYTES = 2**16  # behind a piece, for the next blank line
SHUFFLED_ROWS = 10_000
# Where a file may be parted: after a blank line, else after a line, else before a character.
BREAKS = (rb"\n[ \t\r]*\n", rb"\n", rb"(?=[\x00-\x7f\xc0-\xff])")
MARK = "\x1e"  # between what is to be parted; no text has this control character
BYTE_ORDER_MARK = "\ufeff"


def stream(
    source,
    rows_of,
    batch_of,
    *,
    batch_size,
    training=True,
    seed=0,
    steps=None,
    shard=(1, 0),
    service=None,
    drop_remainder=False,
):
    """Make a finite `tf.data.Dataset` of batches out of plain text.

    With `training`, each iteration has pieces and rows in another order, and other random numbers;
    without, all of them are alike.

    Args:
        source: path of a UTF-8 text file, a pattern such as `"wiki/*.txt"`, a list of either, or a
            list of texts, or of rows with `text`.
        rows_of: function from a string scalar, a piece, and its seed, int64 `(2,)`, to a dict of
            tensors `(rows, …)`; how many rows must not depend on the seed.
        batch_of: function from such a dict of a batch, and its seed, to what the dataset gives.
        batch_size: int, rows in a (global) batch.
        training: bool.
        seed: int.
        steps: int or None: batches in a pass, out of pieces drawn anew for each; None for all of
            the text, which is read once to count them.
        shard: pair of int `(count, index)`: take every `count`-th piece, from the `index`-th on,
            where several machines take a part each.
        service: str or None: address of a `tf.data` service (`"grpc://host:5000"`) whose workers
            make the batches of training; they must see the files. Its batches come as they are
            ready, so that no run repeats another.
        drop_remainder: bool, leave out the rows that do not fill a batch.

    Returns:
        A `tf.data.Dataset` of known cardinality.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an argument is not as above, or the text makes no batch.

    Example:
        >>> def letters(piece, seed):
        ...     return {"letters": tf.strings.bytes_split(documents(piece)).to_tensor()}
        >>> texts = ["ab", "cd", "ef"]
        >>> for batch in stream(texts, letters, lambda rows, _: rows["letters"], batch_size=2,
        ...                     training=False):
        ...     print(batch.numpy().tolist())
        [[b'a', b'b'], [b'c', b'd']]
        [[b'e', b'f']]
    """
    check_at_least_one(batch_size=batch_size)
    count, index = shard
    if not 0 <= index < count:
        raise ValueError(
            f"`shard` must be (count, index) with 0 <= index < count. Received: {shard}."
        )
    found, read = _pieces(source)
    pieces = np.arange(found)[index::count]
    if not len(pieces):
        raise ValueError(
            f"`shard` must leave each machine a piece. Received: {shard} of {found} pieces of "
            f"about {PIECE_BYTES} bytes (take fewer machines)."
        )
    # A tokenizer is large in a graph: it is traced once, for counting and for reading. And there is
    # no Python to convert in it; looking for some takes seconds.
    rows_of = tf.function(rows_of, autograph=False)
    batch_of = tf.autograph.experimental.do_not_convert(batch_of)
    whole, shared = steps is None, training and service is not None
    if whole:
        steps = _steps(pieces, read, rows_of, batch_size, drop_remainder)
    check_at_least_one(steps=steps)

    def one_pass(seed):
        if tf.inside_function():
            # Of this function's graph alone: the order shall not depend on the global seed, and
            # where that is 0, `shuffle` takes no tensor.
            tf.random.set_seed(1)
        data = tf.data.Dataset.from_tensor_slices(pieces)
        if training:
            data = data.shuffle(len(pieces), seed=seed)
        data = tf.data.Dataset.zip(data, _seeds(seed, 0, shared)).map(
            lambda piece, seed: rows_of(read(piece), seed), num_parallel_calls=tf.data.AUTOTUNE
        )
        data = data.unbatch()
        if training:
            data = data.shuffle(SHUFFLED_ROWS, seed=seed)
        data = data.batch(batch_size, drop_remainder=drop_remainder)
        data = tf.data.Dataset.zip(data, _seeds(seed, 1, shared)).map(
            batch_of, num_parallel_calls=tf.data.AUTOTUNE
        )
        # A pass that is longer than the text goes over it again.
        return data if whole and not shared else data.repeat()

    if not shared:
        # All that is drawn at random in a pass follows from one number, so that a run which goes on
        # in a later pass need not go through those before.
        numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=training)
        data = numbers.take(1).flat_map(one_pass)
    else:
        job = tf.data.experimental.service.distribute("distributed_epoch", service)
        data = one_pass(seed).apply(job)
    data = data.take(steps).apply(tf.data.experimental.assert_cardinality(steps))
    return data.prefetch(tf.data.AUTOTUNE)


def _seeds(seed, kind, by_time):
    """An endless dataset of seeds, int64 `(2,)`."""
    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    # The workers of a service begin each pass as they began the first one, but for the time.
    time = (lambda: tf.cast(tf.timestamp() * 1e6, tf.int64)) if by_time else (lambda: 0)
    return numbers.map(lambda number: tf.stack([number, kind + time()]))


def _steps(pieces, read, rows_of, batch_size, drop_remainder):
    """How many batches the pieces make."""
    seed = tf.zeros([2], tf.int64)

    def count(piece):
        return tf.shape(next(iter(rows_of(read(piece), seed).values())), tf.int64)[0]

    counts = tf.data.Dataset.from_tensor_slices(pieces).map(count, tf.data.AUTOTUNE)
    rows = int(counts.reduce(np.int64(0), tf.add))
    steps = rows // batch_size if drop_remainder else -(-rows // batch_size)
    if not steps:
        raise ValueError(
            f"`source` must make at least one batch of {batch_size} rows. Received: text of {rows} "
            "rows (give more text, or a smaller `batch_size`)."
        )
    return steps


# ------------------------------------------------------------------------------------ pieces


def _pieces(source):
    """How many pieces there are, and a function that gives one by its number in a graph."""
    texts = _texts(source)
    if texts is not None:
        pieces = _together(map(len, texts))
        texts = tf.constant([MARK.join(texts[i] for i in piece) for piece in pieces])
        return len(pieces), lambda piece: tf.gather(texts, piece)
    places = [(path, *ends) for path in _paths(source) for ends in _cuts(path)]
    names, *ends = zip(*places)
    names, ends = tf.constant(names), tf.constant(ends, tf.int64)
    pieces = _together(stop - start for _, start, stop, _ in places)
    parts = tf.ragged.constant(pieces, tf.int64)

    def read_part(part):
        start, stop, size = tf.unstack(tf.gather(ends, part, axis=1))
        # Among TensorFlow's ways to read a file, the one that need not begin at its start.
        record = tf.data.FixedLengthRecordDataset(
            tf.gather(names, part), stop - start, header_bytes=start, footer_bytes=size - stop
        )
        return record.get_single_element()

    def read(piece):
        read = tf.map_fn(read_part, tf.gather(parts, piece), fn_output_signature=tf.string)
        return tf.strings.reduce_join(read, separator=MARK)

    return len(pieces), read


def _texts(source):
    """The texts of a list; None where the source is files."""
    if isinstance(source, (str, pathlib.Path)):
        return None
    source = list(source)
    if not source:
        raise ValueError("`source` must hold texts or paths. Received: an empty list.")
    paths = [isinstance(each, pathlib.Path) or _is_path(each) for each in source]
    if all(paths):
        return None
    texts = [each.get("text") if isinstance(each, dict) else each for each in source]
    for text, each in zip(texts, source):
        if not isinstance(text, str):
            raise ValueError(
                "`source` must be of texts, of rows with `text`, or of paths. Received: "
                f"{each!r:.80}."
            )
    return texts


def _is_path(text):
    """Whether one of a list is a path, as no row is: a mistyped one is no text either."""
    return (
        isinstance(text, str)
        and len(text) < 1000
        and bool(re.fullmatch(r"\S.*\.[A-Za-z0-9]{1,5}", text))
        and (tf.io.gfile.exists(text) or not re.search(r"\s", text))
    )


def _together(sizes):
    """The numbers of the parts that make each piece: as many as together are large enough.

    What reaches over documents, as BERT's second texts, or rows that are filled, needs more than
    one of them in a piece.
    """
    pieces, size = [[]], 0
    for part, more in enumerate(sizes):
        if size >= PIECE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(part)
        size += more
    return pieces


def _paths(source):
    found = []
    for each in [source] if isinstance(source, (str, pathlib.Path)) else source:
        paths = sorted(tf.io.gfile.glob(str(each)))
        files = [path for path in paths if not tf.io.gfile.isdir(path)]
        if not files:
            problem = "a folder (ask for its files: 'folder/*.txt')" if paths else "not found"
            raise FileNotFoundError(f"`source` must name text files. Received: {each}, {problem}.")
        found += files
    return found


def _cuts(path):
    """`(start, stop, size of the file)` of each piece of a file."""
    size = tf.io.gfile.stat(path).length
    if not size:
        raise ValueError(f"`source` must name files with text. Received: {path}, which is empty.")
    cuts = [0]
    with tf.io.gfile.GFile(path, "rb") as file:
        while size - cuts[-1] > PIECE_BYTES + SEARCHED_BYTES:
            file.seek(cuts[-1] + PIECE_BYTES)
            behind = file.read(SEARCHED_BYTES)
            found = next(filter(None, (re.search(pattern, behind) for pattern in BREAKS)))
            cuts.append(cuts[-1] + PIECE_BYTES + found.end())
    return [(start, stop, size) for start, stop in zip(cuts, [*cuts[1:], size])]


def lines(source):
    """Give the lines of text files one by one, e.g. to train a vocabulary from them.

    Args:
        source: path, pattern, or list of either.

    Yields:
        str.

    Raises:
        FileNotFoundError: there is no such file.
    """
    for path in _paths(source):
        with tf.io.gfile.GFile(path) as file:
            yield from file


# ------------------------------------------------------------------------------------ parts


def documents(piece, blank_lines=True):
    r"""Part a piece into its texts, and these at their blank lines.

    Args:
        piece: string scalar: one text, or several with `MARK` between.
        blank_lines: bool; without, each text is one document: a file (of a large one, each part of
            it that was read), or a text of a list.

    Returns:
        strings `(documents,)`, none of them empty.

    Example:
        >>> documents("One.\nTwo.\n \n\nThree.\n").numpy().tolist()
        [b'One.\nTwo.', b'Three.']
    """
    text = _normal(piece)
    if blank_lines:
        text = tf.strings.regex_replace(text, r"\n[ \t]*\n\s*", MARK)
    texts = tf.strings.strip(tf.strings.split(text, MARK))
    return tf.boolean_mask(texts, texts != "")


def single_lines(piece):
    r"""Part a piece into its lines.

    Args:
        piece: string scalar, as for `documents`.

    Returns:
        strings `(lines,)`, none of them of white space alone.

    Example:
        >>> single_lines("One.\r\n\nTwo. ").numpy().tolist()
        [b'One.', b'Two. ']
    """
    lines = tf.strings.split(tf.strings.regex_replace(_normal(piece), MARK, "\n"), "\n")
    return tf.boolean_mask(lines, tf.strings.strip(lines) != "")


def _normal(piece):
    """A piece with line feeds alone at the ends of lines, and no byte order mark at its texts."""
    text = tf.strings.regex_replace(piece, r"\r\n?", "\n")
    return tf.strings.regex_replace(text, f"(^|{MARK}){BYTE_ORDER_MARK}", r"\1")


def sentences(documents):
    r"""Part documents at full stops and line ends; white space begins the sentence behind it.

    Args:
        documents: strings `(documents,)`.

    Returns:
        ragged strings `(documents, None)`, which put together again are the documents.

    References:
        Lewis et al. 2019, "BART", section 2.2 (sentence permutation): parted at full stops.

    Example:
        >>> sentences(["Is it? Yes.\nGood", "好。好！"]).to_list()[0]
        [b'Is it?', b' Yes.', b'\nGood']
    """
    documents = tf.strings.regex_replace(documents, "([.!?][\"'”’)\\]]*)(\\s)", rf"\1{MARK}\2")
    documents = tf.strings.regex_replace(documents, "([。！？][”’」』）]*)", rf"\1{MARK}")
    documents = tf.strings.regex_replace(documents, f"{MARK}*\n", f"{MARK}\n")
    documents = tf.strings.regex_replace(documents, f"{MARK}$", "")
    return tf.strings.split(documents, MARK)
