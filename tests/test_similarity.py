import keras
import numpy as np
import pytest
from tiny_task import tiny_config

from kerasllm.data.rows import Row
from kerasllm.models import SentenceEncoder
from kerasllm.tasks import TASKS, evaluate, similarity, task_of
from kerasllm.tasks.similarity import RankingLoss
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.training import fit

TOPICS = {"cat": "dog", "sun": "moon", "bread": "soup", "train": "bus"}  # that never meet in a text


def rows(count, seed=0):
    """Pairs of two words; the score is how many topics they share."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        topics, shared = random.permutation(list(TOPICS)).tolist(), i % 3
        first, second = topics[:2], topics[2 - shared : 4 - shared]
        pair = {"text": " ".join(first), "text_pair": " ".join(TOPICS[word] for word in second)}
        found.append(Row({**pair, "score": shared}, where=f"rows[{i}]"))
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train(similarity.texts(rows(20)), vocab_size=60)


def encoder(tokenizer):
    keras.utils.set_random_seed(0)
    config = tiny_config(tokenizer.vocab_size, max_length=16)
    return SentenceEncoder(config, family="bert", tokenizer=tokenizer)


def test_the_loss_is_that_of_its_paper():
    random = np.random.default_rng(0)
    vectors, scores = random.normal(size=(10, 6)), np.array([3.0, 1.0, 1.0, 0.5, 2.0])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.sum(unit[0::2] * unit[1::2], axis=1)
    terms = [
        np.exp(20 * (cosines[j] - cosines[i]))
        for i in range(5)
        for j in range(5)
        if scores[i] > scores[j]
    ]
    assert len(terms) == 9
    found = RankingLoss()(np.repeat(scores, 2), vectors.astype("float32"))
    assert float(found) == pytest.approx(np.log(1 + sum(terms)), rel=1e-5)


def test_pairs_of_one_score_ask_for_nothing():
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    assert float(RankingLoss()(np.ones(6), vectors)) == 0


def test_batches_hold_both_texts_of_a_pair_and_its_score(tokenizer):
    data = similarity.dataset(encoder(tokenizer), rows(6), batch_size=4, training=False)
    (first, scores), (second, _) = list(data)
    assert int(data.cardinality()) == 2
    assert first["token_ids"].shape[0] == 8 and second["token_ids"].shape[0] == 4
    assert scores.numpy().tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    texts = [tokenizer.decode(ids[mask > 0]) for ids, mask in zip(*map(np.array, _ids(first)))]
    assert texts[:2] == [rows(1)[0]["text"], rows(1)[0]["text_pair"]]


def _ids(inputs):
    return inputs["token_ids"], inputs["padding_mask"]


def test_it_learns_an_order_it_was_not_shown(tokenizer, tmp_path):
    model = encoder(tokenizer)
    before = evaluate_on(model)
    options = dict(batch_size=16, epochs=6, learning_rate=3e-3, progress=False)
    history = fit(model, rows(160), rows(40, seed=5), task="similarity", **options)
    found = evaluate(model, rows(80, seed=9))
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert found.spearman > max(0.8, before + 0.3)
    assert "mean absolute error" not in found.figures() and found.error is None
    assert "Spearman" in str(found)
    assert found.pictures()[0].figure.axes[0].lines[:] == []  # no line on which they are right
    model.save_pretrained(tmp_path)
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert task_of(again) is similarity is TASKS["similarity"]
    (answer,) = similarity.answers(again, rows(1), similarity.predict(again, rows(1)))
    assert -1 <= answer["similarity"] <= 1


def evaluate_on(model):
    test = rows(80, seed=9)
    return similarity.evaluate(model, test, similarity.predict(model, test)).spearman


def test_the_worst_are_those_whose_rank_is_farthest_off(tokenizer):
    test = [Row({**row, "score": i}, where=row.where) for i, row in enumerate(rows(4))]
    vectors = np.zeros((4, 2, 2))
    vectors[:, 0, 0] = 1
    for vector, angle in zip(vectors[:, 1], (0.1, 1.0, 0.8, 0.5)):  # the first is the likest
        vector[:] = np.cos(angle), np.sin(angle)
    found = similarity.evaluate(None, test, vectors)
    assert found.worst[0]["where"] == "rows[0]"
    assert found.spearman == pytest.approx(-0.2)


def test_a_score_that_is_no_number_names_its_row(tokenizer):
    wrong = [Row({"text": "a", "text_pair": "b", "score": "high"}, where="x.csv:7")]
    with pytest.raises(ValueError, match="x.csv:7: `score` must be a number.*'high'"):
        similarity.dataset(encoder(tokenizer), wrong)


def test_search_finds_the_likest_first(tokenizer):
    model = encoder(tokenizer)
    texts = ["cat dog sun", "bread soup train", "moon bus cat"]
    found = model.search(["bread soup train", "cat dog sun"], texts, 2)
    assert [[place for place, _ in row][0] for row in found] == [1, 0]
    assert all(len(row) == 2 and row[0][1] >= row[1][1] for row in found)
    assert found[0][0][1] == pytest.approx(1, abs=1e-5)
    vectors = model.encode(texts)
    assert model.search(["bread soup train"], 3 * vectors, 9)[0] == [
        (place, pytest.approx(cosine, abs=1e-5)) for place, cosine in _by_hand(model, vectors)
    ]
    with pytest.raises(ValueError, match="`count` must be at least 1"):
        model.search(["cat"], texts, 0)
    for wrong in ([], "cat"):
        with pytest.raises(ValueError, match="`texts` must be a list of at least one str"):
            model.search(wrong, texts)


def _by_hand(model, vectors):
    query = model.encode(["bread soup train"])[0]
    return sorted(enumerate((vectors @ query).tolist()), key=lambda pair: -pair[1])
