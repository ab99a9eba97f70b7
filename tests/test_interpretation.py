"""`kerasllm.interpretation`: attention as computed by hand, shares that add up."""

import types
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
from tiny_classifier import LABELS, tiny_classifier

from kerasllm import (
    CausalLM,
    Seq2SeqLM,
    SpanLabeler,
    TextClassifier,
    TokenClassifier,
    TransformerConfig,
    families,
)
from kerasllm.evaluation.plots import to_svg
from kerasllm.interpretation import (
    Attention,
    alignment,
    attention_rollout,
    attention_weights,
    example_pictures,
    example_rows,
    integrated_gradients,
    plot_attention,
    plot_attribution,
    plot_heads,
    write_attributions,
)

TEXT = "Not bad at all!"


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def small(model):
    """Models that write, with the classifier's tokenizer."""
    vocab_size = model.tokenizer.vocab_size
    sizes = dict(num_layers=2, num_heads=2, embed_dim=8, ff_dim=16, max_length=64)
    config = TransformerConfig(vocab_size, num_segments=0, causal=True, **sizes)
    pair = families.size_config("transformer_tiny", vocab_size=vocab_size, pad_id=0)
    return types.SimpleNamespace(
        causal_lm=CausalLM(config, family="gpt2", tokenizer=model.tokenizer),
        seq2seq=Seq2SeqLM(pair, family="transformer", tokenizer=model.tokenizer),
        text=TEXT,
    )


def test_attention_is_that_of_the_layers(model):
    seen = attention_weights(model, TEXT)
    ids = model.tokenizer([TEXT], max_length=64)
    config = model.config
    length = ids["token_ids"].shape[1]
    assert seen.queries == seen.keys and len(seen.keys) == length
    assert seen.weights.shape == (config.num_layers, config.num_heads, length, length)
    np.testing.assert_allclose(seen.weights.sum(axis=-1), 1, atol=1e-5)
    layer = model.backbone.blocks[0].att
    parts = (layer.query_dense, layer.key_dense, layer.value_dense)
    x = model.backbone.embedding(ids["token_ids"])
    query, key, value = (layer.separate_heads(part(x), 1) for part in parts)
    by_hand = keras.ops.convert_to_numpy(layer.attention(query, key, value)[1])
    np.testing.assert_allclose(seen.weights[0], by_hand[0], atol=1e-6)


def test_rollout_by_hand():
    weights = np.array([[[[0.5, 0.5], [0.0, 1.0]]], [[[1.0, 0.0], [0.5, 0.5]]]], "float32")
    seen = attention_rollout(Attention(("a", "b"), ("a", "b"), weights))
    np.testing.assert_allclose(seen[0], [[0.75, 0.25], [0, 1]])
    np.testing.assert_allclose(seen[1], [[0.75, 0.25], [0.25 * 0.75, 0.75 + 0.25 * 0.25]])


def test_attention_of_other_families_and_alignment(small):
    seen = attention_weights(small.causal_lm, small.text)
    upper = np.triu_indices(len(seen.keys), 1)
    assert np.abs(seen.weights[..., upper[0], upper[1]]).max() == 0  # none sees what follows
    with pytest.raises(ValueError, match="`model` must have one stack.*`alignment`"):
        attention_weights(small.seq2seq, small.text)
    found = alignment(small.seq2seq, small.text, "bad film")
    assert found.weights.shape[-2:] == (len(found.queries), len(found.keys))
    assert len(found.weights) == len(small.seq2seq.backbone.decoder.blocks)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("target", [None, *LABELS])
def test_shares_add_up(model, target):
    found = integrated_gradients(model, TEXT, target=target)
    ids = model.tokenizer([TEXT], max_length=64)
    logits = keras.ops.convert_to_numpy(model(ids))[0]
    assert found.target == (target or LABELS[int(logits.argmax())])
    assert found.output == pytest.approx(logits[LABELS.index(found.target)], abs=1e-5)
    assert found.shares.sum() == pytest.approx(found.output - found.baseline, abs=2e-3)
    assert found.shares[0] == found.shares[-1] == 0  # [CLS] and [SEP] are in both
    assert len(found.tokens) == len(found.shares)


def test_taggers_and_span_labelers(model):
    tagger = TokenClassifier(
        3, model.config, family="bert", labels=("O", "B-X", "I-X"), tokenizer=model.tokenizer
    )
    found = integrated_gradients(tagger, TEXT, target=(2, "B-X"))
    assert found.target == "B-X at token 2"
    assert found.shares.sum() == pytest.approx(found.output - found.baseline, abs=2e-3)
    assert integrated_gradients(tagger, TEXT).target.split()[0] in ("B-X", "I-X")
    labeler = SpanLabeler(model.config, family="bert", tokenizer=model.tokenizer)
    found = integrated_gradients(labeler, "Is it bad?", TEXT, target=("end", 3))
    assert found.target == "end at token 3"
    assert found.shares.sum() == pytest.approx(found.output - found.baseline, abs=2e-3)


@pytest.mark.parametrize("target", ["unknown", "x"])
def test_unknown_targets_are_refused(model, target):
    with pytest.raises(ValueError, match="`target` must be one of bad"):
        integrated_gradients(model, TEXT, target=target)


def test_other_models_are_refused(small):
    with pytest.raises(TypeError, match="`model` must be a classifier.*a CausalLM"):
        integrated_gradients(small.causal_lm, TEXT)


