"""The sample reviews are what their script makes, are split cleanly, and are worth learning."""

import re
from collections import Counter

import numpy as np
import pytest

from kerasllm.data import SAMPLES, read_rows
from kerasllm.data.samples import __file__ as samples_file
from kerasllm.data.samples.make_samples import write_samples


def test_the_files_are_what_the_script_makes(tmp_path):
    write_samples(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    folder = type(tmp_path)(samples_file).parent
    assert made == {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    assert set(made) == {f"{name}_{split}.csv" for name in SAMPLES for split in ("train", "test")}
    assert sum(map(len, made.values())) < 500_000


@pytest.mark.parametrize("name", SAMPLES)
def test_splits_are_balanced_and_share_no_text(name):
    texts = []
    for split, rows in (("train", 1600), ("test", 400)):
        read = read_rows(f"sample:{name}:{split}")
        assert Counter(row["label"] for row in read) == {
            "negative": rows // 2,
            "positive": rows // 2,
        }
        texts += [row["text"] for row in read]
    assert len(set(texts)) == 2000


@pytest.mark.parametrize("name", SAMPLES)
def test_counting_words_is_neither_useless_nor_enough(name):
    train, test = (read_rows(f"sample:{name}:{split}") for split in ("train", "test"))
    vocab = {word: i for i, word in enumerate(sorted({w for row in train for w in words(row)}))}
    weights = logistic_regression(counts(train, vocab), positive(train))
    accuracy = np.mean((counts(test, vocab) @ weights > 0) == positive(test))
    assert 0.8 <= accuracy <= 0.95


def words(row):
    return re.findall(r"[a-z']+|[\u4e00-\u9fff]", row["text"].lower())


def positive(rows):
    return np.array([row["label"] == "positive" for row in rows])


def counts(rows, vocab):
    """Which words of the vocabulary are in each row, and a column of ones for the bias."""
    result = np.zeros((len(rows), len(vocab) + 1))
    result[:, -1] = 1
    for index, row in enumerate(rows):
        result[index, [vocab[word] for word in words(row) if word in vocab]] = 1
    return result


def logistic_regression(inputs, targets, steps=300):
    weights = np.zeros(inputs.shape[1])
    for _ in range(steps):
        probabilities = 1 / (1 + np.exp(-inputs @ weights))
        weights -= inputs.T @ (probabilities - targets) / len(inputs) + 1e-3 * weights
    return weights
