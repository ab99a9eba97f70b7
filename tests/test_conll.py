"""Files of words and tags give sentences, and every bad line is named."""

import re

import pytest

from kerasllm.data import read_rows

COLUMNS = ("tokens", "tags")


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("x.conll", "New\tB-LOC\nYork\tI-LOC\n\t\n\t\nYes\tO\n", [1, 5]),
        ("x.bmes", "New B-LOC\r\nYork I-LOC\r\n\r\nYes O", [1, 4]),
        ("x.bio", "\ufeff\n\nNew  B-LOC \nYork  I-LOC\n \nYes  O\n\n\n", [3, 6]),
        (
            "X.CONLL",
            "-DOCSTART- -X- O O\n\nNew NNP B-NP B-LOC\nYork NNP I-NP I-LOC\n\nYes UH O O\n",
            [3, 6],
        ),
        ("x.annotated", "New\tNew York\tB-LOC\nYork\t\tI-LOC\n\nYes\tYes\tO\n", [1, 4]),
    ],
)
def test_files_give_sentences(tmp_path, name, content, lines):
    rows = read_rows(write(tmp_path, name, content), COLUMNS)
    assert rows == [
        {"tokens": ["New", "York"], "tags": ["B-LOC", "I-LOC"]},
        {"tokens": ["Yes"], "tags": ["O"]},
    ]
    assert [row.where for row in rows] == [f"{name}:{line}" for line in lines]


def test_words_keep_their_characters(tmp_path):
    content = '\u3000 O\n\u00a0x O\n#tag O\n" O\n\u2028 O\n'
    (row,) = read_rows(write(tmp_path, "x.bmes", content), COLUMNS)
    assert row["tokens"] == ["\u3000", "\u00a0x", "#tag", '"', "\u2028"]


def test_words_without_tags(tmp_path):
    path = write(tmp_path, "x.conll", "New\nYork\n\nYes\n")
    assert read_rows(path, ["tokens"]) == [{"tokens": ["New", "York"]}, {"tokens": ["Yes"]}]
    with pytest.raises(ValueError, match=r"x.conll:1: there must be a column `tags`"):
        read_rows(path, COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("New\tB-LOC\nYork\n", "x.conll:2: the line must have a word and its tag in 2 fields"),
        ("New\tB-LOC\nYork\t \n", "x.conll:2: the line must have a word and its tag in 2 fields"),
        ("New\tB-LOC\n\n\tO\n", "x.conll:3: the line must have a word and its tag in 2 fields"),
        ("New\nYork\tO\n", "x.conll:2: the line must have a word alone"),
        (b"New\tO\n\xff\tO\n", "x.conll:2: the text must be UTF-8"),
        ("\n\n", "`source` must hold rows"),
        ("-DOCSTART- O\n", "`source` must hold rows"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        read_rows(write(tmp_path, "x.conll", content), COLUMNS)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("path", "count", "words"),
    [
        ("wnut17/wnut17train.conll", 3394, 62730),
        ("wnut17/emerging.dev.conll", 1009, 15733),
        ("wnut17/emerging.test.annotated", 1287, 23394),
        ("resume_ner/test.char.bmes", 477, 15100),
    ],
)
def test_public_files(data_dir, path, count, words):
    rows = read_rows(data_dir / path, COLUMNS)
    assert len(rows) == count
    assert sum(len(row["tokens"]) for row in rows) == words
    assert all(len(row["tokens"]) == len(row["tags"]) for row in rows)
