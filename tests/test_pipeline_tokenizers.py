"""Byte-level BPE and SentencePiece against Hugging Face's ids (fixtures), and graph against Python."""

import base64
import functools
import gzip
import json
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_wordpiece import differing, edit_json, fuzzed_strings, saved_ops
from tokenizers import Tokenizer

from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
BYTE_LEVEL = ("gpt2", "opt", "roberta", "bart", "bloom", "smollm2", "llama3", "qwen2")
# Folders without a tokenizer.json, but with SentencePiece's own file.
WITH_MODEL_FILE = ("spiece_albert", "spiece_t5", "spiece_xlm_roberta")
WITH_MODEL_FILE += ("spiece_llama2", "spiece_mistral")
UNIGRAM = ("albert", "t5", "xlm_roberta", *WITH_MODEL_FILE[:3])
FAMILIES = (*BYTE_LEVEL, *UNIGRAM, "llama2", "tinyllama", *WITH_MODEL_FILE[3:])
# Families whose graphs are made of other parts; those of the others are made alike.
ONE_OF_EACH = ("gpt2", "llama3", "qwen2", "albert", "tinyllama")
IN_GRAPH = (*ONE_OF_EACH, "bart", "bloom", "smollm2", "t5", "llama2", *WITH_MODEL_FILE)

# What the graphs are made of: no operation that an older TensorFlow Serving lacks.
SERVED_OPS = set(
    """Add AddV2 All Any ArgMax Assert BroadcastTo Cast ConcatV2 Const Cumsum DecodeRaw DenseBincount
    Equal ExpandDims Fill FloorMod GatherNd GatherV2 Greater GreaterEqual HashTableV2 Identity
    If LeftShift Less LessEqual LogicalAnd LogicalNot LogicalOr LookupTableFindV2
    LookupTableImportV2 LowerBound Max Maximum MergeV2Checkpoints Minimum Mul Neg NoOp NotEqual
    OnesLike Pack Pad PadV2 Placeholder Prod RaggedGather RaggedRange RaggedTensorToTensor Range ReduceJoin
    Reshape RestoreV2 ReverseV2 RightShift SaveV2 Select SelectV2 Shape ShardedFilename Size
    Squeeze StatefulPartitionedCall StatelessWhile StaticRegexFullMatch StaticRegexReplace
    StridedSlice StringJoin StringLength StringSplitV2 Sub Substr TensorListConcatV2
    TensorListReserve TensorListSetItem TensorScatterUpdate Tile TopKV2 Transpose UnicodeDecode
    UnicodeEncode UnicodeTranscode Unique UnsortedSegmentJoin UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentSum Where ZerosLike""".split()
)


def unzipped(path):
    return gzip.decompress((FIXTURES / path).read_bytes())


@pytest.fixture(scope="module")
def texts():
    return json.loads(unzipped("wordpiece/bert_tokenizer.json.gz"))["texts"]


def protobuf_field(number, data):
    """A field of bytes in a protobuf message."""
    rest, size = len(data), b""
    while rest > 127:
        rest, size = rest >> 7, size + bytes([rest & 127 | 128])
    return bytes([number << 3 | 2]) + size + bytes([rest]) + data


def write_model(folder, name, data, has_charsmap, charsmap):
    """SentencePiece's file, whose tables, the same in all, stand in a file of their own."""
    tables = protobuf_field(3, protobuf_field(2, charsmap)) if has_charsmap else b""
    (folder / name).write_bytes(base64.b64decode(data) + tables)


