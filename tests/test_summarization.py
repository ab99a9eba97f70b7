import json

import keras
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from tiny_task import tiny_config

from kerasllm.data.rows import Row, read_rows
from kerasllm.evaluation.texts import TextsResult, evaluate_replies, evaluate_summaries, rouge
from kerasllm.models import TokenClassifier
from kerasllm.tasks import TASKS, extractive_summarization, summarization, translation
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.training import fit

# The sentence that names a cat is the summary.
OTHERS = ("It rained all day.", "We had some soup.", "The train was late.", "Nobody came.")
CATS = ("A cat sat there.", "The cat ran off.", "My cat likes fish.")


def documents(count, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        parts = list(random.permutation(OTHERS)[: random.integers(2, 5)])
        parts.insert(random.integers(1, len(parts) + 1), CATS[i % 3])
        found.append(Row({"source": parts, "target": CATS[i % 3]}, f"x.jsonl:{i + 1}"))
    return found


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    rows = documents(12)
    tokenizer = WordPieceTokenizer.train(extractive_summarization.texts(rows), vocab_size=120)
    config = tiny_config(tokenizer.vocab_size, max_length=64, initializer_range=0.2)
    head = extractive_summarization.head(rows)
    return TokenClassifier(2, config, family="bert", tokenizer=tokenizer, rate=0.0, **head)


def tokens(text):
    return text.lower().replace(".", "").split()


def own_rouge(output, target, n):
    """ROUGE-N from its definition, and ROUGE-L for n = 0, of words between spaces."""
    a, b = tokens(output), tokens(target)
    if n:
        first, second = ([tuple(x[i : i + n]) for i in range(len(x) - n + 1)] for x in (a, b))
        common = sum(min(first.count(gram), second.count(gram)) for gram in set(first))
    else:
        first, second = a, b
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                same = table[i, j] + 1
                table[i + 1, j + 1] = same if x == y else max(table[i, j + 1], table[i + 1, j])
        common = table[-1, -1]
    return 2 * common / (len(first) + len(second)) if common else 0.0


def test_rouge_equals_its_definition_and_the_package():
    random = np.random.default_rng(0)
    words = np.array("a b c d e".split())
    texts = [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(60)]
    outputs, targets = texts[:30], texts[30:]
    found = rouge(outputs, [[target] for target in targets])
    for name, n in (("ROUGE-1", 1), ("ROUGE-2", 2), ("ROUGE-L", 0)):
        wanted = [own_rouge(output, target, n) for output, target in zip(outputs, targets)]
        np.testing.assert_allclose(found[name], wanted)
    # With the package's own words, too.
    english = "The U.S. team's 3rd_try (of 10) -- it won, 4:0!", "It won the 3rd try; they're ok."
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    wanted = scorer.score(english[1], english[0])
    found = rouge([english[0]], [[english[1]]])
    assert found["ROUGE-1"][0] == wanted["rouge1"].fmeasure > 0
    assert found["ROUGE-2"][0] == wanted["rouge2"].fmeasure > 0
    assert found["ROUGE-L"][0] == wanted["rougeL"].fmeasure > 0


def test_chinese_characters_are_words():
    found = rouge(["基于GPT 的方法。"], [["一种基于 GPT的新方法"]])
    # 基 于 gpt 的 方 法 in 一 种 基 于 gpt 的 新 方 法
    assert found["ROUGE-1"][0] == found["ROUGE-L"][0] == pytest.approx(2 * 6 / (6 + 9))
    assert rouge(["Это кот"], [["кот спит"]])["ROUGE-1"][0] == pytest.approx(0.5)


def test_the_best_of_several_references_counts():
    found = rouge(["a cat"], [["a dog", "a cat"]])
    assert found["ROUGE-L"].tolist() == [1.0]


def test_summaries_beside_the_first_sentence():
    rows = [
        Row({"source": "A cat sat. It slept.", "target": ["It slept", "a cat"]}, "x:1"),
        Row({"source": ["目的：观察。", "好。"], "target": "观察"}, "x:2"),
    ]
    found = evaluate_summaries(rows, ["A cat slept.", ""], worst=1)
    assert found.scores["ROUGE-1"] == pytest.approx(0.8 / 2)
    assert found.baseline["ROUGE-1"] == pytest.approx((0.8 + 2 * 2 / (4 + 2)) / 2)
    assert list(found.figures())[0] == "ROUGE-L"
    assert found.figures()["ROUGE-1 of the first sentence"] == found.baseline["ROUGE-1"]
    assert found.worst == (
        {
            "where": "x:2",
            "source": "目的：观察。好。",
            "written": "",
            "reference": "观察",
            "ROUGE-L": 0.0,
        },
    )
    assert found.notes == ("Nothing was written for 1 of 2 rows.",)
    assert TextsResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    (table,) = found.tables()
    assert table.columns == ("score", "this model", "first sentence")
    assert "first sentence" in str(found)
    (picture,) = found.pictures()
    assert picture.figure.axes[0].get_xlabel() == "ROUGE-L"


def test_answers_have_no_first_sentence():
    found = evaluate_replies([{"source": "2 + 2?", "target": "Four!"}], ["four"])
    assert found.scores["exact match"] == 1.0
    assert found.baseline == {}


def test_summaries_are_learnt_as_translations_are():
    task = TASKS["summarization"]
    assert task is summarization
    assert (task.encode, task.predict) == (translation.encode, translation.predict)
    rows = [{"source": "A cat sat. It slept.", "target": "A cat"}]
    assert task.evaluate(None, rows, ["A cat"]).baseline["ROUGE-L"] == pytest.approx(0.8)


def test_oracle_adds_sentences_while_they_help():
    parts = ["It rains.", "A cat sat.", "The dog ran away.", "A cat."]
    assert extractive_summarization.oracle(parts, ["A cat sat, the dog ran."]) == {1, 2}
    assert extractive_summarization.oracle(parts, ["the dog", "it rains"]) == {0}
    assert extractive_summarization.oracle(parts, ["nothing alike"]) == set()


def test_encode_marks_the_first_token_of_each_sentence(model):
    rows = [{"source": "It rained all day. A cat sat there. Nobody came.", "target": CATS[0]}]
    inputs, targets, weights = extractive_summarization.encode(model, rows)
    ids = model.tokenizer.encode
    starts = np.cumsum([1, *(len(ids(part)) for part in ("It rained all day.", CATS[0]))])
    assert np.flatnonzero(weights[0]).tolist() == starts.tolist()
    assert targets[0][starts].tolist() == [0, 1, 0]
    assert inputs["token_ids"].shape == targets.shape
    with pytest.raises(ValueError, match=r"y:4: `target` must be a text"):
        extractive_summarization.encode(model, [Row({"source": "a", "target": 5}, "y:4")])


def test_training_learns_to_choose(model):
    options = dict(batch_size=16, epochs=2, learning_rate=1e-2, progress=False)
    fit(model, documents(640), task="extractive_summarization", **options)
    rows = documents(20, seed=1)
    outputs = extractive_summarization.predict(model, rows, batch_size=8)
    found = extractive_summarization.evaluate(model, rows, outputs)
    assert found.scores["ROUGE-L"] > 0.95 > 0.5 > found.baseline["ROUGE-L"]
    (answer, *_) = extractive_summarization.answers(model, rows, outputs)
    assert answer["target"] == CATS[0]
    assert answer["sentences"] == [{"text": CATS[0], "score": pytest.approx(1, abs=0.5)}]


def test_more_sentences_stand_in_the_order_of_the_text(model):
    rows = documents(4)
    for row, chosen in zip(rows, extractive_summarization.predict(model, rows, num_sentences=2)):
        places = [row["source"].index(text) for text, _ in chosen]
        assert len(places) == 2
        assert places == sorted(places)
    # One that was cut off is never the first choice.
    (chosen,) = extractive_summarization.predict(model, rows[:1], max_length=4)
    assert chosen[0][0] == rows[0]["source"][0]


def test_lists_of_sentences_and_references(data_dir):
    rows = read_rows(data_dir / "scitldr" / "test.jsonl", summarization.COLUMNS)
    assert len(rows) == 618
    assert all(len(row["source"]) > 0 and row["target"] for row in rows)
    firsts = [row["source"][0] for row in rows]
    found = evaluate_summaries(rows, firsts)
    assert found.scores == found.baseline
    assert found.scores["ROUGE-L"] == pytest.approx(0.2309, abs=5e-4)


def test_columns_of_a_table_without_a_header(data_dir):
    header = ("task", "source", "target")
    rows = read_rows(data_dir / "csl" / "ts" / "dev.tsv", summarization.COLUMNS, header=header)
    assert len(rows) == 1000
    assert rows[0].keys() == {"source", "target"}
