"""The command line: one verb a function of `kerasllm.runs`, with its argument names.

Only `click` is imported before a verb runs, so that `--help` answers at once.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import textwrap

import click

import kerasllm
from kerasllm.quiet import quiet

DTYPES = ("float32", "mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def _ctrl_c():
    """Let Ctrl-C end as Ctrl-C: where C++ code calls Python, it comes out as some other error."""
    pressed = []

    def handler(*_):
        pressed.append(True)
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
        click.option("--label", default="label", show_default=True, help="Column of the labels."),
        click.option("--text-pair", metavar="TEXT", help="Column of second texts, for pairs."),
        click.option("--text", default="text", show_default=True, help="Column of the texts."),
    ):
        function = option(function)
    return function


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
max_length = click.option("--max-length", type=int, help="Cut texts to so many tokens.")
batch_size = click.option("--batch-size", type=int, default=32, show_default=True)


def _columns(text, text_pair, label):
    pair = {"text_pair": text_pair} if text_pair else {}
    return {"text": text, "label": label, **pair}


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
@click.option("--validation", metavar="DATA", help="Rows that pick the best epoch.")
@click.option("--test", metavar="DATA", help="Rows to evaluate on.")
@click.option(
    "--split",
    metavar="A/B[/C]",
    help="Cut TRAIN into training, validation and test rows, e.g. 80/10/10.",
)
@data_options
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
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--tensorboard", type=click.Path(), help="Folder for TensorBoard's logs.")
@click.option("--backup", type=click.Path(), help="Folder from which a run that died goes on.")
@click.option(
    "--backup-every", type=int, default=100, show_default=True, help="Steps between checkpoints."
)
@as_json
def train(text, text_pair, label, header, split, as_json, **arguments):
    """Train MODEL on the rows of TRAIN and write the run to OUTPUT.

    MODEL is a folder in Hugging Face's layout, a name on its hub, or a size to train from scratch
    (`kerasllm list` names them). Data is a .csv, .tsv, .jsonl or .txt file (`label text` lines), a
    folder with a subfolder a label, or sample:NAME, hf:NAME or tfds:NAME.

    \b
    kerasllm train bert_tiny sample:reviews_en:train runs/reviews --test sample:reviews_en:test
    """  # noqa: D301
    runs = _runs()
    run = runs.train(
        columns=_columns(text, text_pair, label),
        header=_header(header),
        split=_fractions(split),
        **arguments,
    )
    if run is None:  # the chief of the cluster shows what came out
        return
    if as_json:
        _print_json(run)
        return
    output = arguments["output"]
    if run["evaluation"]:
        click.echo(_table(run["evaluation"]))
    click.echo(f"model   {output}\nreport  {os.path.join(output, runs.REPORT_FILE)}")


@main.command()
@click.argument("model")
@click.argument("data")
@data_options
@max_length
@batch_size
@click.option("--report", type=click.Path(), help="HTML page to write.")
@as_json
def evaluate(text, text_pair, label, header, as_json, **arguments):
    """Evaluate MODEL (a model folder, a SavedModel or a .tflite file) on the rows of DATA."""
    runs = _runs()
    found = runs.evaluate(
        columns=_columns(text, text_pair, label), header=_header(header), **arguments
    )
    if as_json:
        _print_json({**found.result.to_dict(), "worst": found.worst})
    else:
        click.echo(found.result)


@main.command()
@click.argument("model")
@click.argument("texts", nargs=-1)
@max_length
@batch_size
@as_json
def predict(model, texts, max_length, batch_size, as_json):
    """Answer TEXTS with MODEL (a model folder, a SavedModel or a .tflite file).

    Without TEXTS, each line of standard input is one.
    """
    texts = list(texts) or _lines(sys.stdin.buffer)
    if not texts:
        raise click.UsageError("There are no texts: give some, or lines on standard input.")
    runs = _runs()
    answers = runs.predict(model, texts, max_length=max_length, batch_size=batch_size)
    if as_json:
        _print_json(answers)
        return
    for answer in answers:
        click.echo(f"{answer['label']}\t{answer['score']:.4f}\t{answer['text']}")


@main.command()
@click.argument("model")
@click.argument("target", type=click.Choice(("saved_model", "tflite")))
@click.argument("output", type=click.Path())
@click.option(
    "--quantize", type=click.Choice(("float16", "int8")), help="For tflite: smaller weights."
)
@max_length
@click.option(
    "--version", type=int, help="For saved_model: number of the version; the next one if left out."
)
@as_json
def export(model, target, output, as_json, **options):
    """Export MODEL to OUTPUT, and verify that the artefact equals it."""  # fmt: skip
    runs = _runs()
    given = {name: value for name, value in options.items() if value is not None}
    report = runs.export(model, target, output, **given)
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


def _table(evaluation):
    from kerasllm.evaluation import ClassificationResult

    return ClassificationResult.from_dict(evaluation)


def _print_json(value):
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
