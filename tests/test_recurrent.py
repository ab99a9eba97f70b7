"""The recurrent backbone: against NumPy, as a Keras model, and under heads and exports."""

import json

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf
from keras_file import round_trip
from numpy_reference import float32
from tiny_task import OTHERS, SPECIAL_TOKENS, WORDS, rows

from kerasllm.backbones import Recurrent, backbone_of
from kerasllm.config import RecurrentConfig
from kerasllm.export import to_saved_model, to_tflite
from kerasllm.export.verify import SENTENCES
from kerasllm.layers.recurrent_block import CELLS
from kerasllm.models import CausalLM, SentenceEncoder, TextClassifier
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.training import AdamW, fit, freeze, layer_rates

TOLERANCE = 1e-5
WAYS = pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])


def config(**changes):
    return RecurrentConfig(
        40, **{**dict(num_layers=2, embed_dim=7, units=5, max_length=12), **changes}
    )


def made(dtype=None, **changes):
    return reference.randomise(Recurrent(config(**changes), dtype=dtype))


def batch(seed=0):
    """Rows padded at the right, at the left and not at all."""
    mask = np.ones((4, 7), "int32")
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    mask[3, :3] = 0
    ids = np.random.default_rng(seed).integers(1, 40, mask.shape, dtype="int32")
    return {"token_ids": ids, "padding_mask": mask}


@WAYS
@pytest.mark.parametrize("cell", CELLS)
def test_equals_numpy(cell, bidirectional):
    model, inputs = made(cell=cell, bidirectional=bidirectional), batch()
    x = model.embedding.token_emb.get_weights()[0][inputs["token_ids"]]
    for layer in model.blocks:
        x = reference.recurrent_block(layer, x, inputs["padding_mask"])
    real = inputs["padding_mask"] == 1
    np.testing.assert_allclose(np.array(model(inputs))[real], x[real], atol=TOLERANCE)
    predicted = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(predicted[real], x[real], atol=TOLERANCE)


@WAYS
def test_padding_is_not_seen(bidirectional):
    model, inputs = made(bidirectional=bidirectional), batch()
    real = inputs["padding_mask"] == 1
    changed = np.where(real, inputs["token_ids"], batch(seed=5)["token_ids"])
    assert (changed != inputs["token_ids"]).any()
    output = np.array(model(inputs))
    np.testing.assert_array_equal(
        output[real], np.array(model({**inputs, "token_ids": changed}))[real]
    )
    padded = {name: np.pad(value, ((0, 0), (2, 3))) for name, value in inputs.items()}
    np.testing.assert_allclose(np.array(model(padded))[:, 2:9][real], output[real], atol=TOLERANCE)


