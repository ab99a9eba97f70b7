"""Extractive question answering: the answer is a piece of a text, or isn't there."""

from collections import Counter
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kerasllm.data.rows import place_of
from kerasllm.data.squad import gold_answers
from kerasllm.evaluation.answers import AnswersResult, evaluate_answers
from kerasllm.models.span_labeler import SpanLabeler
from kerasllm.tasks.text_classification import longest_row
from kerasllm.tasks.windows import token_logits, windows_of

MODEL = SpanLabeler
COLUMNS = ("question", "context", "answers")
OPTIONAL_COLUMNS = ("id",)
INPUTS = ("question", "context")
MONITOR = "val_span_accuracy"
RESULT = AnswersResult

STRIDES = 3  # windows begin a third of `max_length` after one another: BERT's 128 of 384
MASKED = -1e4
MAX_ANSWER = 30  # tokens, as in BERT's own script


class Answer(NamedTuple):
    """The best piece of a text, and how sure a model is.

    Args:
        text: str.
        start: int, where it begins in the context.
        end: int, where it ends.
        score: float, its probability among all pieces and that of no answer.
        no_answer: float, the probability that there is none.
    """

    text: str
    start: int
    end: int
    score: float
    no_answer: float


def head(rows):
    """What a model's head must be for these rows: the same for all."""
    return {}


def texts(rows):
    """The texts of rows, for a vocabulary; a context once, however often it is asked about."""
    return list(dict.fromkeys(row[name] for row in rows for name in ("question", "context")))


@keras.saving.register_keras_serializable(package="kerasllm")
class SpanLoss(keras.losses.Loss):
    """Cross entropy over positions for the first and for the last token of an answer, their mean.

    Call arguments:
        y_true: int `(batch, 3)`: first token, last token, and number of tokens in the row; those
            behind are padding, which can't be an answer.
        y_pred: float `(batch, length, 2)`: logits.

    Example:
        >>> loss = SpanLoss()(np.array([[1, 1, 3]]), np.zeros((1, 4, 2)))
        >>> round(float(loss), 4)  # log 3
        1.0986

    References:
        Devlin et al. 2018, "BERT", section 4.2.
    """

    def call(self, y_true, y_pred):
        y_true = ops.cast(y_true, "int32")
        logits = _masked(y_true, y_pred)
        first = ops.sparse_categorical_crossentropy(y_true[:, 0], logits[..., 0], from_logits=True)
        last = ops.sparse_categorical_crossentropy(y_true[:, 1], logits[..., 1], from_logits=True)
        return (first + last) / 2  # (batch,)


@keras.saving.register_keras_serializable(package="kerasllm")
class SpanAccuracy(keras.metrics.MeanMetricWrapper):
    """The share of rows in which both ends of the answer are found; its arguments are `SpanLoss`'.

    Example:
        >>> metric = SpanAccuracy()
        >>> metric.update_state(np.array([[1, 1, 3]]), np.zeros((1, 4, 2)))
        >>> float(metric.result())
        0.0
    """

    def __init__(self, name="span_accuracy", dtype=None):
        super().__init__(_both_right, name, dtype=dtype)
        self._direction = "up"  # what `EarlyStopping` asks of a metric

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def loss():
    """The loss: `SpanLoss`."""
    return SpanLoss()


