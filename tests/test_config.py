"""What a config takes, and what it says of what it doesn't take."""

import dataclasses
import json

import pytest

from kerasllm.config import (
    ACTIVATIONS,
    LlamaConfig,
    RecurrentConfig,
    RopeScaling,
    T5Config,
    TransformerConfig,
)


def test_fields_stay_within_their_budget():
    assert len(dataclasses.fields(TransformerConfig)) <= 24


def test_defaults_are_bert_base():
    config = TransformerConfig(30522)
    assert dataclasses.asdict(config) == {
        "vocab_size": 30522,
        "num_layers": 12,
        "num_heads": 12,
        "embed_dim": 768,
        "ff_dim": 3072,
        "max_length": 512,
        "num_segments": 2,
        "rate": 0.1,
        "attention_rate": 0.1,
        "activation": "gelu",
        "epsilon": 1e-12,
        "initializer_range": 0.02,
        "pad_id": 0,
        "norm_first": False,
        "causal": False,
        "positions": "learned",
        "position_offset": 0,
        "embedding_dim": 0,
        "embedding_bias": True,
        "embedding_norm": True,
        "scale_embedding": False,
        "share_blocks": False,
        "num_decoder_layers": 0,
        "tie_embedding": True,
    }
    assert config.projection_dim == 64


def test_through_json():
    config = TransformerConfig(
        100, num_heads=3, embed_dim=15, epsilon=1e-5, activation="silu", pad_id=7, num_segments=0
    )
    assert TransformerConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_frozen():
    config = TransformerConfig(100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rate = 0.5
    assert dataclasses.replace(config, rate=0.5).rate == 0.5
    with pytest.raises(ValueError, match="`rate`"):
        dataclasses.replace(config, rate=5)


COUNT = "must be an integer of at least"
REFUSED = {
    "vocab_size": (COUNT, [0, -1, 2.0, "100", None, True]),
    "num_layers": (COUNT, [0, -1, 2.0, "2", None, True]),
    "num_heads": (COUNT, [0, -1, 2.0, "2", None, True]),
    "embed_dim": (COUNT, [0, -1, 2.0, "2", None, True]),
    "ff_dim": (COUNT, [0, -1, 2.0, "2", None, True]),
    "max_length": (COUNT, [0, -1, 2.0, "2", None, True]),
    "num_segments": (COUNT, [-1, 2.0, "2", None, True]),
    "pad_id": (COUNT, [-1, 2.0, "2", None, True]),
    "rate": (
        "must be a number from 0 to below 1",
        [-0.1, 1, 1.5, float("nan"), "0.1", None, False],
    ),
    "attention_rate": ("must be a number from 0 to below 1", [-0.1, 1, float("nan"), "0.1", None]),
    "epsilon": ("must be a number above 0", [0, -1e-6, float("nan"), float("inf"), "1e-12", None]),
    "initializer_range": ("must be a number above 0", [0, -1, float("nan"), "0.02", None]),
    **{
        name: (COUNT, [-1, 2.0, "2", None, True])
        for name in ("position_offset", "embedding_dim", "num_decoder_layers")
    },
    **{
        name: ("must be True or False", [0, 1, "yes", None])
        for name in (
            *("norm_first", "causal", "embedding_bias", "embedding_norm"),
            *("scale_embedding", "share_blocks", "tie_embedding"),
        )
    },
    "positions": ("must be one of learned, counted", ["rotary", "", None]),
    "activation": ("must be one of relu, gelu, gelu_tanh", ["geglu", "GELU", "", None, ["relu"]]),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in REFUSED for value in REFUSED[field][1]]
)
def test_refused_values(field, value):
    with pytest.raises(ValueError, match=f"^`{field}` {REFUSED[field][0]}") as caught:
        TransformerConfig(**{"vocab_size": 100, field: value})
    assert f"Received: {value!r}" in str(caught.value)


def test_every_field_is_checked():
    assert set(REFUSED) == {field.name for field in dataclasses.fields(TransformerConfig)}


def test_fields_that_must_fit_each_other():
    with pytest.raises(ValueError, match="divisible by `num_heads`.*embed_dim=768, num_heads=7"):
        TransformerConfig(100, num_heads=7)
    with pytest.raises(ValueError, match="`pad_id` must be below `vocab_size`.*pad_id=100"):
        TransformerConfig(100, pad_id=100)
    assert TransformerConfig(100, pad_id=99).pad_id == 99


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    assert TransformerConfig(100, activation=activation).activation == activation


def test_llamas_fields_stay_within_their_budget():
    assert len(dataclasses.fields(LlamaConfig)) <= 24


