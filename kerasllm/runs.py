"""From files to results: what each verb of the command line does, as one function each.

A run is a folder: a model in Hugging Face's layout, `run.json` (settings, history, evaluation,
exports, example rows) and `report.html`, the same for people.
"""

import contextlib
import functools
import json
import os
import pathlib
import tempfile
import time

import keras

from kerasllm import families
from kerasllm.atomic import whole
from kerasllm.data import SAMPLES
from kerasllm.data.rows import read_rows, split_rows
from kerasllm.data.texts import lines
from kerasllm.evaluation import write_report
from kerasllm.evaluation.result import plain
from kerasllm.export import TARGETS, load_artefact
from kerasllm.interpretation import example_pictures, example_rows
from kerasllm.models import CausalLM
from kerasllm.models.classifier import stored_labels
from kerasllm.tasks import (
    TASKS,
    chat,
    checked_options,
    name_of,
    streams,
    task_named,
    text_classification,
)
from kerasllm.tasks import evaluate as evaluate_model
from kerasllm.tokenizers import ByteLevelBPETokenizer, WordPieceTokenizer
from kerasllm.training import STRATEGIES, Privacy, fit, strategy
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
    split_by=None,
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
    options=None,
    epsilon=None,
    delta=1e-5,
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
        split_by: str or None, a column: rows with one value of it stay together in the cut.
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
        options: dict or None, of the task's `dataset`, e.g. `{"whole_words": True}`. Those of
            `data.texts.stream` (`steps`, `shard`, `service`) are for the training text alone.
        epsilon, delta: of `training.Privacy`, whose `clip_norm` is that of the recipe; no
            `epsilon` for training without.
        **recipe: of `training.fit`, e.g. `epochs`, `learning_rate`.

    Returns:
        dict, what `run.json` holds; None in a process of a cluster that is not the chief, who
        writes the folder.

    Raises:
        FileNotFoundError, OSError, ValueError: a source, the model, an option or the output folder
            is no good; the message says which and why. Then nothing is written. What fails after
            the training, in the evaluation or the report, leaves the model where it should be.
    """
    start = time.perf_counter()
    settings = {name: value for name, value in locals().items() if name not in ("start", "recipe")}
    settings = {**settings, **recipe}
    keras.utils.set_random_seed(seed)
    own, streaming = checked_options(task, options or {})
    place = strategy(strategy_name, devices=devices, cluster=cluster)
    chief = is_chief(place)
    with _output(output, chief) as aside:  # before all work: a bad path ends the run at once
        aside.mkdir()
        rows = _read(task, columns, header, split, split_by, seed, train, validation, test)
        with place.scope():
            trained = _model(model, task, rows[0], vocab_size, lowercase, max_length, dtype)
        if rows[2] and hasattr(TASKS[task], "encode"):
            TASKS[task].encode(trained, rows[2], max_length)  # a bad row must not wait for the end
        if epsilon is not None:
            clip_norm = recipe.get("clip_norm") or 1.0
            recipe = {**recipe, "privacy": Privacy(epsilon, delta, clip_norm)}
        data, common = rows[:2], dict(batch_size=batch_size, max_length=max_length)
        if options:
            dataset = functools.partial(TASKS[task].dataset, trained, **common, **own)
            data = [dataset(rows[0], seed=seed, **streaming)]
            data += [dataset(rows[1], training=False)] if rows[1] else []
        history = fit(trained, *data, task=task, seed=seed, **common, **recipe)
        run = {
            "title": pathlib.Path(output).name,
            "settings": {name: value for name, value in settings.items() if value is not None},
            "rows": dict(zip(("train", "validation", "test"), map(_count, rows))),
            "history": history,
            "evaluation": None,
            "exports": [],
            "seconds": time.perf_counter() - start,
        }
        if chief:
            trained.save_pretrained(aside)
            _write_record(aside, run)
    # What is trained stays, whatever becomes of its evaluation.
    tested = rows[2] or rows[1]
    run["evaluation"] = _evaluation(trained, tested, max_length, batch_size)
    if not chief:
        return None
    run["seconds"] = time.perf_counter() - start
    run = plain({**run, "examples": example_rows(trained, _each(tested))})
    _write_run(pathlib.Path(output), run, trained)
    return run


@contextlib.contextmanager
def _output(path, chief):
    """A folder aside, which becomes `path` on the chief, and nothing elsewhere."""
    if chief:
        with whole(path) as aside:
            yield aside
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder) / "run"


def _read(task, columns, header, split, split_by, seed, train, validation, test):
    module = task_named(task)
    sources = (train, validation, test)
    if not split and _is_streamed(module, train):
        return [source and str(source) for source in sources]
    rows = [source and read(source, task, columns, header) for source in sources]
    if not split:
        return rows
    if validation or (test and len(split) > 2):
        raise ValueError(
            f"`split` must not cut off what is given by `validation` or `test`. Received: {split}."
        )
    parts = split_rows(rows[0], tuple(split), seed, by=split_by)
    return [*parts, rows[2]][:3]


def _is_streamed(task, source):
    """Whether a source is plain text of any size, of which no list of rows is made."""
    return streams(task) and str(source).endswith(".txt")


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
    module = task_named(task)
    return read_rows(
        source, module.COLUMNS, rename=columns, optional=module.OPTIONAL_COLUMNS, header=header
    )


def _model(name, task, rows, vocab_size, lowercase, max_length, dtype):
    """A model for the task: from a checkpoint, whose head goes on if it fits, or fresh."""
    module = TASKS[task]
    head = module.head(rows)
    if str(name) not in families.SIZES:
        fields = read_json(_checkpoint(name) / "config.json")
        if head and not _same_head(fields, head):
            return module.MODEL.from_pretrained(name, **head, fresh_head=True, dtype=dtype)
        return module.MODEL.from_pretrained(name, dtype=dtype)
    tokenizer = _tokenizer(module, rows, vocab_size, lowercase)
    config = families.size_config(
        name,
        vocab_size=tokenizer.vocab_size,
        max_length=max_length or 512,
        pad_id=tokenizer.pad_id,
    )
    family = families.family_of(name)
    if "labels" in head:
        head = {**head, "num_classes": len(head["labels"])}
    return module.MODEL(backbone=config, family=family, tokenizer=tokenizer, dtype=dtype, **head)


def _tokenizer(module, rows, vocab_size, lowercase):
    texts = lines(rows) if isinstance(rows, str) else module.texts(rows)
    if issubclass(module.MODEL, CausalLM):  # it must be able to write whatever it has read
        return ByteLevelBPETokenizer.train(texts, vocab_size=vocab_size)
    return WordPieceTokenizer.train(texts, vocab_size=vocab_size, lowercase=lowercase)


def _same_head(fields, head):
    """Whether a checkpoint's head is for the same labels, in whatever order."""
    return set(stored_labels(fields)) == set(head.get("labels", ()))


