"""Every family and head against Hugging Face's code: see fixtures/make_family_fixtures.py."""

import json
import pathlib

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from kerasllm import families
from kerasllm.models import MODELS

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "families"
TOLERANCE = 1e-5
CASES = [
    pytest.param(path.parent, id=f"{path.parent.parent.name}-{path.parent.name}")
    for path in sorted(FIXTURES.glob("*/*/config.json"))
]
DECODERS = [case for case in CASES if case.values[0].name in ("causal_lm", "seq2seq_lm")]


def family_of(folder):
    return folder.parent.name


def loaded(folder, **options):
    """The model of a fixture; for a bare backbone, with the first head that its family has."""
    heads = families.FAMILIES[family_of(folder)].HEADS
    head = folder.name if folder.name in heads else next(iter(heads))
    return MODELS[head].from_pretrained(folder, **options)


def batch_of(folder):
    with np.load(folder / "expected.npz") as arrays:
        arrays = dict(arrays)
    return arrays, arrays.pop("output")


def real(arrays):
    name = "decoder_padding_mask" if "decoder_padding_mask" in arrays else "padding_mask"
    return arrays[name] == 1


def read_fields(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_every_family_is_here():
    there = {family_of(case.values[0]) for case in CASES}
    assert there == set(families.FAMILIES)
    for family in there:
        heads = {case.values[0].name for case in CASES if family_of(case.values[0]) == family}
        assert heads == {*families.FAMILIES[family].HEADS, "backbone"}


@pytest.mark.parametrize("folder", CASES)
def test_equals_theirs(folder):
    model = loaded(folder)
    inputs, expected = batch_of(folder)
    output = np.array(model.backbone(inputs) if folder.name == "backbone" else model(inputs))
    if output.ndim == 3 or folder.name == "token_detector":  # padding's own outputs say nothing
        output, expected = output[real(inputs)], expected[real(inputs)]
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).max() > 0.1  # a comparison of constants would show nothing


@pytest.mark.parametrize("folder", CASES)
def test_config_there_and_back(folder):
    theirs = read_fields(folder)
    family, config = families.config_from_hf(theirs)
    assert family == family_of(folder)
    written = families.config_to_hf(family, config)
    for field in written:
        if theirs.get(field) is not None:  # null asks for what we then write out
            assert written[field] == theirs[field], field


@pytest.mark.parametrize("folder", CASES)
def test_saved_as_it_was_read(folder, tmp_path):
    if folder.name == "backbone":
        pytest.skip("a model is saved with its head")
    model = loaded(folder)
    model.save_pretrained(tmp_path)
    theirs = safetensors.numpy.load_file(folder / "model.safetensors")
    ours = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    for field, value in read_fields(folder).items():
        if field == "architectures" or field.endswith("_token_id") and value is not None:
            assert read_fields(tmp_path)[field] == value, field
    inputs, _ = batch_of(folder)
    again = loaded_as(folder, tmp_path)
    np.testing.assert_array_equal(again(inputs), model(inputs))


def loaded_as(folder, place):
    return MODELS[folder.name].from_pretrained(place)


@pytest.mark.parametrize("folder", CASES)
def test_transformers_loads_what_we_save(folder, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if folder.name == "backbone":
        pytest.skip("a model is saved with its head")
    if family_of(folder) in ("rnn", "lstm", "gru"):
        pytest.skip("transformers has no recurrent models")
    model = loaded(folder)
    for weight in model.weights:
        weight.assign(weight.numpy() * 0.9)
    model.save_pretrained(tmp_path)
    architecture = getattr(transformers, read_fields(tmp_path)["architectures"][0])
    theirs, report = architecture.from_pretrained(tmp_path, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[key], key
    for name, tensor in safetensors.numpy.load_file(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(theirs.state_dict()[name].numpy(), tensor, err_msg=name)
    assert torch.is_tensor(next(theirs.parameters()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "llama", "bart", "gru"])
def test_in_half_precision(family, dtype, tmp_path):
    head = next(iter(families.FAMILIES[family].HEADS))
    folder = FIXTURES / family / head
    model = loaded(folder, dtype=dtype)
    assert {weight.dtype for weight in model.backbone.weights} == {dtype}
    inputs, expected = batch_of(folder)
    model.save_pretrained(tmp_path)
    for one in (model, loaded_as(folder, tmp_path)):  # the second in float32
        output = np.array(one(inputs), "float32")
        there = real(inputs) if output.ndim == 3 else slice(None)
        tolerance = 0.2 if dtype == "bfloat16" else 0.03
        np.testing.assert_allclose(output[there], expected[there], atol=tolerance)


@pytest.mark.parametrize("pieces", [(1,) * 7, (4, 1, 2), (7,)], ids=str)
@pytest.mark.parametrize("folder", DECODERS)
def test_steps_equal_the_whole(folder, pieces):
    model = loaded(folder)
    inputs, _ = batch_of(folder)
    prefix = "decoder_" if "decoder_token_ids" in inputs else ""
    if prefix:
        start = dict(inputs)
        cache = model.make_cache(5, 12, context=model.backbone.encode(start))
    else:
        inputs = {name: value[:, :7] for name, value in inputs.items()}
        cache = model.make_cache(5, 12)
    expected, mask = np.array(model(inputs)), real(inputs)
    over_cache = np.pad(mask, ((0, 0), (0, 5)), constant_values=True).astype("int32")
    outputs, position = [], 0
    for length in pieces:
        ids = inputs[f"{prefix}token_ids"][:, position : position + length]
        step = {f"{prefix}token_ids": ids, f"{prefix}padding_mask": over_cache}
        if prefix:
            step["padding_mask"] = inputs["padding_mask"]
        logits, cache = model(step, cache=cache, position=position)
        outputs.append(np.array(logits))
        position += length
    np.testing.assert_allclose(
        np.concatenate(outputs, axis=1)[mask], expected[mask], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("folder", CASES)
def test_gradients_reach_every_weight(folder):
    model = loaded(folder)
    inputs, _ = batch_of(folder)
    with tf.GradientTape() as tape:
        output = model(inputs)
        loss = tf.reduce_sum(tf.cast(output, tf.float32) * np.cos(np.arange(output.shape[-1])))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    without = [
        weight.path
        for weight, gradient in zip(model.trainable_weights, gradients)
        if gradient is None or not np.any(keras.ops.convert_to_numpy(gradient))
    ]
    # Attention doesn't change if all keys shift alike, so their bias moves nothing.
    assert [path for path in without if not path.endswith("key_dense/bias")] == []
