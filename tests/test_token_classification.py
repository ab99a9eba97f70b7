import json
import pathlib
import re

import keras
import numpy as np
import pytest
import seqeval.metrics
import seqeval.metrics.v1
from seqeval.scheme import IOBES
from tiny_task import tiny_config

from kerasllm.backbones import Transformer
from kerasllm.data.rows import Row
from kerasllm.evaluation.entities import (
    EntitiesResult,
    entities_of,
    evaluate_entities,
    scheme_of,
)
from kerasllm.models import TokenClassifier
from kerasllm.tasks import evaluate, token_classification
from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from kerasllm.training import fit

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
KINDS = (WordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceTokenizer)
# Words that an entity begins and goes on with.
WORDS = {
    "PER": (("ann", "noé", "zoë"), ("smith", "jones")),
    "LOC": (("new", "北京"), ("york", "street")),
}
OTHERS = ("the", "saw", "went", "to", "and", ",", ".", "slowly")
# Words of one piece and of several, accents, Chinese, and what a tokenizer may leave nothing of.
AWKWARD = [
    "Zoë",
    "Lee-Noé",
    "unbelievably",
    "\u200d",
    "北",
    "京",
    "1",
    "9",
    "",
    "don't",
    "x y",
    ".",
]


def sentences(count, seed=0):
    """Sentences in which each word tells its tag."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        row = Row({"tokens": [], "tags": []}, where=f"rows[{i}]")
        for kind in random.choice(["PER", "LOC", "O"], random.integers(1, 4)):
            words = [random.choice(each).item() for each in WORDS.get(kind, (OTHERS, OTHERS))]
            tags = ["O", "O"] if kind == "O" else [f"B-{kind}", f"I-{kind}"]
            size = random.integers(1, 3)
            # Entities don't touch.
            row["tokens"] += [*words[:size], random.choice(OTHERS).item()]
            row["tags"] += [*tags[:size], "O"]
        rows.append(row)
    return rows


def tagger(kind=WordPieceTokenizer, labels=LABELS, max_length=64):
    keras.utils.set_random_seed(1)
    texts = token_classification.texts(sentences(60)) + [" ".join(AWKWARD)] * 4
    tokenizer = kind.train(texts, vocab_size=330)
    config = tiny_config(tokenizer.vocab_size, max_length=max_length)
    backbone = Transformer(config, name="backbone")
    return TokenClassifier(
        len(labels), backbone, 0.0, family="bert", labels=labels, tokenizer=tokenizer
    )


@pytest.fixture(scope="module")
def model():
    return tagger()


def row_of(tokens, tags=None):
    return {"tokens": list(tokens), "tags": list(tags or ["O"] * len(tokens))}


# ------------------------------------------------------------------ schemes


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O", "B-A", "I-A"], "BIO"),
        (["O"], "BIO"),
        (["B-A"], "BIO"),
        (["O", "B_A", "I_A"], "BIO"),
        (["O", "B-A", "I-A", "E-A", "S-A"], "BIOES"),
        (["O", "S-A"], "BIOES"),
        (["O", "B-A", "M-A", "E-A", "S-A"], "BMES"),
        (["B-A", "I-A", "L-A", "U-A"], "BILOU"),
        (["NN", "VB", "O"], "tags"),
        (["O", "B", "I"], "BIO"),
        (["B", "M", "E", "S"], "BMES"),
        (["NN", "B"], "tags"),
        (["M", "S"], "tags"),
    ],
)
def test_scheme_of(labels, scheme):
    assert scheme_of(labels) == scheme


@pytest.mark.parametrize(
    "labels", [["B-A", "NN"], ["B-A", "M-A", "L-A"], ["I-A", "M-A"], ["B-A", "B"]]
)
def test_labels_of_no_scheme(labels):
    with pytest.raises(ValueError, match="`labels` must be tags of one scheme"):
        scheme_of(labels)


@pytest.mark.parametrize(
    ("tags", "scheme", "wanted"),
    [
        ("B-A I-A O I-A I-B", "BIO", [("A", 0, 2), ("A", 3, 4), ("B", 4, 5)]),
        ("B-A B-A I-A", "BIO", [("A", 0, 1), ("A", 1, 3)]),
        ("B-x-y I-x-y", "BIO", [("x-y", 0, 2)]),
        ("B-A I-A E-A S-B B-A I-A O", "BIOES", [("A", 0, 3), ("B", 3, 4)]),
        ("B-A M-A E-A S-B E-A", "BMES", [("A", 0, 3), ("B", 3, 4)]),
        ("B-A I-A L-A U-B", "BILOU", [("A", 0, 3), ("B", 3, 4)]),
        ("NN O NN", "tags", [("NN", 0, 1), ("NN", 2, 3)]),
        ("B I O I", "BIO", [("_", 0, 2), ("_", 3, 4)]),
        ("B M E S B E B", "BMES", [("_", 0, 3), ("_", 3, 4), ("_", 4, 6)]),
    ],
)
def test_entities_of(tags, scheme, wanted):
    assert entities_of(tags.split(), scheme) == wanted


# ------------------------------------------------------------------ figures


def random_tags(labels, seed):
    """Sentences of random tags, and others that are the same at most words."""
    random = np.random.default_rng(seed)
    right, found = [], []
    for _ in range(60):
        tags = random.choice(labels, random.integers(1, 12))
        noise = random.choice(labels, len(tags))
        right.append(tags.tolist())
        found.append(np.where(random.random(len(tags)) < 0.7, tags, noise).tolist())
    return right, found


@pytest.mark.parametrize(
    ("letters", "seqeval_letters"),
    [("BI", "BI"), ("BIES", "BIES"), ("BMES", "BIES"), ("BILU", "BIES")],
)
def test_figures_are_those_of_seqeval(letters, seqeval_letters):
    labels = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "creative-work"))]
    right, found = random_tags(labels, seed=len(letters))
    result = evaluate_entities([row_of(tags, tags) for tags in right], found, labels)

    other = str.maketrans(letters, seqeval_letters)
    right, found = (
        [
            [tag if tag == "O" else tag[0].translate(other) + tag[1:] for tag in tags]
            for tags in all_
        ]
        for all_ in (right, found)
    )
    if letters == "BI":
        report = seqeval.metrics.classification_report(right, found, output_dict=True)
    else:
        report = seqeval.metrics.v1.classification_report(
            right, found, output_dict=True, scheme=IOBES
        )
    for scores, name in (
        *((scores, scores.name) for scores in result.classes),
        (result.overall, "micro avg"),
        (result.macro, "macro avg"),
    ):
        wanted = report[name]
        assert scores.precision == wanted["precision"]
        assert scores.recall == wanted["recall"]
        assert scores.f1 == wanted["f1-score"]
        assert scores.support == wanted["support"]
    assert len(report) == len(result.classes) + 3
    assert result.accuracy == seqeval.metrics.accuracy_score(right, found)
    assert 0.2 < result.overall.f1 < 0.9


def test_letters_alone_are_of_one_type():
    right, found = random_tags(["O", "B", "I"], seed=5)
    result = evaluate_entities([row_of(tags, tags) for tags in right], found)
    assert result.overall.f1 == seqeval.metrics.f1_score(right, found)
    assert [scores.name for scores in result.classes] == ["_"]


def test_plain_tags_count_word_by_word():
    rows = [row_of("abc", ["NN", "VB", "NN"])]
    result = evaluate_entities(rows, [["NN", "NN", "NN"]])
    assert result.scheme == "tags"
    assert result.overall.f1 == result.accuracy == 2 / 3


def test_confusion_and_worst():
    rows = [
        Row(row_of(["Ann", "in", "Rome"], ["B-PER", "O", "B-LOC"]), where="x:1"),
        Row(row_of(["a", "b"]), where="x:5"),
        Row(row_of(["Lee"], ["B-PER"]), where="x:8"),
    ]
    result = evaluate_entities(rows, [["B-LOC", "O", "O"], ["O", "B-PER"], ["B-PER"]])
    assert result.labels == ("LOC", "PER", "no entity")
    assert result.confusion == ((0, 0, 1), (1, 1, 0), (0, 1, 0))
    assert result.confusions()[0] == ("LOC", "no entity", 1)
    assert [example["where"] for example in result.worst] == ["x:1", "x:5"]
    assert result.worst[0] == {
        "text": "Ann in Rome",
        "where": "x:1",
        "gold": "Ann [PER]; Rome [LOC]",
        "found": "Ann [LOC]",
        "mistakes": 3,
    }


@pytest.mark.parametrize("count", [2, 14])
def test_a_result_is_written_and_drawn(count):
    labels = [f"{letter}-type{i}" for i in range(count) for letter in "BI"]
    right, found = random_tags([*labels, "O"], seed=3)
    result = evaluate_entities([row_of(tags, tags) for tags in right], found)
    again = EntitiesResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert next(iter(result.figures())) == "entity F1"
    (table,) = result.tables()
    assert len(table.rows) == count
    assert "all entities" in str(result)
    assert "type0" in str(result)
    for picture in result.pictures():
        picture.figure.canvas.draw()
        assert picture.title
        assert picture.alt


def test_no_entities_at_all():
    result = evaluate_entities([row_of("ab")], [["O", "O"]])
    assert result.overall.f1 == 0
    assert result.accuracy == 1
    assert result.worst == ()


def test_found_tags_must_be_as_many_as_words():
    with pytest.raises(ValueError, match="`found` must have a tag for each word"):
        evaluate_entities([row_of("ab")], [["O"]])


# ------------------------------------------------------------------ rows in and out


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_token_of_each_word_has_its_tag(kind):
    model = tagger(kind)
    tags = [LABELS[i % 5] for i in range(len(AWKWARD))]
    inputs, targets, weights = token_classification.encode(model, [row_of(AWKWARD, tags)])
    tokenizer, ids = model.tokenizer, inputs["token_ids"][0]
    assert targets.shape == weights.shape == inputs["token_ids"].shape
    places = np.flatnonzero(weights[0])
    words = [(word, tag) for word, tag in zip(AWKWARD, tags)]
    if kind is WordPieceTokenizer:  # it drops the joiner
        words.remove(("\u200d", tags[3]))
    words.remove(("", tags[8]))
    assert len(places) == len(words)
    texts = tokenizer.encode(" ".join(AWKWARD))
    start = ids.tolist().index(texts[0])
    last = start + len(texts)
    for place, end, (word, tag) in zip(places, [*places[1:], last], words):
        assert LABELS[targets[0, place]] == tag
        decoded = tokenizer.decode(ids[place:end]).strip()
        if tokenizer.unk_id not in ids[place:end]:
            wanted = plain(word) if kind is WordPieceTokenizer else word
            assert decoded.replace(" ", "") == wanted.replace(" ", "")
    assert set(np.unique(weights)) == {0, 1}
    assert not targets[weights == 0].any()


def plain(word):
    return word.lower().replace("ë", "e").replace("é", "e")


def test_words_beyond_the_longest_row_have_no_weight(model):
    rows = [row_of(["ann", "saw", "paris", "."] * 8, ["B-PER", "O", "B-LOC", "O"] * 8)]
    inputs, targets, weights = token_classification.encode(model, rows, max_length=10)
    assert inputs["token_ids"].shape == targets.shape == (1, 10)
    # The first and the last place are special tokens'.
    assert weights[0].tolist() == [0, *[1] * 8, 0]
    assert targets[0, 1:5].tolist() == [1, 0, 3, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (row_of(["a"], ["B-ORG"]), "x:3: `tags` must be one of the 5 known labels"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, "x:3: `tags` must be a list, one for each"),
        ({"tokens": "a", "tags": ["O"]}, "x:3: `tags` must be a list, one for each"),
        ({"tokens": ["a"], "tags": "O"}, "x:3: `tags` must be a list, one for each"),
        ({"tokens": ["a"], "tags": 1}, "x:3: `tags` must be a list, one for each"),
        ({"tokens": [1], "tags": ["O"]}, "x:3: `tags` must be a list, one for each"),
    ],
)
def test_bad_rows_are_named(model, row, message):
    rows = [row_of(["a"]), Row(row, where="x:3")]
    with pytest.raises(ValueError, match=re.escape(message)):
        token_classification.encode(model, rows)
    if "must be a list" in message:
        with pytest.raises(ValueError, match=re.escape(message)):
            token_classification.head(rows)


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="`max_length` must be at most 64"):
        token_classification.encode(model, [row_of("a")], max_length=65)
    with pytest.raises(ValueError, match="`rows` must hold at least one row"):
        token_classification.predict(model, [])


def test_head_has_the_tags_of_the_rows():
    assert token_classification.head([row_of("ab", ["B-X", "O"]), row_of("a", ["A-X"])]) == {
        "labels": ("O", "A-X", "B-X")
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Ann's dog, 3.5 kg!", ["Ann's", "dog", ",", "3.5", "kg", "!"]),
        ("@ann  #tag (see http://x.y/z?a=b)", ["@ann", "#tag", "(", "see", "http://x.y/z?a=b)"]),
        ("in 北京 today we went home", ["in", "北", "京", "today", "we", "went", "home"]),
        ("张三，1963年生于IBM", [*"张三，1963年生于IBM"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words_of_a_text(text, wanted):
    words = token_classification.words_of({"text": text})
    assert [word for word, _, _ in words] == wanted
    assert all(text[start:end] == word for word, start, end in words)


@pytest.mark.parametrize("tokens", [["New", "York", "!"], [*"北京 1"], [], ["", "a"], ["a", "b"]])
def test_words_stand_in_the_text_of_their_row(tokens):
    row = {"tokens": tokens}
    text = token_classification.text_of(row)
    words = token_classification.words_of(row)
    assert [word for word, _, _ in words] == tokens
    assert all(text[start:end] == word for word, start, end in words)


def test_predict_gives_the_most_likely_tag_of_each_word(model):
    rows = [row_of(AWKWARD), row_of(["ann"]), row_of([]), row_of(["paris", "slowly"] * 5)]
    inputs, _, weights = token_classification.encode(model, rows)
    logits = keras.ops.convert_to_numpy(model(inputs))
    found = token_classification.predict(model, rows, batch_size=3)
    assert [[word.text for word in words] for words in found] == [row["tokens"] for row in rows]
    for words, values, weight in zip(found, logits, weights):
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(values[weight > 0], axis=-1))
        known = [word for word in words if word.score > 0]
        assert [word.tag for word in known] == [LABELS[i] for i in scores.argmax(axis=1)]
        np.testing.assert_allclose([word.score for word in known], scores.max(axis=1), atol=1e-5)
    lost = [word for words in found for word in words if word.score == 0]
    assert {word.text for word in lost} == {"\u200d", ""}
    assert {word.tag for word in lost} == {"O"}


def test_words_cut_off_are_outside_or_in_another_window(model):
    row = row_of(["ann", "saw", "jones"] * 8)
    (cut,) = token_classification.predict(model, [row], max_length=12)
    assert [word.score > 0 for word in cut] == [True] * 10 + [False] * 14
    assert {word.tag for word in cut[10:]} == {"O"}
    (whole,) = token_classification.predict(model, [row], max_length=12, stride=4)
    assert all(word.score > 0 for word in whole)
    (fits,) = token_classification.predict(model, [row], max_length=64, stride=4)
    (plain_,) = token_classification.predict(model, [row], max_length=64)
    assert [word[:2] for word in fits] == [word[:2] for word in plain_]


def test_windows_take_a_word_where_most_is_around_it(model):
    row = row_of(["ann", "saw", "jones", "and"] * 4)
    ids = model.tokenizer.encode(" ".join(row["tokens"]))
    assert len(ids) == 16
    tokenizer = model.tokenizer
    (found,) = token_classification.predict(model, [row], max_length=10, stride=4)
    for place, start in ((2, 0), (5, 0), (6, 4), (9, 4), (10, 8), (15, 8)):
        window = np.array([[tokenizer.cls_id, *ids[start : start + 8], tokenizer.sep_id]])
        scores = keras.ops.softmax(model(window)[0, place - start + 1])
        assert found[place].score == pytest.approx(float(keras.ops.max(scores)), abs=1e-5)


def test_a_bare_encoder_is_read_and_its_pooler_left_out():
    folder = pathlib.Path(__file__).parent / "fixtures" / "bert" / "bare"
    model = TokenClassifier.from_pretrained(folder, fresh_head=True, labels=LABELS)
    assert token_classification.predict(model, [row_of(["a", "b"])])[0][0].tag in LABELS


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def trained():
    rows = sentences(120)
    model = tagger(labels=token_classification.head(rows)["labels"])
    history = fit(
        model, rows, sentences(30, 1), epochs=5, batch_size=8, learning_rate=1e-2, progress=False
    )
    return model, history


def test_a_tagger_learns(trained):
    model, history = trained
    assert history["val_accuracy"][-1] > 0.98
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    result = evaluate(model, sentences(40, 2))
    assert isinstance(result, EntitiesResult)
    assert result.figures()["entity F1"] > 0.9


def test_entities_of_a_text(trained):
    model, _ = trained
    text = "Ann  saw Zoë Jones, slowly, and New York."
    rows = [{"text": text}]
    (answer,) = token_classification.answers(model, rows, token_classification.predict(model, rows))
    found = [(entity["text"], entity["type"]) for entity in answer["entities"]]
    assert found == [("Ann", "PER"), ("Zoë Jones", "PER"), ("New York", "LOC")]
    for entity in answer["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert 0.5 < entity["score"] <= 1
    json.dumps(answer)


def test_the_loss_is_the_mean_over_words():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    targets, weights = np.array([[1, 0, 0], [2, 3, 0]]), np.array([[1, 0, 0], [1, 1, 0]], "float32")
    found = token_classification.loss()(targets, logits, sample_weight=weights)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
    assert float(found) == pytest.approx(-(picked * weights).sum() / 3, abs=1e-5)
