import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from kerasllm.export import TARGETS, Report, verify


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Writes a script as a runner and returns its name."""
    monkeypatch.setattr(verify, "RUNNERS", tmp_path)

    def write(code):
        (tmp_path / "run_probe.py").write_text("import json, os, sys, time\n" + code)
        return "run_probe.py"

    return write


ECHO = "json.dump({0}, open(sys.argv[2], 'w'))"


def test_run_carries_question_and_answer(runner):
    name = runner(ECHO.format("json.load(open(sys.argv[1]))"))
    question = {"text": ["é\udc80 好", ""], "number": 0.1 + 0.2, "not": float("inf")}
    assert verify.run(name, question) == question


def test_run_works_from_any_folder_and_hides_the_gpu(runner, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "json.py").write_text("raise ImportError('from the working folder')")
    name = runner(ECHO.format("os.environ['CUDA_VISIBLE_DEVICES']"))
    assert verify.run(name, None) == "-1"


def test_run_tells_the_end_of_what_a_failed_process_said(runner):
    name = runner("print('noise\\n' * 999, file=sys.stderr)\nraise KeyError('the\\n cause')")
    with pytest.raises(RuntimeError, match=r"\(run_probe.py, exit code 1\).*KeyError: ") as error:
        verify.run(name, None)
    assert "noise" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match=r"exit code 3.*nothing"):
        verify.run(runner("sys.exit(3)"), None)


def test_run_ends_a_process_that_takes_too_long(runner, tmp_path):
    name = runner(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not answer within 2 s"):
        verify.run(name, None, timeout=2)
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("name", ["run_saved_model.py", "run_tflite.py"])
def test_runners_refuse_what_an_artefact_must_not_need(name):
    code = f"""
import importlib, runpy
runpy.run_path({str(verify.RUNNERS / name)!r})
for package in ("kerasllm", "keras_nlp", "keras_hub"):
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"import of {package} halted; None in sys.modules"
        for package in ("kerasllm", "keras_nlp", "keras_hub")
    ]


def test_compare_counts_differences_and_flips():
    expected = [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]
    received = [[0.8, 0.2], [0.4, 0.6], [0.2, 0.8]]
    numbers = verify.compare(expected, received)
    assert numbers["sentences"] == 3
    assert numbers["label_flips"] == 1
    assert numbers["largest_difference"] == pytest.approx(0.1)
    assert numbers["mean_difference"] == pytest.approx(0.4 / 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_never_pass(value):
    expected, received = [[0.9, 0.1]] * 20, [[0.9, 0.1]] * 19 + [[value, 0.1]]
    assert verify.compare(expected, received)["largest_difference"] == float("inf")
    with pytest.raises(ValueError, match=r"a largest difference of inf"):
        verify.check_difference(expected, received, 1e9, "It")
    with pytest.raises(ValueError, match=r"a mean difference of inf"):
        verify.check_labels(expected, received, 1e9, "It")


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shape \(2, 1\). Received: \(1, 2\)"):
        verify.compare([[1.0], [1.0]], [[1.0, 0.0]])


def test_differences_up_to_the_tolerance_pass():
    expected = np.array([[0.75, 0.25]])
    assert verify.check_difference(expected, expected + 0.125, 0.125, "It")["label_flips"] == 0
    with pytest.raises(
        ValueError, match=r"It must give .* within 0.12. Received: .* of 0.12 and 0 "
    ):
        verify.check_difference(expected, expected + 0.125, 0.12, "It")


def test_labels_may_flip_where_keras_is_unsure():
    sure, unsure = [[0.8, 0.2]], [[0.52, 0.48]]
    expected = np.array(sure * 20 + unsure * 5)
    received = np.array(sure * 20 + [[0.48, 0.52]] * 5)
    assert verify.check_labels(expected, received, 0.05, "It")["label_flips"] == 5
    received[:2] = [0.4, 0.6]
    assert verify.check_labels(expected, received, 0.05, "It")["label_flips"] == 7
    received[2] = [0.4, 0.6]
    with pytest.raises(ValueError, match=r"3 label flips in 20 clear sentences"):
        verify.check_labels(expected, received, 0.05, "It")


def test_equal_labels_with_far_off_scores_fail():
    expected, received = np.array([[0.95, 0.05]] * 10), np.array([[0.55, 0.45]] * 10)
    with pytest.raises(ValueError, match=r"0 label flips .* a mean difference of 0.4"):
        verify.check_labels(expected, received, 0.05, "It")


def test_one_class_is_no_special_case():
    assert verify.check_labels([[1.0]], [[1.0]], 0.05, "It")["label_flips"] == 0


def test_report_is_frozen_and_plain(tmp_path):
    report = Report(
        *("tflite", "int8", "é.tflite", 3, 2_500_000, 4.0, 2.0),
        **dict(largest_difference=0.5, mean_difference=0.25, label_flips=1),
        **dict(checks=("a",), warnings=("b",)),
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.label_flips = 0
    report.write(tmp_path / "report.json")
    fields = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert fields == {**report.to_dict(), "checks": ["a"], "warnings": ["b"]}
    assert list(fields) == [field.name for field in dataclasses.fields(Report)]
    for part in ("tflite (int8) é.tflite", "2.5 MB", "5.0e-01", "2.0 ms (Keras 4.0)", "WARNING"):
        assert part in str(report)


def test_built_in_sentences_hold_what_breaks_exports():
    assert "" in verify.SENTENCES
    assert " " in verify.SENTENCES
    assert max(map(len, verify.SENTENCES)) > 2000
    characters = set("".join(verify.SENTENCES))
    assert {"é", "好", "ч", "👍", "A"} <= characters
    assert len(set(verify.SENTENCES)) == len(verify.SENTENCES)


def test_targets_are_named_as_the_command_line_names_them():
    names = ["litert_lm", "saved_model", "tflite"]
    assert sorted(TARGETS) == names
    assert [TARGETS[name].__name__ for name in names] == [f"to_{name}" for name in names]
