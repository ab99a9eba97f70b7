"""Low-rank adapters: the formula, training, merging, and PEFT's files (make_lora_fixtures.py)."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy
import tiny_task
from keras_file import round_trip
from numpy_reference import ACTIVATIONS, float32, randomise

from kerasllm import families, weights
from kerasllm.config import RecurrentConfig, TransformerConfig
from kerasllm.export import to_tflite
from kerasllm.export.scorer import float32_copy
from kerasllm.layers import Dense
from kerasllm.layers.lora import AdaptedDense, adapt
from kerasllm.models import MODELS, CausalLM, ReplacedTokenDetection, TextClassifier
from kerasllm.models.lora import CONFIG_FILE, FILE, add_lora, load_lora, merge_lora, save_lora
from kerasllm.training import fit, layer_rates

TOLERANCE = 1e-5
FIXTURES = pathlib.Path(__file__).parent / "fixtures"
CASES = [
    pytest.param(path.parent, id=path.parent.name)
    for path in sorted((FIXTURES / "lora").glob("*/adapter_config.json"))
]
IDS = np.array([[2, 7, 9, 11, 3], [2, 39, 3, 0, 0], [0, 0, 2, 5, 3]], "int32")
MASK = (IDS != 0).astype("int32")


def config(**changes):
    sizes = dict(num_layers=2, num_heads=3, embed_dim=15, ff_dim=22, max_length=12, rate=0.0)
    return TransformerConfig(40, **{**sizes, **changes})


def made(dtype=None, **changes):
    return randomise(TextClassifier(3, config(**changes), rate=0.0, family="bert", dtype=dtype))


def adapted(dtype=None, changes=None, **options):
    """A model whose adapters say something."""
    model = made(dtype, **(changes or {}))
    add_lora(model, **{**dict(rank=2, alpha=3), **options})
    return randomise_adapters(model)


def randomise_adapters(model, seed=1):
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    return model


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no_bias"])
def test_the_formula(activation, use_bias):
    layer = Dense(5, activation=activation, use_bias=use_bias)
    layer.build((None, 4))
    randomise(layer)
    x = np.random.default_rng(2).normal(size=(2, 3, 4)).astype("float32")
    plain = np.array(layer(x))
    adapter = adapt(layer, rank=2, alpha=6.0)
    np.testing.assert_array_equal(layer(x), plain)  # a fresh way up is all zeros
    randomise(adapter, seed=3)
    kernel, down, up = (
        part.kernel.numpy().astype("float64") for part in (layer, adapter.down, adapter.up)
    )
    expected = x @ (kernel + 6 / 2 * down @ up) + (layer.bias.numpy() if use_bias else 0)
    expected = ACTIVATIONS["relu"](expected) if activation else expected
    np.testing.assert_allclose(layer(x), expected, atol=TOLERANCE)
    np.testing.assert_allclose(layer.merged_kernel(), kernel + 3 * down @ up, atol=TOLERANCE)


def test_a_fresh_way_down():
    keras.utils.set_random_seed(0)
    layer = Dense(5)
    layer.build((None, 400))
    down = adapt(layer, rank=30, alpha=1).down.kernel.numpy()
    assert np.abs(down).max() <= 1 / 20 + 1e-7  # uniform to both sides of 0, as PEFT draws it
    assert abs(down.std() - 1 / 20 / 3**0.5) < 0.001


def test_only_a_plain_dense_can_be_adapted():
    layer = Dense(5)
    layer.build((None, 4))
    adapt(layer, rank=1, alpha=1)
    for other in (layer, keras.layers.Embedding(3, 4)):
        with pytest.raises(TypeError, match="`dense` must be a plain `kerasllm.layers.Dense`"):
            adapt(other, rank=1, alpha=1)


def test_a_fresh_adapter_changes_nothing():
    model = made()
    before = model.predict((IDS, MASK), verbose=0)
    add_lora(model)
    np.testing.assert_array_equal(model.predict((IDS, MASK), verbose=0), before)
    randomise_adapters(model)
    after = model.predict((IDS, MASK), verbose=0)  # by a graph that knows the adapters
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(model((IDS, MASK)), after, atol=TOLERANCE)


@pytest.mark.parametrize("head", [True, False], ids=["head", "no_head"])
def test_what_is_trained(head):
    model = made()
    add_lora(model, rank=2, head=head)
    paths = [weight.path for weight in model.trainable_weights]
    assert [path for path in paths if "/lora/" not in path] == [
        f"{layer}/{weight}" for layer in ("pooler", "classifier") for weight in ("kernel", "bias")
    ] * head
    adapters = [path.split("block_")[1] for path in paths if "/lora/" in path]
    assert adapters == [
        f"{block}/att/{name}_dense/lora/{way}/kernel"
        for block in range(2)
        for name in ("query", "value")
        for way in ("down", "up")
    ]


def test_targets():
    model = made()
    add_lora(model, targets=("ffn.layers.0", "backbone.blocks.1.att.combine_heads", "pooler"))
    assert set(model.lora.layers) == {
        *("backbone.blocks.0.ffn.layers.0", "backbone.blocks.1.ffn.layers.0"),
        *("backbone.blocks.1.att.combine_heads", "pooler"),
    }
    assert set(model.lora.layers.values()) == {(8, 8)}
    assert model.lora.head == ("classifier",)
    assert isinstance(model.pooler, AdaptedDense)
    assert type(model.backbone.blocks[0].att.query_dense) is Dense
    other = made()
    add_lora(other, targets="query_dense")
    assert len(other.lora.layers) == 2


def tiny(**options):
    model = tiny_task.classifier(rate=0.0, num_layers=2)
    add_lora(model, rank=4, alpha=8, targets=("query_dense", "value_dense", "ffn.layers.1"))
    return model


def test_fit_trains_nothing_else():
    model = tiny()
    trained = {id(weight) for weight in model.trainable_weights}
    frozen = [weight for weight in model.weights if id(weight) not in trained]
    before = [weight.numpy() for weight in frozen]
    rows = tiny_task.rows(32)
    history = fit(model, rows, epochs=12, batch_size=16, learning_rate=0.02, progress=False)
    assert history["accuracy"][-1] > 0.9
    for weight, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value, err_msg=weight.path)
    assert all(np.abs(layer_up(model, path)).max() > 1e-4 for path in model.lora.layers)


def layer_up(model, path):
    return weights.attribute(model, path).lora.up.kernel.numpy()


def test_learning_rates_by_layers():
    rates = layer_rates(tiny().backbone, 0.5)
    assert {rate for path, rate in rates.items() if "block_0" in path} == {0.25}
    assert all("/lora/" in path for path in rates)


def test_dropout_while_training_only():
    model = adapted(rate=0.5)
    np.testing.assert_array_equal(model((IDS, MASK)), model((IDS, MASK), training=False))
    first, second = (np.array(model((IDS, MASK), training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("policy", [None, "mixed_bfloat16", "mixed_float16"])
def test_merged(policy):
    model = adapted(policy, targets=("query_dense", "ffn.layers.0", "pooler"))
    before = float32(model((IDS, MASK)))
    merged = merge_lora(model)
    assert type(merged) is type(model)
    assert merged.lora is None
    assert merged.backbone.dtype_policy == model.backbone.dtype_policy
    assert not [w for w in merged.weights if "/lora/" in w.path]
    assert len(merged.trainable_weights) == len(merged.weights)
    tolerance = TOLERANCE if policy is None else 0.1
    np.testing.assert_allclose(float32(merged((IDS, MASK))), before, atol=tolerance)
    np.testing.assert_array_equal(float32(model((IDS, MASK))), before)
    exact = merge_lora(adapted(targets=("query_dense", "ffn.layers.0", "pooler")))
    np.testing.assert_allclose(float32(merged((IDS, MASK))), exact((IDS, MASK)), atol=tolerance)


def test_merged_is_saved_as_a_whole(tmp_path):
    model = adapted()
    with pytest.raises(ValueError, match="`model` must have no adapters to be saved.*4 of them"):
        model.save_pretrained(tmp_path / "model")
    merge_lora(model).save_pretrained(tmp_path / "model")
    again = TextClassifier.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(again((IDS, MASK)), model((IDS, MASK)), atol=TOLERANCE)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_keras_file(tmp_path, policy):
    model = adapted(policy, rate=0.25, head=False)
    again = round_trip(model, tmp_path)
    assert again.lora == model.lora
    assert [w.path for w in again.trainable_weights] == [w.path for w in model.trainable_weights]
    np.testing.assert_array_equal(float32(again((IDS, MASK))), float32(model((IDS, MASK))))
    np.testing.assert_array_equal(
        float32(merge_lora(again)((IDS, MASK))), float32(merge_lora(model)((IDS, MASK)))
    )


def test_exports(tmp_path):
    model = randomise_adapters(tiny())
    np.testing.assert_array_equal(float32_copy(model)((IDS % 8, MASK)), model((IDS % 8, MASK)))
    merged = merge_lora(model)
    assert merged.tokenizer is model.tokenizer
    report = to_tflite(merged, tmp_path / "merged.tflite", max_length=8, texts=["good", "bad film"])
    assert report.label_flips == 0


def test_a_fused_layer_has_one_way_down():
    settings = dict(num_segments=0, norm_first=True, causal=True, embedding_norm=False)
    model = CausalLM(config(**settings, positions="counted"), family="gpt2")
    add_lora(model, targets=("query_dense", "key_dense", "value_dense", "combine_heads"))
    att = model.backbone.blocks[0].att
    assert att.query_dense.lora.down is att.key_dense.lora.down is att.value_dense.lora.down
    assert att.combine_heads.lora.down is not att.query_dense.lora.down
    assert len(model.trainable_weights) == 2 * (4 + 2)  # and none of the head


def base_of(folder):
    fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return FIXTURES / fields["base_model_name_or_path"]


def with_adapters(folder):
    base = base_of(folder)
    model = MODELS[base.name].from_pretrained(base)
    load_lora(model, folder)
    with np.load(base / "expected.npz") as arrays:
        inputs = {name: arrays[name] for name in arrays if name != "output"}
    return model, inputs


def answers(model, inputs):
    """What a model says of real tokens, or of texts."""
    output = np.array(model(inputs))
    if output.ndim == 2:
        return output
    return output[inputs.get("decoder_padding_mask", inputs["padding_mask"]) == 1]


def expected_answers(folder, inputs):
    with np.load(folder / "expected.npz") as arrays:
        return answers(lambda _: arrays["output"], inputs)


@pytest.mark.parametrize("folder", CASES)
def test_equals_peft(folder):
    model, inputs = with_adapters(folder)
    expected = expected_answers(folder, inputs)
    np.testing.assert_allclose(answers(model, inputs), expected, atol=TOLERANCE)
    np.testing.assert_allclose(answers(merge_lora(model), inputs), expected, atol=TOLERANCE)
    base = MODELS[base_of(folder).name].from_pretrained(base_of(folder))
    assert np.abs(answers(base, inputs) - expected).max() > 0.1


@pytest.mark.parametrize("folder", CASES)
def test_saved_as_it_was_read(folder, tmp_path):
    model, inputs = with_adapters(folder)
    save_lora(model, tmp_path, base_model="their/base")
    theirs = safetensors.numpy.load_file(folder / FILE)
    ours = safetensors.numpy.load_file(tmp_path / FILE)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    written = json.loads((tmp_path / CONFIG_FILE).read_text(encoding="utf-8"))
    for field in ("peft_type", "r", "task_type", "bias", "fan_in_fan_out", "lora_dropout"):
        assert written[field] == fields[field], field
    assert written["base_model_name_or_path"] == "their/base"
    again = MODELS[base_of(folder).name].from_pretrained(base_of(folder))
    load_lora(again, tmp_path)
    np.testing.assert_array_equal(answers(again, inputs), answers(model, inputs))


def test_their_words_for_targets(tmp_path):
    model = adapted(targets=("query_dense", "ffn.layers.1"))
    save_lora(model, tmp_path)
    fields = json.loads((tmp_path / CONFIG_FILE).read_text(encoding="utf-8"))
    # `output.dense` alone would be the way out of attention too.
    assert fields["target_modules"] == ["0.output.dense", "1.output.dense", "query"]
    assert fields["modules_to_save"] == ["bert.pooler.dense", "classifier"]


@pytest.mark.parametrize("folder", CASES)
def test_peft_loads_what_we_save(folder, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model, inputs = with_adapters(folder)
    for weight in model.trainable_weights:
        weight.assign(weight.numpy() * 0.9)
    save_lora(model, tmp_path)
    base = base_of(folder)
    architecture = families.head(model.family, model.HEAD).architecture
    theirs = getattr(transformers, architecture).from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    names = {
        "token_ids": "input_ids", "padding_mask": "attention_mask",
        "segment_ids": "token_type_ids", "decoder_token_ids": "decoder_input_ids",
        "decoder_padding_mask": "decoder_attention_mask",
    }  # fmt: skip
    row = {name: value[:1] for name, value in inputs.items()}  # which has no padding
    batch = {names[name]: torch.from_numpy(value).long() for name, value in row.items()}
    with torch.no_grad():
        expected = theirs(**batch).logits.numpy()
    np.testing.assert_allclose(model(row), expected, atol=TOLERANCE)


def changed(folder, place, fields=None, tensors=None):
    """A copy of a folder of PEFT's with other fields, and with tensors that a function changed."""
    shutil.copytree(folder, place)
    path = place / CONFIG_FILE
    theirs = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**theirs, **(fields or {})}), encoding="utf-8")
    if tensors:
        stored = safetensors.numpy.load_file(place / FILE)
        tensors(stored)
        safetensors.numpy.save_file(stored, place / FILE)
    return place


