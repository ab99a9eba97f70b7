"""LLaMA's kin: the backbone and its parts against NumPy, rotary scaling, windows, configs."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import numpy_reference as reference
import pytest
from keras_file import round_trip
from numpy_reference import float32

from kerasllm import families
from kerasllm.backbones import Llama, Transformer, backbone_of
from kerasllm.config import LlamaConfig, RopeScaling, TransformerConfig
from kerasllm.layers import GatedFeedForward, LlamaBlock, RotaryAttention, RotaryPositions
from kerasllm.models import CausalLM, SpanLabeler, TextClassifier

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
TOLERANCE = 1e-5
SIZES = dict(num_layers=2, num_heads=6, num_kv_heads=2, embed_dim=24, ff_dim=22, max_length=12)


def made(dtype=None, **changes):
    config = LlamaConfig(40, **{**SIZES, **changes})
    return reference.randomise(Llama(config, dtype=dtype), scale=0.3)


def batch(seed=0):
    """Rows padded at the right, at the left and not at all."""
    rng = np.random.default_rng(seed)
    mask = np.ones((4, 7), "int32")
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    mask[3, :3] = 0
    return {"token_ids": rng.integers(1, 40, mask.shape, dtype="int32"), "padding_mask": mask}


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(num_kv_heads=0, activation="gelu", epsilon=0.05),
        dict(num_kv_heads=1, num_layers=1, rope_theta=50.0),
        dict(num_heads=3, num_kv_heads=3, embed_dim=15, projection_dim=10),
        dict(qkv_bias=True, qk_norm=True, activation="gelu_tanh"),
        dict(qkv_bias=True, output_bias=True, ffn_bias=True, activation="relu"),
        dict(sliding_window=3),
        dict(sliding_window=1, full_layers=1),
        dict(sliding_window=50),
    ],
    ids=str,
)
def test_equals_numpy(changes):
    model, inputs = made(**changes), batch()
    real = inputs["padding_mask"] == 1
    expected = reference.llama(model, **inputs)[real]
    np.testing.assert_allclose(np.array(model(inputs))[real], expected, atol=TOLERANCE)
    np.testing.assert_allclose(model.predict(inputs, verbose=0)[real], expected, atol=TOLERANCE)


@pytest.mark.parametrize("changes", [dict(), dict(sliding_window=3, full_layers=1)], ids=str)
def test_padding_changes_nothing(changes):
    model = made(**changes)
    ids = batch()["token_ids"][:, :5]
    expected = np.array(model({"token_ids": ids, "padding_mask": np.ones_like(ids)}))
    for left, right in ((0, 3), (3, 0), (2, 4)):
        padded = {
            "token_ids": np.pad(ids, ((0, 0), (left, right)), constant_values=9),
            "padding_mask": np.pad(np.ones_like(ids), ((0, 0), (left, right))),
        }
        output = np.array(model(padded))[:, left : left + 5]
        np.testing.assert_allclose(output, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("window", "sees"), [(0, True), (4, True), (3, False)])
def test_a_window_hides_what_is_further_back(window, sees):
    model, inputs = made(num_layers=1, sliding_window=window), batch()
    changed = dict(inputs, token_ids=inputs["token_ids"].copy())
    changed["token_ids"][0, 0] = 39 - changed["token_ids"][0, 0]
    one, other = np.array(model(inputs))[0], np.array(model(changed))[0]
    assert (one[3] != other[3]).any() == sees  # three tokens on: the fourth of the window
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize("changes", [dict(), dict(sliding_window=3, full_layers=1)], ids=str)
@pytest.mark.parametrize("given", ["mask", "no mask"])
def test_steps_equal_the_whole(changes, given):
    model, inputs = made(**changes, qk_norm=True), batch()
    if given == "no mask":
        inputs["padding_mask"][:] = 1
    real = inputs["padding_mask"] == 1
    cache, outputs = model.make_cache(4, 10), []
    assert cache[0][0].shape == (4, 2, 10, 4)
    for position, length in ((0, 3), (3, 1), (4, 1), (5, 2)):
        step = {"token_ids": inputs["token_ids"][:, position : position + length]}
        if given == "mask":
            step["padding_mask"] = np.pad(
                inputs["padding_mask"], ((0, 0), (0, 3)), constant_values=1
            )
        output, cache = model(step, cache=cache, position=position)
        outputs.append(np.array(output))
    whole = np.array(model(inputs))
    np.testing.assert_allclose(np.concatenate(outputs, axis=1)[real], whole[real], atol=TOLERANCE)


def test_a_cache_holds_at_most_what_the_model_knows():
    model = made()
    assert model.make_cache(1)[0][0].shape[2] == 12
    with pytest.raises(ValueError, match="`max_length` must be at most 12.*Received: 13"):
        model.make_cache(1, 13)
    with pytest.raises(ValueError, match="`token_ids` must be at most `max_length`=12"):
        model({"token_ids": np.ones((1, 13), "int32"), "padding_mask": np.ones((1, 13), "int32")})


# How Hugging Face rotates: see fixtures/make_rotary_fixtures.py.
ROTARY = json.loads((FIXTURES / "rotary.json").read_text(encoding="utf-8"))


def rotary_of(name):
    config = families.config_from_hf(ROTARY[name])[1]
    return config, RotaryPositions(
        config.projection_dim, config.rope_theta, config.to_dict()["rope_scaling"]
    )


@pytest.mark.parametrize("length", [12, 40])
@pytest.mark.parametrize("name", ROTARY)
def test_rotations_equal_theirs(name, length):
    with np.load(FIXTURES / "rotary.npz") as arrays:
        expected = arrays[f"{name}/{length}"]
    _, layer = rotary_of(name)
    mask = np.ones((2, length), "int32")
    mask[1, :5] = 0
    rotation = np.array(layer(mask))  # (cosine and sine, batch, 1, length, pairs)
    np.testing.assert_allclose(rotation[:, 0, 0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(rotation[:, 1, 0, 5:], expected[:, :-5], atol=TOLERANCE)
    step = np.array(layer(np.ones((1, 64), "int32"), length=length - 9, position=9))
    np.testing.assert_allclose(step[:, 0, 0], expected[:, 9:], atol=TOLERANCE)


def test_the_scalings_differ():
    with np.load(FIXTURES / "rotary.npz") as arrays:
        short, long = arrays["dynamic/12"], arrays["dynamic/40"]
        assert np.abs(short - long[:, :12]).max() > 0.1
        assert np.abs(arrays["longrope/12"] - arrays["longrope/40"][:, :12]).max() > 0.1
        assert np.abs(arrays["llama3/40"] - rotated_plainly("llama3", 40)).max() > 0.1


def rotated_plainly(name, length):
    config, _ = rotary_of(name)
    layer = RotaryPositions(config.projection_dim, config.rope_theta)
    return np.array(layer(np.ones((1, length), "int32")))[:, 0, 0]


def test_rotations_far_away():
    _, layer = rotary_of("llama3.2_1b")
    frequencies = np.array(layer._frequencies(1.0)[0], "float32")
    cosine, sine = layer(np.ones((1, 131072), "int32"), length=9, position=131063)
    angles = np.arange(131063, 131072, dtype="float32")[:, None] * frequencies
    np.testing.assert_allclose(cosine[0, 0], np.cos(angles.astype("float64")), atol=1e-6)
    np.testing.assert_allclose(sine[0, 0], np.sin(angles.astype("float64")), atol=1e-6)


@pytest.mark.parametrize("name", ROTARY)
def test_scaling_there_and_back(name):
    config, _ = rotary_of(name)
    written = families.config_to_hf("llama", config)
    theirs = ROTARY[name]["rope_parameters"]
    assert theirs.items() <= written["rope_parameters"].items()
    assert written["max_position_embeddings"] == ROTARY[name]["max_position_embeddings"]
    # Before `transformers` 5 the same stood in two fields.
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert families.config_from_hf(old) == ("llama", config)
    assert LlamaConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_dynamic_scaling_reaches_further():
    config, _ = rotary_of("dynamic")
    assert (config.rope_scaling.original_max_length, config.max_length) == (16, 64)


def test_old_spelling_of_a_scaling():
    fields = dict(model_type="llama", rope_theta=7.0, rope_scaling=dict(type="linear", factor=2))
    config = families.config_from_hf(fields)[1]
    assert (config.rope_theta, config.rope_scaling) == (7.0, RopeScaling("linear", 2))
    yarn = dict(type="yarn", factor=4.0)
    config = families.config_from_hf(dict(model_type="llama", rope_scaling=yarn))[1]
    assert config.rope_scaling == RopeScaling("yarn", 4.0, 2048)
    long = dict(
        type="longrope", original_max_position_embeddings=512, short_factor=[1.0] * 64,
        long_factor=[2.0] * 64,
    )  # fmt: skip
    config = families.config_from_hf(dict(model_type="llama", rope_scaling=long))[1]
    assert config.rope_scaling.factor == 4.0


LINEAR = dict(rope_type="linear", factor=2.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rope_scaling=dict(rope_type="mrope")), "`rope_type` must be one of default, linear"),
        (dict(rope_parameters=dict(LINEAR, mscale=0.7)), r"not known: \{'mscale': 0.7\}"),
        (dict(rope_scaling=dict(LINEAR, partial_rotary_factor=0.5)), "'partial_rotary_factor'"),
        (dict(rope_scaling=dict(rope_type="yarn")), "kind yarn must have a `factor`"),
        (dict(rope_scaling=dict(LINEAR, factor=0.5)), "`factor` must be a number of at least 1"),
        (dict(rope_interleaved=True), "`rope_interleaved` must be False"),
        (dict(quantization_config=dict(bits=4)), "does not know: .*quantization_config"),
        (dict(model_type="mistral", attention_bias=True), "does not know: .*attention_bias"),
        (dict(model_type="qwen2", use_mrope=True), "`use_mrope` must be False"),
        (
            dict(model_type="qwen3", num_hidden_layers=1, layer_types=["sliding_attention"]),
            "`layer_types` must be full attention in the first",
        ),
    ],
    ids=str,
)
def test_configs_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        families.config_from_hf({"model_type": "llama", **fields})


def test_what_changes_nothing_is_no_error():
    rope = dict(rope_type="yarn", factor=2.0, truncate=True, mscale=None, partial_rotary_factor=1.0)
    fields = dict(model_type="llama", pretraining_tp=2, is_llama_config=True, rope_scaling=rope)
    assert families.config_from_hf(fields)[1].rope_scaling == RopeScaling("yarn", 2.0, 2048)


@pytest.mark.parametrize(
    ("theirs", "pad_id"),
    [(dict(pad_token_id=5), 5), (dict(eos_token_id=2), 2), (dict(eos_token_id=[8, 9]), 8)],
)
def test_padding_token(theirs, pad_id):
    assert families.config_from_hf(dict(model_type="llama", **theirs))[1].pad_id == pad_id


def test_a_setting_that_checkpoints_cant_say():
    config = LlamaConfig(40, **SIZES, qk_norm=True)
    with pytest.raises(ValueError, match=r"llama can't say these settings: \{'qk_norm': True\}"):
        families.config_to_hf("llama", config)
    with pytest.raises(ValueError, match="can't say .*'output_bias'"):
        families.config_to_hf("llama", LlamaConfig(40, **SIZES, qkv_bias=True))


# What the checkpoints' own config.json holds.
PUBLISHED = {
    "llama3.2_1b": dict(
        model_type="llama", attention_bias=False, attention_dropout=0.0, bos_token_id=128000,
        eos_token_id=128001, head_dim=64, hidden_act="silu", hidden_size=2048,
        initializer_range=0.02, intermediate_size=8192, max_position_embeddings=131072,
        mlp_bias=False, num_attention_heads=32, num_hidden_layers=16, num_key_value_heads=8,
        pretraining_tp=1, rms_norm_eps=1e-05, rope_theta=500000.0, tie_word_embeddings=True,
        rope_scaling=dict(
            factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0,
            original_max_position_embeddings=8192, rope_type="llama3",
        ),
        torch_dtype="bfloat16", transformers_version="4.45.0.dev0", use_cache=True,
        vocab_size=128256,
    ),
    "smollm2_135m": dict(
        model_type="llama", attention_bias=False, attention_dropout=0.0, bos_token_id=0,
        eos_token_id=0, hidden_act="silu", hidden_size=576,
        initializer_range=0.041666666666666664, intermediate_size=1536, is_llama_config=True,
        max_position_embeddings=8192, num_attention_heads=9, num_hidden_layers=30,
        num_key_value_heads=3, pretraining_tp=1, rms_norm_eps=1e-05, rope_interleaved=False,
        rope_scaling=None, rope_theta=100000, tie_word_embeddings=True, torch_dtype="bfloat16",
        transformers_version="4.40.1", use_cache=True, vocab_size=49152,
    ),
    "mistral_7b_v0.1": dict(
        model_type="mistral", bos_token_id=1, eos_token_id=2, hidden_act="silu",
        hidden_size=4096, initializer_range=0.02, intermediate_size=14336,
        max_position_embeddings=32768, num_attention_heads=32, num_hidden_layers=32,
        num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=10000.0, sliding_window=4096,
        tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True, vocab_size=32000,
    ),
    "qwen2.5_0.5b": dict(
        model_type="qwen2", attention_dropout=0.0, bos_token_id=151643, eos_token_id=151643,
        hidden_act="silu", hidden_size=896, initializer_range=0.02, intermediate_size=4864,
        max_position_embeddings=32768, max_window_layers=24, num_attention_heads=14,
        num_hidden_layers=24, num_key_value_heads=2, rms_norm_eps=1e-06, rope_theta=1000000.0,
        sliding_window=32768, tie_word_embeddings=True, use_mrope=False, use_cache=True,
        use_sliding_window=False, vocab_size=151936,
    ),
    "qwen3_0.6b": dict(
        model_type="qwen3", attention_bias=False, attention_dropout=0.0, bos_token_id=151643,
        eos_token_id=151645, head_dim=128, hidden_act="silu", hidden_size=1024,
        initializer_range=0.02, intermediate_size=3072, max_position_embeddings=40960,
        max_window_layers=28, num_attention_heads=16, num_hidden_layers=28,
        num_key_value_heads=8, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000,
        sliding_window=None, tie_word_embeddings=True, use_sliding_window=False,
        vocab_size=151936,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name):
    family, config = families.config_from_hf(PUBLISHED[name])
    assert family == families.family_of(name)
    beside = dict(initializer_range=0.02, pad_id=0)
    assert dataclasses.replace(config, **beside) == families.size_config(name)


# As the published checkpoints count them; a tied head counts once.
PARAMETERS = {
    "llama_tiny": 8_555_136,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1.7b": 1_711_376_384,
    "tinyllama_1.1b": 1_100_048_384,
    "mistral_7b_v0.1": 7_241_732_096,
    "mistral_7b_v0.3": 7_248_023_552,
    "qwen2.5_0.5b": 494_032_768,
    "qwen2.5_1.5b": 1_543_714_304,
    "qwen2.5_3b": 3_085_938_688,
    "qwen2.5_7b": 7_615_616_512,
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
}


def counted(config):
    width, head = config.embed_dim, config.projection_dim
    inner = config.num_heads * head + 2 * config.num_kv_heads * head
    attention = inner * width + config.num_heads * head * width
    attention += inner * config.qkv_bias + width * config.output_bias + 2 * head * config.qk_norm
    block = attention + 3 * width * config.ff_dim + 2 * width
    table = config.vocab_size * width
    return config.num_layers * block + width + table * (1 if config.tie_embedding else 2)


def test_sizes():
    kin = [families.FAMILIES[name] for name in ("llama", "mistral", "qwen2", "qwen3")]
    assert {name for module in kin for name in module.SIZES} == set(PARAMETERS)
    for name, expected in PARAMETERS.items():
        assert counted(families.size_config(name)) == expected, name
        assert families.config_to_hf(families.family_of(name), families.size_config(name))


def test_size_is_counted_alike():
    assert CausalLM("llama_tiny").count_params() == PARAMETERS["llama_tiny"]
    config = LlamaConfig(40, **SIZES, qkv_bias=True, qk_norm=True, tie_embedding=True)
    assert Llama(config).count_params() == counted(config)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_language_model_becomes_another(name):
    folder = FIXTURES / "families" / name / "causal_lm"
    model = CausalLM.from_pretrained(folder)
    for other in (SpanLabeler.from_pretrained(folder), TextClassifier.from_pretrained(folder, 2)):
        np.testing.assert_array_equal(other.backbone(batch()), model.backbone(batch()))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_low_precision(dtype):
    model, low = made(qk_norm=True, qkv_bias=True), made(dtype, qk_norm=True, qkv_bias=True)
    low.set_weights([weight.astype(low.weights[0].dtype) for weight in model.get_weights()])
    inputs = batch()
    real = inputs["padding_mask"] == 1
    output = low(inputs)
    assert keras.backend.standardize_dtype(output.dtype) == dtype.removeprefix("mixed_")
    assert low.make_cache(1)[0][0].dtype == output.dtype
    np.testing.assert_allclose(float32(output)[real], np.array(model(inputs))[real], atol=0.15)


def test_keras_file(tmp_path):
    scaling = RopeScaling("longrope", 2.0, 4, short_factors=(1.0, 1.5), long_factors=(2.0, 3.0))
    model = made("mixed_bfloat16", rope_scaling=scaling, sliding_window=3, full_layers=1)
    again = round_trip(model, tmp_path)
    assert isinstance(again, Llama)
    assert (again.config, again.dtype_policy) == (model.config, model.dtype_policy)
    np.testing.assert_array_equal(float32(again(batch())), float32(model(batch())))


@pytest.mark.parametrize(
    "layer",
    [
        RotaryAttention(12, 6, 2, 4, rate=0.1, qkv_bias=True, output_bias=True, qk_norm=True),
        GatedFeedForward(12, 7, "gelu", use_bias=True),
        LlamaBlock(
            12, 6, 2, 4, 7, attention_rate=0.1, activation="relu", epsilon=0.1, qkv_bias=True,
            output_bias=True, ffn_bias=True, qk_norm=True,
        ),
        RotaryPositions(8, 50.0, dict(kind="linear", factor=2.0)),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_layers_from_their_configs(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_dropout_on_attention():
    model = made(attention_rate=0.5)
    inputs = batch()
    assert (np.array(model(inputs, training=True)) != np.array(model(inputs))).any()


def test_widths_that_dont_fit():
    with pytest.raises(ValueError, match="`num_heads` must be divisible.*num_kv_heads=4"):
        RotaryAttention(12, 6, 4, 2)
    with pytest.raises(ValueError, match="`projection_dim` must be even.*Received: 3"):
        RotaryAttention(12, 4, 4, 3)


def test_backbone_of_a_config():
    config = LlamaConfig(40, **SIZES)
    assert isinstance(backbone_of(config), Llama)
    with pytest.raises(TypeError, match="`config` must be a `LlamaConfig`. Received: Trans"):
        Llama(TransformerConfig(40))
    with pytest.raises(TypeError, match="`config` must be a `TransformerConfig`"):
        Transformer(config)


def test_names_of_sublayers_are_their_attributes():
    model = made()
    for index, block in enumerate(model.blocks):
        assert model.get_layer(f"block_{index}") is block
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths)
    assert "block_1/att/query_dense/kernel" in "\n".join(paths)