def test_pictures_and_page(model, tmp_path):
    seen = attention_weights(model, TEXT)
    assert len(plot_attention(seen).axes) == 1
    assert len(plot_heads(seen).axes) == model.config.num_heads
    hostile = integrated_gradients(model, "<b>bad</b> & 好")
    assert plot_attribution(hostile).axes[0].get_xlabel().startswith("share of the logit")
    path = write_attributions(tmp_path / "page.html", [hostile], title="A <title>")
    page = path.read_text(encoding="utf-8")
    assert "<b>" not in page and "&lt;" in page and "A &lt;title&gt;" in page
    assert page.count('class="for"') + page.count('class="against"') == len(hostile.tokens)


LONG = "The film is not bad at all, and good. " * 8


def tagger_of(model, labels=("O", "B-X", "I-X")):
    options = dict(family="bert", labels=labels, tokenizer=model.tokenizer)
    return TokenClassifier(len(labels), model.config, **options)


def drawn(model, rows):
    """The titles of the pictures of rows, each picture a whole SVG."""
    pictures = example_pictures(model, example_rows(model, rows))
    for picture in pictures:
        xml.etree.ElementTree.fromstring(to_svg(picture.figure))
    return [picture.title for picture in pictures]


def test_the_first_short_rows_are_examples_or_else_the_shortest(model):
    rows = [{"text": text} for text in (LONG, "", TEXT, LONG + LONG, "A good film.", "Bad film?")]
    assert example_rows(model, rows) == [rows[2], rows[4]]
    assert example_rows(model, rows, count=1) == [rows[2]]
    longer = [{"text": text} for text in ("." * 40, "", "." * 30, "." * 35)]
    assert example_rows(model, longer) == [longer[2], longer[3]]
    assert example_rows(model, []) == example_rows(model, [{"text": ""}]) == []


def test_pictures_of_classifiers_and_taggers(model):
    heads = "Each head of the last layer"
    found = drawn(model, [{"text": TEXT, "label": "bad"}, {"text": "A good film.", "label": "bad"}])
    assert found[:2] == [TEXT, heads] and found[3] == "A good film." and len(found) == 5
    assert all(any(f"{label!r} hangs on" in found[i] for label in LABELS) for i in (2, 4))
    rows = [{"tokens": ["不", "好", "\x01", "<b>", "$x$", "吗"], "tags": ["O"] * 6}]
    assert drawn(tagger_of(model), rows)[:2] == ["不 好 \x01 <b> $x$ 吗", heads]
    assert len(drawn(tagger_of(model, ("O",)), rows)) == 2  # no tag whose share there could be
    pairs = [{"text": "not bad", "text_pair": "so good", "score": 1.0}]
    score = TextClassifier(1, model.config, family="bert", labels=["score"])
    score.tokenizer = model.tokenizer
    assert drawn(score, pairs) == ["not bad | so good", heads, "What 'score' hangs on"]


def test_of_a_long_text_a_part_is_drawn(model):
    config = model.config
    labeler = SpanLabeler(config, family="bert", tokenizer=model.tokenizer)
    question = {"question": "Is it bad?", "context": LONG, "answers": ["not bad"]}
    whole, heads = example_pictures(labeler, [question])
    axes = whole.figure.axes[0]
    asked = model.tokenizer(["Is it bad?"], max_length=64)["token_ids"].shape[1]
    assert len(axes.get_yticks()) == asked and len(axes.get_xticks()) == 24
    assert len(heads.figure.axes) == config.num_heads
    first, _ = example_pictures(model, [{"text": LONG}])
    axes = first.figure.axes[0]
    words = [label.get_text() for label in axes.get_xticklabels()]
    assert words == [label.get_text() for label in axes.get_yticklabels()] and len(words) == 24
    seen = attention_weights(model, LONG)
    sums = seen.weights[-1].mean(axis=0).sum(axis=0)
    assert words == [seen.keys[i] for i in sorted(np.argsort(-sums)[:24])]


def test_pictures_of_models_that_write(small):
    assert len(drawn(small.causal_lm, [{"text": small.text}])) == 2
    assert len(drawn(small.causal_lm, [{"prompt": "Not bad?", "response": small.text}])) == 2
    rows = [{"source": [small.text, LONG], "target": "好"}, {"source": LONG, "target": "好"}]
    pictures = example_pictures(small.seq2seq, example_rows(small.seq2seq, rows))
    assert len(pictures) == 2 and pictures[0].about.endswith("…")
    axes = pictures[0].figure.axes[0]
    assert len(axes.get_xticks()) == 24 and 0 < len(axes.get_yticks()) <= 24
    (spoiled,) = drawn(small.seq2seq, [{"text": small.text}])
    assert spoiled == small.text


def test_what_has_no_attention_has_no_examples(model):
    recurrent = TextClassifier(2, "lstm_small")
    recurrent.tokenizer = model.tokenizer
    assert example_rows(recurrent, [{"text": TEXT}]) == []


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16"])
def test_half_precision_has_the_same_pictures(dtype):
    model = tiny_classifier(dtype)
    assert len(drawn(model, [{"text": TEXT}])) == 3
    assert attention_weights(model, TEXT).weights.dtype == np.float32
    assert integrated_gradients(model, TEXT).shares.dtype == np.float32