def test_llamas_defaults_are_llama_7b():
    config = LlamaConfig(32000)
    assert dataclasses.asdict(config) == {
        "vocab_size": 32000,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 32,
        "projection_dim": 128,
        "embed_dim": 4096,
        "ff_dim": 11008,
        "max_length": 2048,
        "attention_rate": 0.0,
        "activation": "silu",
        "epsilon": 1e-6,
        "initializer_range": 0.02,
        "pad_id": 0,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "qkv_bias": False,
        "output_bias": False,
        "ffn_bias": False,
        "qk_norm": False,
        "sliding_window": 0,
        "full_layers": 0,
        "tie_embedding": False,
    }
    assert config.windows == (0,) * 32
    assert config.causal
    windowed = dataclasses.replace(config, num_layers=3, sliding_window=5, full_layers=2)
    assert windowed.windows == (0, 0, 5)


def test_llamas_config_through_json():
    scaling = RopeScaling(
        "longrope", 4.0, 512, attention_factor=1.5, short_factors=(1.0, 2), long_factors=[3.0, 4.0]
    )
    config = LlamaConfig(100, num_heads=3, num_kv_heads=1, projection_dim=4, rope_scaling=scaling)
    again = LlamaConfig(**json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scaling.factor = 2.0


LLAMAS_REFUSED = {
    **{
        name: REFUSED[name]
        for name in (
            *("vocab_size", "num_layers", "num_heads", "embed_dim", "ff_dim", "max_length"),
            *("pad_id", "attention_rate", "epsilon", "initializer_range", "activation"),
            "tie_embedding",
        )
    },
    **{
        name: (COUNT, [-1, 2.0, "2", None, True])
        for name in ("num_kv_heads", "projection_dim", "sliding_window", "full_layers")
    },
    **{
        name: ("must be True or False", [0, 1, "yes", None])
        for name in ("qkv_bias", "output_bias", "ffn_bias", "qk_norm")
    },
    "rope_theta": ("must be a number above 1", [1, 0, -1, float("nan"), "10000", None]),
    "rope_scaling": ("must be a RopeScaling, a dict", ["linear", 2.0, True]),
}
SCALINGS_REFUSED = {
    "kind": ("must be one of linear, dynamic", ["default", "su", None]),
    "factor": ("must be a number of at least 1", [0.5, 0, float("nan"), "2", None]),
    "original_max_length": (COUNT, [0, -1, 2.0, "2", None, True]),
    "slow": ("must be a number above 0", [0, -1, float("nan"), "1", None]),
    "fast": ("must be a number above `slow`", [1.0, 0.5, float("nan"), "32", None]),
    "attention_factor": ("must be a number of at least 0", [-0.1, float("inf"), "1", None]),
    "short_factors": ("must be a tuple of numbers", [1.0, "1.0", None]),
    "long_factors": ("must be a tuple of numbers", [1.0, "1.0", None]),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in LLAMAS_REFUSED for value in LLAMAS_REFUSED[field][1]],
)
def test_values_that_llama_refuses(field, value):
    with pytest.raises(ValueError, match=f"^`{field}` {LLAMAS_REFUSED[field][0]}") as caught:
        LlamaConfig(**{"vocab_size": 100, field: value})
    assert f"Received: {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in SCALINGS_REFUSED for value in SCALINGS_REFUSED[field][1]],
)
def test_values_that_a_scaling_refuses(field, value):
    fields = dict(kind="yarn", factor=2.0, original_max_length=8)
    with pytest.raises(ValueError, match=f"^`{field}` {SCALINGS_REFUSED[field][0]}") as caught:
        RopeScaling(**{**fields, field: value})
    assert f"Received: {value!r}" in str(caught.value)


def test_every_field_of_llama_is_checked():
    assert set(LLAMAS_REFUSED) == {field.name for field in dataclasses.fields(LlamaConfig)}
    assert set(SCALINGS_REFUSED) == {field.name for field in dataclasses.fields(RopeScaling)}


def test_llamas_fields_that_must_fit_each_other():
    with pytest.raises(ValueError, match="`num_heads` must be divisible.*num_kv_heads=5"):
        LlamaConfig(100, num_kv_heads=5)
    with pytest.raises(ValueError, match="`embed_dim` must be divisible by `num_heads`, or"):
        LlamaConfig(100, embed_dim=100)
    with pytest.raises(ValueError, match="`projection_dim` must be even.*Received: 5"):
        LlamaConfig(100, embed_dim=15, num_heads=3)
    with pytest.raises(ValueError, match="`pad_id` must be below `vocab_size`.*pad_id=100"):
        LlamaConfig(100, pad_id=100)
    with pytest.raises(ValueError, match="`original_max_length` must be an integer of at least 2"):
        RopeScaling("longrope", 2.0, 1)
    with pytest.raises(ValueError, match="`long_factors` must be a number above 0. Received: 0"):
        RopeScaling("longrope", 2.0, 8, long_factors=(1.0, 0))
    scaling = RopeScaling("longrope", 2.0, 8, short_factors=(1.0,) * 64, long_factors=(1.0,))
    with pytest.raises(ValueError, match="must have 64 short and as many long.*64 and 1"):
        LlamaConfig(100, rope_scaling=scaling)
    assert RopeScaling("linear", 1).original_max_length == 0


