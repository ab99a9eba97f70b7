"""Extractive summarization: the sentences of a text that say the most of it.

A sentence is to a text what a word is to a sentence: its first token tells whether it is taken.
"""

import numpy as np

from kerasllm.data.rows import Row
from kerasllm.data.sentences import joined, sentences
from kerasllm.evaluation.texts import TextsResult, evaluate_summaries, references, rouge
from kerasllm.models.token_classifier import TokenClassifier
from kerasllm.tasks import token_classification, translation

MODEL = TokenClassifier
COLUMNS = ("source", "target")
OPTIONAL_COLUMNS = ()
INPUTS = ("source",)
MONITOR = "val_loss"
RESULT = TextsResult
LABELS = (token_classification.OUTSIDE, "summary")

texts = translation.texts
loss, metrics = token_classification.loss, token_classification.metrics


def head(rows):
    """What a model's head must be, whatever the rows."""
    return {"labels": LABELS}


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    Args:
        model: `TokenClassifier` with a tokenizer and the labels of `head`.
        rows: list of dicts with `source`, a text or a list of its sentences, and `target`, a
            summary or a list of them.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.

    Returns:
        The triple (inputs, targets, weights) of `token_classification.encode`: the first token of
        each sentence tells whether it belongs to `oracle`.

    Raises:
        ValueError: there are no rows, one has no texts, or `max_length` is beyond the model's.
    """
    tagged = []
    for row in rows:
        parts = sentences(row["source"])
        chosen = oracle(parts, references(row))
        tags = [LABELS[i in chosen] for i in range(len(parts))]
        tagged.append(Row({"tokens": parts, "tags": tags}, getattr(row, "where", "")))
    return token_classification.encode(model, tagged, max_length)


def oracle(parts, targets):
    """Choose the sentences that are together closest to a summary, one after the other.

    Args:
        parts: list of str, the sentences.
        targets: list of str, summaries of their text.

    Returns:
        set of int, the indices of sentences, as many as make ROUGE-1 and ROUGE-2 better.

    Example:
        >>> sorted(oracle(["A cat sat.", "It rains.", "The dog ran."], ["cat sat, dog ran"]))
        [0, 2]

    References:
        Nallapati et al. 2017, "SummaRuNNer", section 3.
    """
    chosen, best = set(), 0.0
    while len(chosen) < len(parts):
        others = [i for i in range(len(parts)) if i not in chosen]
        candidates = [_text(parts, chosen | {i}) for i in others]
        scores = rouge(candidates, [targets] * len(others))
        total = scores["ROUGE-1"] + scores["ROUGE-2"]
        if total.max() <= best:
            break
        chosen.add(others[int(total.argmax())])
        best = total.max()
    return chosen


def predict(model, rows, *, max_length=None, batch_size=32, num_sentences=1):
    """Choose the sentences of each row's summary.

    Args:
        model: `TokenClassifier` with a tokenizer and the labels of `head`.
        rows: list of dicts with `source`.
        max_length: int or None, as for `encode`: no sentence that begins behind it is chosen.
        batch_size: int.
        num_sentences: int, how many are chosen.

    Returns:
        list of lists of `(sentence, score)`, str and float, in the order of the text.
    """
    parts = [{"tokens": sentences(row["source"])} for row in rows]
    tagged = token_classification.predict(
        model, parts, max_length=max_length, batch_size=batch_size
    )
    scored = [[(word.text, _score(word)) for word in row] for row in tagged]
    return [chosen(row, num_sentences) for row in scored]


def chosen(scored, num_sentences=1):
    """Choose the likeliest sentences of a text.

    Args:
        scored: list of `(sentence, score)`, str and float, all of the text.
        num_sentences: int, how many are chosen.

    Returns:
        list of these, in the order of the text.

    Example:
        >>> chosen([("A.", 0.1), ("B.", 0.9), ("C.", 0.5)], 2)
        [('B.', 0.9), ('C.', 0.5)]
    """
    scores = np.array([score for _, score in scored])
    best = np.sort(np.argsort(-scores, kind="stable")[:num_sentences])
    return [scored[i] for i in best]


def answers(model, rows, outputs):
    """Put chosen sentences into words.

    Args:
        model: `TokenClassifier`.
        rows: list of dicts.
        outputs: list of lists of `(sentence, score)`.

    Returns:
        list of dicts: `target`, the summary, and `sentences`, a list of dicts with `text` and
        `score`.
    """
    return [
        {
            "target": joined([text for text, _ in row]),
            "sentences": [{"text": text, "score": score} for text, score in row],
        }
        for row in outputs
    ]


def evaluate(model, rows, outputs):
    """Compare summaries with references, and with each text's first sentence.

    Args:
        model: `TokenClassifier`.
        rows: list of rows with `source` and `target`.
        outputs: list of lists of `(sentence, score)`.

    Returns:
        `evaluation.texts.TextsResult`.
    """
    return evaluate_summaries(rows, [joined([text for text, _ in row]) for row in outputs])


def _text(parts, chosen):
    return joined([parts[i] for i in sorted(chosen)])


def _score(word):
    """The probability that a sentence is taken; 0 for one that was cut off."""
    if word.tag == LABELS[1] or not word.score:
        return word.score
    return 1 - word.score
