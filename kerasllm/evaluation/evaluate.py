"""How good a model is on rows that it has not seen."""

import dataclasses

from kerasllm.data.rows import label_ids
from kerasllm.evaluation.metrics import ClassificationResult, evaluate_classes, worst_examples


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        result: `ClassificationResult`, the figures.
        worst: list of dicts, the examples that the model got most wrong (`worst_examples`).
    """

    result: ClassificationResult
    worst: list


def evaluate(model, rows, *, max_length=None, batch_size=32, worst=20) -> Evaluation:
    """Compare a model's answers with the labels of rows.

    Args:
        model: a model that a task trains, with tokenizer and labels.
        rows: list of rows as the task wants them.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.
        worst: int, how many of the worst examples to keep.

    Returns:
        `Evaluation`.

    Raises:
        TypeError: no task trains such a model.
        ValueError: a row has a label that the model doesn't know.

    Example:
        >>> found = evaluate(model, read_rows("test.csv"))
        >>> found.result.accuracy
    """
    from kerasllm.tasks import task_of  # here, because figures alone need no TensorFlow

    task = task_of(model)
    if task is None:
        raise TypeError(
            f"`model` must be one that a task trains. Received: a {type(model).__name__} (give its "
            "scores to `evaluate_scores`)."
        )
    scores = task.predict(model, rows, max_length=max_length, batch_size=batch_size)
    return evaluate_scores(rows, scores, model.labels, worst)


def evaluate_scores(rows, scores, labels, worst=20) -> Evaluation:
    """Compare scores, whatever gave them, with the labels of rows.

    Args:
        rows: list of rows with `text` and `label`.
        scores: float `(rows, num_classes)`, probabilities.
        labels: sequence of str, names of the classes.
        worst: int, how many of the worst examples to keep.

    Returns:
        `Evaluation`.
    """
    targets = label_ids(rows, labels)
    return Evaluation(
        result=evaluate_classes(targets, scores, labels),
        worst=worst_examples(rows, targets, scores, labels, worst),
    )
