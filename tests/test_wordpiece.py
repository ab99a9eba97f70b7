"""The tokenizer against Hugging Face's ids (a fixture), and the graph against Python."""

import csv
import gzip
import hashlib
import json
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.tokenizers.wordpiece import SPECIAL_TOKENS

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "wordpiece" / "bert_tokenizer.json.gz"

# The fixture's names for Hugging Face's options, in our words.
OPTIONS = {
    "uncased": {},
    "cased": {"lowercase": False},
    "uncased_accents": {"strip_accents": False},
    "cased_stripped": {"lowercase": False, "strip_accents": True},
    "uncased_cjk_words": {"split_cjk": False},
}

# What the graph is made of: no operation that an older TensorFlow Serving lacks.
SERVED_OPS = set(
    """AddV2 All Any Assert BitwiseAnd BroadcastTo Cast ConcatV2 Const Cumsum DenseBincount Equal
    ExpandDims FastWordpieceTokenizeWithOffsets Fill FloorMod GatherV2 Greater GreaterEqual Identity
    If Less LessEqual LogicalOr Max Maximum MergeV2Checkpoints Minimum Mul Neg NoOp OnesLike Pack Pad
    Placeholder Prod RaggedGather RaggedRange RaggedTensorToTensor Range RegexSplitWithOffsets
    Reshape RestoreV2 RightShift SaveV2 Select SelectV2 Shape ShardedFilename Size Squeeze
    StatefulPartitionedCall StatelessIf StaticRegexFullMatch StaticRegexReplace StridedSlice
    StringJoin StringLength StringSplitV2 Sub Tile TopKV2 Transpose UnicodeDecode UnicodeEncode
    UnsortedSegmentSum Where""".split()
)


@pytest.fixture(scope="module")
def fixture():
    return json.loads(gzip.decompress(FIXTURE.read_bytes()))


@pytest.fixture(scope="module")
def tokenizer(fixture):
    return WordPieceTokenizer(fixture["vocab"])


@pytest.fixture(scope="module")
def graph(tokenizer):
    return tokenizer.in_graph()


def differing(texts, ids, expected):
    """The first texts whose ids are not the expected ones, in a form that can be read."""
    assert len(texts) == len(ids) == len(expected)
    rows = zip(texts, ids, expected)
    return [(ascii(text[:80]), a[:20], b[:20]) for text, a, b in rows if a != b][:5]


def by_character(texts, **options):
    """A tokenizer whose ids tell every character that is left of `texts`."""
    splitter = WordPieceTokenizer(SPECIAL_TOKENS, **options)
    chars = {char for text in texts for word in splitter._words(text) for char in word}
    chars = sorted(chars - {"\0", "\x11"})  # no entry can hold these
    vocab = [*SPECIAL_TOKENS, *chars, *("##" + char for char in chars)]
    return WordPieceTokenizer(vocab, **options)


def fuzzed_strings(count, seed):
    """Random strings from all planes of Unicode, rich in what normalisation treats specially."""
    rng = random.Random(seed)
    fixed = [
        "abcXYZ019", " \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000\u200b", "!?.,'\"[]#-_$^`~<|+=",
        "ÀÉîöüñçŁøßİıẞſΣσςÅǅŉﬁ", "的一是不了人我在有他㐀豈𠀀𫝀𬺡𮯠", "안녕가힣ᄀ각ᆨかがガﾊﾟ",
        "\0\x01\x1f\x7f\x80\xad\u200d\u200e\ufeff\ufffd\ufe0f\ue000", "😀👍🏽🇩🇪#️⃣𝐀🏴󠁧",
        "\u0301\u0323\u0327\u0345\u08d4\u1baa\u1b44\u302e\u302f\U0001d165\U0001d16d\U0001e94a\u0489",
    ]  # fmt: skip
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x1100),
              (0x1E00, 0x2000), (0x2000, 0x2E80), (0x2E80, 0xA000), (0xA000, 0xD800),
              (0xE000, 0x10000), (0x10000, 0x20000), (0x20000, 0x32000), (0xE0000, 0xE0200),
              (0x10000, 0x110000)]  # fmt: skip
    whole = ["[CLS]", "[MASK]", "##s", "a" * 99, "é" * 101, "e\u0301" * 60, "เ" * 34]

    def piece():
        kind = rng.random()
        if kind < 0.02:
            return rng.choice(whole)
        if kind < 0.5:
            return rng.choice(rng.choice(fixed))
        return chr(rng.randrange(*rng.choice(ranges)))

    return ["".join(piece() for _ in range(rng.randrange(40))) for _ in range(count)]