class Family:
    """What the fixture of a family holds, its tokenizer and its graph."""

    def __init__(self, name, folder, charsmap):
        vars(self).update(json.loads(unzipped(f"tokenizers/{name}.json.gz")))
        self.folder = folder
        if hasattr(self, "model"):
            write_model(folder, *self.model, base64.b64decode(charsmap))
        for file, text in self.files.items():
            text = text.replace("CHARSMAP", charsmap)
            (folder / file).write_text(text, encoding="utf-8")
        self.tokenizer = load_tokenizer(folder)

    @functools.cached_property
    def graph(self):
        return self.tokenizer.in_graph()

    @functools.cached_property
    def encode(self):
        texts = tf.TensorSpec([None], tf.string)
        return tf.function(self.graph.encode, input_signature=[texts])

    @functools.cached_property
    def decode(self):
        ids = tf.RaggedTensorSpec([None, None], tf.int32)
        return tf.function(self.graph.decode, input_signature=[ids])


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A function from a family's name to its `Family`."""
    charsmap = base64.b64encode(unzipped("tokenizers/charsmap.gz")).decode()
    return functools.cache(lambda name: Family(name, tmp_path_factory.mktemp(name), charsmap))


def ragged(rows):
    values = np.array([index for row in rows for index in row], np.int32)
    return tf.RaggedTensor.from_row_lengths(values, [len(row) for row in rows])


def with_special_tokens(tokenizer):
    return type(tokenizer)(
        json.loads(tokenizer._rust.to_str()),
        special_tokens=tokenizer.special_tokens,
        allow_special_tokens=True,
    )


def edited(tokenizer, **parts):
    pipeline = {**json.loads(tokenizer._rust.to_str()), **parts}
    return type(tokenizer)(pipeline, special_tokens=tokenizer.special_tokens)


# ------------------------------------------------------------------ ids


@pytest.mark.parametrize("name", FAMILIES)
def test_python_and_graph_give_hugging_faces_ids(family, texts, name):
    found = family(name)
    kind = ByteLevelBPETokenizer if name in BYTE_LEVEL else SentencePieceTokenizer
    assert type(found.tokenizer) is kind
    python = [found.tokenizer.encode(text) for text in texts]
    if name in IN_GRAPH:
        assert found.encode(texts).to_list() == python
    special = [token for token in found.tokenizer.special_tokens.values() if name in UNIGRAM]
    plain = [not any(token in text for token in special) for text in texts]
    assert sum(plain) >= len(texts) - 12
    rows = zip(texts, python, found.ids, plain)
    rows = [(text, ours, theirs) for text, ours, theirs, is_plain in rows if is_plain]
    assert not differing(*zip(*rows))


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_in_text(family, name):
    found = family(name)
    texts, expected = found.special
    allowed = with_special_tokens(found.tokenizer)
    assert not differing(texts, [allowed.encode(text) for text in texts], expected)
    if name in (*ONE_OF_EACH, "roberta"):
        assert not differing(texts, allowed.in_graph().encode(texts).to_list(), expected)
    special = {getattr(found.tokenizer, f"{role}_id") for role in found.tokenizer.special_tokens}
    assert special & {index for ids in expected for index in ids}
    python = [found.tokenizer.encode(text) for text in texts]
    if name in IN_GRAPH:
        assert found.encode(texts).to_list() == python
    unknown = {found.tokenizer.unk_id}
    assert not (special - unknown) & {index for ids in python for index in ids}


@pytest.mark.parametrize(
    "name",
    ["roberta", "bart", "albert", "t5", "opt", "llama3", "tinyllama", *WITH_MODEL_FILE],
)
def test_pairs_give_hugging_faces_rows(family, texts, name):
    found = family(name)
    for index, (first, second, length, ids, segments) in enumerate(found.rows):
        batch = [texts[first]], [texts[second]]
        in_graph = index < 2 and name in ("albert", "bart")
        calls = (found.tokenizer, found.graph) if in_graph else (found.tokenizer,)
        for call in calls:
            rows = call(*batch, max_length=length)
            assert rows["token_ids"].shape == (1, max(2, len(ids)))
            assert np.array(rows["token_ids"])[0].tolist() == ids
            assert ("segment_ids" in rows) == name.endswith("albert")
            if name.endswith("albert"):
                assert np.array(rows["segment_ids"])[0].tolist() == segments


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_graph_equals_python_on_fuzzed_strings(family, name):
    found = family(name)
    texts = [*fuzzed_strings(1500, seed=8), *spaced_strings(1500, seed=9)]
    ids = found.encode(texts)
    assert not differing(texts, ids.to_list(), [found.tokenizer.encode(text) for text in texts])
    decoded = [text.decode() for text in found.decode(ids).numpy()]
    assert decoded == [found.tokenizer.decode(row) for row in ids.to_list()]


