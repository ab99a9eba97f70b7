"""What a config takes, and what it says of what it doesn't take."""

import dataclasses
import json

import pytest

from kerasllm.config import ACTIVATIONS, TransformerConfig


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