# ------------------------------------------------------------------ ids


@pytest.mark.parametrize("name", OPTIONS)
def test_python_and_graph_give_hugging_faces_ids(fixture, name):
    texts, expected = fixture["texts"], fixture["ids"][name]
    assert len(texts) > 500
    tokenizer = WordPieceTokenizer(fixture["vocab"], **OPTIONS[name])
    assert not differing(texts, [tokenizer.encode(text) for text in texts], expected)
    assert not differing(texts, tokenizer.in_graph().encode(texts).to_list(), expected)


def test_special_tokens_in_text_when_allowed(fixture):
    texts, expected = fixture["special"]
    tokenizer = WordPieceTokenizer(fixture["vocab"], allow_special_tokens=True)
    assert not differing(texts, [tokenizer.encode(text) for text in texts], expected)
    assert not differing(texts, tokenizer.in_graph().encode(texts).to_list(), expected)
    assert any(tokenizer.mask_id in ids for ids in expected)


@pytest.mark.parametrize("clean", [True, False])
def test_special_tokens_among_fuzzed_strings(clean):
    rng = random.Random(6)
    parts = [*SPECIAL_TOKENS, "[C\0LS]", "[", "CLS]", " ", "\0", "\x11", "e\u0301", "我", "\u302e"]
    texts = ["".join(rng.choices(parts, k=rng.randrange(9))) for _ in range(1000)]
    texts += [text + more for text, more in zip(texts, fuzzed_strings(1000, seed=7))]
    tokenizer = by_character(texts, clean_text=clean, allow_special_tokens=True)
    broken = [text.encode()[1:] + b"\xe6[MASK]\x88" + text.encode()[:-1] for text in texts]
    graph = tokenizer.in_graph()
    assert not differing(texts, graph.encode(texts).to_list(), [tokenizer.encode(t) for t in texts])
    for text, ids in zip(broken, graph.encode(broken).to_list()):
        assert ids == tokenizer.encode(text), text


def test_special_tokens_in_text_are_plain_by_default(tokenizer, graph):
    texts = ["[CLS] a [SEP]", "[MASK]", "[PAD][UNK]"]
    special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id}
    for text, ids in zip(texts, graph.encode(texts).to_list()):
        assert ids == tokenizer.encode(text)
        assert not special & set(ids)


@pytest.mark.parametrize("name", OPTIONS)
def test_graph_equals_python_on_fuzzed_strings(name):
    texts = fuzzed_strings(5000 if name in ("uncased", "cased") else 1000, seed=3)
    tokenizer = by_character(texts, **OPTIONS[name])
    expected = [tokenizer.encode(text) for text in texts]
    assert sum(map(len, expected)) > 10 * len(texts)
    assert not differing(texts, tokenizer.in_graph().encode(texts).to_list(), expected)


def test_graph_equals_python_without_cleaning():
    texts = fuzzed_strings(1000, seed=4)
    tokenizer = by_character(texts, clean_text=False)
    expected = [tokenizer.encode(text) for text in texts]
    assert not differing(texts, tokenizer.in_graph().encode(texts).to_list(), expected)


def test_control_characters_that_crash_tensorflow_text():
    # Its FastWordpieceTokenizer ends the process with a segmentation fault at these two.
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "a", "##a"], clean_text=False)
    texts = ["\0", "\x11", "a\0", "a\x11a", "\x11 a", "a\0 a", "\U0010ffff"]
    expected = [tokenizer.encode(text) for text in texts]
    assert expected == [[1], [1], [1], [1], [1, 5], [1, 5], [1]]
    assert tokenizer.in_graph().encode(texts).to_list() == expected


