"""T5 and its kin: the backbone and its parts against NumPy, its buckets, its configs."""

import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import numpy_reference as reference
import pytest
import safetensors.numpy
from keras_file import round_trip
from numpy_reference import float32

from kerasllm import families
from kerasllm.backbones import T5, EncoderDecoder, T5Stack, Transformer, backbone_of
from kerasllm.config import T5Config, TransformerConfig
from kerasllm.layers import GatedFeedForward, RelativeAttentionBias, T5Attention, T5Block
from kerasllm.layers.position import distance_buckets
from kerasllm.models import Seq2SeqLM, TokenClassifier

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "families"
TOLERANCE = 1e-5
SIZES = dict(
    num_layers=2, num_decoder_layers=1, num_heads=3, projection_dim=4, embed_dim=10, ff_dim=21,
    max_length=12, num_buckets=6, max_distance=5,
)  # fmt: skip


def made(dtype=None, **changes):
    config = T5Config(40, **{**SIZES, **changes})
    return reference.randomise(backbone_of(config, dtype=dtype), scale=0.3)


def batch(seed=0):
    """Rows padded at the right, at the left and not at all."""
    rng = np.random.default_rng(seed)
    mask = np.ones((4, 9), "int32")
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    mask[3, :3] = 0
    decoder_mask = np.ones((4, 7), "int32")
    decoder_mask[1, 4:] = 0
    return {
        "token_ids": rng.integers(1, 40, mask.shape, dtype="int32"),
        "padding_mask": mask,
        "decoder_token_ids": rng.integers(1, 40, decoder_mask.shape, dtype="int32"),
        "decoder_padding_mask": decoder_mask,
    }


def of_encoder(inputs):
    return {name: inputs[name] for name in ("token_ids", "padding_mask")}


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(gated=True, activation="gelu_tanh", epsilon=0.05),
        dict(num_layers=1, num_decoder_layers=2, num_buckets=32, max_distance=128),
        dict(num_heads=5, projection_dim=1, activation="gelu", num_buckets=4, max_distance=3),
        dict(gated=True, activation="silu", num_buckets=9, max_distance=6),
    ],
    ids=str,
)
def test_equals_numpy(changes):
    model, inputs = made(**changes), batch()
    assert isinstance(model, T5)
    real = inputs["decoder_padding_mask"] == 1
    expected = reference.t5(model, **inputs)[real]
    np.testing.assert_allclose(np.array(model(inputs))[real], expected, atol=TOLERANCE)
    np.testing.assert_allclose(model.predict(inputs, verbose=0)[real], expected, atol=TOLERANCE)


def test_an_encoder_alone_equals_numpy():
    model, inputs = made(num_decoder_layers=0), of_encoder(batch())
    assert type(model) is T5Stack
    real = inputs["padding_mask"] == 1
    expected = reference.t5_stack(model, **inputs)
    np.testing.assert_allclose(np.array(model(inputs))[real], expected[real], atol=TOLERANCE)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(32, 128), (4, 3), (5, 4), (9, 6), (64, 800)]
)
def test_buckets_equal_those_of_each_distance(num_buckets, max_distance, causal):
    expected = [
        reference.t5_bucket(distance, num_buckets, max_distance, causal)
        for distance in range(-max_distance, max_distance + 1)
    ]
    buckets = distance_buckets(num_buckets, max_distance, causal)
    assert buckets.tolist() == expected
    assert set(buckets) <= set(range(num_buckets))