def spaced_strings(count, seed):
    """Random strings, rich in white space and in what normalizers join."""
    rng = random.Random(seed)
    parts = [*"\t\n\r \x0b\x85\xa0\u2003\u3000", *"   \n", "a", "1", "!", "'s", "'LL", "'\u017f"]
    parts += ["e\u0301", "\ufb01\u0301", "▁", "\u0340", "ª", "\u200d", "©", "\u0600", "\0", "한"]
    parts += ["\u1100", "\u1161", "\u11a8", "\u0323", "\u0897", "\U00011383", "\U000113c9"]
    return ["".join(rng.choices(parts, k=rng.randrange(25))) for _ in range(count)]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bytes_that_are_not_utf8(family, name):
    rng = random.Random(5)
    lead = [0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xED, 0xA0, 0xEF, 0xBB, 0xF0, 0x90, 0xF4, 0xFF, 0]
    texts = [bytes(rng.choices(lead, k=rng.randrange(12))) for _ in range(500)]
    found = family(name)
    assert found.encode(texts).to_list() == [found.tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("name", ["gpt2", "llama3", "tinyllama"])
def test_long_words(family, name):
    found = family(name)
    texts = ["a" * 3000, "ab" * 1000, "naïve" * 200, "한" * 401]
    ids = found.encode(texts).to_list()
    assert ids == [found.tokenizer.encode(text) for text in texts]


OLD_METASPACE = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
AT_SPACE = {"type": "WhitespaceSplit"}


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [AT_SPACE, OLD_METASPACE]}},
        {
            "pre_tokenizer": OLD_METASPACE,
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "NFKC"},
                    {"type": "Strip", "strip_left": False, "strip_right": True},
                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
                ],
            },
        },
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Nmt"}]}},
    ],
)
def test_pipelines_of_older_and_newer_files(family, texts, parts):
    tokenizer = edited(family("t5").tokenizer, **parts)
    texts = [*texts[:300], *fuzzed_strings(300, seed=4), *spaced_strings(500, seed=3)]
    ids = tf.function(tokenizer.in_graph().encode)(texts).to_list()
    assert not differing(texts, ids, [tokenizer.encode(text) for text in texts])


def test_files_that_name_no_model(family, texts):
    for name in ("gpt2", "t5"):
        tokenizer = family(name).tokenizer
        model = json.loads(tokenizer._rust.to_str())["model"]
        del model["type"]
        assert edited(tokenizer, model=model).encode(texts[20]) == tokenizer.encode(texts[20])


# ------------------------------------------------------------------ decoding


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_gives_hugging_faces_text(family, texts, name):
    found = family(name)
    changed = dict(map(tuple, found.decoded))
    expected = [changed.get(index, text) for index, text in enumerate(texts)]
    assert [found.tokenizer.decode(ids) for ids in found.ids] == expected
    if name in IN_GRAPH:
        assert [text.decode() for text in found.decode(ragged(found.ids)).numpy()] == expected
    if name in BYTE_LEVEL and name not in ("bart", "qwen2"):
        assert not changed, "what has no prefix and no normal form comes back as it was"


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_ids_that_make_no_text(family, name):
    found = family(name)
    rows, expected = zip(*found.broken)
    assert tuple(found.tokenizer.decode(row) for row in rows) == expected
    if name in IN_GRAPH:
        decoded = found.decode(ragged(rows)).numpy()
        assert tuple(text.decode() for text in decoded) == expected
    if name in BYTE_LEVEL:
        assert any("\ufffd" in text for text in expected)