def test_marks_in_canonical_order_across_characters():
    # Both marks survive the stripping of accents, and NFD swaps them, which no look at one
    # character at a time can tell. A mark without class between them keeps their order, though it
    # is dropped; a control character does not.
    texts = ["x\u302e\u1baa", "x\u1baa\u302e", "x\u302e\u0489\u1baa", "x\u302e\u200d\u1baa"]
    tokenizer = by_character(texts)
    first, second, third, fourth = tokenizer.in_graph().encode(texts).to_list()
    assert first == second == fourth != third
    assert [first, third] == [tokenizer.encode(texts[0]), tokenizer.encode(texts[2])]


def test_bytes_that_are_not_utf8(tokenizer, graph):
    rng = random.Random(5)
    lead = [0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xED, 0xA0, 0xEF, 0xBB, 0xF0, 0x90, 0xF4, 0xFF, 0]
    texts = [bytes(rng.choices(range(256), k=rng.randrange(12))) for _ in range(1000)]
    texts += [bytes(rng.choices(lead, k=rng.randrange(12))) for _ in range(1000)]
    texts += ["ü我\ud800".encode("utf-8", "surrogatepass"), b"abc\xe6\x88", b"\xef\xbb\xbfabc"]
    for clean in (True, False):
        tokenizer = by_character(texts, clean_text=clean)
        expected = [tokenizer.encode(text) for text in texts]
        ids = tokenizer.in_graph().encode(texts).to_list()
        bad = [(text, a, b) for text, a, b in zip(texts, ids, expected) if a != b]
        assert not bad[:5]


def test_lone_surrogates(tokenizer):
    assert tokenizer.encode("a\ud800b \udfff") == tokenizer.encode("ab")
    assert tokenizer.encode("x \ud83d\ude00") == tokenizer.encode("x 😀")
    assert tokenizer(["a\ud800b"], max_length=9)["token_ids"].shape == (1, 4)


def test_words_of_over_100_characters():
    for char in ("a", "é", "ก", "𐐀", "e\u0301"):
        texts = [char * 100, char * 101]
        tokenizer = by_character(texts)
        first, second = tokenizer.in_graph().encode(texts).to_list()
        assert [first, second] == [tokenizer.encode(text) for text in texts]
        assert second == [tokenizer.unk_id]
        assert len(first) == 100


# ------------------------------------------------------------------ batches


def test_pairs_give_hugging_faces_rows(fixture, tokenizer, graph):
    for index, (first, second, length, ids, segments) in enumerate(fixture["pairs"]):
        texts, pairs = [fixture["texts"][first]], [fixture["texts"][second]]
        expected = {"token_ids": ids, "padding_mask": [1] * len(ids), "segment_ids": segments}
        for call in (tokenizer, graph) if index % 5 == 0 else (tokenizer,):  # the graph is slow so
            batch = call(texts, pairs, max_length=length)
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], [value])