BERT = FIXTURES / "lora" / "bert"
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_"
FOREIGN = "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A"


@pytest.mark.parametrize(
    ("fields", "tensors", "message"),
    [
        ({"use_dora": True}, None, "must be of plain LoRA.*'use_dora': True"),
        ({"bias": "all"}, None, "must be of plain LoRA.*'bias': 'all'"),
        ({"peft_type": "IA3"}, None, "must be of plain LoRA.*'peft_type': 'IA3'"),
        ({"init_lora_weights": "pissa_niter_4"}, None, "must be of plain LoRA.*pissa"),
        ({"something_new": 3}, None, "must be of plain LoRA.*'something_new': 3"),
        ({}, lambda t: t.clear(), "must hold adapters.*Received adapters of: none"),
        (
            {},
            lambda t: t.update({FOREIGN: np.ones((3, 40), "float32")}),
            r"must hold adapters of the model's own `Dense`.*\['bert.embeddings.word_embeddings'\]",
        ),
        (
            {},
            lambda t: t.pop(QUERY + "B.weight"),
            r"query.lora_B.weight of .* \(15, 3\)\]. Received: \[.*None\]",
        ),
        (
            {},
            lambda t: t.update({"base_model.model.other.weight": np.ones(2, "float32")}),
            r"nothing else but the model's head. Received: \['base_model.model.other.weight'\]",
        ),
        (
            {},
            lambda t: t.update({QUERY + "A.weight": np.ones((3, 9), "float32")}),
            r"query.lora_A.weight and .* shapes \[\(3, 15\), .* Received: \[\(3, 9\), ",
        ),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, dict) else None,
)
def test_files_that_do_not_fit(fields, tensors, message, tmp_path):
    place = changed(BERT, tmp_path / "other", fields, tensors)
    model = MODELS["text_classifier"].from_pretrained(base_of(BERT))
    with pytest.raises(ValueError, match=message):
        load_lora(model, place)
    assert model.lora is None and all(weight.trainable for weight in model.weights)


