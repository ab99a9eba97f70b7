import json

import keras
import numpy as np
import pytest
import sacrebleu
from tiny_task import tiny_config

from kerasllm.data.rows import Row, read_rows, split_rows
from kerasllm.data.sentences import close_up, joined, sentences
from kerasllm.evaluation.texts import TextsResult, evaluate_translations, references
from kerasllm.models import Seq2SeqLM
from kerasllm.tasks import translation
from kerasllm.tokenizers import ByteLevelBPETokenizer, WordPieceTokenizer
from kerasllm.training import fit

PAIRS = [
    ("I am Tom.", "我是汤姆。"),
    ("You are Tom.", "你是汤姆。"),
    ("I am here, too.", "我也在这里。"),
    ("Hello!", ["你好！", "您好！"]),
    ("Where are you? Here.", "你在哪里？这里。"),
]
ROWS = [
    Row({"source": source, "target": target}, f"x.jsonl:{i}")
    for i, (source, target) in enumerate(PAIRS, start=1)
]


def translator(tokenizer, max_length=32):
    keras.utils.set_random_seed(0)
    config = tiny_config(
        tokenizer.vocab_size,
        num_decoder_layers=1,
        max_length=max_length,
        num_segments=0,
        positions="sinusoidal",
        embedding_norm=False,
        epsilon=1e-5,
        initializer_range=0.2,
    )
    return Seq2SeqLM(config, family="transformer", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train(translation.texts(ROWS) * 2, vocab_size=200, lowercase=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    return translator(tokenizer)


@pytest.fixture(scope="module")
def trained(tokenizer):
    model = translator(tokenizer)
    options = dict(batch_size=20, epochs=2, learning_rate=5e-3, progress=False)
    return model, fit(model, ROWS * 320, ROWS, task="translation", **options)


def test_texts_are_those_of_both_languages_and_all_references():
    assert translation.texts(ROWS[3:]) == [
        *("Hello!", "你好！", "您好！"),
        *("Where are you? Here.", "你在哪里？这里。"),
    ]
    assert translation.head(ROWS) == {}


def test_encode_shifts_the_target_right(model, tokenizer):
    inputs, targets, weights = translation.encode(model, ROWS)
    sources = tokenizer([source for source, _ in PAIRS], max_length=32)
    wanted = tokenizer([references(row)[0] for row in ROWS], max_length=32)
    np.testing.assert_array_equal(inputs["token_ids"], sources["token_ids"])
    np.testing.assert_array_equal(inputs["padding_mask"], sources["padding_mask"])
    np.testing.assert_array_equal(targets, wanted["token_ids"])
    np.testing.assert_array_equal(weights, wanted["padding_mask"])
    np.testing.assert_array_equal(inputs["decoder_padding_mask"], wanted["padding_mask"])
    np.testing.assert_array_equal(inputs["decoder_token_ids"][:, 1:], targets[:, :-1])
    assert set(inputs["decoder_token_ids"][:, 0]) == {model.begin} == {0}
    assert weights.dtype == np.float32
    # As many as there are sources, but not as long.
    assert inputs["token_ids"].shape != inputs["decoder_token_ids"].shape


def test_the_answer_begins_as_the_checkpoint_says(tokenizer):
    model = Seq2SeqLM(
        translator(tokenizer).config,
        family="transformer",
        tokenizer=tokenizer,
        special_ids={"decoder_start": 4},
    )
    inputs, _, _ = translation.encode(model, ROWS[:1])
    assert inputs["decoder_token_ids"][0, 0] == 4


def test_encode_cuts_both_texts(model):
    inputs, targets, _ = translation.encode(model, ROWS, max_length=4)
    assert inputs["token_ids"].shape == targets.shape == (5, 4)
    assert (targets[:, -1] == model.tokenizer.sep_id).all()


def test_a_source_may_be_a_list_of_sentences(model):
    as_list, _, _ = translation.encode(model, [{"source": ["I am", "Tom."], "target": "我"}])
    as_text, _, _ = translation.encode(model, [{"source": "I am Tom.", "target": "我"}])
    np.testing.assert_array_equal(as_list["token_ids"], as_text["token_ids"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "`rows` must hold at least one row"),
        ([Row({"source": "a", "target": []}, "x.jsonl:3")], r"x.jsonl:3: `target` must be a text"),
        ([{"source": "a", "target": [1]}], r"`target` must be a text.*Received: \[1\]"),
        ([{"source": 5, "target": "a"}], "`text` must be a text, or a list of its sentences"),
    ],
)
def test_bad_rows(model, rows, message):
    with pytest.raises(ValueError, match=message):
        translation.encode(model, rows)


def test_length_beyond_the_model(model):
    with pytest.raises(ValueError, match="`max_length` must be at most 32"):
        translation.encode(model, ROWS, max_length=33)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_keras_smoothed_cross_entropy(smoothing):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 4, 7)).astype("float32")
    targets = random.integers(0, 7, (3, 4))
    weights = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], "float32")
    found = translation.loss(smoothing)(targets, logits, weights)
    each = keras.losses.categorical_crossentropy(
        np.eye(7)[targets], logits, from_logits=True, label_smoothing=smoothing
    )
    wanted = np.sum(np.array(each) * weights) / weights.sum()
    np.testing.assert_allclose(float(found), wanted, rtol=1e-5)


def test_loss_comes_back_from_its_config():
    loss = translation.loss(0.2)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.label_smoothing == 0.2


