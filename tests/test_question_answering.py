import json
import re
import string
from collections import Counter

import keras
import numpy as np
import pytest
from tiny_task import tiny_config

from kerasllm.backbones import Transformer
from kerasllm.data.rows import Row
from kerasllm.evaluation.answers import AnswersResult, answer_scores, evaluate_answers
from kerasllm.models import SpanLabeler
from kerasllm.tasks import evaluate, question_answering
from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from kerasllm.training import fit

KINDS = (WordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceTokenizer)
CONTEXT = (
    "Café Noé, in Zürich (京都 is far), opened in 1963;  ﬁne  e\u0301clairs 😀 cost 2½ francs."
)
ANSWERS = [
    "Café Noé",
    "Zürich",
    "京都",
    "京",
    "1963",
    "e\u0301clairs",
    "😀",
    "2½ francs",
    "francs.",
]


def question(answer, context=CONTEXT, start=None, text="What is it?"):
    start = context.index(answer) if start is None else start
    return Row(
        {
            "question": text,
            "context": context,
            "answers": [{"text": answer, "answer_start": start}],
        },
        where="x.json:4",
    )


def labeler(kind=WordPieceTokenizer, texts=(CONTEXT, "What is it?"), max_length=96):
    keras.utils.set_random_seed(1)
    tokenizer = kind.train([*texts] * 4, vocab_size=330)
    config = tiny_config(tokenizer.vocab_size, max_length=max_length)
    return SpanLabeler(Transformer(config, name="backbone"), family="bert", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def model():
    return labeler()


# ------------------------------------------------------------------ figures


def official_normalize(s):
    """`normalize_answer` of evaluate-v1.1.py and evaluate-v2.0.py, as published."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def official_f1(prediction, ground_truth):
    """`f1_score` of evaluate-v1.1.py."""
    prediction_tokens = official_normalize(prediction).split()
    ground_truth_tokens = official_normalize(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def official_f1_2(a_gold, a_pred):
    """`compute_f1` of evaluate-v2.0.py."""

    def get_tokens(s):
        return official_normalize(s).split() if s else []

    gold_toks, pred_toks = get_tokens(a_gold), get_tokens(a_pred)
    common = Counter(gold_toks) & Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


PIECES = [
    "The",
    "a",
    "AN",
    "theatre",
    "Café",
    "U.S.",
    "don't",
    "--",
    "1,963",
    "北京",
    "“x”",
    "\t",
    "É",
]


def random_answers(seed, with_none):
    random = np.random.default_rng(seed)

    def text():
        size = random.integers(0 if with_none else 1, 4)
        return " ".join(random.choice(PIECES, size))

    gold = [[text() for _ in range(random.integers(1, 4))] for _ in range(300)]
    found = [
        each[0] + " the" * random.integers(2) if random.random() < 0.4 else text() for each in gold
    ]
    return gold, found


def test_scores_are_those_of_squad_1():
    for gold, found in zip(*random_answers(0, False)):
        exact = max(float(official_normalize(found) == official_normalize(text)) for text in gold)
        f1 = max(official_f1(found, text) for text in gold)
        assert answer_scores(found, gold) == (exact, f1)


def test_scores_are_those_of_squad_2():
    seen = set()
    for gold, found in zip(*random_answers(1, True)):
        golds = [text for text in gold if official_normalize(text)] or [""]
        exact = max(int(official_normalize(found) == official_normalize(text)) for text in golds)
        f1 = max(official_f1_2(text, found) for text in golds)
        assert answer_scores(found, gold, 2.0) == (exact, f1)
        seen.add((golds == [""], found == "", f1 > 0))
    assert len(seen) > 5


def test_evaluation_is_the_mean_of_squad_1():
    gold, found = random_answers(2, False)
    rows = [
        {
            "question": "Who?",
            "context": "",
            "answers": [{"text": text, "answer_start": 0} for text in texts],
        }
        for texts in gold
    ]
    result = evaluate_answers(rows, found)
    f1s = [max(official_f1(text, each) for each in texts) for text, texts in zip(found, gold)]
    assert result.overall.f1 == pytest.approx(np.mean(f1s), abs=1e-12)
    assert result.unanswerable is None
    assert list(result.figures()) == ["F1", "exact match", "questions"]
    assert sum(group.support for group in result.lengths) == 300
    assert [example["F1"] for example in result.worst] == sorted(f1s)[:20]


def test_questions_without_an_answer():
    rows = [
        {**question("Zürich", text="Where is it?")},
        {**question("1963", text="In which year?"), "answers": []},
        {**question("1963", text="Is it?"), "answers": {"text": [], "answer_start": []}},
    ]
    result = evaluate_answers(rows, ["in Zürich", "", "1963"])
    assert result.answerable.f1 == 2 / 3
    assert result.unanswerable.f1 == result.unanswerable.exact == 0.5
    assert result.overall.exact == 1 / 3
    assert [group.name for group in result.words] == ["where", "which", "other"]
    assert [group.name for group in result.lengths] == ["no answer", "1 word"]
    assert result.worst[0]["found"] == "1963"
    assert result.worst[0]["gold"] == "(no answer)"
    again = AnswersResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert "accuracy where there is none" in str(result)
    for picture in result.pictures():
        picture.figure.canvas.draw()
        assert picture.alt


def test_as_many_answers_as_questions():
    with pytest.raises(ValueError, match="`found` must have an answer for each"):
        evaluate_answers([question("1963")], [])


# ------------------------------------------------------------------ rows in


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_tokens_of_an_answer_are_its_text(kind, answer):
    model = labeler(kind)
    row = question(answer)
    inputs, ((first, last, length),) = question_answering.encode(model, [row])
    assert length == inputs["padding_mask"].sum()
    windows = model.tokenizer.windows([row["question"]], [CONTEXT], max_length=96, stride=32)
    start, end = windows.offsets[0, first, 0], windows.offsets[0, last, 1]
    at = CONTEXT.index(answer)
    # The tokens hold the answer, and no further one than they must.
    assert start <= at
    assert at + len(answer) <= end
    assert windows.offsets[0, first, 1] > at
    assert windows.offsets[0, last, 0] < at + len(answer)
    if answer not in ("京", "francs."):
        found = CONTEXT[start:end].replace("ﬁne", "").strip(" .,;()")
        assert answer in found
        assert len(found) <= len(answer) + 1


def test_targets_of_windows(model):
    context = " ".join(["cost francs"] * 12) + " opened Zürich " + " ".join(["is far"] * 12)
    row = question("opened Zürich", context)
    inputs, targets = question_answering.encode(model, [row, {**row, "answers": []}], 24)
    windows = model.tokenizer.windows([row["question"]], [context], max_length=24, stride=8)
    count = len(windows.texts)
    assert count > 3
    assert len(targets) == 2 * count == len(inputs["token_ids"])
    ids = model.tokenizer.encode("opened Zürich")
    holding = 0
    for tokens, (first, last, length) in zip(inputs["token_ids"][:count], targets):
        assert length == (tokens != model.tokenizer.pad_id).sum()
        rows = tokens.tolist()
        places = [i for i in range(len(rows)) if rows[i : i + len(ids)] == ids]
        assert (first, last) == ((places[0], places[0] + len(ids) - 1) if places else (0, 0))
        holding += bool(places)
    assert 0 < holding < count
    assert not targets[count:, :2].any()


def test_of_several_answers_the_most_frequent_counts(model):
    row = question("Zürich")
    row["answers"] = [*row["answers"], *question("1963")["answers"], *question("1963")["answers"]]
    _, targets = question_answering.encode(model, [row])
    _, wanted = question_answering.encode(model, [question("1963")])
    np.testing.assert_array_equal(targets, wanted)


def test_an_answer_of_which_no_token_is_left(model):
    row = question("\u200d", "a \u200d b", 2)
    _, targets = question_answering.encode(model, [row])
    assert targets[0, :2].tolist() == [0, 0]


def test_bad_rows(model):
    with pytest.raises(ValueError, match="x.json:4: `answer_start` must be where the answer"):
        question_answering.encode(model, [question("Zürich", start=3)])
    with pytest.raises(ValueError, match="`rows` must hold at least one row"):
        question_answering.encode(model, [])
    with pytest.raises(ValueError, match="`max_length` must be at most 96"):
        question_answering.predict(model, [question("Zürich")], max_length=97)
    with pytest.raises(ValueError, match="`stride` must be at least 1"):
        question_answering.predict(model, [question("Zürich")], stride=0)


# ------------------------------------------------------------------ loss


def test_the_loss_is_cross_entropy_over_the_real_tokens():
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 7, 2)).astype("float32") * 3
    targets = np.array([[0, 0, 7], [2, 4, 5], [1, 1, 2]], np.int32)
    wanted, right = [], []
    for values, (first, last, length) in zip(logits.astype("float64"), targets):
        logs = values[:length] - np.log(np.exp(values[:length]).sum(axis=0))
        wanted.append(-(logs[first, 0] + logs[last, 1]) / 2)
        right.append(values[:length].argmax(axis=0).tolist() == [first, last])
    assert float(question_answering.loss()(targets, logits)) == pytest.approx(
        np.mean(wanted), abs=1e-5
    )
    (metric,) = question_answering.metrics()
    metric.update_state(targets, logits)
    assert float(metric.result()) == pytest.approx(np.mean(right))
    padded = np.concatenate([logits, np.full((3, 2, 2), 99.0, "float32")], axis=1)
    assert float(question_answering.loss()(targets, padded)) == pytest.approx(
        np.mean(wanted), abs=1e-5
    )


# ------------------------------------------------------------------ answers out


def brute_force(model, row, max_length, stride, most):
    """The best piece, its share and that of none, by loops over all windows."""
    windows = model.tokenizer.windows(
        [row["question"]], [row["context"]], max_length=max_length, stride=stride
    )
    spans, none = [], []
    for window, offsets in enumerate(windows.offsets):
        real = windows.inputs["padding_mask"][window].sum()
        inputs = {name: x[window : window + 1, :real] for name, x in windows.inputs.items()}
        logits = keras.ops.convert_to_numpy(model(inputs))[0].astype("float64")
        none.append(logits[0].sum())
        for first in range(real):
            for last in range(first, min(first + most, real)):
                if offsets[first, 0] >= 0 and offsets[last, 0] >= 0:
                    score = logits[first, 0] + logits[last, 1]
                    spans.append((score, int(offsets[first, 0]), int(offsets[last, 1])))
    none = min(none)
    whole = np.exp([none, *(score for score, _, _ in spans)]).sum()
    score, start, end = max(spans, key=lambda span: span[0])
    return start, end, np.exp(score) / whole, np.exp(none) / whole


@pytest.mark.parametrize("most", [1, 3, 30])
def test_the_best_piece_of_all_windows(model, most):
    rows = [question("Zürich", text=text) for text in ("What is it?", "What 😀?", "francs")]
    found = question_answering.predict(
        model, rows, max_length=24, stride=7, max_answer_length=most, batch_size=4
    )
    for row, answer in zip(rows, found):
        start, end, score, no_answer = brute_force(model, row, 24, 7, most)
        assert (answer.start, answer.end) == (start, end)
        assert answer.text == CONTEXT[start:end]
        assert answer.score == pytest.approx(score, rel=1e-4)
        assert answer.no_answer == pytest.approx(no_answer, rel=1e-4)


def test_a_context_without_tokens_has_no_answer(model):
    rows = [{"question": "What is it?", "context": " "}]
    found = question_answering.predict(model, rows)
    assert found == [("", 0, 0, 0.0, 1.0)]
    assert question_answering.answers(model, rows, found)[0]["answer"] == ""


def test_an_answer_is_always_given_where_all_questions_have_one(model):
    unsure = question_answering.Answer("Zürich", 13, 19, 0.3, 0.6)
    assert question_answering.answers(model, [{}], [unsure])[0]["answer"] == ""
    row = question("Zürich")
    assert question_answering.evaluate(model, [row], [unsure]).overall.f1 == 1
    rows = [row, {**row, "answers": []}]
    result = question_answering.evaluate(model, rows, [unsure, unsure])
    assert (result.answerable.f1, result.unanswerable.f1) == (0, 1)


# ------------------------------------------------------------------ training

KNOWN = {"colour": ("red", "green", "blue"), "thing": ("door", "roof", "car")}
OTHERS = ("the", "is", "a", "very", "it", "was")


def scene(seed):
    """Words, and a question about the colour or the thing among them, which may be missing."""
    random = np.random.default_rng(seed)
    asked = random.choice(list(KNOWN)).item()
    words = [random.choice(KNOWN[kind]).item() for kind in KNOWN]
    row = {"question": asked, "answers": []}
    if random.random() < 0.25:
        words.pop(list(KNOWN).index(asked))
    words = random.permutation([*words, *random.choice(OTHERS, 4)]).tolist()
    row["context"] = " ".join(words)
    for word in set(words) & set(KNOWN[asked]):
        row["answers"] = [{"text": word, "answer_start": row["context"].index(word)}]
    return row


@pytest.fixture(scope="module")
def trained():
    rows = [scene(seed) for seed in range(300)]
    model = labeler(texts=[" ".join([*OTHERS, *KNOWN, *KNOWN["colour"], *KNOWN["thing"]])])
    history = fit(
        model,
        rows,
        [scene(seed) for seed in range(1000, 1040)],
        epochs=5,
        batch_size=8,
        learning_rate=3e-3,
        progress=False,
    )
    return model, history


def test_a_labeler_learns(trained):
    model, history = trained
    assert history["val_span_accuracy"][-1] > 0.9
    result = evaluate(model, [scene(seed) for seed in range(2000, 2060)])
    assert isinstance(result, AnswersResult)
    assert result.overall.f1 > 0.9
    assert result.unanswerable.f1 > 0.8


def test_answers_in_words(trained):
    model, _ = trained
    rows = [{"question": "Colour", "context": "the door  is a very Green"}]
    (answer,) = question_answering.answers(model, rows, question_answering.predict(model, rows))
    assert answer["answer"] == "Green"
    assert (answer["start"], answer["end"]) == (20, 25)
    assert answer["score"] > 0.5 > answer["no_answer"]
    json.dumps(answer)