@pytest.mark.parametrize("name", ["gpt2", "tinyllama", "albert"])
def test_decoding_random_ids(family, name):
    """Of which bytes alone seldom make characters."""
    found, rng = family(name), random.Random(4)
    size, token = found.tokenizer.vocab_size, found.tokenizer.token
    short = [index for index in range(size) if len(token(index)) in (1, 6)]
    rows = [rng.choices(short, k=rng.randrange(12)) + [rng.randrange(size)] for _ in range(800)]
    decoded = [text.decode() for text in found.decode(ragged(rows)).numpy()]
    assert decoded == [found.tokenizer.decode(row) for row in rows]


def test_decoding_of_padded_ids_and_of_ids_out_of_the_vocabulary(family):
    for name in ("gpt2", "t5", "tinyllama"):
        found = family(name)
        batch = found.tokenizer(["a bc", "d"], max_length=9, pad_to=12)["token_ids"]
        assert [found.tokenizer.decode(row) for row in batch] == ["a bc", "d"]
        assert found.graph.decode(batch).numpy().tolist() == [b"a bc", b"d"]
        for bad in (-1, found.tokenizer.vocab_size):
            with pytest.raises(ValueError, match="`ids` must be between 0 and"):
                found.tokenizer.decode([bad])


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("name", ["gpt2", "bart", "albert", "llama2"])
def test_batches_in_python_and_in_graph(family, texts, name):
    found = family(name)
    batch = texts[:60]
    python, graph = (call(batch, max_length=12) for call in (found.tokenizer, found.graph))
    assert python.keys() == graph.keys()
    for key, array in python.items():
        assert array.dtype == np.int32 and graph[key].dtype == tf.int32
        np.testing.assert_array_equal(array, graph[key])
    for call in (found.tokenizer, found.graph):
        for few in ([], [""], ["a"]):
            assert call(few, max_length=12)["token_ids"].shape[1] >= 2


def test_padding_on_the_left(family):
    tokenizer = family("llama2").tokenizer
    assert tokenizer.pad_id is None
    right = tokenizer(["a", "a b c"], max_length=9)
    left = tokenizer(["a", "a b c"], max_length=9, padding_side="left")
    count = right["padding_mask"][0].sum()
    np.testing.assert_array_equal(left["token_ids"][0, -count:], right["token_ids"][0, :count])
    assert set(left["token_ids"][0, :-count]) == {tokenizer.eos_id}
    assert left["padding_mask"][0].tolist() == sorted(right["padding_mask"][0])
    wordpiece = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    batch = wordpiece(["a", ""], max_length=9, padding_side="left")
    assert batch["token_ids"].tolist() == [[2, 4, 3], [0, 2, 3]]
    with pytest.raises(ValueError, match='`padding_side` must be "right" or "left"'):
        tokenizer(["a"], max_length=9, padding_side="both")


def test_bad_batches(family):
    found = family("bart")
    for call in (found.tokenizer, found.graph):
        with pytest.raises(ValueError, match="`max_length` must be at least 4"):
            call(["a"], ["b"], max_length=3)
    with pytest.raises(ValueError, match="`pad_to` must be at least `max_length`"):
        found.tokenizer(["a"], max_length=6, pad_to=5)
    with pytest.raises(TypeError, match="`texts` must be a list of texts"):
        found.tokenizer("a", max_length=6)
    with pytest.raises(ValueError, match=r"`texts` must be strings of shape \(batch,\)"):
        found.graph("a", max_length=8)


# ------------------------------------------------------------------ export


LOADED = """
import json, sys
sys.modules['kerasllm'] = sys.modules['tokenizers'] = sys.modules['tensorflow_text'] = None
import tensorflow as tf
texts = json.load(open('texts.json'))
for name in sys.argv[1:]:
    serve = tf.saved_model.load(name).signatures['serving_default']
    assert serve(text=tf.constant([], tf.string))['token_ids'].shape == (0, 2)
    found = serve(text=tf.constant(texts))
    text = [text.decode() for text in found['text'].numpy()]
    json.dump([found['token_ids'].numpy().tolist(), text], open(name + '.json', 'w'))
"""