def _checkpoint(name):
    try:
        return find_folder(name)
    except FileNotFoundError as error:
        sizes = ", ".join(families.SIZES)
        raise FileNotFoundError(f"{error} Sizes to train from scratch: {sizes}.") from None


def _count(rows):
    """How many rows there are; None where they are streamed."""
    return None if isinstance(rows, str) else len(rows or [])


def _each(rows):
    """The rows one by one, also where they are streamed."""
    if isinstance(rows, str):
        return ({"text": line.strip()} for line in lines(rows) if line.strip())
    return rows or []


def _evaluation(model, rows, max_length, batch_size):
    if not rows:
        return None
    return evaluate_model(model, rows, max_length=max_length, batch_size=batch_size).to_dict()


def result(run):
    """What the evaluation of a run found.

    Args:
        run: dict, what `run.json` holds.

    Returns:
        The result of its task, e.g. `evaluation.ClassificationResult`; None if it had no rows for
        an evaluation.
    """
    found = run["evaluation"]
    return found and TASKS[run["settings"]["task"]].RESULT.from_dict(found)


def _write_record(folder, run):
    text = json.dumps(plain(run), ensure_ascii=False, indent=2, default=str, allow_nan=False)
    with whole(folder / RUN_FILE) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _write_run(folder, run, model):
    _write_record(folder, run)
    write_report(
        folder / REPORT_FILE,
        title=run["title"],
        settings=run["settings"],
        history=run["history"],
        result=result(run),
        examples=example_pictures(model, run.get("examples", [])),  # an older run has none
        exports=run["exports"],
        seconds=run["seconds"],
    )


