"""From files to results: what each verb of the command line does, as one function each.

A run is a folder: a model in Hugging Face's layout, `run.json` (settings, history, evaluation,
exports) and `report.html`, the same for people.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import time

import keras

from kerasllm import families
from kerasllm.atomic import whole
from kerasllm.data import SAMPLES
from kerasllm.data.rows import label_ids, label_names, read_rows, split_rows
from kerasllm.evaluation import ClassificationResult, evaluate_scores, write_report
from kerasllm.evaluation import evaluate as evaluate_model
from kerasllm.export import TARGETS, load_artefact
from kerasllm.models.classifier import stored_labels
from kerasllm.tasks import TASKS, text_classification
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.training import STRATEGIES, fit, strategy
from kerasllm.training.strategies import is_chief
from kerasllm.weights import find_folder, read_json

RUN_FILE = "run.json"
REPORT_FILE = "report.html"


def train(
    model,
    train,
    output,
    *,
    validation=None,
    test=None,
    split=None,
    task="text_classification",
    columns=None,
    header=None,
    vocab_size=8000,
    lowercase=True,
    strategy_name="default",
    devices=None,
    cluster=None,
    dtype=None,
    seed=0,
    max_length=None,
    batch_size=32,
    **recipe,
):
    """Train a model on files, evaluate it, and write the run's folder.

    Args:
        model: str: a folder or hub name to start from, or a size of `families.SIZES` to train from
            scratch, with a vocabulary of its own from the training texts.
        train: source of rows, for `read_rows`.
        output: path of the folder to write.
        validation: source of rows that pick the best epoch, or None.
        test: source of rows for the evaluation, or None (then the validation rows serve).
        split: fractions such as `(0.8, 0.1, 0.1)` to cut `train` into training, validation and test
            rows, or two of them for no test rows; None for no cut.
        task: str, a name in `TASKS`.
        columns: dict or None, our name of a column: its name in the source.
        header: tuple of str or None, names of the columns of files without a first line of names.
        vocab_size: int, of a vocabulary trained here.
        lowercase: bool, whether a vocabulary trained here is of lower-cased text.
        strategy_name: str, a name in `training.STRATEGIES`.
        devices, cluster: of `training.strategy`.
        dtype: str or None, e.g. `"mixed_float16"`.
        seed: int, of fresh weights, dropout, splits and the order of rows.
        max_length: int or None: texts are cut to so many tokens.
        batch_size: int, rows in a step.
        **recipe: of `training.fit`, e.g. `epochs`, `learning_rate`.

    Returns:
        dict, what `run.json` holds; None in a process of a cluster that is not the chief, who
        writes the folder.

    Raises:
        FileNotFoundError, OSError, ValueError: a source, the model, an option or the output folder
            is no good; the message says which and why. Then nothing is written.
    """
    start = time.perf_counter()
    settings = {name: value for name, value in locals().items() if name not in ("start", "recipe")}
    settings = {**settings, **recipe}
    keras.utils.set_random_seed(seed)
    place = strategy(strategy_name, devices=devices, cluster=cluster)
    chief = is_chief(place)
    with _output(output, chief) as aside:  # before all work: a bad path ends the run at once
        aside.mkdir()
        rows = _read(task, columns, header, split, seed, train, validation, test)
        with place.scope():
            classifier = _model(model, rows[0], vocab_size, lowercase, max_length, dtype)
        for part in filter(None, rows[1:]):
            label_ids(part, classifier.labels)  # an unknown label must not wait for the last epoch
        history = fit(
            classifier,
            *rows[:2],
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            **recipe,
        )
        found = _evaluation(classifier, rows[2] or rows[1], max_length, batch_size)
        run = {
            "title": pathlib.Path(output).name,
            "settings": {name: value for name, value in settings.items() if value is not None},
            "seconds": time.perf_counter() - start,
            "rows": dict(zip(("train", "validation", "test"), map(len, (r or [] for r in rows)))),
            "history": history,
            "evaluation": found,
            "exports": [],
        }
        if chief:
            classifier.save_pretrained(aside)
            _write_run(aside, run)
    return run if chief else None


@contextlib.contextmanager
def _output(path, chief):
    """A folder aside, which becomes `path` on the chief, and nothing elsewhere."""
    if chief:
        with whole(path) as aside:
            yield aside
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder) / "run"


def _read(task, columns, header, split, seed, train, validation, test):
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}. Received: {task!r}.")
    rows = [source and read(source, task, columns, header) for source in (train, validation, test)]
    if not split:
        return rows
    if validation or (test and len(split) > 2):
        raise ValueError(
            f"`split` must not cut off what is given by `validation` or `test`. Received: {split}."
        )
    parts = split_rows(rows[0], tuple(split), seed)
    return [*parts, rows[2]][:3]


def read(source, task="text_classification", columns=None, header=None):
    """Read the rows of a source as a task wants them.

    Args:
        source: for `read_rows`.
        task: str, a name in `TASKS`.
        columns: dict or None, our name of a column: its name in the source.
        header: tuple of str or None.

    Returns:
        list of `Row`.
    """
    module = TASKS[task]
    return read_rows(
        source, module.COLUMNS, rename=columns, optional=module.OPTIONAL_COLUMNS, header=header
    )


def _model(name, rows, vocab_size, lowercase, max_length, dtype):
    labels = label_names(rows)
    model = text_classification.MODEL
    if str(name) not in families.SIZES:
        stored = stored_labels(read_json(_checkpoint(name) / "config.json"))
        if set(stored) == set(labels):  # the same task: its classifier goes on
            return model.from_pretrained(name, dtype=dtype)
        return model.from_pretrained(name, labels=labels, fresh_head=True, dtype=dtype)
    texts = [row[column] for row in rows for column in ("text", "text_pair") if column in row]
    tokenizer = WordPieceTokenizer.train(texts, vocab_size=vocab_size, lowercase=lowercase)
    config = families.size_config(
        name, vocab_size=tokenizer.vocab_size, max_length=max_length or 512
    )
    return model(
        len(labels),
        config,
        family=families.family_of(name),
        labels=labels,
        tokenizer=tokenizer,
        dtype=dtype,
    )


def _checkpoint(name):
    try:
        return find_folder(name)
    except FileNotFoundError as error:
        sizes = ", ".join(families.SIZES)
        raise FileNotFoundError(f"{error} Sizes to train from scratch: {sizes}.") from None


def _evaluation(model, rows, max_length, batch_size):
    if not rows:
        return None
    found = evaluate_model(model, rows, max_length=max_length, batch_size=batch_size)
    return {**found.result.to_dict(), "worst": found.worst}


def _write_run(folder, run):
    text = json.dumps(run, ensure_ascii=False, indent=2, default=str) + "\n"
    with whole(folder / RUN_FILE) as aside:
        aside.write_text(text, encoding="utf-8")
    evaluation = run["evaluation"]
    write_report(
        folder / REPORT_FILE,
        title=run["title"],
        settings=run["settings"],
        history=run["history"],
        result=evaluation and ClassificationResult.from_dict(evaluation),
        worst=evaluation["worst"] if evaluation else (),
        exports=run["exports"],
        seconds=run["seconds"],
    )


def evaluate(
    model, data, *, columns=None, header=None, max_length=None, batch_size=32, report=None
):
    """Evaluate a saved model or an artefact on a file.

    Args:
        model: path or hub name: a model folder, a SavedModel or a .tflite file.
        data: source of rows, for `read_rows`.
        columns: dict or None, our name of a column: its name in the source.
        header: tuple of str or None, names of the columns of a file without a first line of names.
        max_length: int or None: texts are cut to so many tokens. An artefact has its own length.
        batch_size: int.
        report: path or None, an HTML page to write.

    Returns:
        `evaluation.Evaluation`.
    """
    rows = read(data, columns=columns, header=header)
    labels, scores = _scores(model, rows, max_length, batch_size)
    found = evaluate_scores(rows, scores, labels)
    if report is not None:
        write_report(
            report,
            title=f"{pathlib.Path(model).name} on {pathlib.Path(str(data)).name}",
            settings={"model": model, "data": data, "max_length": max_length},
            result=found.result,
            worst=found.worst,
        )
    return found


def predict(model, texts, *, max_length=None, batch_size=32):
    """Answer texts with a saved model or an artefact.

    Args:
        model: path or hub name: a model folder, a SavedModel or a .tflite file.
        texts: list of str.
        max_length: int or None: texts are cut to so many tokens. An artefact has its own length.
        batch_size: int.

    Returns:
        list of dicts: `text`, and what the task's `answers` gives.
    """
    rows = [{"text": text} for text in texts]
    labels, scores = _scores(model, rows, max_length, batch_size)
    answers = text_classification.answers(labels, scores)
    return [{"text": text, **answer} for text, answer in zip(texts, answers)]


def _scores(name, rows, max_length, batch_size):
    artefact = load_artefact(name)
    if artefact is not None:
        if any("text_pair" in row for row in rows):
            raise ValueError(f"`{name}` takes single texts, not pairs. Give the model's folder.")
        return artefact.labels, artefact.predict([row["text"] for row in rows])
    model = text_classification.MODEL.from_pretrained(name)
    return model.labels, text_classification.predict(
        model, rows, max_length=max_length, batch_size=batch_size
    )


def export(model, target, output, **options):
    """Export a saved model, and add what the verification found to its run's page.

    Args:
        model: path of a model folder, or hub name.
        target: str, a name in `export.TARGETS`.
        output: path of the artefact to write.
        **options: of the target, e.g. `quantize`, `max_length`.

    Returns:
        `export.Report`.

    Raises:
        ValueError: no such target, or the artefact differs from the model.
    """
    if target not in TARGETS:
        raise ValueError(f"`target` must be one of {', '.join(TARGETS)}. Received: {target!r}.")
    report = TARGETS[target](text_classification.MODEL.from_pretrained(model), output, **options)
    run_file = pathlib.Path(model) / RUN_FILE
    if run_file.is_file() and os.access(run_file.parent, os.W_OK):
        run = read_json(run_file)
        others = [found for found in run["exports"] if found["path"] != report.path]
        _write_run(run_file.parent, {**run, "exports": [*others, report.to_dict()]})
    return report


def names():
    """List what can be named: dict, kind: names; of families, what `families.summary` says."""
    return {
        "families": {name: families.summary(name) for name in families.FAMILIES},
        "tasks": list(TASKS),
        "strategies": list(STRATEGIES),
        "targets": list(TARGETS),
        "samples": list(SAMPLES),
    }