def test_files_that_are_not_there(tmp_path):
    model = made()
    with pytest.raises(FileNotFoundError, match="must hold an `adapter_config.json`"):
        load_lora(model, tmp_path)
    shutil.copy(BERT / CONFIG_FILE, tmp_path)
    with pytest.raises(FileNotFoundError, match="must hold a `adapter_model.safetensors`"):
        load_lora(model, tmp_path)
    assert model.lora is None


def test_wrong_arguments():
    model = made()
    for options, message in (
        (dict(rank=0), "`rank` must be an integer of at least 1. Received: 0"),
        (dict(rank=True), "`rank` must be an integer of at least 1. Received: True"),
        (dict(alpha=0), "`alpha` must be a number above 0. Received: 0"),
        (dict(alpha="1"), "`alpha` must be a number above 0. Received: '1'"),
        (dict(rate=1.0), "`rate` must be a number from 0 to below 1. Received: 1.0"),
        (dict(targets=()), "`targets` must name.*att.query_dense.*Received: no names"),
        (
            dict(targets=("query_dense", "queries")),
            "`targets` must name.*att.query_dense, .*pooler.*Received: 'queries'",
        ),
        (dict(targets=("layernorm1",)), "`targets` must name.*Received: 'layernorm1'"),
    ):
        with pytest.raises(ValueError, match=message):
            add_lora(model, **options)
    assert model.lora is None
    assert len(model.trainable_weights) == len(model.weights)
    for function in (merge_lora, lambda model: save_lora(model, "nowhere")):
        with pytest.raises(ValueError, match="`model` must have adapters"):
            function(model)
    add_lora(model)
    with pytest.raises(ValueError, match="`model` must have no adapters yet. Received: one with 4"):
        add_lora(model)
    recurrent = TextClassifier(3, RecurrentConfig(40), family="lstm")
    with pytest.raises(ValueError, match="`targets` must name `Dense`.*: classifier. Received: 'q"):
        add_lora(recurrent)
    electra = config(embedding_dim=8)
    both = ReplacedTokenDetection(electra, family="electra")
    with pytest.raises(ValueError, match="`model` must be one of a family.*give the `detector`"):
        add_lora(both)
