"""The command line: one verb a function of `kerasllm.runs`, with its argument names.

Only `click` is imported before a verb runs, so that `--help` answers at once.
"""

import contextlib
import inspect
import json
import logging
import os
import signal
import sys
import textwrap
import threading

import click

import kerasllm
from kerasllm.quiet import quiet

DTYPES = ("float32", "mixed_float16", "mixed_bfloat16")
EARLY_STOPPING = {"false": False, "true": True, "never": "never"}


@contextlib.contextmanager
def _ctrl_c():
    """Let Ctrl-C end as Ctrl-C: where C++ code calls Python, it comes out as some other error."""
    pressed, waiting = [], []

    def handler(*_):
        pressed.append(True)
        # C++ code may lose it, too: it is raised again and again, until it is on its way out.
        again = (threading.main_thread().ident, signal.SIGINT)
        waiting[:] = [threading.Timer(0.5, signal.pthread_kill, again)]
        waiting[0].start()
        if len(pressed) == 1 or sys.exc_info()[1] is None:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody else's, or ignored
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Exception:
        if pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        while waiting:
            timer = waiting.pop()
            timer.cancel()
            timer.join()
        signal.signal(signal.SIGINT, before)


class Group(click.Group):
    """Turns the errors that the library raises for bad input into one line and exit status 1."""

    def invoke(self, ctx):
        try:
            with _ctrl_c():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business
        except (ValueError, OSError, ImportError, TypeError, RuntimeError) as error:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(" ".join(str(error).split())) from None


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(kerasllm.__version__, message="%(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks, and all that TensorFlow says.")
def main(debug):
    """Train, evaluate, and export language models in Keras.

    Results go to stdout (as JSON with --json), progress and notes to stderr.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if not debug else "0")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("kerasllm").setLevel(logging.INFO)


def _runs():
    with quiet():
        from kerasllm import runs
    return runs


def data_options(function):
    """The options that say what is in a data file."""
    for option in (
        click.option("--header", metavar="NAMES", help="Column names, with commas, of bare files."),
        click.option(
            "--column",
            "columns",
            metavar="NAME=COLUMN",
            multiple=True,
            help="Where a column has another name in the data, e.g. text=review.",
        ),
    ):
        function = option(function)
    return function


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
max_length = click.option("--max-length", type=int, help="Cut texts to so many tokens.")
batch_size = click.option("--batch-size", type=int, default=32, show_default=True)


def _columns(pairs):
    return _by_name(pairs, "--column", "text=review")


def _options(pairs):
    named = _by_name(pairs, "--option", "rate=0.2")
    return {name: _json_or_string(value) for name, value in named.items()}


def _by_name(pairs, option, example):
    for pair in pairs:
        if not all(pair.partition("=")):
            raise click.BadParameter(f"{pair!r} is not like {example}.", param_hint=option)
    return dict(pair.split("=", 1) for pair in pairs)


def _json_or_string(value):
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _header(names):
    return tuple(names.split(",")) if names else None


def _fractions(split):
    if not split:
        return None
    try:
        parts = [float(part) for part in split.split("/")]
        return tuple(part / sum(parts) for part in parts)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{split!r} is not like 80/10/10.", param_hint="--split") from None


@main.command()
@click.argument("model")
@click.argument("train")
@click.argument("output", type=click.Path())
@click.option(
    "--task",
    default="text_classification",
    show_default=True,
    help="`kerasllm list` names them.",
)
@click.option("--validation", metavar="DATA", help="Rows that pick the best epoch.")
@click.option("--test", metavar="DATA", help="Rows to evaluate on.")
@click.option(
    "--split",
    metavar="A/B[/C]",
    help="Cut TRAIN into training, validation and test rows, e.g. 80/10/10.",
)
@click.option("--split-by", metavar="NAME", help="Column whose equal values stay together.")
@data_options
@click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Of the data of a task of pretraining, e.g. whole_words=true; may be repeated.",
)
@click.option("--epochs", type=int, default=3, show_default=True)
@batch_size
@click.option("--learning-rate", type=float, default=5e-5, show_default=True, help="The peak.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True)
@click.option(
    "--warmup",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of all steps until the peak.",
)
@click.option(
    "--clip-norm", type=float, default=1.0, show_default=True, help="Largest norm of all gradients."
)
@click.option(
    "--layer-decay",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor on the learning rate from a block to the one below.",
)
@click.option(
    "--freeze-blocks", type=int, help="Keep the embedding and so many of the lowest blocks."
)
@click.option("--last-layer-only", is_flag=True, help="Keep all but the last layer of the head.")
@click.option("--patience", type=int, help="Stop after so many epochs without a better one.")
@max_length
@click.option(
    "--vocab-size",
    type=int,
    default=8000,
    show_default=True,
    help="Of a vocabulary trained from scratch.",
)
@click.option(
    "--lowercase/--cased",
    default=True,
    show_default=True,
    help="For a vocabulary trained from scratch.",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision to compute in.")
@click.option(
    "--strategy",
    "strategy_name",
    default="default",
    show_default=True,
    help="`kerasllm list` names them.",
)
@click.option("--devices", type=int, help="Of this machine, for mirrored and central_storage.")
@click.option(
    "--cluster",
    metavar="NAME[:DETAILS]",
    help="tf_config, slurm, kubernetes:LABEL=VALUE or gce:PROJECT,ZONE,GROUP.",
)
@click.option(
    "--epsilon", type=float, help="Train with differential privacy, and spend so much of it."
)
@click.option(
    "--delta", type=float, default=1e-5, show_default=True, help="Of differential privacy."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--tensorboard", type=click.Path(), help="Folder for TensorBoard's logs.")
@click.option("--backup", type=click.Path(), help="Folder from which a run that died goes on.")
@click.option(
    "--backup-every", type=int, default=100, show_default=True, help="Steps between checkpoints."
)
@as_json
def train(columns, header, split, options, as_json, **arguments):
    """Train MODEL on the rows of TRAIN and write the run to OUTPUT.

    MODEL is a folder in Hugging Face's layout, a name on its hub, or a size to train from scratch
    (`kerasllm list` names them). Data is a .csv, .tsv, .jsonl or .txt file (`label text` lines), a
    folder with a subfolder a label, or sample:NAME, hf:NAME or tfds:NAME.

    \b
    kerasllm train bert_tiny sample:reviews_en:train runs/reviews --test sample:reviews_en:test
    """  # noqa: D301
    runs = _runs()
    run = runs.train(
        columns=_columns(columns),
        header=_header(header),
        split=_fractions(split),
        options=_options(options),
        **arguments,
    )
    if run is None:  # the chief of the cluster shows what came out
        return
    if as_json:
        _print_json(run)
        return
    output = arguments["output"]
    if run["evaluation"]:
        click.echo(runs.result(run))
    click.echo(f"model   {output}\nreport  {os.path.join(output, runs.REPORT_FILE)}")


@main.command()
@click.argument("model")
@click.argument("data")
@data_options
@max_length
@batch_size
@click.option("--report", type=click.Path(), help="HTML page to write.")
@as_json
def evaluate(columns, header, as_json, **arguments):
    """Evaluate MODEL (a model folder, a SavedModel or a .tflite file) on the rows of DATA."""
    runs = _runs()
    found = runs.evaluate(columns=_columns(columns), header=_header(header), **arguments)
    if as_json:
        _print_json(found.to_dict())
    else:
        click.echo(found)


@main.command()
@click.argument("model")
@click.argument("texts", nargs=-1)
@click.option("--data", help="Rows to answer, where a task needs more than a text.")
@data_options
@max_length
@batch_size
@as_json
def predict(model, texts, data, columns, header, as_json, **arguments):
    """Answer TEXTS with MODEL (a model folder, a SavedModel or a .tflite file).

    Without TEXTS, each line of standard input is one.
    """
    texts = list(texts) or ([] if data else _lines(sys.stdin.buffer))
    if not texts and not data:
        raise click.UsageError("There are no texts: give some, or lines on standard input.")
    runs = _runs()
    answers = runs.predict(
        model, texts, data=data, columns=_columns(columns), header=_header(header), **arguments
    )
    if as_json:
        _print_json(answers)
        return
    for answer in answers:
        click.echo(_line(answer))


def _line(answer):
    """An answer as fields between tabs: what was found, then what it was found in."""
    if "label" in answer:
        return f"{answer['label']}\t{answer['score']:.4f}\t{answer['text']}"
    return "\t".join(map(_field, reversed(answer.values())))


def _field(value):
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4f}"
    return json.dumps(value, ensure_ascii=False)


def _given(options):
    """The options that were given; `stop` is a list, maybe an empty one."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def generation_options(function):
    """The options that say how a text is written."""
    for option in (
        click.option("--seed", type=int, help="Of what is drawn."),
        click.option("--stop", multiple=True, help="A string that ends a text; may be repeated."),
        click.option("--repetition-penalty", type=float, help="Above 1: repeat less."),
        click.option("--no-repeat-ngram-size", type=int, help="No run of so many tokens twice."),
        click.option(
            "--min-p", type=float, help="Draw from tokens so likely beside the likeliest."
        ),
        click.option("--top-p", type=float, help="Draw from the likeliest of this probability."),
        click.option("--top-k", type=int, help="Draw from so many of the likeliest tokens."),
        click.option("--temperature", type=float, help="0 takes the likeliest token each time."),
        click.option("--min-new-tokens", type=int, help="The least that are written."),
        click.option("--max-new-tokens", type=int, help="The most that are written."),
    ):
        function = option(function)
    return function


