"""Files in SQuAD's layout give questions, and every bad part is named."""

import json
import re

import pytest

from kerasllm.data import read_rows
from kerasllm.data.squad import gold_answers

COLUMNS = ("question", "context", "answers")
CONTEXT = "One or two."
ANSWER = {"text": "two", "answer_start": 7}


def squad(*items):
    paragraphs = [{"context": CONTEXT, "qas": list(items)}]
    return {"version": "v2.0", "data": [{"title": "x", "paragraphs": paragraphs}]}


def read(folder, content, **options):
    path = folder / "x.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return read_rows(path, COLUMNS, **options)


def test_questions_with_and_without_an_answer(tmp_path):
    rows = read(
        tmp_path,
        squad(
            {"id": "a", "question": "How many?", "answers": [ANSWER]},
            {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
            {"id": "c", "question": "Who?", "is_impossible": True, "plausible_answers": [ANSWER]},
        ),
        optional=("id",),
    )
    assert rows == [
        {"id": "a", "question": "How many?", "context": CONTEXT, "answers": [ANSWER]},
        {"id": "b", "question": "Why?", "context": CONTEXT, "answers": []},
        {"id": "c", "question": "Who?", "context": CONTEXT, "answers": []},
    ]
    assert [row.where for row in rows] == [
        f"x.json:data[0].paragraphs[0].qas[{i}]" for i in range(3)
    ]


def test_questions_to_be_answered_need_no_answers(tmp_path):
    content = squad({"id": "a", "question": "How many?"})
    with pytest.raises(ValueError, match=r"qas\[0\]: there must be a column `answers`"):
        read(tmp_path, content)  # they are not the same as impossible ones
    (row,) = read_rows(tmp_path / "x.json", COLUMNS[:2], optional=("id", "answers"))
    assert row == {"id": "a", "question": "How many?", "context": CONTEXT}


def test_other_json_is_read_as_before(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n', encoding="utf-8")
    assert [row["text"] for row in read_rows(path)] == ["a", "b"]
    path.write_text('{"text": "a", "label": 1, "data": 3}', encoding="utf-8")
    assert read_rows(path) == [{"text": "a", "label": 1}]


def test_rows_in_json_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    row = {"question": "How many?", "context": CONTEXT, "answers": [ANSWER]}
    path.write_text(json.dumps(row), encoding="utf-8")
    assert read_rows(path, COLUMNS) == [row]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": [{}]}, "x.json:data[0]: there must be `paragraphs`, a list. Received: NoneType"),
        ({"data": ["a"]}, "x.json:data[0]: there must be `paragraphs`, a list."),
        (
            {"data": [{"paragraphs": [{"context": CONTEXT}]}]},
            "x.json:data[0].paragraphs[0]: there must be `qas`, a list.",
        ),
        (
            squad({"answers": []}),
            "x.json:data[0].paragraphs[0].qas[0]: there must be `question`, a str.",
        ),
        (
            squad({"question": "Who?", "answers": ANSWER}),
            "x.json:data[0].paragraphs[0].qas[0]: there must be `answers`, a list. Received: dict",
        ),
    ],
)
def test_bad_parts_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([], []),
        ([ANSWER, ANSWER], [("two", 7), ("two", 7)]),
        ({"text": [], "answer_start": []}, []),
        ({"text": ["One", "two"], "answer_start": [0, 7]}, [("One", 0), ("two", 7)]),
    ],
)
def test_gold_answers(answers, wanted):
    assert gold_answers({"answers": answers}) == wanted


@pytest.mark.parametrize(
    "answers", [["two"], [{"text": "two"}], {"text": ["a"], "answer_start": []}, None]
)
def test_gold_answers_must_be_answers(answers):
    with pytest.raises(ValueError, match="`answers` must be a list of dicts"):
        gold_answers({"answers": answers})


@pytest.mark.parametrize(
    ("path", "count"),
    [("squadshifts/new_wiki_v1.0.json", 7938), ("squad_v1.1/dev-v1.1.json", 10570)],
)
def test_public_files(data_dir, path, count):
    rows = read_rows(data_dir / path, COLUMNS)
    assert len(rows) == count
    for row in rows:
        for text, start in gold_answers(row):
            assert row["context"][start : start + len(text)] == text