@pytest.mark.parametrize("pieces", [(1,) * 7, (4, 1, 2), (7,)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_equal_the_whole(cell, pieces):
    model, inputs = made(cell=cell), batch()
    over_cache = np.pad(inputs["padding_mask"], ((0, 0), (0, 5)), constant_values=1)
    cache, outputs, position = model.make_cache(4, 12), [], 0
    for length in pieces:
        ids = inputs["token_ids"][:, position : position + length]
        step = {"token_ids": ids, "padding_mask": over_cache}
        output, cache = model(step, cache=cache, position=position)
        outputs.append(output)
        position += length
    real, output = inputs["padding_mask"] == 1, np.concatenate(outputs, axis=1)
    np.testing.assert_allclose(output[real], np.array(model(inputs))[real], atol=TOLERANCE)


def test_steps_without_a_mask_in_a_graph():
    model, inputs = made(), batch()
    everywhere = np.ones_like(inputs["padding_mask"])
    expected = np.array(model({**inputs, "padding_mask": everywhere}))

    @tf.function(autograph=False)
    def step(ids, cache, position):
        return model({"token_ids": ids}, cache=cache, position=position)

    cache = model.make_cache(4)
    for position in range(7):
        ids = tf.constant(inputs["token_ids"][:, position : position + 1])
        output, cache = step(ids, cache, tf.constant(position))
        np.testing.assert_allclose(output[:, 0], expected[:, position], atol=TOLERANCE)


def test_no_cache_for_two_ways():
    model = made(bidirectional=True)
    with pytest.raises(ValueError, match="`bidirectional` must be False in the config"):
        model.make_cache(4)
    cache = made().make_cache(4)
    with pytest.raises(ValueError, match="`cache` must be None in a bidirectional layer"):
        model({"token_ids": np.ones((4, 1), "int32")}, cache=cache, position=0)
    with pytest.raises(ValueError, match="`backbone` must be causal"):
        CausalLM(model, family="lstm")


def test_inputs_of_the_graph():
    model = made(bidirectional=True)
    assert list(model.input) == ["token_ids", "padding_mask"]
    for name, tensor in model.input.items():
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, "int32", (None, None))
    assert model.output.shape == (None, None, model.config.width) == (None, None, 10)


def test_names_of_sublayers_are_their_attributes():
    model = made(bidirectional=True)
    assert model.get_layer("embedding") is model.embedding
    for index, block in enumerate(model.blocks):
        assert model.get_layer(f"block_{index}") is block
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths) == 1 + 2 * 2 * 4
    assert "block_1/backward_layer/cell/recurrent_kernel" in paths


def test_wrong_arguments():
    with pytest.raises(TypeError, match="`config` must be a `RecurrentConfig`. Received: dict"):
        Recurrent(dict(vocab_size=40))
    inputs = {name: np.ones((1, 13), "int32") for name in batch()}
    with pytest.raises(ValueError, match="at most `max_length`=12 tokens long.*length=13"):
        made()(inputs)