@main.command()
@click.argument("model")
@click.argument("prompts", nargs=-1)
@generation_options
@click.option("--num-beams", type=int, help="Texts followed at once, for a likelier one.")
@click.option("--length-penalty", type=float, help="With beams, more than 0 favours longer texts.")
@click.option(
    "--early-stopping",
    type=click.Choice(tuple(EARLY_STOPPING)),
    callback=lambda _, __, value: EARLY_STOPPING.get(value),
    help="End beams once there are as many texts (true), or when none can get better (never).",
)
@click.option("--num-sequences", type=int, help="Texts for each prompt.")
@click.option(
    "--truncate", is_flag=True, default=None, help="Shorten what is longer than can be read."
)
@as_json
def generate(
    model, prompts, num_beams, length_penalty, early_stopping, num_sequences, as_json, **options
):
    """Write on from PROMPTS with MODEL, or answer them (translations, summaries).

    Without PROMPTS, each line of standard input is one. A text appears as it is written.

    \b
    kerasllm generate my_gpt "To be, or" --temperature 0.8 --max-new-tokens 100
    """  # noqa: D301
    prompts = list(prompts) or _lines(sys.stdin.buffer)
    if not prompts:
        raise click.UsageError("There are no prompts: give some, or lines on standard input.")
    options = _given(options)
    search = _given(
        {
            "num_beams": num_beams,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
            "num_sequences": num_sequences,
        }
    )
    runs = _runs()
    model = runs.writer(model)
    if as_json:
        _print_json(runs.generate(model, prompts, **search, **options))
    elif search or not hasattr(model, "stream"):
        for found in runs.generate(model, prompts, **search, **options):
            click.echo("\n".join(found.get("texts") or [found["text"]]))
    else:
        for prompt in prompts:
            _write(model.stream(prompt, **options))


