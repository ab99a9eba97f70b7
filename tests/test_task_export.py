"""What each task exports: texts in, answers out, as the task itself gives them in Python."""

import functools
import json
import random
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_task import tiny_config

from kerasllm import families, runs
from kerasllm.backbones import Transformer
from kerasllm.data.sentences import sentences
from kerasllm.export import artefact as artefacts
from kerasllm.export import (
    load_artefact,
    saved_model,
    span_finder,
    to_saved_model,
    to_tflite,
    verify,
)
from kerasllm.export.span_finder import SpanFinder
from kerasllm.export.tagger import Tagger, sentences_in_graph, words_in_graph
from kerasllm.export.text_generator import TextGenerator
from kerasllm.models import (
    SentenceEncoder,
    Seq2SeqLM,
    SpanLabeler,
    TextClassifier,
    TokenClassifier,
)
from kerasllm.tasks import (
    TASKS,
    extractive_summarization,
    token_classification,
    translation,
)
from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from kerasllm.tokenizers.offsets_in_graph import OffsetsInGraph
from kerasllm.tokenizers.windows_in_graph import make_windows
from kerasllm.tokenizers.words_in_graph import WordsInGraph

MAX_LENGTH = 40
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
TEXTS = [
    *verify.SENTENCES,
    "Café naïve ÉCOLE, don't  stop: l’eau, U.S., @user #tag",
    "北京大学 is in 北京; e\u0301te\u0301 ﬁne 生于1963年,abc",
    "\tlow lower\u00a0lowest 😀 low 👩\u200d💻 a\u200db\u200b \u3000",
    "see http://example.com/ü?x=1#y ftp://ü and İstanbul ŒUVRE ß ½",
    "안녕 \u0301x a\u0301\u0323 \u0e33 \x85 \x1c \U00020000",
]
# What strings are made of at random: letters, marks, spaces and what is neither.
PIECES = [
    *"ab Zé,.'@#_-’/:。!?\n\t",
    *("\u0301", "\u0323", "\u200d", "\u200b", "北", "京", "😀", "\u00a0", "\u3000", "İ", "ß", "ﬁ"),
    *("½", "\u0308", "가", "\u1100", "\u00ad", "\u2028", "://", "low", " the ", "1", "##"),
]


def fuzzed(count, seed=0):
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.randrange(30))) for _ in range(count)]


@functools.cache
def tokenizer_of(kind):
    texts = [*TEXTS * 3, "low lower lowest stop"]
    if kind == "wordpiece":
        return WordPieceTokenizer.train(texts, vocab_size=400)
    if kind == "cased":
        return WordPieceTokenizer.train(texts, vocab_size=400, lowercase=False)
    if kind == "sentencepiece":
        return SentencePieceTokenizer.train(texts, vocab_size=400)
    special = {"pad": "<pad>", "cls": "<s>", "sep": "</s>", "unk": "<unk>"}
    found = ByteLevelBPETokenizer.train(texts, vocab_size=420, special_tokens=special)
    if kind == "bpe":
        return found
    pipeline = json.loads(found._to_json())  # that puts a space before a text
    pipeline["pre_tokenizer"]["add_prefix_space"] = True
    pipeline["post_processor"]["add_prefix_space"] = kind == "prefix"
    return ByteLevelBPETokenizer(pipeline, special_tokens=special)


@functools.cache
def graph_of(kind):
    return tokenizer_of(kind).in_graph()


def backbone(tokenizer):
    sizes = {"max_length": MAX_LENGTH, "initializer_range": 0.5}
    return Transformer(tiny_config(tokenizer.vocab_size, **sizes), name="backbone")


@functools.cache
def model_of(task, kind="wordpiece"):
    """A tiny random model of a task."""
    keras.utils.set_random_seed(5)
    tokenizer = tokenizer_of(kind)
    options = {"family": "bert", "tokenizer": tokenizer, "task": task}
    if task == "question_answering":
        return SpanLabeler(backbone(tokenizer), **options)
    if task == "contrastive":
        return SentenceEncoder(backbone(tokenizer), max_length=24, **options)
    if task == "token_classification":
        return TokenClassifier(len(TAGS), backbone(tokenizer), labels=TAGS, **options)
    if task == "extractive_summarization":
        labels = extractive_summarization.LABELS
        return TokenClassifier(2, backbone(tokenizer), labels=labels, **options)
    labels = ("score",) if task == "text_regression" else ("red", "green", "blue")
    return TextClassifier(len(labels), backbone(tokenizer), labels=labels, **options)