def test_truncation_of_pairs_is_longest_first():
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "a", "b"])
    graph = tokenizer.in_graph()
    rust = Tokenizer(models.WordPiece(dict(zip(tokenizer.vocab, range(7))), unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    pairs = [("a " * first, "b " * second) for first in range(10) for second in range(10)]
    for length in range(3, 22):
        rust.enable_truncation(length, strategy="longest_first")
        expected = rust.encode_batch(pairs)
        python = tokenizer(*zip(*pairs), max_length=length)
        in_graph = graph(*zip(*pairs), max_length=length)
        for key in python:
            np.testing.assert_array_equal(python[key], in_graph[key])
        for row, encoding in enumerate(expected):
            real = len(encoding.ids)
            assert python["padding_mask"][row].tolist() == [1] * real + [0] * (
                python["padding_mask"].shape[1] - real
            )
            assert python["token_ids"][row, :real].tolist() == encoding.ids
            assert python["segment_ids"][row, :real].tolist() == encoding.type_ids


def test_batch_in_python_and_in_graph(fixture, tokenizer, graph):
    texts = fixture["texts"]
    python, in_graph = tokenizer(texts, max_length=64), graph(texts, max_length=64)
    assert python["token_ids"].shape == (len(texts), 64)
    for key, array in python.items():
        assert array.dtype == np.int32 and in_graph[key].dtype == tf.int32
        np.testing.assert_array_equal(array, in_graph[key])
    row = python["token_ids"][texts.index("")]
    assert row[:3].tolist() == [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id]


def test_padding_with_an_id_that_is_not_zero():
    tokenizer = WordPieceTokenizer(["a", "[UNK]", "[SEP]", "[CLS]", "[PAD]"])
    python = tokenizer(["a a a", ""], max_length=9)
    assert python["token_ids"].tolist() == [[3, 0, 0, 0, 2], [3, 2, 4, 4, 4]]
    in_graph = tokenizer.in_graph()(["a a a", ""], max_length=9)
    np.testing.assert_array_equal(python["token_ids"], in_graph["token_ids"])
    assert tokenizer.mask_id is None


def test_pad_to(tokenizer):
    batch = tokenizer(["a", "a b"], max_length=6, pad_to=8)
    assert batch["padding_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 4 + [0] * 4]
    with pytest.raises(ValueError, match="`pad_to` must be at least `max_length`"):
        tokenizer(["a"], max_length=6, pad_to=5)


@pytest.mark.parametrize("with_pairs", [False, True])
def test_batches_of_any_size(tokenizer, graph, with_pairs):
    count = 2 if with_pairs else 1

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * count)
    def call(*texts):
        return graph(*texts, max_length=16)

    for texts in ([], [""], ["a"], ["a", "b c", "d e f"]):
        inputs = [tf.constant(texts, tf.string)] * count
        python = tokenizer(*[texts] * count, max_length=16)
        for key, value in call(*inputs).items():
            np.testing.assert_array_equal(value, python[key])
            assert value.shape[1] >= 2


def test_in_tf_data(fixture, tokenizer, graph):
    texts = fixture["texts"][:100]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(32)
    dataset = dataset.map(lambda batch: graph(batch, max_length=20))
    for start, batch in zip(range(0, 100, 32), dataset):
        python = tokenizer(texts[start : start + 32], max_length=20)
        for key, value in batch.items():
            np.testing.assert_array_equal(value, python[key])


def saved_ops(folder):
    """Names of the operations in a SavedModel."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


@pytest.mark.parametrize("allow", [False, True])
def test_saved_model(fixture, tmp_path, allow):
    tokenizer = WordPieceTokenizer(fixture["vocab"], allow_special_tokens=allow)
    module = tf.Module()
    module.tokenizer = tokenizer.in_graph()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")] * 2)
    def serve(texts, pairs):
        return module.tokenizer(texts, pairs, max_length=32)

    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    texts, pairs = fixture["texts"], fixture["texts"][::-1]
    found = loaded(text=tf.constant(texts), text_1=tf.constant(pairs))
    for key, array in tokenizer(texts, pairs, max_length=32).items():
        np.testing.assert_array_equal(found[key], array)
    empty = tf.constant([], tf.string)
    assert loaded(text=empty, text_1=empty)["token_ids"].shape == (0, 2)
    assert saved_ops(tmp_path) <= SERVED_OPS


# ------------------------------------------------------------------ real text


@pytest.fixture(scope="module")
def sentences(data_dir):
    found = []
    for name in ("train.txt", "dev.txt", "test.txt"):
        lines = (data_dir / "sst2" / name).read_text(encoding="utf-8").splitlines()
        found += [line.split(" ", 1)[1] for line in lines]
    with open(data_dir / "waimai_10k" / "waimai_10k.csv", encoding="utf-8", newline="") as file:
        found += [row["review"] for row in csv.DictReader(file)]
    assert len(found) == 6920 + 872 + 1821 + 11987
    return found


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_sentence_of_sst2_and_waimai(sentences, lowercase):
    tokenizer = WordPieceTokenizer.train(sentences[::5], vocab_size=6000, lowercase=lowercase)
    graph = tokenizer.in_graph()
    assert not differing(
        sentences, graph.encode(sentences).to_list(), [tokenizer.encode(t) for t in sentences]
    )
    python, in_graph = tokenizer(sentences, max_length=128), graph(sentences, max_length=128)
    for key in python:
        np.testing.assert_array_equal(python[key], in_graph[key])


# ------------------------------------------------------------------ training

CORPUS = [
    "the cat sat on the mat, the cats sat on mats",
    "caterpillars scatter; the scattered cattle gather",
    "gathering, scattering, chattering, battering; 我爱北京，我爱猫",
    "Über naïve cafés; 猫 と ネコ",
] * 3


def digest(vocab):
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()


def test_training_is_deterministic():
    found = {digest(WordPieceTokenizer.train(CORPUS, vocab_size=90).vocab) for _ in range(5)}
    code = (
        "import sys, hashlib; from kerasllm.tokenizers import WordPieceTokenizer;"
        "vocab = WordPieceTokenizer.train(sys.argv[1:], vocab_size=90).vocab;"
        "print(hashlib.sha256(chr(10).join(vocab).encode()).hexdigest())"
    )
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", code, *CORPUS], capture_output=True, text=True, check=True,
            cwd=pathlib.Path(__file__).parents[1],
        )  # fmt: skip
        found.add(run.stdout.strip())
    assert len(found) == 1


def test_training_learns_pieces_that_occur():
    tokenizer = WordPieceTokenizer.train(CORPUS, vocab_size=120)
    assert tokenizer.vocab[:5] == SPECIAL_TOKENS
    assert 100 < tokenizer.vocab_size <= 120
    assert "the" in tokenizer.vocab and "cat" in tokenizer.vocab
    assert not any(tokenizer.unk_id in tokenizer.encode(text) for text in CORPUS)
    assert tokenizer.decode(tokenizer.encode("The CATS gathered")) == "the cats gathered"
    cased = WordPieceTokenizer.train(CORPUS, vocab_size=120, lowercase=False)
    assert "U" not in tokenizer.vocab and "Ü" in cased.vocab


def test_training_on_chinese_gives_characters():
    texts = ["我爱北京天安门", "北京的天气，很好！", "我很好"] * 2
    tokenizer = WordPieceTokenizer.train(texts, vocab_size=1000)
    assert set(tokenizer.vocab) == {*SPECIAL_TOKENS, *"".join(texts)}
    assert len(tokenizer.encode("天安门很好")) == 5


def test_training_keeps_what_is_frequent():
    texts = ["aaa aaa ab", "aaa aab b", "xyz"]
    vocab = WordPieceTokenizer.train(texts, vocab_size=50).vocab
    assert {"a", "b", "##a", "##b", "aaa"} < set(vocab) and not set("xyz") & set(vocab)
    small = WordPieceTokenizer.train(texts, vocab_size=7, min_frequency=1).vocab
    assert small == (*SPECIAL_TOKENS, "##a", "a")
    everything = WordPieceTokenizer.train(texts, vocab_size=50, min_frequency=1).vocab
    assert "xyz" in everything


def test_training_without_text_or_room():
    with pytest.raises(ValueError, match="`texts` must hold characters that occur"):
        WordPieceTokenizer.train(["", "  "])
    with pytest.raises(ValueError, match="`vocab_size` must be more than 5"):
        WordPieceTokenizer.train(CORPUS, vocab_size=5)
    with pytest.raises(TypeError, match="`texts` must be a list"):
        WordPieceTokenizer.train("a single text")


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_save_and_load(fixture, tmp_path, name, allow):
    tokenizer = WordPieceTokenizer(fixture["vocab"], **OPTIONS[name], allow_special_tokens=allow)
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    for missing in (None, "vocab.txt", "tokenizer.json"):
        if missing:
            tokenizer.save_pretrained(tmp_path / "new" / "folder")
            (tmp_path / "new" / "folder" / missing).unlink()
        loaded = WordPieceTokenizer.from_pretrained(tmp_path / "new" / "folder")
        assert vars(loaded).keys() == vars(tokenizer).keys()
        for key in set(vars(tokenizer)) - {"_rust"}:
            assert getattr(loaded, key) == getattr(tokenizer, key)
    rust = Tokenizer.from_file(saved_whole(tokenizer, tmp_path))
    rust.encode_special_tokens = not allow
    for text in fixture["texts"][:300]:
        ids = rust.encode(text).ids
        assert ids == [tokenizer.cls_id, *tokenizer.encode(text), tokenizer.sep_id]


def saved_whole(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return str(folder / "tokenizer.json")


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match="`folder` must hold tokenizer.json"):
        WordPieceTokenizer.from_pretrained(tmp_path / "absent")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="with neither"):
        WordPieceTokenizer.from_pretrained(tmp_path)


def test_a_lone_vocabulary_is_lower_cased(tmp_path):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cafe", "Café"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    tokenizer = WordPieceTokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab == tuple(vocab)
    assert tokenizer.encode("Café CAFE") == [4, 4]
    assert tokenizer.allow_special_tokens is False


def edit_json(path, *keys, value):
    whole = json.loads(path.read_text(encoding="utf-8"))
    part = whole
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(whole), encoding="utf-8")


@pytest.mark.parametrize(
    "file, keys, value, message",
    [
        ("tokenizer.json", ["model", "type"], "BPE", "`model.type` must be 'WordPiece'"),
        ("tokenizer.json", ["model"], None, "`model.type` must be 'WordPiece'"),
        ("tokenizer.json", ["model", "unk_token"], "<unk>", "`model.unk_token`"),
        ("tokenizer.json", ["model", "continuing_subword_prefix"], "@@", "'@@'"),
        ("tokenizer.json", ["model", "max_input_chars_per_word"], 50, "Received: 50"),
        ("tokenizer.json", ["model", "vocab", "a"], 900, "must be 0 to 6, each once"),
        ("tokenizer.json", ["normalizer"], None, "`normalizer.type`"),
        ("tokenizer.json", ["normalizer", "type"], "NFC", "Received: 'NFC'"),
        ("tokenizer.json", ["pre_tokenizer", "type"], "ByteLevel", "`pre_tokenizer.type`"),
        ("tokenizer.json", ["added_tokens", 0, "content"], "<e1>", "`added_tokens`"),
        ("tokenizer.json", ["added_tokens", 0, "id"], 9, "id of .PAD.` must be 0"),
        (
            "tokenizer.json",
            ["post_processor", "type"],
            "RobertaProcessing",
            "`post_processor.type`",
        ),
        ("tokenizer.json", ["post_processor", "single"], [], "`post_processor.single`"),
        ("tokenizer_config.json", ["do_basic_tokenize"], False, "`do_basic_tokenize`"),
        ("tokenizer_config.json", ["never_split"], ["x"], "`never_split`"),
        ("tokenizer_config.json", ["cls_token"], "<s>", "`cls_token` must be"),
        ("tokenizer_config.json", ["sep_token"], {"content": "</s>"}, "Received: '</s>'"),
        ("tokenizer_config.json", ["additional_special_tokens"], ["<e1>"], "'<e1>'"),
        ("tokenizer_config.json", ["do_lower_case"], False, "must agree on `lowercase`"),
        ("tokenizer_config.json", ["strip_accents"], False, "must agree on `strip_accents`"),
        ("tokenizer_config.json", ["tokenize_chinese_chars"], False, "agree on `split_cjk`"),
    ],
)
def test_files_of_another_tokenizer(tmp_path, file, keys, value, message):
    WordPieceTokenizer([*SPECIAL_TOKENS, "a", "b"]).save_pretrained(tmp_path)
    edit_json(tmp_path / file, *keys, value=value)
    with pytest.raises(ValueError, match=message) as error:
        WordPieceTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path / file) in str(error.value)


def test_files_that_say_the_same_in_other_words(tmp_path):
    WordPieceTokenizer([*SPECIAL_TOKENS, "a"]).save_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", "strip_accents", value=True)
    edit_json(tmp_path / "tokenizer_config.json", "cls_token", value={"content": "[CLS]"})
    processor = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    edit_json(tmp_path / "tokenizer.json", "post_processor", value=processor)
    assert WordPieceTokenizer.from_pretrained(tmp_path).encode("Á") == [5]


def test_files_that_disagree_or_are_broken(tmp_path):
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "a", "b"])
    tokenizer.save_pretrained(tmp_path)
    vocab, whole = tmp_path / "vocab.txt", tmp_path / "tokenizer.json"
    vocab.write_text("\n".join([*SPECIAL_TOKENS, "b", "a"]) + "\n")
    with pytest.raises(ValueError, match="must be equal. Received: 7 and 7 entries, 5 of them"):
        WordPieceTokenizer.from_pretrained(tmp_path)
    vocab.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"vocab.txt must be UTF-8"):
        WordPieceTokenizer.from_pretrained(tmp_path)
    whole.write_text(whole.read_text()[:100])
    with pytest.raises(ValueError, match=r"tokenizer.json must be JSON"):
        WordPieceTokenizer.from_pretrained(tmp_path)
    whole.unlink()
    vocab.write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(
        ValueError, match=r"vocab.txt: `vocab` must hold .* without \[CLS\], \[SEP\]"
    ):
        WordPieceTokenizer.from_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", "tokenizer_class", value="BertJapaneseTokenizer")
    with pytest.raises(ValueError, match="Received: 'BertJapanese'"):
        WordPieceTokenizer.from_pretrained(tmp_path)


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    "vocab, message",
    [
        (SPECIAL_TOKENS[1:], r"without \[PAD\]"),
        ([*SPECIAL_TOKENS, "a", "b", "a"], r"1 entries more than once, such as \['a'\]"),
        ([*SPECIAL_TOKENS, "a\nb"], "must be one line"),
        ([*SPECIAL_TOKENS, "a\0b"], "without the control characters"),
        ([*SPECIAL_TOKENS, "a" * 257], "at most 256 bytes"),
    ],
)
def test_bad_vocabularies(vocab, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(vocab)


def test_bad_texts(tokenizer, graph):
    for texts in ("one text", [["a", "b"]]):
        with pytest.raises(ValueError, match=r"`texts` must be strings of shape \(batch,\)"):
            graph(texts, max_length=8)
    with pytest.raises(TypeError, match="`texts` must be a list of texts"):
        tokenizer("one text", max_length=8)
    with pytest.raises(TypeError, match=r"`texts\[1\]` must be a str or bytes. Received: nan"):
        tokenizer(["a", float("nan")], max_length=8)
    with pytest.raises(TypeError, match="`text` must be a str or bytes. Received: None"):
        tokenizer.encode(None)
    with pytest.raises(ValueError, match="2 texts and 1 pairs"):
        tokenizer(["a", "b"], ["c"], max_length=8)


def test_max_length_without_room(tokenizer, graph):
    for call in (tokenizer, graph):
        assert call(["a"], max_length=2)["token_ids"].shape == (1, 2)
        with pytest.raises(ValueError, match="`max_length` must be at least 2"):
            call(["a"], max_length=1)
        with pytest.raises(ValueError, match="`max_length` must be at least 3"):
            call(["a"], ["b"], max_length=2)


def test_arrays_of_text(tokenizer):
    expected = tokenizer(["ab", "我"], max_length=8)["token_ids"].tolist()
    for texts in (np.array(["ab", "我"]), tf.constant(["ab", "我"]).numpy(), ("ab", "我".encode())):
        assert tokenizer(texts, max_length=8)["token_ids"].tolist() == expected


def test_decode(tokenizer):
    ids = [tokenizer.cls_id, *tokenizer.encode("Déjà vu, 北京."), tokenizer.sep_id, 0, 0]
    assert tokenizer.decode(np.array(ids)) == "deja vu, 北 京."
    assert tokenizer.decode([tokenizer.unk_id, tokenizer.mask_id]) == "[UNK] [MASK]"
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="`ids` must be between 0 and"):
            tokenizer.decode([bad])


def test_decoding_in_a_graph(tokenizer, graph):
    entries = ["do", "not", "n't", "'", "'s", "'ve", "'re", "'m", *".,!?", " do not", "##'", "##s"]
    own = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *entries])
    rng = random.Random(6)
    for some, module in ((tokenizer, graph), (own, own.in_graph())):
        size = some.vocab_size
        rows = [[rng.randrange(size) for _ in range(rng.randrange(12))] for _ in range(500)]
        decoded = module.decode(tf.ragged.constant(rows, tf.int32)).numpy()
        assert [text.decode() for text in decoded] == [some.decode(row) for row in rows]
    assert graph.decode([[tokenizer.cls_id, 0], [0, 0]]).numpy().tolist() == [b"", b""]


def test_importing_needs_no_tensorflow():
    code = "import sys, kerasllm.tokenizers; sys.exit('tensorflow' in sys.modules)"
    root = pathlib.Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
