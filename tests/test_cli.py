import contextlib
import errno
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
from click.testing import CliRunner
from command import ENVIRONMENT, kerasllm, names, write_csv
from tiny_task import rows

from kerasllm import __version__, runs
from kerasllm.cli import DTYPES, main
from kerasllm.evaluation import ClassificationResult
from kerasllm.export import TARGETS
from kerasllm.training import fit

VERBS = ("train", "evaluate", "predict", "export", "list")
TEXTS = ("the film was lovely", "a bit awful", "great soup")
LABELS = ["positive", "negative", "positive"]


def call(*arguments, **options):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


# ------------------------------------------------------------------------------------ results


def test_train_prints_one_json_document(trained):
    printed = json.loads(trained.process.stdout)
    stored = json.loads((trained.folder / "run.json").read_text(encoding="utf-8"))
    assert {**stored, "exports": []} == printed  # exports may have come later


def test_train_shows_progress_on_stderr_and_no_noise(trained):
    lines = trained.process.stderr.strip().split("\n")
    assert len(lines) == 4
    for epoch, line in enumerate(lines, start=1):
        assert re.match(rf"epoch {epoch}/4: 100%.*val_accuracy \d\.\d{{4}}", line.split("\r")[-1])


def test_train_writes_a_whole_run(trained):
    assert names(trained.folder) == [
        "config.json",
        "model.safetensors",
        "report.html",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    beside = {path.name for path in trained.folder.parent.parent.iterdir()}
    assert beside == {"new", "train.csv", "test.csv"}
    assert {path.name for path in trained.folder.parent.iterdir()} == {"run"}


def test_export_prints_json_and_shows_the_report(exported):
    printed = json.loads(exported.process.stdout)
    assert (printed["target"], printed["label_flips"]) == ("saved_model", 0)
    lines = exported.process.stderr.strip().split("\n")
    assert lines[0] == f"saved_model (float32) {exported.saved_model / '1'}"
    assert all(line.startswith("  ") for line in lines[1:])


def test_export_prints_where_the_artefact_is(trained, tmp_path, monkeypatch):
    seen = {}

    def export(*arguments, **options):
        seen.update(arguments=arguments, options=options)
        return types.SimpleNamespace(path="there.tflite")

    monkeypatch.setattr(runs, "export", export)
    found = call("export", "model", "tflite", "x", "--quantize", "int8", "--max-length", 16)
    assert (found.exit_code, found.stdout, found.stderr) == (0, "there.tflite\n", "")
    assert seen["arguments"] == ("model", "tflite", "x")
    assert seen["options"] == {"quantize": "int8", "max_length": 16}
    call("export", "model", "litert_lm", "x", "--max-tokens", 9)
    assert seen["options"] == {"max_tokens": 9}


def test_a_chat_ends_with_an_empty_line(monkeypatch):
    said = []

    def reply(model, messages, **options):
        said.append(messages[-1]["content"])
        return iter(["So", "?"])

    monkeypatch.setattr(runs, "writer", lambda name: name)
    monkeypatch.setattr(runs, "reply", reply)
    assert call("chat", "model", input=b"H\xffi\n Bye\r\n\nnever\n").stdout == "So?\n" * 2
    assert said == ["H\ufffdi", "Bye"]


def check_answers(trained, printed):
    answers = json.loads(printed)
    assert [answer["text"] for answer in answers] == list(TEXTS)
    assert [answer["label"] for answer in answers] == LABELS
    wanted = [answer["score"] for answer in runs.predict(trained.folder, TEXTS)]
    assert [answer["score"] for answer in answers] == pytest.approx(wanted, abs=1e-4)


def test_predict_takes_a_model_and_a_saved_model(trained, exported):
    for model in (trained.folder, exported.saved_model):
        found = call("predict", model, "--json", *TEXTS)
        assert (found.exit_code, found.stderr) == (0, "")
        check_answers(trained, found.stdout)


def test_predict_takes_a_tflite_file_and_shows_no_noise(trained, exported):
    process = kerasllm("predict", exported.tflite, "--json", *TEXTS)
    assert (process.returncode, process.stderr) == (0, "")
    check_answers(trained, process.stdout)


def test_predict_prints_a_line_for_each_line_of_input(trained):
    text = "\n".join(TEXTS).encode() + b"\r\n\nth\xff film\n"
    found = call("predict", trained.folder, input=text)
    assert (found.exit_code, found.stderr) == (0, "")
    lines = [line.split("\t") for line in found.stdout.removesuffix("\n").split("\n")]
    assert [line[0] for line in lines[:3]] == LABELS
    assert all(re.fullmatch(r"[01]\.\d{4}", score) for _, score, _ in lines)
    assert [line[2] for line in lines] == [*TEXTS, "", "th\ufffd film"]


def test_evaluate_prints_a_table_and_writes_a_page(trained, tmp_path):
    page = tmp_path / "page.html"
    found = call("evaluate", trained.folder, trained.test, "--report", page)
    assert (found.exit_code, found.stderr) == (0, "")
    assert "accuracy" in found.stdout
    assert "positive" in found.stdout
    assert "run on test.csv" in page.read_text(encoding="utf-8")


def test_evaluate_prints_json(trained, tmp_path):
    # Other names of columns, in a file without them.
    source = write_csv(tmp_path / "bare.csv", rows(16, seed=1), header=("label", "text"))
    source.write_text(source.read_text().split("\n", 1)[1])
    found = call(
        *("evaluate", trained.folder, source, "--header", "stars,review"),
        *("--column", "text=review", "--column", "label=stars", "--json"),
    )
    printed = json.loads(found.stdout)
    assert len(printed["worst"]) == 16
    stored = json.loads((trained.folder / "run.json").read_text(encoding="utf-8"))["evaluation"]
    assert ClassificationResult.from_dict(printed).confusion == tuple(
        map(tuple, stored["confusion"])
    )


def test_what_is_no_pair_is_wrong_usage():
    for option, wrong, right in (
        ("--option", "rate", "rate=0.2"),
        ("--column", "=a", "text=review"),
    ):
        found = call(*TRAIN, option, wrong)
        assert found.exit_code == 2
        assert f"'{wrong}' is not like {right}" in found.stderr


def test_samples_are_data_too(trained):
    found = call("evaluate", trained.folder, "sample:reviews_en:test", "--json", "--max-length", 8)
    assert json.loads(found.stdout)["rows"] == 400


def test_list_names_all(trained):
    found = call("list")
    names = runs.names()
    for kind in ("tasks", "strategies", "targets", "samples"):
        assert f"\n{kind:12}{', '.join(names[kind])}\n" in found.stdout
    for name, family in names["families"].items():
        assert f"{name:12}{family['title']}\n" in found.stdout
        for said in (*family["heads"], *family["sizes"], *family["parity"]):
            assert said in found.stdout
    assert json.loads(call("list", "--json").stdout) == runs.names()


@pytest.mark.parametrize("split", ["3/1/1", "60/20/20", "0.6/0.2/0.2"])
def test_split_is_a_ratio(split, monkeypatch):
    seen = {}
    monkeypatch.setattr(runs, "train", lambda **options: seen.update(options) or {})
    assert call("train", "m", "t", "o", "--split", split, "--json").exit_code == 0
    assert seen["split"] == pytest.approx((0.6, 0.2, 0.2))


def test_every_option_of_train_reaches_a_function(monkeypatch):
    known = {*inspect.signature(runs.train).parameters, *inspect.signature(fit).parameters}
    seen = {}
    monkeypatch.setattr(runs, "train", lambda **options: seen.update(options) or {})
    call(
        "train",
        "m",
        "t",
        "o",
        "--column",
        "text_pair=second",
        "--header",
        "a,b",
        "--cased",
        "--json",
    )
    assert seen["columns"] == {"text_pair": "second"}
    assert seen["header"] == ("a", "b")
    assert seen["lowercase"] is False
    assert set(seen) <= known


# ------------------------------------------------------------------------------------ help


def test_version():
    assert call("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb):
    found = call(verb, "-h")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.startswith(f"Usage: main {verb}")
    assert max(map(len, found.stdout.split("\n"))) <= 100
    assert f"  {verb} " in call("--help").stdout


def test_help_needs_no_tensorflow():
    code = f"""if True:
        import sys
        from kerasllm.cli import main
        for arguments in (["--help"], ["--version"], *([verb, "-h"] for verb in {VERBS})):
            try:
                main(arguments)
            except SystemExit as end:
                assert end.code == 0
        loaded = {{"tensorflow", "keras", "numpy", "tokenizers"}} & sys.modules.keys()
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# ------------------------------------------------------------------------------------ bad input


@pytest.fixture
def place(trained, tmp_path):
    """A folder with good and bad files; `model` in it is a copy of the trained model."""
    files = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")
    for name in ("model", "truncated", "odd"):
        (tmp_path / name).mkdir()
        for file in files:
            shutil.copy(trained.folder / file, tmp_path / name / file)
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    config = tmp_path / "odd" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"swoosh"'))
    write_csv(tmp_path / "good.csv", rows(8))
    write_csv(tmp_path / "odd.csv", [*rows(2), {"text": "a film", "label": "so-so"}])
    (tmp_path / "empty.csv").touch()
    write_csv(tmp_path / "no_label.csv", rows(2), header=("text",))
    return tmp_path


TRAIN = ("train", "bert_tiny", "good.csv", "new/out")
BAD_INPUT = {
    "missing column": (
        ("train", "bert_tiny", "no_label.csv", "new/out"),
        r"no_label\.csv:1: there must be a column `label`",
    ),
    "wrong name of a column": ((*TRAIN, "--column", "text=review"), "a column `review`"),
    "empty file": (("train", "bert_tiny", "empty.csv", "new/out"), "'empty.csv', an empty file"),
    "missing file": (("train", "bert_tiny", "gone.csv", "new/out"), "Received: 'gone.csv'"),
    "label never seen, to test on": (
        (*TRAIN, "--test", "odd.csv"),
        r"odd\.csv:4: `label` must be one of .*Received: 'so-so'",
    ),
    "label never seen, to validate on": ((*TRAIN, "--validation", "odd.csv"), r"odd\.csv:4: "),
    "label never seen, to evaluate on": (("evaluate", "model", "odd.csv"), r"odd\.csv:4: "),
    "output below a file": (
        ("train", "bert_tiny", "good.csv", "good.csv/out"),
        r"good\.csv/out` can't be written: ",
    ),
    "report below a file": (
        ("evaluate", "model", "good.csv", "--report", "good.csv/page.html"),
        r"good\.csv/page\.html` can't be written: ",
    ),
    "SavedModel below a file": (
        ("export", "model", "saved_model", "good.csv/out"),
        r"good\.csv/out/1` can't be written: ",
    ),
    ".tflite file below a file": (
        ("export", "model", "tflite", "good.csv/x.tflite", "--max-length", "16"),
        r"good\.csv/x\.tflite",
    ),
    "strategy": ((*TRAIN, "--strategy", "cloud"), "must be one of default, one_device.*'cloud'"),
    "option of another task": ((*TRAIN, "--option", "rate=0.2"), "must be among: none at all"),
    "option of another kind": (
        (*TRAIN, "--task", "masked_lm", "--option", "rate=much"),
        "`rate` must be a number. Received: 'much'",
    ),
    "both split and test": (
        (*TRAIN, "--split", "2/1/1", "--test", "good.csv"),
        "`split` must not",
    ),
    "both split and validation": (
        (*TRAIN, "--split", "2/1", "--validation", "good.csv"),
        "`split` must not",
    ),
    "patience alone": ((*TRAIN, "--patience", "1"), "`patience` must come with `validation`"),
    "epochs": ((*TRAIN, "--epochs", "0"), "`epochs` must be an integer of at least 1"),
    "blocks": ((*TRAIN, "--freeze-blocks", "3"), "`blocks` must be between 0 and 2"),
    "length beyond the model": (
        ("train", "model", "good.csv", "new/out", "--max-length", "17"),
        "`max_length` must be at most 16",
    ),
    "length beyond the model, to export": (
        ("export", "model", "tflite", "new/x.tflite", "--max-length", "17"),
        "`max_length` must be from 3 to 16",
    ),
    "truncated weights": (("predict", "truncated", "a"), "safetensors` is truncated or damaged"),
    "truncated weights, to train": (
        ("train", "truncated", "good.csv", "new/out"),
        "safetensors` is truncated or damaged",
    ),
    "unknown activation": (
        ("export", "odd", "saved_model", "new/out"),
        "`hidden_act` must be one of .*'swoosh'",
    ),
    "no model": (("predict", "no/such/model", "a"), "`no/such/model` is no folder"),
    "another file": (("predict", "good.csv", "a"), "`good.csv`"),
    "sample set": (("evaluate", "model", "sample:films"), "must name a sample among reviews_en"),
}


def check_one_line(shown, message):
    lines = shown.strip().split("\n")
    assert len(lines) == 1
    assert re.match(f"Error: .*{message}", lines[0])


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(place, name, monkeypatch):
    arguments, message = BAD_INPUT[name]
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = names(place)
    found = call(*arguments)
    assert (found.exit_code, found.stdout) == (1, "")
    check_one_line(found.stderr, message)
    assert names(place) == before


def test_an_unknown_model_is_one_line_in_a_terminal_too(place):
    before = names(place)
    process = kerasllm("train", "bert_huge", "good.csv", "new/out", cwd=place)
    assert (process.returncode, process.stdout) == (1, "")
    check_one_line(process.stderr, "`bert_huge` is no folder here, and")
    assert names(place) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("trian",),
        ("train", "bert_tiny"),
        ("train", "a", "b", "c", "--epochs", "many"),
        ("train", "a", "b", "c", "--split", "half"),
        ("train", "a", "b", "c", "--dtype", "float8"),
        ("export", "a", "onnx", "b"),
        ("export", "a", "tflite", "b", "--quantize", "int1"),
        ("export", "a", "tflite", "b", "--version", "2"),
        ("export", "a", "saved_model", "b", "--quantize", "int8"),
        ("export", "a", "litert_lm", "b", "--max-length", "9"),
        ("predict", "a"),
    ],
)
def test_wrong_usage_ends_in_status_2(arguments):
    found = call(*arguments, input="")
    assert found.exit_code == 2
    assert found.stdout == ""
    assert "Usage: main" in found.stderr


def test_choices_are_those_of_the_library(monkeypatch):
    seen = []
    monkeypatch.setattr(runs, "train", lambda **options: seen.append(options["dtype"]) or {})
    for dtype in DTYPES:
        call("train", "a", "b", "c", "--dtype", dtype, "--json")
    assert seen == list(DTYPES)
    for target in TARGETS:
        assert target in call("export", "-h").stdout


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = call("--debug", "evaluate", "model", "gone.csv")
    assert isinstance(found.exception, FileNotFoundError)
    assert not isinstance(call("evaluate", "model", "gone.csv").exception, FileNotFoundError)


def test_errors_while_an_artefact_is_tried_are_one_line(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("The artefact does not run\nin a fresh process.")

    monkeypatch.setattr(runs, "export", fail)
    found = call("export", "a", "tflite", "b")
    assert (found.exit_code, found.stderr) == (
        1,
        "Error: The artefact does not run in a fresh process.\n",
    )


def test_a_reader_that_goes_away_is_no_error(monkeypatch):
    def fail():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(runs, "names", fail)
    assert call("list").stderr == ""


# ------------------------------------------------------------------------------------ Ctrl-C


def as_an_error(*_, **__):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemError("Objects/listobject.c:338: bad argument to internal function") from None


def as_nothing(*_, **__):
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    time.sleep(60)


@pytest.mark.parametrize("c_code", [as_an_error, as_nothing])
def test_ctrl_c_that_comes_out_of_c_code_as_something_else(monkeypatch, c_code):
    monkeypatch.setattr(runs, "export", c_code)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    try:
        found = call("export", "a", "tflite", "b")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (found.exit_code, found.stderr) == (1, "\nAborted!\n")
    assert time.monotonic() - start < 30


def test_ctrl_c_does_not_cut_a_clean_up_short(monkeypatch):
    done = []

    def with_long_clean_up(*_, **__):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            for _ in range(12):
                time.sleep(0.1)
            done.append(True)

    monkeypatch.setattr(runs, "export", with_long_clean_up)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = call("export", "a", "tflite", "b")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (found.exit_code, found.stderr) == (1, "\nAborted!\n")
    assert done == [True]


# What starts a test run in the background may have it ignore SIGINT, which a child inherits.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from kerasllm.cli import main; main()"
)


def interrupt(arguments, folder, under_way):
    """Start a command, wait until it is under way, press Ctrl-C; check that nothing is left."""
    rest = folder / "temporary"
    rest.mkdir()
    before = names(folder)
    path = folder.parent / "stderr.txt"
    with path.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            cwd=folder,
            env={**ENVIRONMENT, "TMPDIR": str(rest)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # a group of its own, as in a terminal
        )
        try:
            deadline = time.monotonic() + 120
            while not under_way(path.read_text(encoding="utf-8")):
                assert process.poll() is None, path.read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    shown = path.read_text(encoding="utf-8")
    assert process.returncode == 1
    assert output == b""
    assert shown.endswith("\nAborted!\n")
    assert "Traceback" not in shown
    assert names(folder) == before
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return shown


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_ctrl_c_while_training(folder):
    write_csv(folder / "train.csv", rows(400))
    arguments = ["train", "bert_tiny", "train.csv", "new/out", "--epochs", "500"]
    shown = interrupt(arguments, folder, lambda shown: "epoch 2/500" in shown)
    assert all(line.startswith(("epoch", "Aborted!")) or not line for line in shown.split("\n"))


def test_ctrl_c_while_exporting(trained, folder):
    rooms = []

    def under_way(shown):
        rooms[:] = (folder / "serving").glob(".1-*/1/saved_model.pb")
        return rooms

    arguments = ["export", str(trained.folder), "saved_model", "serving"]
    assert interrupt(arguments, folder, under_way) == "\nAborted!\n"