# Tasks, and the tokenizers that they are exported with: others are tried without, which is quicker.
EXPORTED = {
    "token_classification": "wordpiece",
    "question_answering": "bpe",
    "contrastive": "wordpiece",
    "multi_label": "bpe",
    "text_regression": "bpe",
    "extractive_summarization": "bpe",
}
# The processes that an export is verified in; `test_saved_model` does so with the classifier's.
VERIFIED = {
    "token_classification": ("run_saved_model.py", "run_c_api.py"),
    "question_answering": ("run_saved_model.py", "run_c_api.py"),
    "contrastive": ("run_c_api.py",),
    "text_regression": ("run_c_api.py",),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function from a task to the folder and the report of its verified export."""

    @functools.cache
    def export(task):
        folder = tmp_path_factory.mktemp(task)
        model = model_of(task, EXPORTED[task])
        with pytest.MonkeyPatch.context() as patch:
            # As a whole: what is put back into a dict comes last in it.
            kept = {name: saved_model.PROCESSES[name] for name in VERIFIED.get(task, ())}
            patch.setattr(saved_model, "PROCESSES", kept)
            if not kept:
                numbers = {"sentences": 8, "milliseconds": 1.0, "largest_difference": 0.0}
                numbers["mean_difference"] = 0.0
                patch.setattr(saved_model, "_ask", lambda *_: (numbers, ()))
            return folder, to_saved_model(model, folder, texts=TEXTS[:8])

    return export


# ---------------------------------------------------------------- the parts of the graphs


def test_words_are_those_of_python():
    texts = [*TEXTS, *fuzzed(200)]
    words, starts = tf.function(words_in_graph, autograph=False)(tf.constant(texts))
    for text, row, begins in zip(texts, words.to_list(), starts.to_list()):
        wanted = token_classification.words_of({"text": text})
        assert [word.decode() for word in row] == [word for word, _, _ in wanted], text
        assert begins == [start for _, start, _ in wanted]


def test_sentences_are_those_of_python():
    texts = [*TEXTS, "Pi is 3.14. Is it? 是的。好.再见\n\n a! \u3000b?!c", *fuzzed(200)]
    found = tf.function(sentences_in_graph, autograph=False)(tf.constant(texts))
    for text, row in zip(texts, found.to_list()):
        assert [part.decode() for part in row] == sentences(text), text


@pytest.mark.parametrize("kind", ["wordpiece", "cased", "bpe", "prefix", "sentencepiece"])
def test_tokens_that_begin_words(kind):
    tokenizer = tokenizer_of(kind)
    texts = [*TEXTS, *fuzzed(100)]
    rows = [[word for word, *_ in token_classification.words_of({"text": t})] for t in texts]
    first_tokens = WordsInGraph(tokenizer, graph_of(kind))
    ids, first = tf.function(first_tokens, autograph=False)(tf.ragged.constant(rows, tf.string))
    windows = tokenizer.windows([" ".join(row) for row in rows], max_length=4096)
    before = len(tokenizer.row_ends[0])
    for row, found, places, offsets in zip(rows, ids.to_list(), first.to_list(), windows.offsets):
        assert found == tokenizer.encode(" ".join(row)), row
        bounds = token_classification._bounds(row)
        tokens, words = token_classification._first_tokens(offsets, *bounds)
        wanted = np.full(len(row), -1)
        wanted[words] = tokens - before
        assert places == wanted.tolist(), row


@pytest.mark.parametrize("kind", ["wordpiece", "cased", "bpe", "prefix"])
def test_places_of_tokens(kind):
    tokenizer, texts = tokenizer_of(kind), [*TEXTS, *fuzzed(100)]
    places = OffsetsInGraph(tokenizer, graph_of(kind))
    found = tf.function(places, autograph=False)(tf.constant(texts))
    windows = tokenizer.windows(texts, max_length=4096)
    before = len(tokenizer.row_ends[0])
    for text, ids, starts, ends, offsets in zip(
        texts, *(part.to_list() for part in found), windows.offsets
    ):
        assert ids == tokenizer.encode(text)
        wanted = offsets[before : before + len(ids)]
        # Where a token stands that is of no character is of no matter.
        solid = wanted[:, 1] > wanted[:, 0]
        assert (np.array(ends) > np.array(starts)).tolist() == solid.tolist()
        assert np.stack([starts, ends], 1).reshape(-1, 2)[solid].tolist() == wanted[solid].tolist()


@pytest.mark.parametrize(("kind", "max_length", "stride"), [("wordpiece", 24, 7), ("bpe", 16, 99)])
def test_windows_of_contexts(kind, max_length, stride):
    tokenizer, graph = tokenizer_of(kind), graph_of(kind)
    texts, questions = TEXTS, TEXTS[::-1]
    wanted = tokenizer.windows(questions, texts, max_length=max_length, stride=stride)
    inputs, row, tokens, before = make_windows(
        tokenizer._template,
        graph.encode(tf.constant(questions)),
        graph.encode(tf.constant(texts)),
        max_length=max_length,
        stride=stride,
        pad_id=tokenizer.pad_id,
    )
    assert row.numpy().tolist() == wanted.texts.tolist()
    assert inputs.keys() == wanted.inputs.keys()
    for name, value in wanted.inputs.items():
        np.testing.assert_array_equal(inputs[name], value)
    first = np.array([np.flatnonzero(row[:, 0] >= 0)[:1].sum() for row in wanted.offsets])
    some = tokens.row_lengths().numpy() > 0
    assert before.numpy()[some].tolist() == first[some].tolist()


def test_what_no_graph_can_tell():
    with pytest.raises(ValueError, match="`tokenizer` must be WordPiece.*SentencePieceTokenizer"):
        SpanFinder(model_of("question_answering", "sentencepiece"))
    with pytest.raises(ValueError, match="Received: ByteLevelBPETokenizer with a space before"):
        SpanFinder(model_of("question_answering", "kept prefix"))
    with pytest.raises(ValueError, match="don't reach over a space.* Received: a space before"):
        Tagger(model_of("token_classification", "kept prefix"))
    special = WordPieceTokenizer(tokenizer_of("wordpiece").vocab, allow_special_tokens=True)
    with pytest.raises(ValueError, match="WordPieceTokenizer with allow_special_tokens=True"):
        OffsetsInGraph(special, special.in_graph())


# ---------------------------------------------------------------- the signatures


@pytest.mark.parametrize(
    ("module", "task", "kind"),
    [
        (Tagger, "token_classification", "sentencepiece"),
        (SpanFinder, "question_answering", "wordpiece"),
    ],
)
def test_signatures_answer_as_python_does(module, task, kind):
    """What `check` compares, here with texts of every kind and without leaving the process."""
    made = module(model_of(task, kind), 32, [*TEXTS, *fuzzed(30)])
    signatures = made.signatures()
    answers = []
    for call in made.calls():
        inputs = {
            name: tf.constant(_bytes(value)) if name not in made.input_names else value
            for name, value in call["inputs"].items()
        }
        if call["signature"] == "token_ids":
            inputs = {name: tf.constant(value, tf.int32) for name, value in inputs.items()}
        elif not any(map(len, call["inputs"].values())):
            inputs = {name: tf.constant([], tf.string) for name in inputs}
        found = signatures[call["signature"]](**inputs)
        outputs = {name: _text(value.numpy().tolist()) for name, value in found.items()}
        answers.append({"outputs": outputs, "seconds": 0.0})
    expected, _ = made.expected()
    numbers = made.check(expected, answers, 1e-5, "It")
    assert numbers["sentences"] == len(TEXTS) + 30
    for name, values in answers[-1]["outputs"].items():  # a check that sees nothing would pass too
        wrong = [*answers[:-1], {**answers[-1], "outputs": {name: values[::-1]}}]
        with pytest.raises(ValueError, match="It must give"):
            made.check(expected, wrong, 1e-5, "It")


def test_windows_of_a_long_context_are_read_some_after_others(monkeypatch):
    monkeypatch.setattr(span_finder, "WINDOWS", 3)
    read = []

    def model(inputs):
        read.append(len(inputs["token_ids"]))
        return tf.stack([inputs["token_ids"], inputs["padding_mask"]], axis=-1)

    for windows, sizes in ((7, [3, 3, 1]), (6, [3, 3]), (2, [2])):
        ids = tf.random.normal((windows, 5))
        inputs = {"token_ids": ids, "padding_mask": -ids}
        found = SpanFinder._logits(types.SimpleNamespace(model=model), inputs)
        np.testing.assert_array_equal(found, np.stack([ids, -ids], axis=-1))
        assert read == sizes
        read.clear()


def _bytes(value):
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    return value.encode("latin-1")


def _text(value):
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


@pytest.mark.parametrize("task", EXPORTED)
def test_an_artefact_knows_its_task_and_gives_what_the_task_gives(exported, task):
    folder, report = exported(task)
    assert report.largest_difference <= 1e-5
    assert report.sentences == 8
    assert len(report.checks) == 1 + len(VERIFIED.get(task, ()))
    artefact, model = load_artefact(folder), model_of(task, EXPORTED[task])
    assert artefact.task == task
    assert artefact.labels == tuple(getattr(model, "labels", ()))
    rows = [{"text": text, "source": text, "question": "Why?", "context": text} for text in TEXTS]
    columns = TASKS[task].INPUTS
    rows = [{name: row[name] for name in columns} for row in rows]
    found, wanted = artefact.predict(rows), TASKS[task].predict(model, rows)
    words = [TASKS[task].answers(model, rows, outputs) for outputs in (found, wanted)]
    assert_alike(*words)


def assert_alike(found, wanted):
    """Equal, but for numbers, which may differ a little."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        found, wanted = list(found.values()), list(wanted.values())
    if isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for pair in zip(found, wanted):
            assert_alike(*pair)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-5)
    else:
        assert found == wanted


