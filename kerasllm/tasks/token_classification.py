"""Token classification: a tag for each word of a sentence, as for named entities."""

import re
from typing import NamedTuple

import keras
import numpy as np

from kerasllm.data.rows import Row, label_ids, label_names, place_of
from kerasllm.data.sentences import CHINESE
from kerasllm.evaluation.entities import (
    OUTSIDE,
    EntitiesResult,
    entities_of,
    evaluate_entities,
    scheme_of,
)
from kerasllm.models.token_classifier import TokenClassifier
from kerasllm.tasks.windows import token_logits, windows_of

MODEL = TokenClassifier
COLUMNS = ("tokens", "tags")
OPTIONAL_COLUMNS = ()
INPUTS = ("text",)
MONITOR = "val_accuracy"
RESULT = EntitiesResult

# What is written without spaces; then words with what is inside them, as in `don't`, `U.S` and
# `@user`; then all else, one by one.
CHARACTER = re.compile(f"[{CHINESE}]")
WORD = re.compile(rf"[{CHINESE}]|\w+://\S+|[@#]?[^\W{CHINESE}]+(?:[-'’.][^\W{CHINESE}]+)*|\S")


class TaggedWord(NamedTuple):
    """A word and what a model says of it.

    Args:
        text: str, the word.
        tag: str.
        score: float, its probability.
        start: int, where the word begins in the text of the row (`text_of`).
        end: int, where it ends.
    """

    text: str
    tag: str
    score: float
    start: int
    end: int


def head(rows):
    """What a model's head must be for these rows: it has their tags."""
    _check_words(rows)
    tags = {str(tag) for row in rows for tag in row["tags"]}
    names = label_names([{"label": tag} for tag in tags])
    return {"labels": tuple(sorted(names, key=lambda name: name != OUTSIDE))}


def texts(rows):
    """The texts of rows, for a vocabulary."""
    return [" ".join(row["tokens"]) for row in rows]


def loss():
    """The loss: cross entropy between logits and tags, the mean over all words of a batch."""
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def metrics():
    """The metrics shown while training: the share of words with the right tag."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    The words of a row are joined by spaces and tokenized; the first token of a word stands for it.
    Words beyond `max_length` are left out.

    Args:
        model: `TokenClassifier` with a tokenizer and labels.
        rows: list of dicts with `tokens` and `tags`, lists of str of one length.
        max_length: int or None: rows are cut to so many tokens; None for all the model can take.

    Returns:
        The triple (inputs, targets, weights): dict of int32 `(rows, length)`; int32 `(rows,
        length)`, the class id of a word at its first token; float32 `(rows, length)`, 1 there and 0
        elsewhere.

    Raises:
        ValueError: a tag is not among the model's, or a row has not as many tags as words (the
            message says which row), there are no rows, or `max_length` is beyond the model's.
    """
    ids = _tag_ids(model, rows)
    windows, places = _places(model, [row["tokens"] for row in rows], max_length)
    targets = np.zeros(windows.offsets.shape[:2], np.int32)
    weights = np.zeros(targets.shape, np.float32)
    for window, (tokens, words) in enumerate(places):
        targets[window, tokens] = ids[windows.texts[window]][words]
        weights[window, tokens] = 1
    return windows.inputs, targets, weights


def predict(model, rows, *, max_length=None, batch_size=32, stride=None):
    """Give each word a tag.

    Args:
        model: `TokenClassifier` with a tokenizer and labels.
        rows: list of dicts with `tokens`, list of str; or with `text`, which `words_of` splits.
        max_length: int or None, as for `encode`.
        batch_size: int.
        stride: int or None: cut longer rows into windows that begin so many tokens after one
            another, and take each word from the window where it has most around it. With None, the
            words beyond `max_length` are `O`.

    Returns:
        A list of lists of `TaggedWord`. A word that the tokenizer leaves nothing of is `O`, with a
        score of 0, as one that was cut off.
    """
    words = [words_of(row) for row in rows]
    tokens = [[word for word, _, _ in row] for row in words]
    windows, places = _places(model, tokens, max_length, stride)
    logits = token_logits(model, windows.inputs, batch_size)
    best = [np.zeros((len(row), len(model.labels)), np.float32) for row in words]
    around = [np.zeros(len(row), np.int32) for row in words]
    for window, (at, which) in enumerate(places):
        text = windows.texts[window]
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(logits[window], axis=-1))[at]
        context = 1 + np.minimum(at, len(logits[window]) - 1 - at)
        better = context > around[text][which]
        best[text][which[better]] = scores[better]
        around[text][which[better]] = context[better]
    return [
        [
            TaggedWord(word, *_named(model.labels, score), start, end)
            for (word, start, end), score in zip(row, scores)
        ]
        for row, scores in zip(words, best)
    ]


def answers(model, rows, outputs):
    """Put tagged words into entities.

    Args:
        model: has `labels`, the names of the tags.
        rows: list of dicts with `tokens` or `text`.
        outputs: list of lists of `TaggedWord`.

    Returns:
        list of dicts with `entities`: a list of dicts with `text`, `type`, `start` and `end` (in
        `text_of` the row) and `score`, the mean of the words'.
    """
    scheme = scheme_of(model.labels)
    return [{"entities": _entities(text_of(row), tags, scheme)} for row, tags in zip(rows, outputs)]