def test_saved_models_in_a_process_with_tensorflow_alone(family, texts, tmp_path):
    names, texts = ["llama3", "qwen2", "albert", "tinyllama"], texts[:300]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    for name in names:
        module = tf.Module()
        module.tokenizer = family(name).graph

        def serve(texts, graph=module.tokenizer):
            batch = graph(texts, max_length=32)
            return {**batch, "text": graph.decode(batch["token_ids"])}

        serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "text")])
        tf.saved_model.save(module, str(tmp_path / name), signatures=serve)
        assert saved_ops(tmp_path / name) <= SERVED_OPS
    command = [sys.executable, "-c", LOADED, *names]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    for name in names:
        ids, text = json.loads((tmp_path / f"{name}.json").read_text())
        expected = family(name).tokenizer(texts, max_length=32)["token_ids"]
        assert ids == expected.tolist()
        assert text == [family(name).tokenizer.decode(row) for row in expected]


def test_in_tf_data(family, texts):
    found = family("gpt2")
    dataset = tf.data.Dataset.from_tensor_slices(texts[:60]).batch(32)
    dataset = dataset.map(lambda batch: found.graph(batch, max_length=20))
    for start, batch in zip(range(0, 60, 32), dataset):
        python = found.tokenizer(texts[start : min(start + 32, 60)], max_length=20)
        np.testing.assert_array_equal(batch["token_ids"], python["token_ids"])


# ------------------------------------------------------------------ real text


@pytest.fixture(scope="module")
def paragraphs(data_dir):
    text = (data_dir / "wikitext2" / "valid.txt").read_text(encoding="utf-8")
    found = text.replace("<unk>", "unknown").splitlines(keepends=True)
    assert len(found) > 3000
    return found


@pytest.mark.parametrize("kind", [ByteLevelBPETokenizer, SentencePieceTokenizer])
def test_validation_text_of_wikitext(paragraphs, kind):
    tokenizer = kind.train(paragraphs[::40], vocab_size=2000)
    sample = paragraphs[::5]
    encodings = tokenizer._rust.encode_batch_fast(sample, add_special_tokens=False)
    expected = [encoding.ids for encoding in encodings]
    encode = tf.function(tokenizer.in_graph().encode)
    assert not differing(sample, encode(sample).to_list(), expected)
    if kind is ByteLevelBPETokenizer:
        assert [tokenizer.decode(ids) for ids in expected] == sample


# ------------------------------------------------------------------ training

CORPUS = ["the cat sat on the mat, the cats sat on mats", "Über naïve cafés; 猫 と ネコ"] * 5


def test_training_of_bytes():
    tokenizer = ByteLevelBPETokenizer.train(CORPUS, vocab_size=280)
    assert tokenizer.vocab_size == 280 and tokenizer.pad_id == tokenizer.eos_id == 0
    assert tokenizer.decode(tokenizer.encode("anything: 猫\n ¿?")) == "anything: 猫\n ¿?"
    assert len(tokenizer.encode(" the cat")) < 5
    roles = {"pad": "<pad>", "eos": "</s>"}
    other = ByteLevelBPETokenizer.train(CORPUS, vocab_size=280, special_tokens=roles)
    assert (other.pad_id, other.eos_id, other.bos_id, other.mask_id) == (0, 1, None, None)
    with pytest.raises(ValueError, match="`vocab_size` must be at least 257"):
        ByteLevelBPETokenizer.train(CORPUS, vocab_size=256)
    with pytest.raises(TypeError, match="`texts` must be a list"):
        ByteLevelBPETokenizer.train("a single text")


