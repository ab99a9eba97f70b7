"""Tasks: for each, how a row is encoded, what is optimised, and how an output reads.

A task is a module with these names: `MODEL`, the class it trains; `COLUMNS` and `OPTIONAL_COLUMNS`
of a row; `MONITOR`, the figure that says which epoch is best; `loss()` and `metrics()` for
`model.compile`; `encode(model, rows, max_length)`; `predict(model, rows)`; `answers(labels,
outputs)`.
"""

from kerasllm.tasks import text_classification

TASKS = {"text_classification": text_classification}


def task_of(model):
    """Return the task that trains a model.

    Args:
        model: `keras.Model`.

    Returns:
        A module of `TASKS`, or None where the model is of no class that a task trains.
    """
    return next((task for task in TASKS.values() if isinstance(model, task.MODEL)), None)
