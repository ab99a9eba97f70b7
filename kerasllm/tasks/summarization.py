"""Summarization: what a text says, in few words of the model's own.

It is learnt and written as a translation is; only the figures are others.
"""

from kerasllm.evaluation.texts import evaluate_summaries
from kerasllm.tasks import translation

MODEL, RESULT, MONITOR = translation.MODEL, translation.RESULT, translation.MONITOR
COLUMNS, OPTIONAL_COLUMNS = translation.COLUMNS, translation.OPTIONAL_COLUMNS
INPUTS = translation.INPUTS
head, texts, encode = translation.head, translation.texts, translation.encode
loss, metrics = translation.loss, translation.metrics
predict, answers = translation.predict, translation.answers


def evaluate(model, rows, outputs):
    """Compare summaries with references, and with each text's first sentence.

    Args:
        model: `Seq2SeqLM`.
        rows: list of rows with `source` and `target`.
        outputs: list of str.

    Returns:
        `evaluation.texts.TextsResult`.
    """
    return evaluate_summaries(rows, outputs)