def evaluate(model, rows, outputs):
    """Compare tagged words with the tags of rows.

    Args:
        model: has `labels`, the names of the tags.
        rows: list of dicts with `tokens` and `tags`.
        outputs: list of lists of `TaggedWord`.

    Returns:
        `evaluation.EntitiesResult`.

    Raises:
        ValueError: a row has a tag that the model doesn't know.
    """
    names = np.array(model.labels)
    named = [
        Row({**row, "tags": names[ids].tolist()}, where=getattr(row, "where", ""))
        for row, ids in zip(rows, _tag_ids(model, rows))
    ]
    found = [[word.tag for word in words] for words in outputs]
    return evaluate_entities(named, found, model.labels)


def text_of(row):
    """Return the text of a row: its own, or its words joined.

    Words are joined by spaces; where each is a character and some are Chinese, by nothing.

    Args:
        row: dict with `text` or `tokens`.

    Returns:
        str.

    Example:
        >>> text_of({"tokens": ["I", "'m", "here"]}), text_of({"tokens": ["北", "京", "1"]})
        ("I 'm here", '北京1')
    """
    return row["text"] if "tokens" not in row else _separator(row["tokens"]).join(row["tokens"])


def words_of(row):
    """Return the words of a row, and where each begins and ends in its text.

    A text is split as data for tagging mostly is: at white space and punctuation; a text that is
    mostly Chinese or Japanese, at each character.

    Args:
        row: dict with `text` or `tokens`.

    Returns:
        A list of `(word, start, end)`.

    Example:
        >>> [word for word, *_ in words_of({"text": "I don't know, @Ann."})]
        ['I', "don't", 'know', ',', '@Ann', '.']
        >>> [word for word, *_ in words_of({"text": "生于1963年"})]
        ['生', '于', '1', '9', '6', '3', '年']
    """
    if "tokens" not in row:
        found = list(WORD.finditer(row["text"]))
        if 2 * len(CHARACTER.findall(row["text"])) > len(found):
            found = re.finditer(r"\S", row["text"])
        return [(match[0], *match.span()) for match in found]
    gap = len(_separator(row["tokens"]))
    words, start = [], 0
    for word in row["tokens"]:
        words.append((word, start, start + len(word)))
        start += len(word) + gap
    return words


def _separator(tokens):
    characters = all(len(token) <= 1 for token in tokens)
    return "" if characters and CHARACTER.search("".join(tokens)) else " "


def _tag_ids(model, rows):
    """The class ids of each row's tags, an int32 array `(words,)` a row."""
    _check_words(rows)
    flat = [
        Row({"tags": tag}, where=place_of(row, number))
        for number, row in enumerate(rows)
        for tag in row["tags"]
    ]
    ends = np.cumsum([len(row["tags"]) for row in rows])
    return np.split(label_ids(flat, model.labels, column="tags"), ends[:-1])


def _check_words(rows):
    """Check that rows have words, and a tag for each."""
    for number, row in enumerate(rows):
        tokens, tags = row["tokens"], row["tags"]
        lists = isinstance(tokens, (list, tuple)) and isinstance(tags, (list, tuple))
        if not lists or len(tokens) != len(tags) or not all(isinstance(x, str) for x in tokens):
            raise ValueError(
                f"{place_of(row, number)}: `tags` must be a list, one for each str in `tokens`. "
                f"Received: {str(tags)[:60]} for {str(tokens)[:60]}."
            )


def _places(model, rows, max_length, stride=None):
    """The windows of rows of words, and for each the words in it and the tokens that begin them."""
    windows = windows_of(model, [" ".join(row) for row in rows], None, max_length, stride)
    bounds = [_bounds(row) for row in rows]
    found = zip(windows.texts, windows.offsets)
    return windows, [_first_tokens(offsets, *bounds[text]) for text, offsets in found]


def _bounds(words):
    """Where words that are joined by spaces begin and end: two int arrays `(words,)`."""
    lengths = np.array([len(word) for word in words], int)
    ends = np.cumsum(lengths + 1) - 1
    return ends - lengths, ends


def _first_tokens(offsets, starts, ends):
    """The tokens that begin a word, and the words: two int arrays of one length."""
    # A token may lack the first character of its word, if the tokenizer drops it.
    word = np.searchsorted(starts, offsets[:, 0], side="right") - 1
    holds = (offsets[:, 1] > offsets[:, 0]) & (word >= 0)
    holds[holds] = offsets[holds, 0] < ends[word[holds]]
    words, first = np.unique(word[holds], return_index=True)
    return np.flatnonzero(holds)[first], words


def _named(labels, scores):
    if not scores.any():  # no token stood for the word
        return OUTSIDE, 0.0
    return labels[int(scores.argmax())], float(scores.max())


def _entities(text, words, scheme):
    return [
        {
            "text": text[words[first].start : words[end - 1].end],
            "type": kind,
            "start": words[first].start,
            "end": words[end - 1].end,
            "score": float(np.mean([word.score for word in words[first:end]])),
        }
        for kind, first, end in entities_of([word.tag for word in words], scheme)
    ]
