"""Tasks: for each, how a row is encoded, what is optimised, and how an output reads.

A task is a module with these names:

- `MODEL`: the class it trains; `COLUMNS` and `OPTIONAL_COLUMNS`: of a row; `INPUTS`: the columns
  that a row must have to be answered; `MONITOR`: the figure that says which epoch is best;
  `RESULT`: the class of its results (`kerasllm.evaluation.result`).
- `head(rows)`: dict, what a model's head must be for these training rows, as arguments of `MODEL`.
- `texts(rows)`: list of str, what a vocabulary is trained from.
- `loss()` and `metrics()`: for `model.compile`.
- `encode(model, rows, max_length)`: inputs, targets and perhaps weights, for `data.batches`; or,
  where data is streamed or differs from pass to pass, `dataset(model, source, batch_size,
  max_length, training, seed)`.
- `evaluate_batches(model, batches, metrics)`: a `RESULT` of what `dataset` gives without
  `training`, where running text, of any size, can be evaluated.
- `predict(model, rows)`: an output for each row; `answers(model, rows, outputs)`: these in words, a
  dict each; `evaluate(model, rows, outputs)`: a `RESULT`.
"""

import inspect
import os

from kerasllm.data.texts import stream
from kerasllm.tasks import (
    causal_lm,
    chat,
    contrastive,
    denoising,
    extractive_summarization,
    masked_lm,
    masked_lm_pairs,
    multi_label,
    question_answering,
    replaced_token_detection,
    similarity,
    summarization,
    text_classification,
    text_regression,
    token_classification,
    translation,
)

TASKS = {
    "text_classification": text_classification,
    "multi_label": multi_label,
    "text_regression": text_regression,
    "token_classification": token_classification,
    "question_answering": question_answering,
    "translation": translation,
    "summarization": summarization,
    "extractive_summarization": extractive_summarization,
    "masked_lm_pairs": masked_lm_pairs,
    "masked_lm": masked_lm,
    "replaced_token_detection": replaced_token_detection,
    "causal_lm": causal_lm,
    "chat": chat,
    "denoising": denoising,
    "contrastive": contrastive,
    "similarity": similarity,
}


def task_of(model):
    """Return the task that a model is for: that in its `task`, or the first that trains its class.

    Args:
        model: `keras.Model`.

    Returns:
        A module of `TASKS`, or None where no task trains models of its class.
    """
    named = TASKS.get(getattr(model, "task", None))
    if named is not None and isinstance(model, named.MODEL):
        return named
    return next((task for task in TASKS.values() if isinstance(model, task.MODEL)), None)


def name_of(model):
    """Return the name of the task that a model is for, as `task_of` has it.

    Args:
        model: `keras.Model`.

    Returns:
        str, or None where no task trains models of its class.
    """
    found = task_of(model)
    return next((name for name, task in TASKS.items() if task is found), None)


def task_named(name):
    """Return a task by its name.

    Args:
        name: str.

    Returns:
        A module of `TASKS`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}. Received: {name!r}.")
    return TASKS[name]


def give_task(model, name):
    """Make a task the one that a model is for.

    Args:
        model: `keras.Model`.
        name: str, a name in `TASKS`.

    Returns:
        A module of `TASKS`.

    Raises:
        TypeError: the task trains no models of this class.
        ValueError: there is no task of this name.
    """
    task = task_named(name)
    if not isinstance(model, task.MODEL):
        raise TypeError(
            f"`model` must be a {task.MODEL.__name__} for the task {name!r}. Received: a "
            f"{type(model).__name__}."
        )
    model.task = name
    return task


def evaluate(model, rows, *, max_length=None, batch_size=32):
    """Compare a model's answers with what rows say is right.

    Args:
        model: a model that a task trains, with its tokenizer.
        rows: list of rows as the task wants them. For a task of pretraining also a path of plain
            text, or a pattern such as `"wiki/*.txt"`: it is streamed in rows that are made like
            those for training, while in a list of rows each text stands by itself.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        batch_size: int.

    Returns:
        The task's result, e.g. `evaluation.ClassificationResult`.

    Raises:
        TypeError: no task trains such a model, or its task evaluates no plain text.
        ValueError: a row is not as the task wants it.

    Example:
        >>> found = evaluate(model, read_rows("test.csv"))  # doctest: +SKIP
        >>> found.accuracy  # doctest: +SKIP
        0.8819
    """
    task = task_of(model)
    if task is None:
        raise TypeError(
            f"`model` must be one that a task trains. Received: a {type(model).__name__} (give its "
            "scores to `evaluate_scores`)."
        )
    options = dict(max_length=max_length, batch_size=batch_size)
    if isinstance(rows, (str, os.PathLike)):
        if not streams(task):
            raise TypeError(
                f"`rows` must be a list of rows for a {type(model).__name__}. Received: {rows!r} "
                "(`read_rows` reads files)."
            )
        batches = task.dataset(model, rows, training=False, **options)
        return task.evaluate_batches(model, batches, task.metrics())
    return task.evaluate(model, rows, task.predict(model, rows, **options))


def streams(task):
    """Say whether a task is learned, and evaluated, from plain text of any size.

    Args:
        task: a module of `TASKS`.

    Returns:
        bool.
    """
    return hasattr(task, "evaluate_batches")


def checked_options(name, options):
    """Part the options for a task's data into those of the task and those of streaming.

    Args:
        name: str, a name in `TASKS`.
        options: dict, of the task's `dataset`, beside those that `fit` gives it.

    Returns:
        pair of dicts: of the task; and of `data.texts.stream`, where the task passes some on.

    Raises:
        ValueError: there is no such task, or its data has no such option, or of another type.

    Example:
        >>> checked_options("masked_lm", {"whole_words": True, "steps": 100})
        ({'whole_words': True}, {'steps': 100})
    """
    dataset = getattr(task_named(name), "dataset", None)
    own = _settings(dataset) if dataset else {}
    streaming = _settings(stream) if streams(TASKS[name]) else {}
    known = {**own, **streaming}
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"`options` of {name} must be among: {', '.join(known) or 'none at all'}. "
                f"Received: {option!r}."
            )
        if known[option] is not None and _kind(value) != _kind(known[option]):
            raise ValueError(f"`{option}` must be {_kind(known[option])}. Received: {value!r}.")
    parts = ({o: v for o, v in options.items() if o in group} for group in (own, streaming))
    return tuple(parts)


def _settings(function):
    """Names and defaults of what is set by keyword, but for what `fit`, or a task, sets itself."""
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.name not in ("batch_size", "max_length", "training", "seed", "drop_remainder")
    }


def _kind(value):
    """What kind of value a setting has, in words; bool is an int to Python."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "a list" if isinstance(value, (list, tuple)) else "a string"