def test_training_of_pieces():
    tokenizer = SentencePieceTokenizer.train(CORPUS, vocab_size=60)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.vocab_size <= 60
    assert tokenizer.decode(tokenizer.encode("the  cats\n")) == "the cats"
    assert tokenizer(["the"], max_length=9)["token_ids"][0, -1] == tokenizer.eos_id
    with pytest.raises(ValueError, match="`texts` must hold text"):
        SentencePieceTokenizer.train([" "], vocab_size=60)
    with pytest.raises(ValueError, match="`vocab_size` must be more than 3"):
        SentencePieceTokenizer.train(CORPUS, vocab_size=3)
    with pytest.raises(ValueError, match="`special_tokens` must name an `unk`"):
        SentencePieceTokenizer.train(CORPUS, special_tokens={"pad": "<pad>"})


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("name", FAMILIES)
def test_save_and_load(family, texts, tmp_path, name):
    tokenizer = family(name).tokenizer
    tokenizer.save_pretrained(tmp_path / "new")
    loaded = load_tokenizer(tmp_path / "new")
    assert type(loaded) is type(tokenizer)
    for key in ("special_tokens", "allow_special_tokens", "vocab_size", "_template", "pad_id"):
        assert getattr(loaded, key) == getattr(tokenizer, key)
    rust = Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    for text in texts[:100]:
        ids = tokenizer.encode(text)
        assert loaded.encode(text) == ids
        row = tokenizer([text], max_length=4000)
        assert rust.encode(text).ids == row["token_ids"][row["padding_mask"] == 1].tolist()