RECURRENTS_REFUSED = {
    **{
        name: REFUSED[name]
        for name in (
            *("vocab_size", "num_layers", "embed_dim", "max_length", "rate", "initializer_range"),
            *("pad_id", "tie_embedding"),
        )
    },
    "cell": ("must be one of rnn, lstm, gru", ["LSTM", "", None]),
    "units": (COUNT, [0, -1, 2.0, "2", None, True]),
    "bidirectional": ("must be True or False", [0, 1, "yes", None]),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in RECURRENTS_REFUSED for value in RECURRENTS_REFUSED[field][1]],
)
def test_values_that_recurrent_refuses(field, value):
    with pytest.raises(ValueError, match=f"^`{field}` {RECURRENTS_REFUSED[field][0]}") as caught:
        RecurrentConfig(**{"vocab_size": 100, field: value})
    assert f"Received: {value!r}" in str(caught.value)


def test_recurrents_fields():
    assert set(RECURRENTS_REFUSED) == {field.name for field in dataclasses.fields(RecurrentConfig)}
    config = RecurrentConfig(100, cell="gru", units=7, bidirectional=True, num_layers=3)
    assert (config.width, config.causal) == (14, False)
    assert RecurrentConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert (RecurrentConfig(100).width, RecurrentConfig(100).causal) == (128, True)
    with pytest.raises(ValueError, match="`pad_id` must be below `vocab_size`.*pad_id=100"):
        RecurrentConfig(100, pad_id=100)
    with pytest.raises(ValueError, match="`tie_embedding` must.*embed_dim=128, and an.*64 wide"):
        RecurrentConfig(100, units=64, tie_embedding=True)
    assert RecurrentConfig(100, tie_embedding=True, units=64, bidirectional=True).width == 128


def test_t5s_defaults_are_t5_base():
    assert dataclasses.asdict(T5Config(32128)) == {
        "vocab_size": 32128,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "projection_dim": 64,
        "embed_dim": 768,
        "ff_dim": 3072,
        "max_length": 512,
        "rate": 0.1,
        "activation": "relu",
        "gated": False,
        "epsilon": 1e-6,
        "initializer_factor": 1.0,
        "pad_id": 0,
        "causal": False,
        "num_buckets": 32,
        "max_distance": 128,
        "tie_embedding": True,
    }


T5S_REFUSED = {
    **{
        name: REFUSED[name]
        for name in (
            *("vocab_size", "num_layers", "num_decoder_layers", "num_heads", "embed_dim", "ff_dim"),
            *("max_length", "rate", "activation", "epsilon", "pad_id", "causal", "tie_embedding"),
        )
    },
    **{name: (COUNT, [0, -1, 2.0, "2", None, True]) for name in ("projection_dim", "max_distance")},
    "num_buckets": (f"{COUNT} 4", [3, 0, 8.0, "8", None, True]),
    "gated": ("must be True or False", [0, 1, "yes", None]),
    "initializer_factor": ("must be a number above 0", [0, -1, float("nan"), "1", None]),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in T5S_REFUSED for value in T5S_REFUSED[field][1]]
)
def test_values_that_t5_refuses(field, value):
    with pytest.raises(ValueError, match=f"^`{field}` {T5S_REFUSED[field][0]}") as caught:
        T5Config(**{"vocab_size": 100, field: value})
    assert f"Received: {value!r}" in str(caught.value)


def test_t5s_fields():
    assert set(T5S_REFUSED) == {field.name for field in dataclasses.fields(T5Config)}
    assert len(T5S_REFUSED) <= 24
    config = T5Config(100, num_heads=3, embed_dim=16, initializer_factor=2.0, num_decoder_layers=0)
    assert config.initializer_range == 0.5
    assert T5Config(**json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rate = 0.5
    with pytest.raises(ValueError, match="`pad_id` must be below `vocab_size`.*pad_id=100"):
        T5Config(100, pad_id=100)
    with pytest.raises(ValueError, match="`max_distance` must be above half of `num_buckets`.*16,"):
        T5Config(100, max_distance=16)
    assert T5Config(100, max_distance=17).max_distance == 17