@main.command()
@click.argument("model")
@click.option("--system", help="What the assistant is told before all else.")
@generation_options
def chat(model, system, **options):
    """Talk with MODEL, a language model: each line is a message. An empty one ends it."""
    options = _given(options)
    runs = _runs()
    model = runs.writer(model)
    messages = [{"role": "system", "content": system}] if system else []
    for line in _turns():
        messages.append({"role": "user", "content": line})
        answer = _write(runs.reply(model, messages, **options))
        messages.append({"role": "assistant", "content": answer})


def _turns():
    """The lines of a conversation, each as it comes; in a terminal they are asked for."""
    while True:
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.buffer.readline().decode("utf-8", "replace").strip()
        if not line:
            return
        yield line


def _write(pieces):
    """Show the pieces of a text as they come; return the text."""
    text = ""
    for piece in pieces:
        click.echo(piece, nl=False)
        text += piece
    click.echo()
    return text


@main.command()
@click.argument("model")
@click.argument("target", type=click.Choice(("saved_model", "tflite", "litert_lm")))
@click.argument("output", type=click.Path())
@click.option(
    "--quantize",
    type=click.Choice(("float16", "int8")),
    help="For tflite, and int8 for litert_lm: smaller weights.",
)
@max_length
@click.option(
    "--max-tokens", type=int, help="For litert_lm: tokens of prompt and answer that it holds."
)
@click.option(
    "--version", type=int, help="For saved_model: number of the version; the next one if left out."
)
@as_json
def export(model, target, output, as_json, **options):
    """Export MODEL to OUTPUT, and verify that the artefact equals it."""  # fmt: skip
    runs, options = _runs(), _given(options)
    for name in options.keys() - inspect.signature(runs.TARGETS[target]).parameters.keys():
        raise click.UsageError(f"{target} has no --{name.replace('_', '-')}.")
    report = runs.export(model, target, output, **options)
    if as_json:
        _print_json(report.to_dict())
    else:
        click.echo(report.path)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--workers", type=int, default=2, show_default=True)
@click.option("--servers", type=int, default=0, show_default=True, help="Parameter servers.")
@click.option("--restarts", type=int, default=0, show_default=True, help="After a failure.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(workers, servers, restarts, command):
    """Run COMMAND as a cluster of processes on this machine, for a trial.

    COMMAND is a verb of kerasllm with its arguments, or any program that trains under a strategy
    with a cluster.

    \b
    kerasllm launch --workers 2 -- train MODEL TRAIN OUTPUT --strategy multi_worker_mirrored
    """  # noqa: D301
    from kerasllm.launch import launch as start

    command = list(command)
    if command[0] in main.commands:
        command = [sys.executable, "-m", "kerasllm", *command]
    sys.exit(start(command, workers, servers, restarts=restarts))


@main.command("list")
@as_json
def list_names(as_json):
    """List families with their heads and sizes, tasks, strategies, targets and sample sets."""
    runs = _runs()
    names = runs.names()
    if as_json:
        _print_json(names)
        return
    for name, family in names.pop("families").items():
        click.echo(f"{name:12}{family['title']}")
        for kind in ("heads", "parity", "sizes"):
            line = textwrap.wrap(", ".join(family[kind]), 80, break_on_hyphens=False)
            click.echo(f"  {kind:10}" + ("\n" + 12 * " ").join(line))
    for kind, found in names.items():
        click.echo(f"{kind:12}{', '.join(found)}")


def _lines(stream):
    return [line.decode("utf-8", "replace").rstrip("\r\n") for line in stream]


def _print_json(value):
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