def evaluate(
    model, data, *, columns=None, header=None, max_length=None, batch_size=32, report=None
):
    """Evaluate a saved model or an artefact on a file.

    Args:
        model: path or hub name: a model folder, a SavedModel or a .tflite file.
        data: source of rows, for `read_rows`; for a model of a task of pretraining, a `.txt` file
            or pattern is streamed.
        columns: dict or None, our name of a column: its name in the source.
        header: tuple of str or None, names of the columns of a file without a first line of names.
        max_length: int or None: texts are cut to so many tokens. An artefact has its own length.
        batch_size: int.
        report: path or None, an HTML page to write.

    Returns:
        The result of the model's task, e.g. `evaluation.ClassificationResult`.
    """
    loaded, task = _load(model)
    if isinstance(loaded, keras.Model) and _is_streamed(TASKS[task], data):
        rows = str(data)
        found = evaluate_model(loaded, rows, max_length=max_length, batch_size=batch_size)
    else:
        rows = read(data, task, columns=columns, header=header)
        outputs = _outputs(loaded, task, rows, max_length, batch_size)
        found = TASKS[task].evaluate(loaded, rows, outputs)
    if report is not None:
        write_report(
            report,
            title=f"{pathlib.Path(model).name} on {pathlib.Path(str(data)).name}",
            settings={"model": model, "data": data, "max_length": max_length},
            result=found,
            examples=_examples(loaded, rows),
        )
    return found


def _examples(loaded, rows):
    """Pictures of a model; an artefact shows nothing of its inside."""
    is_model = isinstance(loaded, keras.Model)
    return example_pictures(loaded, example_rows(loaded, _each(rows))) if is_model else []


def predict(
    model, texts=(), *, data=None, columns=None, header=None, max_length=None, batch_size=32
):
    """Answer texts, or the rows of a file, with a saved model or an artefact.

    Args:
        model: path or hub name: a model folder, a SavedModel or a .tflite file.
        texts: list of str, for a task that needs one text a row.
        data: source of rows with the `INPUTS` of the model's task, or None.
        columns: dict or None, our name of a column: its name in the source.
        header: tuple of str or None, names of the columns of a file without a first line of names.
        max_length: int or None: texts are cut to so many tokens. An artefact has its own length.
        batch_size: int.

    Returns:
        list of dicts: the row's inputs, and what the task's `answers` gives.

    Raises:
        ValueError: the task needs more than a text, and there is no `data`.
    """
    loaded, task = _load(model)
    module = TASKS[task]
    if data is not None:
        # What a row can do without for an answer is not asked for.
        needed = module.INPUTS if set(module.INPUTS) <= set(module.COLUMNS) else ()
        others = {*module.INPUTS, *module.COLUMNS, *module.OPTIONAL_COLUMNS} - {*needed}
        rows = read_rows(data, needed, rename=columns, optional=sorted(others), header=header)
    elif len(module.INPUTS) > 1:
        raise ValueError(
            f"`data` must be given for {task}: rows with {' and '.join(module.INPUTS)}. Received: "
            "texts alone."
        )
    else:
        rows = [{module.INPUTS[0]: text} for text in texts]
    outputs = _outputs(loaded, task, rows, max_length, batch_size)
    answers = module.answers(loaded, rows, outputs)
    return [
        {**{name: row[name] for name in module.INPUTS if name in row}, **answer}
        for row, answer in zip(rows, answers)
    ]


