"""Checkpoints that don't fit, are damaged, or aren't there."""

import json
import pathlib
import shutil

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kerasllm import families, weights
from kerasllm.config import LlamaConfig, TransformerConfig
from kerasllm.models import BertClassifier, MaskedLM, Seq2SeqLM, TextClassifier
from kerasllm.tasks import text_classification

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "bert"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(FIXTURES / "plain", folder)
    return folder


def change(folder, alter):
    """Rewrite the tensors of a folder."""
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    alter(tensors)
    safetensors.numpy.save_file(tensors, path)


def read(folder):
    return BertClassifier.from_pretrained(folder)


def outputs(model):
    return np.array(model(np.arange(1, 13).reshape(2, 6)))


def test_missing_and_unused_are_both_listed(folder):
    def alter(tensors):
        tensors["bert.encoder.layer.0.extra.weight"] = tensors.pop(QUERY)
        tensors["other"] = tensors.pop("bert.embeddings.LayerNorm.bias")

    change(folder, alter)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        read(folder)
    message = str(caught.value)
    assert f"Missing in the file: ['bert.embeddings.LayerNorm.bias', '{QUERY}']" in message
    assert "Unused from the file: ['bert.encoder.layer.0.extra.weight', 'other']" in message
    assert str(folder / "model.safetensors") in message


def test_only_missing(folder):
    change(folder, lambda tensors: tensors.pop(QUERY))
    with pytest.raises(ValueError, match=r"Missing in the file: \['.*query.weight'\].*: none"):
        read(folder)


def test_layers_that_the_config_does_not_have_are_unused(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"Missing in the file: none. Unused.*layer\.1\.output"):
        read(folder)


def test_one_tensor_under_two_names_is_an_error(folder):
    def alter(tensors):
        table = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["embeddings.word_embeddings.weight"] = table + 1

    change(folder, alter)
    with pytest.raises(ValueError, match=r"Unused from the file: \['.*word_embeddings.weight"):
        read(folder)


@pytest.mark.parametrize("head", ["bert.pooler.dense", "classifier"])
def test_a_part_of_a_head_is_an_error(folder, head):
    change(folder, lambda tensors: tensors.pop(f"{head}.bias"))
    with pytest.raises(ValueError, match=rf"Missing in the file: \['{head}.bias'\]"):
        read(folder)


def test_a_backbone_without_pooler(folder, caplog):
    def alter(tensors):
        for name in ("bert.pooler.dense", "classifier"):
            tensors.pop(f"{name}.weight")
            tensors.pop(f"{name}.bias")

    change(folder, alter)
    with caplog.at_level("INFO", logger="kerasllm"):
        model = read(folder)
    assert "Fresh weights, to be trained: pooler, classifier." in caplog.text
    assert np.isfinite(outputs(model)).all()


def test_shapes_that_do_not_fit_are_listed(folder):
    def alter(tensors):
        tensors[QUERY] = tensors[QUERY][:3].copy()
        tensors["bert.embeddings.position_embeddings.weight"] = np.zeros((5, 16), "float32")

    change(folder, alter)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        read(folder)
    assert f"{QUERY} is (3, 16) and must be (16, 16)" in str(caught.value)
    assert "position_embeddings.weight is (5, 16) and must be (24, 16)" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"], ids=str)
def test_other_precisions_are_read(folder, dtype):
    before = outputs(read(folder))

    def alter(tensors):
        tensors.update({name: value.astype(dtype) for name, value in tensors.items()})

    change(folder, alter)
    model = read(folder)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    np.testing.assert_allclose(outputs(model), before, atol=0.2)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_truncated_file(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(ValueError, match="model.safetensors` is truncated or damaged"):
        read(folder)


def test_no_safetensors(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"must hold a `model.safetensors`.*are not read"):
        read(folder)


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="must hold a `config.json`.*model.safetensors"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"model_type": "bert",', "config.json` is not valid JSON"),
        (b"", "config.json` is not valid JSON"),
        (b"\xff\xfe", "config.json` is not valid JSON"),
        (b"[1, 2]", "config.json` must hold a JSON object. Received: list"),
    ],
    ids=["cut", "empty", "binary", "list"],
)
def test_broken_config(folder, text, message):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_no_tokenizer(folder, caplog):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with caplog.at_level("INFO", logger="kerasllm"):
        model = read(folder)
    assert model.tokenizer is None
    assert "holds no tokenizer" in caplog.text
    with pytest.raises(ValueError, match="`model` must have a tokenizer"):
        text_classification.predict(model, [{"text": "good"}])


