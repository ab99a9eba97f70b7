"""SentencePiece's own files: what is read of them, and of the files beside them.

That ids, rows and texts are Hugging Face's is shown in test_pipeline_tokenizers.py, where these
folders stand among the others.
"""

import base64
import json
import shutil

import pytest
from test_pipeline_tokenizers import WITH_MODEL_FILE, Family, protobuf_field, unzipped

from kerasllm.tokenizers import load_tokenizer
from kerasllm.tokenizers.sentencepiece_model import read_model

TEXTS = ["Hello, World (again)", " a  b\tc", "naïve ﬁnd 1,000.", "", "日本 <extra_id_0></s>"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A function from a family's name to its folder, which must not be changed."""
    charsmap = base64.b64encode(unzipped("tokenizers/charsmap.gz")).decode()
    names = WITH_MODEL_FILE
    families = {name: Family(name, tmp_path_factory.mktemp(name), charsmap) for name in names}
    return lambda name: families[name].folder


@pytest.fixture
def copied(original, tmp_path):
    """A function from a family's name to a folder of its files."""
    return lambda name: shutil.copytree(original(name), tmp_path / name)


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def model_file(folder):
    (path,) = folder.glob("*.model")
    return path


def test_what_is_read(original):
    model = read_model(model_file(original("spiece_albert")))
    assert model.pieces[:2] == [("<pad>", 0.0, 3), ("<unk>", 0.0, 2)]
    assert [kind for _, _, kind in model.pieces[2:12]] == [3, 3, 3, *[4] * 6, 1]
    assert (model.algorithm, model.unk_id) == (1, 1)
    assert model.charsmap == unzipped("tokenizers/charsmap.gz")
    model = read_model(model_file(original("spiece_llama2")))
    assert (model.algorithm, model.unk_id, model.charsmap) == (2, 0, b"")
    assert model.pieces[3] == ("<0x00>", 0.0, 6)


@pytest.mark.parametrize("name", WITH_MODEL_FILE)
def test_parts_of_a_file(copied, name):
    folder = copied(name)
    path = model_file(folder)
    data = path.read_bytes()
    for size in (0, 1, 3, 9, 100, 2000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="must be a SentencePiece model") as error:
            load_tokenizer(folder)
        assert str(path) in str(error.value) and "is it whole?" in str(error.value)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "unknown kind 6"),
        (b"IQ== 0\nIg== 1\n", "SentencePiece model"),  # as LLaMA 3 has it in a tokenizer.model
        (b"\x89PNG\r\n\x1a\n", "unknown kind|end in the midst"),
        (protobuf_field(1, protobuf_field(1, b"a")), "without trainer_spec and normalizer_spec"),
        (protobuf_field(1, protobuf_field(1, b"\xff")), "can't decode byte 0xff"),
        (b"\x08" + b"\xff" * 9, "a number without an end"),
        (b"\x0d\x00\x00\x80\x3f", "without pieces"),
    ],
)
def test_files_of_another_kind(copied, data, message):
    folder = copied("spiece_llama2")
    model_file(folder).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(folder)
    assert str(model_file(folder)) in str(error.value)


def test_a_broken_table_of_normalization(copied):
    folder = copied("spiece_t5")
    data = model_file(folder).read_bytes() + protobuf_field(3, protobuf_field(2, b"no table"))
    model_file(folder).write_bytes(data)
    with pytest.raises(ValueError, match=r"spiece.model must be .* precompiled_charsmap"):
        load_tokenizer(folder)


def test_a_tokenizer_json_goes_first(copied):
    folder, other = copied("spiece_t5"), copied("spiece_albert")
    whole = load_tokenizer(folder)
    whole.save_pretrained(folder)
    assert (folder / "tokenizer.json").exists()
    model_file(folder).write_bytes(b"not read")
    found = load_tokenizer(folder)
    assert [found.encode(text) for text in TEXTS] == [whole.encode(text) for text in TEXTS]
    shutil.copy(folder / "tokenizer.json", other)
    assert load_tokenizer(other).vocab_size == whole.vocab_size