def test_pairs_and_servings_own_methods(exported):
    folder, _ = exported("text_regression")
    model = model_of("text_regression", "bpe")
    rows = [{"text": text, "text_pair": other} for text, other in zip(TEXTS, TEXTS[3:])]
    found = load_artefact(folder).predict(rows)
    np.testing.assert_allclose(found, TASKS["text_regression"].predict(model, rows), atol=1e-5)
    with pytest.raises(ValueError, match="`text_pair` in all or in none. Received: 1 of 2"):
        load_artefact(folder).predict([rows[0], {"text": "alone"}])
    with pytest.raises(ValueError, match="`rows` must hold at least one row"):
        load_artefact(folder).predict([])
    features = {"text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"fine"]))}
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    for task, outputs, name in (
        ("text_regression", ["outputs"], "regress"),
        ("multi_label", ["classes", "scores"], "classify"),
    ):
        path = exported(task)[0] / "1"
        signature = tf.saved_model.load(str(path)).signatures[name]
        assert sorted(signature(inputs=tf.constant([example]))) == outputs
        saved = saved_model.saved_model_pb2.SavedModel.FromString(
            (path / "saved_model.pb").read_bytes()
        )
        method = saved.meta_graphs[0].signature_def[name].method_name
        assert method == f"tensorflow/serving/{name}"


def test_runs_with_the_artefact_of_a_tagger(exported, tmp_path):
    model = model_of("token_classification")
    model.save_pretrained(tmp_path / "model")
    rows = [token_classification.words_of({"text": text}) for text in TEXTS[2:12]]
    chance = random.Random(1)
    lines = [f"{word} {chance.choice(TAGS)}\n" for row in rows for word, *_ in [*row, ("\n",)]]
    text = "".join("\n" if line.startswith("\n") else line for line in lines)
    (tmp_path / "rows.conll").write_text(text, encoding="utf-8")
    artefact = exported("token_classification")[0]
    both = artefact, tmp_path / "model"
    found, wanted = (runs.evaluate(path, tmp_path / "rows.conll").to_dict() for path in both)
    assert found == wanted
    for options in ({"data": tmp_path / "rows.conll"}, {"texts": TEXTS[:4]}):
        found, wanted = (runs.predict(path, **options) for path in both)
        assert any(answer["entities"] for answer in wanted)
        assert_alike(found, wanted)


def test_a_translator_as_an_artefact(tmp_path, monkeypatch):
    numbers = dict(sentences=1, milliseconds=1.0)
    # What takes long, and is tried with other models that write texts.
    monkeypatch.setattr(saved_model, "_ask", lambda *_: (numbers, ()))
    monkeypatch.setattr(TextGenerator, "expected", lambda self: ([], 1.0))
    monkeypatch.setattr(artefacts, "NEW_TOKENS", 6)
    keras.utils.set_random_seed(2)
    tokenizer = tokenizer_of("wordpiece")
    config = families.size_config(
        "transformer_tiny",
        vocab_size=tokenizer.vocab_size,
        max_length=MAX_LENGTH,
        pad_id=tokenizer.pad_id,
    )
    model = Seq2SeqLM(config, family="transformer", tokenizer=tokenizer, task="translation")
    to_saved_model(model, tmp_path)
    artefact = load_artefact(tmp_path)
    assert artefact.task == "translation"
    rows = [{"source": text} for text in TEXTS[2:5]]
    assert artefact.predict(rows) == translation.predict(model, rows, max_new_tokens=6)
    (tmp_path / "1" / "assets.extra" / "task.json").unlink()
    with pytest.raises(ValueError, match="must be an artefact that knows its task"):
        runs.predict(tmp_path, ["x"])


def test_what_has_no_such_export(tmp_path):
    with pytest.raises(ValueError, match="`model` must be one of .*span_labeler.* Received: a Seq"):
        to_saved_model(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), tmp_path)
    for task in ("token_classification", "question_answering", "contrastive"):
        with pytest.raises(ValueError, match="`model` must be a text classifier. Received: "):
            to_tflite(model_of(task), tmp_path / "x.tflite", max_length=16)
    with pytest.raises(ValueError, match="`max_length` must be from 3 to 40"):
        to_saved_model(model_of("token_classification"), tmp_path, max_length=41)
    assert [*tmp_path.iterdir()] == []