def test_a_config_makes_its_backbone():
    assert isinstance(backbone_of(config()), Recurrent)
    assert backbone_of(config(), dtype="mixed_bfloat16").dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [("mixed_float16", "float16", 0.02), ("mixed_bfloat16", "bfloat16", 0.1)],
)
@pytest.mark.parametrize("cell", CELLS)
def test_mixed_precision(cell, policy, dtype, tolerance):
    changes = dict(cell=cell, bidirectional=True)
    exact, mixed, inputs = made(**changes), made(dtype=policy, **changes), batch()
    output = mixed(inputs)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    real = inputs["padding_mask"] == 1
    np.testing.assert_allclose(float32(output)[real], np.array(exact(inputs))[real], atol=tolerance)
    one_way = made(dtype=policy, cell=cell)
    cache = one_way.make_cache(4)
    assert {keras.backend.standardize_dtype(state.dtype) for state in cache[0]} == {dtype}
    stepped, _ = one_way({"token_ids": inputs["token_ids"]}, cache=cache, position=0)
    assert keras.backend.standardize_dtype(stepped.dtype) == dtype


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_keras_file(tmp_path, policy):
    model = made(dtype=policy, cell="gru", bidirectional=True, rate=0.3, pad_id=4)
    again = round_trip(model, tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.dtype_policy.name == policy
    np.testing.assert_array_equal(float32(again(batch())), float32(model(batch())))


def test_dropout_while_training_only():
    model, inputs = made(rate=0.5), batch()
    np.testing.assert_array_equal(model(inputs), model(inputs, training=False))
    first, second = (np.array(model(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("length", [5, 7, 10], ids=lambda length: f"{length}_tokens")
def test_a_text_counts_by_its_largest_values(length):
    model = reference.randomise(TextClassifier(3, config(bidirectional=True), family="lstm"))
    ids = np.random.default_rng(1).integers(1, 40, (1, length), dtype="int32")
    mask = (np.arange(length) < 4).astype("int32")[None]
    hidden_states = np.array(model.backbone({"token_ids": ids[:, :4], "padding_mask": mask[:, :4]}))
    kernel, bias = model.classifier.get_weights()
    expected = hidden_states.max(axis=1) @ kernel + bias
    np.testing.assert_allclose(model((ids, mask)), expected, atol=TOLERANCE)
    # Lengths that a graph knows, some of them the width of something else.
    graph = tf.function(lambda ids, mask: model((ids, mask)), autograph=False)
    np.testing.assert_allclose(graph(ids, mask), expected, atol=TOLERANCE)


def classifier(**changes):
    keras.utils.set_random_seed(3)
    words = [word for words in WORDS.values() for word in words]
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, *OTHERS, *words])
    sizes = dict(num_layers=2, embed_dim=16, units=16, max_length=16)
    backbone = RecurrentConfig(tokenizer.vocab_size, **{**sizes, **changes})
    return TextClassifier(
        2, backbone, family=backbone.cell, labels=sorted(WORDS), tokenizer=tokenizer
    )


@pytest.mark.parametrize("cell", CELLS)
def test_learns(cell):
    model = classifier(cell=cell, num_layers=1)
    history = fit(model, rows(32), epochs=20, batch_size=16, learning_rate=0.02, progress=False)
    assert history["accuracy"][-1] == 1.0


def test_training_by_layers():
    model = classifier()
    rates = layer_rates(model.backbone, 0.5)
    assert {rate for path, rate in rates.items() if "block_1" in path} == {0.5}
    assert {rate for path, rate in rates.items() if "embedding" in path} == {0.125}
    freeze(model.backbone, 1)
    paths = [weight.path for weight in model.trainable_weights]
    assert [path for path in paths if "embedding" in path or "block_0" in path] == []
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.build(model.trainable_weights)
    for weight in model.trainable_weights:
        before = weight.numpy()
        optimizer.apply([np.zeros_like(before)], [weight])
        decayed = weight.name.endswith("kernel")
        np.testing.assert_allclose(weight.numpy(), before * (0.95 if decayed else 1.0), rtol=1e-6)


def exportable(**changes):
    keras.utils.set_random_seed(7)
    tokenizer = WordPieceTokenizer.train(list(SENTENCES), vocab_size=300, min_frequency=1)
    backbone = RecurrentConfig(
        tokenizer.vocab_size,
        **{**dict(embed_dim=16, units=24, max_length=64, initializer_range=1.0), **changes},
    )
    return TextClassifier(3, backbone, family=backbone.cell, tokenizer=tokenizer)


@pytest.mark.parametrize("cell", CELLS)
def test_export_to_phones(cell, tmp_path):
    model = exportable(cell=cell, bidirectional=cell == "lstm")
    # As many tokens as units: a bias of that length would go to the wrong axis unseen.
    report = to_tflite(model, tmp_path / "model.tflite", max_length=24)
    assert report.label_flips == 0
    assert report.largest_difference <= 1e-5


def test_export_to_phones_in_a_quarter_of_the_size(tmp_path):
    report = to_tflite(exportable(), tmp_path / "small.tflite", quantize="int8", max_length=24)
    assert report.mean_difference <= 0.01


def test_export_to_servers(tmp_path):
    report = to_saved_model(exportable(bidirectional=True), tmp_path / "served")
    assert report.label_flips == 0
    assert report.largest_difference <= 1e-6


@WAYS
def test_sentence_vectors(bidirectional, tmp_path):
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, *OTHERS])
    settings = dict(embed_dim=7, units=5, max_length=12, bidirectional=bidirectional)
    model = SentenceEncoder(
        RecurrentConfig(tokenizer.vocab_size, **settings), family="lstm", tokenizer=tokenizer
    )
    texts = [" ".join(OTHERS[:3]), OTHERS[1]]
    vectors = model.encode(texts)
    width = 10 if bidirectional else 5
    assert vectors.shape == (2, width)
    model.save_pretrained(tmp_path)
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == width
    np.testing.assert_array_equal(SentenceEncoder.from_pretrained(tmp_path).encode(texts), vectors)