def test_families_that_are_not_known(copied):
    folder = copied("spiece_t5")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match="adds: Albert, T5, XLMRoberta, Llama. Received: None"):
        load_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "XLNetTokenizer"})
    with pytest.raises(ValueError, match="Received: 'XLNet'"):
        load_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"})
    with pytest.raises(ValueError, match="must be 2 .* for the class Llama. Received: 1"):
        load_tokenizer(folder)


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
def test_extra_ids_of_t5(copied, model_type):
    folder = copied("spiece_t5")
    whole = load_tokenizer(folder)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink()
    write_json(folder / "config.json", {"model_type": model_type})
    hundred = load_tokenizer(folder)
    assert hundred.vocab_size == whole.vocab_size + 90
    last = hundred._rust.token_to_id("<extra_id_0>")
    assert last == hundred.vocab_size - 1 and hundred.decode([last, 5]) == whole.decode([5])
    config = {"extra_ids": 0, "additional_special_tokens": None}
    write_json(folder / "tokenizer_config.json", config)
    none = load_tokenizer(folder)
    assert none.vocab_size == whole.vocab_size - 10
    for text in TEXTS[:4]:
        assert none.encode(text) == hundred.encode(text) == whole.encode(text)
    assert none.special_tokens == {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    assert none(["a"], max_length=9)["token_ids"][0, -1] == none.eos_id == 1


def test_options_of_the_files(copied):
    folder = copied("spiece_albert")
    config = {"do_lower_case": False, "keep_accents": True, "add_prefix_space": False}
    lower = load_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", config)
    kept = load_tokenizer(folder)
    assert (lower.decode(lower.encode("éA")), kept.decode(kept.encode("éA"))) == ("ea", "éA")
    folder = copied("spiece_llama2")
    with_bos = load_tokenizer(folder)
    config = {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True, "add_prefix_space": False}
    write_json(folder / "tokenizer_config.json", config)
    with_eos = load_tokenizer(folder)
    row, ids = with_eos(["a b"], max_length=9)["token_ids"][0], with_eos.encode("a b")
    assert row.tolist() == [*ids, with_eos.eos_id]
    assert with_bos.encode("a b") != ids == with_bos.encode("xa b")[-len(ids) :]
    assert with_bos(["a b"], max_length=9)["token_ids"][0, 0] == with_bos.bos_id == 1


@pytest.mark.parametrize("config", [None, {}, {"add_bos_token": False}, {"add_bos_token": True}])
def test_rows_of_llama_begin_as_the_files_say(copied, config):
    """Hugging Face's class has no default of its own for `add_bos_token` since version 5."""
    folder = copied("spiece_llama2")
    (folder / "tokenizer_config.json").unlink()
    if config is None:
        write_json(folder / "config.json", {"model_type": "llama"})
    else:
        write_json(
            folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **config}
        )
    found = load_tokenizer(folder)
    first, second = found.encode("a b"), found.encode("c")
    begin = [1] if config and config["add_bos_token"] else []
    rows = found(["a b"], max_length=9), found(["a b"], ["c"], max_length=9)
    assert [row["token_ids"][0].tolist() for row in rows] == [
        [*begin, *first], [*begin, *first, *begin, *second]
    ]  # fmt: skip


def test_ids_of_added_tokens(copied):
    folder = copied("spiece_llama2")
    found = load_tokenizer(folder)
    assert found.pad_id == 1600 and found.encode("a<think>")[-1] == 1601
    write_json(folder / "added_tokens.json", {"<think>": 1603, "<pad>": 1600})
    with pytest.raises(ValueError, match="added token '<think>' must have the id 1601") as error:
        load_tokenizer(folder)
    assert str(model_file(folder)) in str(error.value)
    config = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": ["<new>"]}
    write_json(folder / "tokenizer_config.json", {**config, "pad_token": "<pad>"})
    (folder / "added_tokens.json").unlink()
    found = load_tokenizer(folder)
    assert (found.pad_id, found._rust.token_to_id("<new>")) == (1600, 1601)
    assert found.decode([1601, *found.encode("a")]) == "a"


def test_rows_need_their_tokens(copied):
    folder = copied("spiece_t5")
    (folder / "special_tokens_map.json").unlink()
    config = {"tokenizer_class": "T5Tokenizer", "eos_token": None}
    write_json(folder / "tokenizer_config.json", config)
    with pytest.raises(ValueError, match="spiece.model: `eos_token` must be a token"):
        load_tokenizer(folder)