def test_the_buckets_of_the_published_models():
    """Where each begins, as `_relative_position_bucket` of `transformers` has it."""
    firsts = [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]
    after, before = np.split(distance_buckets(32, 128)[::-1], [128])
    assert [int(np.argmax(before == bucket)) for bucket in range(16)] == firsts
    assert after[::-1].tolist() == (before[1:] + 16).tolist()
    causal = distance_buckets(32, 128, causal=True)
    assert not causal[128:].any()
    firsts = [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    assert [int(np.argmax(causal[128::-1] == bucket)) for bucket in range(32)] == firsts


@pytest.mark.parametrize("causal", [False, True])
def test_all_beyond_the_farthest_is_alike(causal):
    layer = RelativeAttentionBias(2, 8, 6, causal)
    bias = np.array(layer(np.ones((1, 40), "int32")))[0]  # (heads, query, key)
    assert bias.shape == (2, 40, 40)
    assert np.ptp(bias[:, 39, :34], axis=1).max() == 0
    assert (bias[:, 39, 33] != bias[:, 39, 38]).all()
    assert (bias[:, 0, 39] < -1e3).all() == causal


@pytest.mark.parametrize("given", ["mask", "no mask"])
def test_steps_equal_the_whole(given):
    model, inputs = made(gated=True), batch()
    if given == "no mask":
        inputs["decoder_padding_mask"][:] = 1
    real = inputs["decoder_padding_mask"] == 1
    with pytest.raises(ValueError, match="`context` must be what the encoder has read"):
        model.make_cache(4, 10)
    cache = model.make_cache(4, 10, context=model.encode(inputs))
    assert [tuple(part.shape) for part in cache[0]] == [(4, 3, 10, 4)] * 2 + [(4, 3, 9, 4)] * 2
    outputs = []
    for position, length in ((0, 3), (3, 1), (4, 1), (5, 2)):
        step = {
            "decoder_token_ids": inputs["decoder_token_ids"][:, position : position + length],
            "padding_mask": inputs["padding_mask"],
        }
        if given == "mask":
            mask = inputs["decoder_padding_mask"]
            step["decoder_padding_mask"] = np.pad(mask, ((0, 0), (0, 3)), constant_values=1)
        output, cache = model(step, cache=cache, position=position)
        outputs.append(np.array(output))
    whole = np.array(model(inputs))
    np.testing.assert_allclose(np.concatenate(outputs, axis=1)[real], whole[real], atol=TOLERANCE)


def test_padding_changes_nothing():
    model, inputs = made(), batch()
    inputs = {name: np.ones_like(x) if "mask" in name else x for name, x in inputs.items()}
    expected = np.array(model(inputs))
    for left, right in ((0, 3), (3, 0), (2, 1)):
        padded = dict(inputs)
        for name, filler in (("token_ids", 9), ("padding_mask", 0)):
            padded[name] = np.pad(inputs[name], ((0, 0), (left, right)), constant_values=filler)
        np.testing.assert_allclose(np.array(model(padded)), expected, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_low_precision(dtype):
    model, low = made(gated=True), made(dtype, gated=True)
    low.set_weights([weight.astype(low.weights[0].dtype) for weight in model.get_weights()])
    inputs = batch()
    real = inputs["decoder_padding_mask"] == 1
    output = low(inputs)
    assert keras.backend.standardize_dtype(output.dtype) == dtype.removeprefix("mixed_")
    assert low.make_cache(1, 3, low.encode(inputs))[0][0].dtype == output.dtype
    np.testing.assert_allclose(float32(output)[real], np.array(model(inputs))[real], atol=0.15)


def test_bfloat16_holds_what_float16_does_not():
    """The residual stream of published checkpoints grows beyond the largest float16."""
    inputs, outputs = batch(), {}
    for dtype in ("float32", "float16", "bfloat16"):
        model = made(dtype, gated=True)
        for block in model.blocks:
            block.ffn.project.kernel.assign(block.ffn.project.kernel * 3e5)
        outputs[dtype] = float32(model(inputs))
    assert not np.isfinite(outputs["float16"]).all()
    real = inputs["decoder_padding_mask"] == 1
    np.testing.assert_allclose(outputs["bfloat16"][real], outputs["float32"][real], atol=0.15)


@pytest.mark.parametrize("changes", [dict(), dict(num_decoder_layers=0)], ids=str)
def test_keras_file(tmp_path, changes):
    model = made("mixed_bfloat16", gated=True, activation="silu", epsilon=1e-3, **changes)
    again = round_trip(model, tmp_path)
    assert type(again) is type(model)
    assert (again.config, again.dtype_policy) == (model.config, model.dtype_policy)
    inputs = batch() if model.config.num_decoder_layers else of_encoder(batch())
    np.testing.assert_array_equal(float32(again(inputs)), float32(model(inputs)))


@pytest.mark.parametrize("tied", [False, True])
def test_keras_file_of_a_model(tmp_path, tied):
    config = T5Config(40, **SIZES, tie_embedding=tied)
    model = reference.randomise(Seq2SeqLM(config, family="t5"))
    again = round_trip(model, tmp_path)
    np.testing.assert_array_equal(again(batch()), model(batch()))


@pytest.mark.parametrize(
    "layer",
    [
        T5Attention(10, 3, projection_dim=4, rate=0.1),
        T5Block(10, 3, 4, 7, 0.2, gated=True, activation="gelu_tanh", epsilon=0.1),
        T5Block(10, 3, 4, 7, cross_attention=True, kernel_initializer="he_normal"),
        GatedFeedForward(12, 7, "gelu", rate=0.1),
        RelativeAttentionBias(3, 8, 6, causal=True, embeddings_initializer="ones"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_from_their_configs(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_dropout_while_training_only():
    model, inputs = made(rate=0.5), batch()
    np.testing.assert_array_equal(model(inputs), model(inputs, training=False))
    first, second = (np.array(model(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    never = made(rate=0.0)
    np.testing.assert_array_equal(never(inputs), never(inputs, training=True))


def test_fresh_weights():
    """As the authors' code has them: so that unscaled scores begin as scaled ones would."""
    keras.utils.set_random_seed(1)
    config = T5Config(
        500, num_layers=1, num_decoder_layers=1, num_heads=8, projection_dim=16, embed_dim=64,
        ff_dim=256, initializer_factor=0.5, num_buckets=128,
    )  # fmt: skip
    model = T5(config)
    block = model.decoder.blocks[0]
    deviations = {
        model.embedding.token_emb: 0.5,
        block.cross_att.query_dense: 0.5 * (64 * 16) ** -0.5,
        block.att.key_dense: 0.5 * 64**-0.5,
        block.att.combine_heads: 0.5 * 128**-0.5,
        block.ffn.layers[0]: 0.5 * 64**-0.5,
        block.ffn.layers[2]: 0.5 * 256**-0.5,
        model.encoder.attention_bias.table: 0.5 * 64**-0.5,
    }
    for layer, deviation in deviations.items():
        (weight,) = layer.weights
        assert abs(weight.numpy().std() / deviation - 1) < 0.06, weight.path
    assert not any(weight.numpy().any() for weight in T5(config, initializer="zeros").weights[:1])


def test_names_of_sublayers_are_their_attributes():
    model = made(gated=True)
    assert model.decoder.get_layer("attention_bias") is model.decoder.attention_bias
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths) == 1 + 2 * 2 + 2 * 9 + 14
    assert any(path.endswith("decoder/block_0/cross_att/query_dense/kernel") for path in paths)
    assert model.embedding is model.encoder.embedding
    assert model.decoder.embedding.token_emb is model.embedding.token_emb
    assert len(model.blocks) == 3


def test_backbones_want_their_own_config():
    with pytest.raises(TypeError, match="`config` must be a `T5Config`. Received: Transf"):
        T5Stack(TransformerConfig(40))
    with pytest.raises(TypeError, match="`config` must be a `TransformerConfig`. Received: T5Conf"):
        Transformer(T5Config(40))
    with pytest.raises(ValueError, match="`config` must be a `T5Config` with `num_decoder_layers`"):
        T5(T5Config(40, num_decoder_layers=0))
    with pytest.raises(ValueError, match="`config` must be a `TransformerConfig` with `num_dec"):
        EncoderDecoder(T5Config(40))


# What the checkpoints' own config.json holds.
PUBLISHED = {
    "t5_small": dict(
        model_type="t5", d_ff=2048, d_kv=64, d_model=512, decoder_start_token_id=0,
        dropout_rate=0.1, eos_token_id=1, initializer_factor=1.0, is_encoder_decoder=True,
        layer_norm_epsilon=1e-06, n_positions=512, num_heads=8, num_layers=6, output_past=True,
        pad_token_id=0, relative_attention_num_buckets=32, use_cache=True, vocab_size=32128,
        task_specific_params=dict(summarization=dict(prefix="summarize: ")),
    ),
    "t5_v1.1_base": dict(  # Flan-T5
        model_type="t5", d_ff=2048, d_kv=64, d_model=768, decoder_start_token_id=0,
        dropout_rate=0.1, eos_token_id=1, feed_forward_proj="gated-gelu", initializer_factor=1.0,
        is_encoder_decoder=True, layer_norm_epsilon=1e-06, n_positions=512, num_decoder_layers=12,
        num_heads=12, num_layers=12, output_past=True, pad_token_id=0,
        relative_attention_max_distance=128, relative_attention_num_buckets=32,
        tie_word_embeddings=False, transformers_version="4.23.1", use_cache=True, vocab_size=32128,
    ),
    "mt5_small": dict(
        model_type="mt5", d_ff=1024, d_kv=64, d_model=512, decoder_start_token_id=0,
        dropout_rate=0.1, eos_token_id=1, feed_forward_proj="gated-gelu", initializer_factor=1.0,
        is_encoder_decoder=True, layer_norm_epsilon=1e-06, num_decoder_layers=8, num_heads=6,
        num_layers=8, pad_token_id=0, relative_attention_num_buckets=32, tie_word_embeddings=False,
        tokenizer_class="T5Tokenizer", vocab_size=250112,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name):
    family, config = families.config_from_hf(PUBLISHED[name])
    assert family == families.family_of(name)
    assert config == families.size_config(name)


# As the published checkpoints count them; a tied head counts once.
PARAMETERS = {
    "t5_tiny": 15_570_688,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_v1.1_small": 76_961_152,
    "t5_v1.1_base": 247_577_856,
    "t5_v1.1_large": 783_150_080,
    "t5_v1.1_xl": 2_849_757_184,
    "t5_v1.1_xxl": 11_135_332_352,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "mt5_xxl": 12_921_057_280,
}


def counted(config):
    width = config.embed_dim
    attention = 4 * width * config.num_heads * config.projection_dim + width
    ffn = (3 if config.gated else 2) * width * config.ff_dim + width
    blocks = config.num_layers * (attention + ffn)
    blocks += config.num_decoder_layers * (2 * attention + ffn)
    ends = 2 * (width + config.num_buckets * config.num_heads)
    return blocks + ends + config.vocab_size * width * (1 if config.tie_embedding else 2)


def test_sizes():
    kin = [families.FAMILIES[name] for name in ("t5", "mt5")]
    assert {name for module in kin for name in module.SIZES} == set(PARAMETERS)
    for name, expected in PARAMETERS.items():
        assert counted(families.size_config(name)) == expected, name
        assert families.config_to_hf(families.family_of(name), families.size_config(name))


@pytest.mark.parametrize("changes", [dict(), dict(gated=True, tie_embedding=False)], ids=str)
def test_size_is_counted_alike(changes):
    config = T5Config(40, **SIZES, **changes)
    assert Seq2SeqLM(config, family="t5").count_params() == counted(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(feed_forward_proj="gated-mish"), "`feed_forward_proj` must be one of relu, gelu,"),
        (dict(dense_act_fn="gelu"), "`dense_act_fn` must be 'relu' where .* is 'relu'. .*'gelu'"),
        (dict(is_gated_act=True), "`is_gated_act` must be False where `feed_forward_proj` is"),
        (dict(is_decoder=True), "`is_decoder` must be False for the family t5"),
        (dict(scalable_attention=True), "does not know: .*scalable_attention"),
        (dict(tie_word_embeddings=False, scale_decoder_outputs=True), "`scale_decoder_outputs`"),
    ],
    ids=str,
)
def test_configs_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        families.config_from_hf({"model_type": "t5", **fields})


@pytest.mark.parametrize(
    ("activation", "gated", "word"),
    [
        ("relu", False, "relu"),
        ("gelu", False, "gelu"),
        ("gelu_tanh", False, "gelu_new"),
        ("gelu_tanh", True, "gated-gelu"),
        ("silu", True, "gated-silu"),
    ],
)
def test_feed_forward_networks_by_name(activation, gated, word):
    config = T5Config(40, **SIZES, activation=activation, gated=gated)
    fields = families.config_to_hf("t5", config)
    assert fields["feed_forward_proj"] == word
    assert families.config_from_hf(fields) == ("t5", config)


def test_settings_that_checkpoints_cant_say():
    with pytest.raises(ValueError, match=r"t5 can't say these settings: \{'activation': 'gelu'\}"):
        families.config_to_hf("t5", T5Config(40, **SIZES, activation="gelu", gated=True))
    with pytest.raises(ValueError, match="mt5 can't say .*'tie_embedding'"):
        families.config_to_hf("mt5", T5Config(40, **SIZES))


# How each version of `transformers` says that the head is the token table, scaled, or its own.
@pytest.mark.parametrize(
    ("fields", "tied"),
    [
        (dict(), True),
        (dict(tie_word_embeddings=False), False),
        (dict(tie_word_embeddings=True, scale_decoder_outputs=True), True),
        (dict(tie_word_embeddings=True, scale_decoder_outputs=False), False),
        (dict(model_type="mt5", tie_word_embeddings=True), False),
    ],
    ids=str,
)
def test_tied_or_not(fields, tied):
    config = families.config_from_hf({"model_type": "t5", **fields})[1]
    assert config.tie_embedding == tied


@pytest.fixture
def untied(tmp_path):
    """A T5 with a head of its own, as `transformers` 5 writes it, and what it answers."""
    folder = tmp_path / "untied"
    shutil.copytree(FIXTURES / "mt5" / "seq2seq_lm", folder)
    fields = json.loads((folder / "config.json").read_text())
    fields |= dict(model_type="t5", tie_word_embeddings=True, scale_decoder_outputs=False)
    (folder / "config.json").write_text(json.dumps(fields))
    with np.load(folder / "expected.npz") as arrays:
        inputs = dict(arrays)
    return folder, inputs, inputs.pop("output")


def test_a_head_of_its_own(untied):
    folder, inputs, expected = untied
    real = inputs["decoder_padding_mask"] == 1
    output = np.array(Seq2SeqLM.from_pretrained(folder)(inputs))
    np.testing.assert_allclose(output[real], expected[real], atol=TOLERANCE)


def test_a_head_that_a_checkpoint_lacks_is_the_table(untied, caplog):
    folder, inputs, _ = untied
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with caplog.at_level("INFO", logger="kerasllm"):
        model = Seq2SeqLM.from_pretrained(folder)
    assert "Fresh weights" not in caplog.text
    np.testing.assert_array_equal(model.logits.kernel, tensors["shared.weight"])
    hidden_states = np.array(model.backbone(inputs))
    np.testing.assert_allclose(
        model(inputs), hidden_states @ tensors["shared.weight"].T, atol=TOLERANCE
    )
    with caplog.at_level("INFO", logger="kerasllm"):
        Seq2SeqLM.from_pretrained(folder, fresh_head=True)
    assert "Fresh weights, to be trained: logits." in caplog.text


def test_a_tied_head_is_never_fresh(caplog):
    with caplog.at_level("INFO", logger="kerasllm"):
        Seq2SeqLM.from_pretrained(FIXTURES / "t5" / "seq2seq_lm")
    assert "Fresh weights" not in caplog.text


def test_deeper_in_one_of_the_stacks():
    fields = families.config_to_hf("t5", T5Config(40, **SIZES))
    assert (fields["num_layers"], fields["num_decoder_layers"]) == (2, 1)
    config = families.config_from_hf({**fields, "num_decoder_layers": None})[1]
    assert config == dataclasses.replace(T5Config(40, **SIZES), num_decoder_layers=2)


def test_a_head_on_the_encoder_alone(tmp_path):
    folder = FIXTURES / "t5" / "seq2seq_lm"
    whole = Seq2SeqLM.from_pretrained(folder)
    model = TokenClassifier.from_pretrained(folder, num_classes=3, fresh_head=True)
    inputs = of_encoder(batch())
    assert type(model.backbone) is T5Stack
    np.testing.assert_array_equal(model.backbone(inputs), whole.backbone.encode(inputs))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_decoder_layers"] == 0
    again = TokenClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    shared = TokenClassifier(3, whole.backbone.encoder, family="t5")
    assert shared.backbone is whole.backbone.encoder
    with pytest.raises(ValueError, match="`backbone` must be an encoder alone .* Received: a T5 "):
        TokenClassifier(3, whole.backbone, family="t5")
