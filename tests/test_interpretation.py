"""`kerasllm.interpretation`: attention as computed by hand, shares that add up."""

import types

import keras
import numpy as np
import pytest
from tiny_classifier import LABELS, tiny_classifier

from kerasllm import (
    CausalLM,
    Seq2SeqLM,
    SpanLabeler,
    TokenClassifier,
    TransformerConfig,
    families,
)
from kerasllm.interpretation import (
    Attention,
    alignment,
    attention_rollout,
    attention_weights,
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