def test_a_name_on_the_hub(folder, monkeypatch):
    asked = []

    def fetched(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    model = read("some-one/tiny_bert.v1")
    assert model.config.num_layers == 2
    ((name, options),) = asked
    assert name == "some-one/tiny_bert.v1"
    wanted = [
        *("config.json", "1_Pooling/config.json", "merges.txt", "chat_template.jinja"),
        *("spiece.model", "assets/tokenizer/vocabulary.spm"),
        *("model-00001-of-00002.safetensors", "model.weights.h5"),
    ]
    others = ["pytorch_model.bin", "consolidated.safetensors", "onnx/model.json", "README.md"]
    patterns = {name: options[name] for name in ("allow_patterns", "ignore_patterns")}
    fetched = huggingface_hub.utils.filter_repo_objects([*wanted, *others], **patterns)
    assert list(fetched) == wanted
    assert options["revision"] is None
    assert weights.find_folder("tiny", revision="v2") == folder
    assert asked[-1][1]["revision"] == "v2"


def test_a_name_on_the_hub_without_a_config(folder, monkeypatch):
    (folder / "config.json").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(FileNotFoundError, match="must hold a `config.json`"):
        read("someone/tiny")


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError, ConnectionError])
def test_the_hub_is_not_reached(error, monkeypatch):
    def fail(*_, **__):
        raise error("No way there.\nA long story follows.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match="`someone/tiny` is no folder here") as caught:
        read("someone/tiny")
    assert "No way there. Check the name and the network" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hub_fails_without_words(monkeypatch):
    def fail(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match="`someone/tiny` is no folder here.*TimeoutError"):
        read("someone/tiny")


@pytest.mark.parametrize("name", ["a/b/c", "./nowhere", "some where/x", "", "../x"])
def test_no_folder_and_no_name(name, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise AssertionError("the hub must not be asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(name)


def test_nothing_is_left_of_a_failed_save(folder, tmp_path, monkeypatch):
    model = read(folder)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_where_nothing_can_be_saved(folder):
    with pytest.raises(OSError, match="config.json/saved` can't be written"):
        read(folder).save_pretrained(folder / "config.json" / "saved")


def test_saving_beside_other_files(folder):
    (folder / "notes.txt").write_text("mine")
    model = read(folder)
    before = outputs(model)
    model.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    np.testing.assert_array_equal(outputs(read(folder)), before)


def test_a_checkpoint_of_bert_has_segments(tmp_path):
    config = TransformerConfig(20, num_layers=1, num_heads=2, embed_dim=8, ff_dim=8, num_segments=0)
    with pytest.raises(ValueError, match="has no layer `backbone.embedding.segment_emb`"):
        BertClassifier(2, config).save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_weights_that_the_map_does_not_reach(tmp_path):
    model = read(FIXTURES / "plain")
    with pytest.raises(ValueError, match=r"does not reach these variables: \[.*classifier/kernel"):
        weights.save_weights(model, tmp_path, {"pooler": "pooler"})
    assert not list(tmp_path.iterdir())


SMALL = dict(vocab_size=40, num_layers=1, num_heads=2, embed_dim=8, ff_dim=8, max_length=12)


@pytest.mark.parametrize(
    ("size", "fields"),
    [("bert_tiny", {}), ("roberta_base", {}), ("albert_base", {"embedding_dim": 4})],
    ids=str,
)
def test_no_checkpoint_has_their_untied_head(size, fields, tmp_path):
    family, config = families.family_of(size), families.size_config(size, **SMALL, **fields)
    MaskedLM(config, family=family).save_pretrained(tmp_path / "tied")
    untied = families.size_config(size, **SMALL, **fields, tie_embedding=False)
    with pytest.raises(ValueError, match=r"does not reach these variables: \['logits/kernel'\]"):
        MaskedLM(untied, family=family).save_pretrained(tmp_path / "untied")
    altered = {"tie_word_embeddings": False}
    path = tmp_path / "tied" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **altered}))
    with pytest.raises(ValueError, match=r"does not reach these variables: \['logits/kernel'\]"):
        MaskedLM.from_pretrained(tmp_path / "tied")
    assert not TextClassifier.from_pretrained(tmp_path / "tied").config.tie_embedding