def test_padding_has_no_part_in_the_loss(model):
    inputs, targets, weights = translation.encode(model, ROWS)
    targets = np.where(weights > 0, targets, 5)
    logits = model(inputs)
    one = translation.loss()(targets, logits, weights)
    other = translation.loss()(np.where(weights > 0, targets, 9), logits, weights)
    assert float(one) == float(other) > 0


def test_training_learns_to_translate(trained):
    model, history = trained
    assert model.task == "translation"
    assert history["val_accuracy"][-1] == 1.0
    assert history["loss"][-1] < history["loss"][0] / 2
    outputs = translation.predict(model, ROWS, batch_size=2)
    assert outputs == [references(row)[0] for row in ROWS]  # no space between characters
    assert translation.answers(model, ROWS, outputs)[0] == {"target": "我是汤姆。"}
    assert translation.predict(model, ROWS[:2], num_beams=2) == outputs[:2]
    found = translation.evaluate(model, ROWS, outputs)
    assert found.scores["BLEU"] == pytest.approx(100)


def test_predict_needs_no_target_and_keeps_the_order(trained):
    model, _ = trained
    rows = [{"source": source} for source, _ in reversed(PAIRS)]
    wanted = [model.generate(row["source"]).replace(" ", "") for row in rows]
    assert translation.predict(model, rows, batch_size=2) == wanted
    # Texts are cut to what the model can take, and to what the caller says.
    long = [{"source": "Tom " * 100}]
    assert len(translation.predict(model, long, max_new_tokens=3)) == 1
    assert translation.predict(model, rows, max_length=3) != wanted


def test_spaces_stay_where_the_tokenizer_has_them():
    texts = translation.texts(ROWS)
    tokenizer = ByteLevelBPETokenizer.train(
        texts * 2, vocab_size=300, special_tokens={"eos": "</s>", "pad": "<pad>"}
    )
    model = translator(tokenizer)
    wanted = model.generate([ROWS[0]["source"]], max_new_tokens=8)
    assert translation.predict(model, ROWS[:1], max_new_tokens=8) == wanted


def test_scores_equal_sacrebleu():
    outputs = ["我是汤姆。", "你们是汤姆！", "我在这里。", "您好！", ""]
    found = evaluate_translations(ROWS, outputs, worst=2)
    firsts = [references(row)[0] for row in ROWS]
    seconds = [None, None, None, "您好！", None]
    bleu = sacrebleu.corpus_bleu(outputs, [firsts, seconds], tokenize="zh")
    chrf = sacrebleu.corpus_chrf(outputs, [firsts, seconds])
    assert found.scores == pytest.approx({"BLEU": bleu.score, "chrF": chrf.score})
    assert 10 < bleu.score < 90
    for output, row, score in zip(outputs, ROWS, found.row_scores):
        assert score == pytest.approx(sacrebleu.sentence_chrf(output, references(row)).score)
    assert [example["where"] for example in found.worst] == ["x.jsonl:5", "x.jsonl:2"]
    assert found.worst[0]["reference"] == "你在哪里？这里。"
    assert found.notes == ("Nothing was written for 1 of 5 rows.",)
    assert found.length_ratio == pytest.approx((4 + 5 + 4 + 2) / (4 + 4 + 5 + 2 + 6))


def test_western_text_is_cut_into_words():
    rows = [{"source": "我", "target": "It is good, isn't it?"}]
    output = ["It is good, is it?"]
    wanted = sacrebleu.corpus_bleu(output, [[rows[0]["target"]]]).score
    assert evaluate_translations(rows, output).scores["BLEU"] == pytest.approx(wanted)
    assert "tok:13a" in evaluate_translations(rows, output).about


def test_result_goes_through_json_and_has_its_parts():
    found = evaluate_translations(ROWS, ["好"] * len(ROWS))
    again = TextsResult.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert list(found.figures()) == ["BLEU", "chrF", "length ratio", "rows"]
    assert str(found).splitlines()[1].startswith("BLEU")
    (table,) = found.tables()
    assert table.columns == ("score", "this model")
    (picture,) = found.pictures()
    assert picture.figure.axes[0].get_xlabel() == "chrF"


@pytest.mark.parametrize("outputs", [[], ["a"]])
def test_outputs_must_be_as_many_as_rows(outputs):
    with pytest.raises(ValueError, match="`outputs` must be as many as `rows`"):
        evaluate_translations(ROWS if outputs else [], outputs)


def test_sentences():
    assert sentences("Is it 3.5? Yes! No.\n\nOh") == ["Is it 3.5?", "Yes!", "No.", "Oh"]
    assert sentences("目的：观察3.5次.方法：好。") == ["目的：观察3.5次.", "方法：好。"]
    assert sentences([" a. ", "", "b"]) == ["a.", "b"]
    assert joined(["a.", "b"]) == "a. b"
    assert close_up("使用 GPT-2 , 很 好 ， Tom Sawyer") == "使用GPT-2 ,很好，Tom Sawyer"


def test_pairs_of_a_table_and_a_split_by_source(data_dir):
    rows = read_rows(
        data_dir / "tatoeba_cmn_eng" / "cmn.txt",
        translation.COLUMNS,
        header=("source", "target", "attribution"),
    )
    assert rows[1] == {"source": "Hi.", "target": "你好。"}
    assert rows[1].where == "cmn.txt:2"
    parts = split_rows(rows, (0.9, 0.1), by="source")
    assert sum(map(len, parts)) == len(rows) == 29155
    train, test = ({row["source"] for row in part} for part in parts)
    assert not train & test
    assert len(test) == 2766