def as_lists(folder, target, *, config):
    """`vocab.json` and `merges.txt` of a folder, with another tokenizer_config.json."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (target / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (target / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    "name, config",
    [
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer"}),
        ("roberta", {"tokenizer_class": "RobertaTokenizerFast"}),
        ("bart", {"tokenizer_class": "BartTokenizer", "add_prefix_space": True}),
        (
            "opt",
            {
                **{"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True},
                **{"bos_token": {"content": "</s>"}, "eos_token": "</s>", "unk_token": "</s>"},
                "pad_token": "<pad>",
            },
        ),
        (
            "qwen2",
            {
                **{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
                "added_tokens_decoder": {
                    "900": {"content": "<|im_end|>", "special": True},
                    "901": {"content": "<|endoftext|>", "special": True},
                },
            },
        ),
    ],
)
def test_vocabulary_and_merges_alone(family, texts, tmp_path, name, config):
    whole = family(name).tokenizer
    folder = as_lists(family(name).folder, tmp_path, config=config)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.special_tokens == whole.special_tokens
    assert tokenizer._template == whole._template
    for text in texts[:300]:
        assert tokenizer.encode(text) == whole.encode(text)


def test_the_class_may_stand_in_the_models_config(family, tmp_path):
    folder = as_lists(family("gpt2").folder, tmp_path, config={})
    with pytest.raises(ValueError, match="must come with a `tokenizer_class`"):
        load_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert load_tokenizer(folder).eos_id == family("gpt2").tokenizer.eos_id
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="must hold tokenizer.json, or vocab.json and"):
        ByteLevelBPETokenizer.from_pretrained(folder)


def test_folders_of_every_kind(tmp_path):
    assert load_tokenizer(tmp_path) is None
    assert load_tokenizer(tmp_path / "absent") is None
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nsun\n")
    assert isinstance(load_tokenizer(tmp_path), WordPieceTokenizer)
    (tmp_path / "vocab.txt").rename(tmp_path / "spiece.model")
    with pytest.raises(ValueError, match="spiece.model must come with a `tokenizer_class`"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="`folder` must hold tokenizer.json, or one of sp"):
        SentencePieceTokenizer.from_pretrained(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    with pytest.raises(ValueError, match="`model.type` must be WordPiece, BPE or Unigram"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer.json must be JSON"):
        load_tokenizer(tmp_path)


BPE_STEP = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize(
    "name, file, keys, value, message",
    [
        ("gpt2", "tokenizer.json", ["model", "dropout"], 0.1, "`model.dropout` must be None"),
        ("gpt2", "tokenizer.json", ["model", "end_of_word_suffix"], "</w>", "Received: '</w>'"),
        ("gpt2", "tokenizer.json", ["model", "byte_fallback"], True, "`model.byte_fallback`"),
        ("gpt2", "tokenizer.json", ["pre_tokenizer"], None, "`pre_tokenizer.type`"),
        ("gpt2", "tokenizer.json", ["normalizer"], {"type": "Lowercase"}, "Received: 'Lowercase'"),
        ("gpt2", "tokenizer.json", ["model", "merges"], [["a", "\u2603"]], "tokenizers package"),
        ("gpt2", "tokenizer.json", ["model", "vocab", "!"], 5000, "must be 0 to 899, each once"),
        ("gpt2", "tokenizer_config.json", ["add_prefix_space"], True, "`add_prefix_space` must"),
        ("gpt2", "tokenizer_config.json", ["pad_token"], "<pad>", "Received: '<pad>' as pad"),
        (
            *("gpt2", "tokenizer_config.json", ["added_tokens_decoder"]),
            *({"7": {"content": "<new>"}}, "added token '<new>'"),
        ),
        ("roberta", "tokenizer.json", ["post_processor", "type"], "Other", "post_processor"),
        ("llama2", "tokenizer_config.json", ["add_eos_token"], True, "`post_processor` must put"),
        ("t5", "tokenizer.json", ["normalizer", "type"], "NewOne", "Received: 'NewOne'"),
        ("t5", "tokenizer.json", ["pre_tokenizer"], None, "must write spaces as ▁"),
        ("t5", "tokenizer.json", ["decoder", "type"], "CTC", "`decoder.type` must be"),
        ("t5", "tokenizer.json", ["model", "unk_id"], 70000, "tokenizers package"),
        ("albert", "tokenizer_config.json", ["do_lower_case"], False, "`do_lower_case` must agree"),
        ("albert", "tokenizer_config.json", ["keep_accents"], True, "`keep_accents` must agree"),
        ("albert", "tokenizer_config.json", ["add_prefix_space"], False, "`add_prefix_space`"),
    ],
)
def test_files_that_are_not_understood(family, tmp_path, name, file, keys, value, message):
    for path in family(name).folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    edit_json(tmp_path / file, *keys, value=value)
    with pytest.raises(ValueError, match=message) as error:
        type(family(name).tokenizer).from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_special_tokens_of_two_files(family, tmp_path):
    for path in family("roberta").folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    listed = tmp_path / "special_tokens_map.json"
    listed.write_text('{"mask_token": {"content": "<mask>"}, "pad_token": "<pad>"}')
    assert load_tokenizer(tmp_path).special_tokens == family("roberta").tokenizer.special_tokens
    listed.write_text('{"pad_token": "</s>"}')
    with pytest.raises(ValueError, match="must agree on `pad_token`. Received: '</s>' and '<pad>'"):
        load_tokenizer(tmp_path)


def split(pattern, behavior="Isolated"):
    cut = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, {**BPE_STEP, "use_regex": False}]}


@pytest.mark.parametrize(
    "name, parts, message",
    [
        ("gpt2", {"pre_tokenizer": split({"Regex": r"a(?=b)|\s"})}, "TensorFlow's regular"),
        ("gpt2", {"pre_tokenizer": split({"Regex": r"\p{L}++"})}, "TensorFlow's regular"),
        ("gpt2", {"pre_tokenizer": split({"String": "x"})}, "split by a pattern, isolated"),
        ("gpt2", {"pre_tokenizer": split({"Regex": "x"}, "Removed")}, "split by a pattern, iso"),
        ("t5", {"decoder": {"type": "Fuse"}}, "`decoder` must be Metaspace"),
        ("t5", {"pre_tokenizer": {"type": "WhitespaceSplit"}}, "must write spaces"),
    ],
)
def test_what_has_no_exact_form_in_a_graph(family, name, parts, message):
    with pytest.raises(ValueError, match=message):
        edited(family(name).tokenizer, **parts).in_graph()