@pytest.mark.parametrize("size", ["bart_base", "transformer_tiny"])
def test_one_table_for_both_stacks_and_the_head(size, tmp_path):
    config = families.size_config(size, **SMALL, num_decoder_layers=1, pad_id=0)
    model = Seq2SeqLM(config, family=families.family_of(size))
    model.logits.bias.assign(np.arange(40))
    model.save_pretrained(tmp_path)
    fresh = Seq2SeqLM.from_pretrained(tmp_path, fresh_head=True)
    np.testing.assert_array_equal(fresh.logits.bias, np.zeros(40))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": False}))
    with pytest.raises(ValueError, match="`tie_word_embeddings` must be True.*Received: False"):
        Seq2SeqLM.from_pretrained(tmp_path)


def test_a_head_of_other_classes(folder):
    with pytest.raises(ValueError, match=r"classifier.bias is \(2,\) and must.*`fresh_head=True`"):
        BertClassifier.from_pretrained(folder, num_classes=3)
    assert BertClassifier.from_pretrained(folder, num_classes=3, fresh_head=True).num_classes == 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_bfloat16"])
def test_a_saved_config_says_the_precision(folder, tmp_path, dtype):
    model = BertClassifier.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(tmp_path / "low")
    fields = json.loads((tmp_path / "low" / "config.json").read_text())
    assert fields["dtype"] == model.backbone.weights[0].dtype
    again = BertClassifier.from_pretrained(tmp_path / "low", dtype=dtype)
    for one, other in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_backbone_of_another_kind():
    config = LlamaConfig(40, num_layers=1, num_heads=2, embed_dim=8, ff_dim=8)
    with pytest.raises(TypeError, match="`TransformerConfig` for the family bert.*: LlamaConfig"):
        TextClassifier(2, config, family="bert")
    backbone = MaskedLM(families.size_config("bert_tiny", **SMALL), family="bert").backbone
    with pytest.raises(TypeError, match="`LlamaConfig` for the family qwen2.*: Transformer"):
        TextClassifier(2, backbone, family="qwen2")
    with pytest.raises(ValueError, match="`dtype` must be that.*float16, and a .* of float32"):
        TextClassifier(2, backbone, family="bert", dtype="float16")
    assert TextClassifier(2, backbone, family="bert", dtype="float32").backbone is backbone


def test_shards(folder, tmp_path):
    model = read(folder)
    model.save_pretrained(tmp_path / "shards", shard_bytes=2000)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    tensors = {}
    for name in files:
        part = safetensors.numpy.load_file(tmp_path / "shards" / name)
        assert {index["weight_map"][key] for key in part} == {name}
        tensors |= part
    whole = safetensors.numpy.load_file(folder / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    assert tensors.keys() == {name for name in whole if "position_ids" not in name}
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "one", shard_bytes=2000)  # leaves no stale file behind
    assert not (tmp_path / "one" / "model.safetensors").exists()
    again = read(tmp_path / "shards")
    for one, other in zip(again.weights, model.weights):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "shards" / files[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"must hold a `{files[1]}`"):
        read(tmp_path / "shards")
    with pytest.raises(ValueError, match="`shard_bytes` must be an integer.*Received: '5GB'"):
        model.save_pretrained(tmp_path / "two", shard_bytes="5GB")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("text", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json` must have a `weight_map`"):
        read(folder)