def metrics():
    """The metrics shown while training: the share of windows with both ends right."""
    return [SpanAccuracy()]


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    A context that is too long for a row is cut into windows that overlap, and each is a row with
    the question before it. Of several answers, the most frequent one counts; where a window doesn't
    hold the whole of it, or there is none, the row's first token is the target.

    Args:
        model: `SpanLabeler` with a tokenizer.
        rows: list of dicts with `question`, `context` (str) and `answers` (`gold_answers`).
        max_length: int or None: the longest row in tokens; None for all the model can take.

    Returns:
        The pair (inputs, targets): dict of int32 `(windows, length)`, and int32 `(windows, 3)` as
        `SpanLoss` has them.

    Raises:
        ValueError: an answer isn't where its `answer_start` says (the message says in which row),
            there are no rows, or `max_length` is beyond the model's.
    """
    spans = [_gold_span(row, number) for number, row in enumerate(rows)]
    windows = _windows(model, rows, max_length)
    lengths = windows.inputs["padding_mask"].sum(axis=1)
    targets = np.zeros((len(lengths), 3), np.int32)
    targets[:, 2] = lengths
    for window, text in enumerate(windows.texts):
        if spans[text] is not None:
            targets[window, :2] = _tokens_of(windows, window, *spans[text], rows[text]["context"])
    return windows.inputs, targets


def predict(
    model, rows, *, max_length=None, batch_size=32, stride=None, max_answer_length=MAX_ANSWER
):
    """Find the answer to each question.

    Args:
        model: `SpanLabeler` with a tokenizer.
        rows: list of dicts with `question` and `context`, str.
        max_length: int or None, as for `encode`.
        batch_size: int.
        stride: int or None, tokens from the beginning of a window to that of the next; None for a
            third of `max_length`.
        max_answer_length: int, the most tokens of an answer.

    Returns:
        A list of `Answer`: the piece of the context whose first and last token have the largest
        sum of logits, over all windows. That of no answer is the least, over all windows, of the
        sum at the first token. Probabilities are the softmax over all of these.
    """
    windows = _windows(model, rows, max_length, stride)
    logits = token_logits(model, windows.inputs, batch_size)
    found = [_Found() for _ in rows]
    for text, values, offsets in zip(windows.texts, logits, windows.offsets):
        found[text].add(values.astype(np.float64), offsets[: len(values)], max_answer_length)
    return [each.answer(row["context"]) for each, row in zip(found, rows)]


def answers(model, rows, outputs):
    """Put found answers into words.

    Args:
        model: `SpanLabeler`.
        rows: list of dicts.
        outputs: list of `Answer`.

    Returns:
        list of dicts: `answer`, empty where none is likelier; its `start` and `end` in the context;
        its `score`; and `no_answer`, the probability that there is none.
    """
    return [
        {
            "answer": _text_of(answer),
            "start": answer.start,
            "end": answer.end,
            "score": answer.score,
            "no_answer": answer.no_answer,
        }
        for answer in outputs
    ]


def evaluate(model, rows, outputs):
    """Compare found answers with the right ones.

    Where all questions have an answer (as in SQuAD 1.1), a piece of text is always given as one;
    else there is no answer where that is likelier.

    Args:
        model: `SpanLabeler`.
        rows: list of dicts with `question`, `context` and `answers`.
        outputs: list of `Answer`.

    Returns:
        `evaluation.AnswersResult`.
    """
    always = all(gold_answers(row) for row in rows)
    return evaluate_answers(rows, [each.text if always else _text_of(each) for each in outputs])


def _both_right(y_true, y_pred):
    """Whether both ends are found, float `(batch,)`."""
    y_true = ops.cast(y_true, "int32")
    best = ops.cast(ops.argmax(_masked(y_true, y_pred), axis=1), "int32")  # (batch, 2)
    return ops.cast(ops.all(ops.equal(best, y_true[:, :2]), axis=1), "float32")


def _masked(y_true, logits):
    padding = ops.arange(ops.shape(logits)[1]) >= y_true[:, 2:]  # (batch, length)
    return ops.where(ops.expand_dims(padding, -1), MASKED, logits)


def _text_of(answer):
    return answer.text if answer.score >= answer.no_answer else ""


def _windows(model, rows, max_length, stride=None):
    questions, contexts = ([row[name] for row in rows] for name in ("question", "context"))
    longest = longest_row(model, max_length)
    stride = max(longest // STRIDES, 1) if stride is None else stride
    return windows_of(model, questions, contexts, max_length, stride)


def _gold_span(row, number):
    """Where the answer that counts begins and ends in the context; None where there is none."""
    gold = gold_answers(row)
    if not gold:
        return None
    text, start = Counter(gold).most_common(1)[0][0]
    if row["context"][start : start + len(text)] != text:
        raise ValueError(
            f"{place_of(row, number)}: `answer_start` must be where the answer begins in the "
            f"context. Received: {start} for {text[:40]!r}, and there "
            f"{row['context'][start : start + 40]!r}."
        )
    return start, start + len(text)


def _tokens_of(windows, window, start, end, context):
    """The first and the last token of an answer in a window; 0 and 0 where it isn't all there."""
    offsets, texts = windows.offsets[window], windows.texts
    inside = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    if not len(inside):
        return 0, 0
    # What comes before the first window's tokens, or after the last one's, has none.
    is_first = window == 0 or texts[window - 1] != texts[window]
    is_last = window == len(texts) - 1 or texts[window + 1] != texts[window]
    low = 0 if is_first else offsets[inside[0], 0]
    high = len(context) if is_last else offsets[inside[-1], 1]
    at = inside[(offsets[inside, 1] > start) & (offsets[inside, 0] < end)]
    return (at[0], at[-1]) if len(at) and low <= start and end <= high else (0, 0)


class _Found:
    """The best answer so far, over the windows of a context."""

    def __init__(self):
        self.best, self.bounds = -np.inf, (0, 0)
        self.all, self.nothing = -np.inf, np.inf

    def add(self, logits, offsets, most):
        self.nothing = min(self.nothing, logits[0].sum())
        inside = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
        if not len(inside):
            return
        first, last = logits[inside[0] : inside[-1] + 1].T
        holds = np.isin(np.arange(inside[0], inside[-1] + 1), inside)
        first, last = np.where(holds, first, -np.inf), np.where(holds, last, -np.inf)
        # scores[i, j]: the answer begins at i and has j + 1 tokens.
        last = np.concatenate([last, np.full(most - 1, -np.inf)])
        scores = first[:, None] + np.lib.stride_tricks.sliding_window_view(last, most)
        self.all = np.logaddexp(self.all, np.logaddexp.reduce(scores, axis=None))
        begin, more = np.unravel_index(scores.argmax(), scores.shape)
        if scores[begin, more] > self.best:
            self.best = scores[begin, more]
            start, end = inside[0] + begin, inside[0] + begin + more
            self.bounds = int(offsets[start, 0]), int(offsets[end, 1])

    def answer(self, context):
        start, end = self.bounds
        whole = np.logaddexp(self.all, self.nothing)
        score, no_answer = np.exp(self.best - whole), np.exp(self.nothing - whole)
        return Answer(context[start:end], start, end, float(score), float(no_answer))
