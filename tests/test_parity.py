"""Every family and head against Hugging Face's code: see fixtures/make_family_fixtures.py."""

import json
import pathlib

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from keras_file import round_trip

from kerasllm import families
from kerasllm.config import TransformerConfig
from kerasllm.export import to_saved_model, to_tflite
from kerasllm.export.verify import SENTENCES
from kerasllm.models import MODELS, TextClassifier
from kerasllm.tokenizers import WordPieceTokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "families"
TOLERANCE = 1e-5
CASES = [
    pytest.param(path.parent, id=f"{path.parent.parent.name}-{path.parent.name}")
    for path in sorted(FIXTURES.glob("*/*/config.json"))
]
REREAD = [
    case
    for case in CASES
    if case.values[0].name != "backbone"
    and "reread" in families.head(case.values[0].parent.name, case.values[0].name).options
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


def answer(model, inputs):
    """The model's answer, one array: of two heads, that of pairs beside each token."""
    output = model(inputs)
    if isinstance(output, dict):
        pair = np.repeat(np.array(output["pair"])[:, None], output["tokens"].shape[1], axis=1)
        output = np.concatenate([output["tokens"], pair], axis=-1)
    return np.array(output)


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
    output = answer(model.backbone if folder.name == "backbone" else model, inputs)
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
    np.testing.assert_array_equal(answer(again, inputs), answer(model, inputs))


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
        # Ours has no pooler where theirs makes a fresh one that nothing asks for.
        found = {name for name in report[key] if not name.startswith("pooler.")}
        assert not (found if folder.name == "sentence_encoder" else report[key]), key
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
        outputs = tf.nest.flatten(model(inputs))
        loss = tf.add_n(
            [
                tf.reduce_sum(tf.cast(x, tf.float32) * np.cos(np.arange(x.shape[-1])))
                for x in outputs
            ]
        )
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    without = [
        weight.path
        for weight, gradient in zip(model.trainable_weights, gradients)
        if gradient is None or not np.any(keras.ops.convert_to_numpy(gradient))
    ]
    # Attention doesn't change if all keys shift alike, so their bias moves nothing.
    assert [path for path in without if not path.endswith("key_dense/bias")] == []


@pytest.mark.parametrize("folder", REREAD)
def test_a_decoder_that_reads_the_text_again_needs_no_inputs_of_its_own(folder, tmp_path):
    model = loaded(folder)
    inputs, _ = batch_of(folder)
    assert set(model.input) == {"token_ids", "padding_mask"} == set(inputs)
    fields = read_fields(folder)
    for name in ("eos", "decoder_start"):  # which are none of the defaults
        assert model.special_ids[name] == fields[f"{name}_token_id"] != model.reread[name]
    expected = np.array(model(inputs))
    again = round_trip(model, tmp_path)
    assert again.special_ids == model.special_ids
    np.testing.assert_array_equal(again(inputs), expected)
    np.testing.assert_array_equal(model((inputs["token_ids"], inputs["padding_mask"])), expected)
    longer = {name: np.pad(value, ((0, 0), (0, 3))) for name, value in inputs.items()}
    there = real(inputs) if expected.ndim == 3 else slice(None)
    output = np.array(model(longer))[:, : inputs["token_ids"].shape[1]]
    np.testing.assert_allclose(output[there], expected[there], rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match=r"Received: \['decoder_token_ids', 'token_ids'\]"):
        model({"token_ids": inputs["token_ids"], "decoder_token_ids": inputs["token_ids"]})


def small_bart(tokenizer=None, **options):
    config = TransformerConfig(
        tokenizer.vocab_size if tokenizer else 40,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=2,
        embed_dim=16,
        ff_dim=32,
        num_segments=0,
        max_length=64,
        position_offset=2,
        epsilon=1e-5,
        pad_id=0,
        initializer_range=0.5,
    )
    return TextClassifier(3, config, family="bart", tokenizer=tokenizer, **options)


def test_the_token_that_stands_for_a_text_read_twice():
    keras.utils.set_random_seed(1)
    model = small_bart(special_ids={"eos": [7, 9]})
    assert model.special_ids == {"eos": [7, 9], "decoder_start": 2}
    head = keras.Sequential([model.pooler, model.classifier])
    # The last that ends a text; where there is none, or only in the padding, the last of all.
    ids = np.array([[7, 20, 9, 21, 22], [20, 21, 22, 23, 24], [20, 21, 23, 9, 9]], "int32")
    mask = np.array([[1] * 5, [1] * 5, [1, 1, 1, 0, 0]], "int32")
    begun = np.concatenate([np.full((3, 1), 2), ids[:, :-1]], axis=1)
    inputs = {"token_ids": ids, "padding_mask": mask}
    states = model.backbone(
        {**inputs, "decoder_token_ids": begun, "decoder_padding_mask": np.ones_like(mask)}
    )
    expected = head(np.array(states)[np.arange(3), [2, 4, 2]])
    np.testing.assert_allclose(model(inputs), expected, rtol=0, atol=TOLERANCE)


def test_a_fresh_model_says_which_tokens_it_was_built_with(tmp_path):
    model = small_bart()
    model.save_pretrained(tmp_path)
    fields = read_fields(tmp_path)
    assert (fields["eos_token_id"], fields["decoder_start_token_id"]) == (2, 2)
    inputs = {"token_ids": np.array([[5, 6, 2]]), "padding_mask": np.ones((1, 3), "int32")}
    again = TextClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(inputs), model(inputs))


@pytest.fixture(scope="module")
def exportable():
    keras.utils.set_random_seed(7)
    tokenizer = WordPieceTokenizer.train(list(SENTENCES), vocab_size=300, min_frequency=1)
    ids = {"eos": tokenizer.sep_id, "decoder_start": tokenizer.sep_id}
    return small_bart(tokenizer, special_ids=ids)


def test_a_text_read_twice_on_servers(exportable, tmp_path):
    report = to_saved_model(exportable, tmp_path / "served", max_length=24)
    assert report.label_flips == 0
    assert report.largest_difference <= TOLERANCE


def test_a_text_read_twice_on_phones(exportable, tmp_path):
    report = to_tflite(exportable, tmp_path / "model.tflite", max_length=24)
    assert report.label_flips == 0
    assert report.largest_difference <= TOLERANCE
