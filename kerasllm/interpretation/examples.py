"""What a model looks at in a few rows, as pictures for the report of its evaluation."""

import itertools

import numpy as np

from kerasllm.config import RecurrentConfig
from kerasllm.data.sentences import joined
from kerasllm.evaluation.result import Picture
from kerasllm.interpretation.attention import Attention, alignment, attention_weights, row_of
from kerasllm.interpretation.gradients import integrated_gradients
from kerasllm.interpretation.pictures import plot_attention, plot_attribution, plot_heads
from kerasllm.models import Seq2SeqLM, TextClassifier, TokenClassifier
from kerasllm.tasks import chat, translation
from kerasllm.tasks.text_classification import features
from kerasllm.tasks.token_classification import text_of

FEWEST, SHORT = 4, 24  # tokens: fewer show nothing, more have no room in a picture
LONGEST = 256  # tokens of a text of which a part is drawn
LOOKED_THROUGH = 500  # rows
SHOWN_TEXT = 200  # characters

PART = f" Only the {SHORT} tokens that are looked at most are drawn."


def example_rows(model, rows, count=2) -> list:
    """Choose rows whose pictures can be read: the first short ones, or else the shortest ones.

    Args:
        model: a model that a task trains, with its tokenizer.
        rows: iterable of rows, as the task evaluates them.
        count: int, the most to choose.

    Returns:
        list of rows; none for a model without attention, or of which there are no pictures.
    """
    rows = list(itertools.islice(rows, LOOKED_THROUGH))
    if not rows or not _has_pictures(model):
        return []
    lengths = _lengths(model, [_texts(row) for row in rows])
    short = np.flatnonzero((lengths >= FEWEST) & (lengths <= SHORT))
    longer = [i for i in np.argsort(lengths, kind="stable") if lengths[i] > SHORT]
    return [rows[i] for i in (short if len(short) else longer)[:count]]


def example_pictures(model, rows) -> list:
    """Draw what a model looks at in rows: attention, alignment, and each token's share.

    Args:
        model: a model that a task trains, with its tokenizer.
        rows: list of rows, of `example_rows`.

    Returns:
        list of `evaluation.result.Picture`: of a model that writes, where each token of its answer
        looks in the source; of others, where the tokens look in the last layer, and in the first
        row each of its heads; and of short texts of classifiers and taggers, what the answer hangs
        on.
    """
    if isinstance(model, Seq2SeqLM):
        return [_alignment(model, row) for row in rows]
    return [
        picture for i, row in enumerate(rows) for picture in _attention(model, row, heads=i == 0)
    ]


def _has_pictures(model):
    if isinstance(model.config, RecurrentConfig):
        return False
    return isinstance(model, Seq2SeqLM) or "decoder_token_ids" not in model.backbone.input


def _texts(row):
    """What a model reads of a row: a text and a second one, or None."""
    if "question" in row:
        return row["question"], row["context"]
    if "source" in row:
        return joined(row["source"]), None
    if "tokens" in row:
        return text_of(row), None
    if "text" in row:
        return row["text"], row.get("text_pair")
    return chat.messages_of(row)[-1]["content"], None


def _longest(model):
    return min(LONGEST, model.config.max_length)


def _lengths(model, texts):
    """How many tokens the model reads of each pair of texts, special ones too: int `(rows,)`."""
    rows = [row for pair in texts for row in row_of(*pair)]
    return features(model, rows, _longest(model))["padding_mask"].sum(axis=1)


def _alignment(model, row):
    source, _ = _texts(row)
    written = source  # a model that writes a spoiled text again
    if "source" in row:
        (written,) = translation.predict(model, [row], max_length=_longest(model))
    attention = alignment(model, source, written, max_length=_longest(model))
    queries = range(len(attention.queries))[:SHORT]
    return Picture(
        _shortened(written) or "(nothing)",
        plot_attention(_readable(attention, queries)),
        f"Where each token of the answer looks in the source: {_shortened(source)}",
        "Attention of the answer to the source, mean of the heads of the last layer.",
    )


def _attention(model, row, heads):
    text, text_pair = _texts(row)
    attention = attention_weights(model, text, text_pair, max_length=_longest(model))
    short = len(attention.keys) <= SHORT
    queries = None
    if "question" in row and not short:
        queries = range(*_lengths(model, [(text, None)]))
    drawn = _readable(attention, queries)
    title = _shortened(text if text_pair is None else f"{text} | {text_pair}")
    darkest = drawn.weights[-1].mean(axis=0).max()
    yield Picture(
        title,
        plot_attention(drawn),
        f"The mean of all heads of the last layer; the darkest is {darkest:.2f}."
        + PART * (not short),
        f"Attention of the last layer over {len(attention.keys)} tokens, mean of the heads.",
    )
    if heads:
        about = "The same tokens in the same order, each head with a scale of its own."
        yield Picture("Each head of the last layer", plot_heads(drawn), about)
    if short and _is_explained(model):
        found = integrated_gradients(model, text, text_pair)
        yield Picture(
            f"What {found.target!r} hangs on",
            plot_attribution(found),
            f"The share of each token in the logit, by integrated gradients: {found.baseline:.2f} "
            f"without the words, {found.output:.2f} with them.",
            "Shares: " + ", ".join(f"{t} {s:.2f}" for t, s in zip(found.tokens, found.shares)),
        )


def _is_explained(model):
    """Whether `integrated_gradients` has an output to explain: a tagger has one beside `O`."""
    tags = isinstance(model, TokenClassifier) and len(model.labels) > 1
    return tags or isinstance(model, TextClassifier)


def _readable(attention, queries=None):
    """The part that there is room for: of keys, those that the last layer looks at most."""
    if queries is not None:
        attention = _part(attention, queries, range(len(attention.keys)))
    seen = attention.weights[-1].mean(axis=0).sum(axis=0)  # (keys,)
    keys = np.sort(np.argsort(-seen, kind="stable")[:SHORT])
    return _part(attention, keys if queries is None else range(len(attention.queries)), keys)


def _part(attention, queries, keys):
    return Attention(
        tuple(attention.queries[i] for i in queries),
        tuple(attention.keys[i] for i in keys),
        attention.weights[:, :, list(queries)][..., list(keys)],
    )


def _shortened(text):
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…"