def _load(name):
    """The pair of a saved model or artefact, and the name of its task."""
    artefact = load_artefact(name)
    if artefact is None:
        model = load_model(name)
        return model, name_of(model)
    if artefact.task is None:
        raise ValueError(
            f"`model` must be an artefact that knows its task. Received: {name}, which has no "
            "task.json (export the model again)."
        )
    return artefact, artefact.task


def load_model(name):
    """Read a model folder with the head that its config names.

    Args:
        name: path or hub name.

    Returns:
        A model that a task trains.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no task trains such a model.
    """
    fields = read_json(_checkpoint(name) / "config.json")
    task = TASKS.get(fields.get("finetuning_task"))
    if task is None:
        head = families.head_of(fields) or text_classification.MODEL.HEAD
        task = next((task for task in TASKS.values() if head == task.MODEL.HEAD), None)
    if task is None:
        raise ValueError(
            f"`model` must be one that a task trains. Received: {name}, whose config names the "
            f"architectures {fields.get('architectures')}."
        )
    return task.MODEL.from_pretrained(name)


def _outputs(loaded, task, rows, max_length, batch_size):
    if isinstance(loaded, keras.Model):
        return TASKS[task].predict(loaded, rows, max_length=max_length, batch_size=batch_size)
    return loaded.predict(rows)


def generate(model, prompts, **options):
    """Write on from prompts.

    Args:
        model: a model that writes texts, or an artefact of one; see `writer`.
        prompts: list of str.
        **options: of `Generative.generate`.

    Returns:
        list of dicts: `prompt`, and `text`, or with several sequences `texts`.

    Raises:
        ValueError: an option or a prompt is no good.
    """
    texts = model.generate(list(prompts), **options)
    name = "text" if options.get("num_sequences", 1) == 1 else "texts"
    return [{"prompt": prompt, name: text} for prompt, text in zip(prompts, texts)]


def reply(model, messages, **options):
    """Write the assistant's next message, and hand out each piece as it comes.

    Args:
        model: `CausalLM`, or an artefact of one with a chat template; see `writer`.
        messages: list of dicts with `role` and `content`, str.
        **options: of `Generative.stream`.

    Returns:
        iterator of str.

    Raises:
        TypeError: the model is no `CausalLM`.
        ValueError: the model's chat template refuses the messages, or an option is no good.
    """
    if getattr(model, "chats", False):
        return iter([model.chat(messages, **options)])
    if hasattr(model, "chats"):
        raise TypeError(
            "`model` must have a chat template. Received: an artefact of a model without one "
            "(`kerasllm generate` writes on from prompts)."
        )
    if not isinstance(model, chat.MODEL):
        raise TypeError(f"`model` must be a CausalLM. Received: a {type(model).__name__}.")
    return model.stream(chat.prompt_ids(model.tokenizer, messages), truncate=True, **options)


def writer(name):
    """Read a model, or an artefact of one, that writes texts.

    Args:
        name: path or hub name: a model folder, or a SavedModel.

    Returns:
        It has `generate`; the model itself has `stream` too.

    Raises:
        ValueError: it writes no texts.
    """
    model = load_artefact(name) or load_model(name)
    if not hasattr(model, "generate"):
        raise ValueError(
            f"`model` must be one that writes texts. Received: {name}, a {type(model).__name__}."
        )
    return model


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
    loaded = load_model(model)
    report = TARGETS[target](loaded, output, **options)
    run_file = pathlib.Path(model) / RUN_FILE
    if run_file.is_file() and os.access(run_file.parent, os.W_OK):
        run = read_json(run_file)
        others = [found for found in run["exports"] if found["path"] != report.path]
        run = {**run, "exports": [*others, report.to_dict()]}
        _write_run(run_file.parent, run, loaded)
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
