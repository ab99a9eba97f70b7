"""Pretraining from plain text: what is read, what is hidden, what is lost, what is learnt."""

import re
import types

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf

from kerasllm.config import TransformerConfig
from kerasllm.data import texts
from kerasllm.data.pretraining import (
    begun,
    causal_rows,
    denoising_rows,
    infilling,
    line_rows,
    masking,
    pair_rows,
    text_rows,
    windows,
    word_begins,
)
from kerasllm.data.texts import documents, sentences, stream
from kerasllm.evaluation.language import LanguageResult, evaluate_tokens
from kerasllm.evaluation.retrieval import RetrievalResult, evaluate_pairs
from kerasllm.models import (
    CausalLM,
    MaskedLM,
    PairMaskedLM,
    ReplacedTokenDetection,
    SentenceEncoder,
    Seq2SeqLM,
)
from kerasllm.tasks import TASKS, checked_options, evaluate, streams
from kerasllm.tasks.contrastive import ContrastiveLoss
from kerasllm.tasks.language_modeling import Perplexity, scores, token_loss
from kerasllm.tokenizers import ByteLevelBPETokenizer, SentencePieceTokenizer, WordPieceTokenizer
from kerasllm.training import fit

WORDS = "sun moon star sea river hill stone tree leaf bird song wind rain snow fire light".split()
SEED = tf.constant([3, 4], tf.int64)
BART = {"cls": "<s>", "sep": "</s>", "bos": "<s>", "eos": "</s>", "pad": "<pad>", "mask": "<mask>"}
LENGTH = 24


def text(documents=40, seed=0):
    """Documents of 3 to 8 sentences, each a line of 3 to 9 words that says which document it is."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(documents):
        lines = (" ".join(random.choice(WORDS, random.integers(3, 10))) for _ in range(20))
        lines = [f"{line} {i}." for line in lines][: random.integers(3, 9)]
        found.append("\n".join(lines))
    return "\n\n".join(found)


@pytest.fixture(scope="module")
def wordpiece():
    return WordPieceTokenizer.train([text()], vocab_size=90)  # few, so that words are in pieces


@pytest.fixture(scope="module")
def bpe():
    return ByteLevelBPETokenizer.train([text()], vocab_size=300, special_tokens=BART)


def config(tokenizer, **options):
    return TransformerConfig(
        tokenizer.vocab_size,
        **{
            **dict(num_layers=1, num_heads=2, embed_dim=16, ff_dim=32, max_length=LENGTH),
            **dict(rate=0.0, attention_rate=0.0, initializer_range=0.3, pad_id=0),
            **options,
        },
    )


def batch_of(rows_of, *source):
    """All rows of a text, as arrays."""
    rows = rows_of(tf.constant("\n\n".join(source)), SEED)
    return {name: value.numpy() for name, value in rows.items()}


# ------------------------------------------------------------------------------------ the stream


def test_pieces_are_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "PIECE_BYTES", 700)
    monkeypatch.setattr(texts, "SEARCHED_BYTES", 300)
    content = text() + "\n\n" + "word " * 900 + "\n" + "好" * 2000 + "\r\n \r\nend"
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    count, read = texts._pieces(path)
    pieces = [read(tf.constant(i)).numpy() for i in range(count)]
    assert b"".join(pieces) == content.encode()
    assert count > 8
    assert max(map(len, pieces)) <= 1000
    for piece in pieces:
        piece.decode()  # no character is cut
    assert re.search(r"\n\s*\n$", pieces[0].decode())
    parts = [part for piece in pieces for part in documents(piece).numpy()]
    assert parts[:40] == [part.encode() for part in text().split("\n\n")]


def test_shards_part_the_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "PIECE_BYTES", 400)
    monkeypatch.setattr(texts, "SEARCHED_BYTES", 300)
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / f"{name}.txt").write_text(text(seed=seed))

    def rows_of(piece, seed):
        return {"text": documents(piece)}

    def read(**options):
        data = stream(
            str(tmp_path / "*.txt"), rows_of, lambda rows, _: rows["text"], batch_size=7, **options
        )
        found = [batch.numpy().tolist() for batch in data]
        assert len(found) == int(data.cardinality())
        return [text for batch in found for text in batch]

    whole = read(training=False)
    assert len(whole) == 80
    shards = [read(training=False, shard=(3, i)) for i in range(3)]
    assert sorted(sum(shards, [])) == sorted(whole)
    shuffled = read()
    assert shuffled != whole
    assert sorted(shuffled) == sorted(whole)
    assert shuffled == read()
    assert shuffled != read(seed=1)
    assert len(read(steps=30)) > 80  # once more from the beginning
    assert len(read(drop_remainder=True)) == 77


def test_a_pass_depends_on_the_seed_and_its_number_alone():
    def data(**options):
        return stream(
            [text()],
            lambda piece, seed: {"text": documents(piece)},
            lambda rows, seed: (rows["text"], tf.random.stateless_uniform([2], seed)),
            batch_size=3,
            **options,
        )

    def seen(data):
        return [(texts.numpy().tolist(), numbers.numpy().tolist()) for texts, numbers in data]

    for options in ({}, {"steps": 20}):  # more than there are
        undisturbed = data(**options)
        passes = [seen(undisturbed) for _ in range(3)]
        assert all(a != b for a, b in zip(passes[0], passes[1]))
        later = data(**options)
        for _ in range(2):
            next(iter(later))  # as a run that goes on skips the passes before
        assert seen(later) == passes[2]
        assert seen(data(seed=1, **options)) != passes[0]
    fixed = data(training=False)
    assert seen(fixed) == seen(fixed)


def test_lists_of_texts_and_of_paths(tmp_path):
    path = tmp_path / "a b.txt"
    path.write_text("one\n\ntwo")

    def parts(source, blank_lines=True, **options):
        data = stream(
            source,
            lambda piece, seed: {"text": documents(piece, blank_lines)},
            lambda rows, _: rows["text"],
            batch_size=9,
            training=False,
            **options,
        )
        return next(iter(data)).numpy().tolist()

    assert parts(path) == parts([path]) == parts([str(path)]) == [b"one", b"two"]
    assert parts(["one", "two"]) == parts(["one\n\ntwo"]) == [b"one", b"two"]
    assert parts(path, blank_lines=False) == [b"one\n\ntwo"]
    assert parts(["one\n\ntwo", "three"], blank_lines=False) == [b"one\n\ntwo", b"three"]
    assert parts([{"text": "no_such_file.txt"}]) == [b"no_such_file.txt"]
    with pytest.raises(FileNotFoundError, match="`source` must name text files"):
        parts(["no_such_file.txt"])
    with pytest.raises(FileNotFoundError, match="a folder .ask for its files"):
        parts(tmp_path)
    for other in (["one", {"label": "x"}], ["one", path], [5]):
        with pytest.raises(ValueError, match="`source` must be of texts"):
            parts(other)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="which is empty"):
        parts(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="at least one batch of 9"):
        parts(["  \n"])
    with pytest.raises(ValueError, match=r"`shard` must be \(count, index\)"):
        parts(path, shard=(2, 2))
    with pytest.raises(ValueError, match="take fewer machines"):
        parts(path, shard=(2, 1))


def test_small_files_are_put_together(tmp_path, wordpiece, monkeypatch):
    given = [part.encode() for part in text().split("\n\n")]
    given[1] = given[1].replace(b"\n", b"\r\n")
    for i, part in enumerate(given):
        ends = (b"\xef\xbb\xbf", b"\n") if i % 2 else (b"", b"")  # a byte order mark, a last end
        (tmp_path / f"{i:02}.txt").write_bytes(ends[0] + part + ends[1])
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "folder.txt").mkdir()
    pattern = str(tmp_path / "*.txt")
    given[1] = given[1].replace(b"\r", b"")

    def pieces():
        count, read = texts._pieces(pattern)
        return count, tf.function(read)

    count, read = pieces()
    assert count == 1
    assert documents(read(0)).numpy().tolist() == given
    assert documents(read(0), blank_lines=False).numpy().tolist() == given
    assert texts.single_lines(read(0)).numpy().tolist() == b"\n".join(given).split(b"\n")
    # So there are other documents for second texts to be of.
    assert pair_rows(wordpiece, 40, blank_lines=False)(read(0), SEED)["exchanged"].numpy().any()
    monkeypatch.setattr(texts, "PIECE_BYTES", 400)
    count, read = pieces()
    assert 5 < count < 40
    assert [part for i in range(count) for part in documents(read(i)).numpy()] == given


def test_a_service_makes_the_batches():
    dispatcher = tf.data.experimental.service.DispatchServer()
    config = tf.data.experimental.service.WorkerConfig(dispatcher.target.split("://")[1])
    workers = [tf.data.experimental.service.WorkerServer(config) for _ in range(2)]
    data = stream(
        [text()],
        lambda piece, seed: {"text": documents(piece)},
        lambda rows, seed: (rows["text"], tf.random.stateless_uniform([2], seed)),
        batch_size=4,
        service=dispatcher.target,
    )
    assert int(data.cardinality()) == 10
    passes = [[(texts.numpy(), numbers.numpy()) for texts, numbers in data] for _ in range(2)]
    known = set(text().encode().split(b"\n\n"))
    assert all(set(texts) <= known for each in passes for texts, _ in each)
    assert len({numbers[0] for each in passes for _, numbers in each}) == 20
    del workers


# ------------------------------------------------------------------------------------ rows


def test_sentences_put_together_are_the_text():
    given = ['He said "Yes." Then?  Go! 3.5 is\none\n\n\nline', "好。“好！”吗？", "none"]
    found = sentences(given).to_list()
    assert [b"".join(parts).decode() for parts in found] == given
    assert [len(parts) for parts in found] == [8, 3, 1]


def test_packed_rows_hold_every_token_once(wordpiece):
    rows = batch_of(text_rows(wordpiece, LENGTH), text())
    assert set(rows["token_ids"][:, 0]) == {wordpiece.cls_id}
    lengths = rows["padding_mask"].sum(axis=1)
    assert (lengths[:-1] == LENGTH).all()
    inner = [ids[1 : n - 1] for ids, n in zip(rows["token_ids"], lengths)]
    assert all(ids[n - 1] == wordpiece.sep_id for ids, n in zip(rows["token_ids"], lengths))
    wanted = [[*wordpiece.encode(part), wordpiece.sep_id] for part in text().split("\n\n")]
    assert np.concatenate(inner).tolist() == sum(wanted, [])
    alone = batch_of(text_rows(wordpiece, LENGTH, packed=False), text())
    assert (np.sum(alone["token_ids"] == wordpiece.sep_id, axis=1) == 1).all()


def test_every_token_is_foretold_once(bpe, wordpiece):
    for tokenizer, begin, end in ((bpe, bpe.bos_id, bpe.eos_id), (wordpiece, 3, 3)):
        parts = [tokenizer.encode(part) for part in text().split("\n\n")]
        rows = batch_of(causal_rows(tokenizer, 16), text())
        real = rows["padding_mask"][:, 1:] == 1
        stream = rows["token_ids"][:, 1:][real].tolist()
        if begin == end:
            assert stream == sum(([*part, end] for part in parts), [])
        else:
            assert stream == sum(([begin, *part, end] for part in parts), [])[1:]
        np.testing.assert_array_equal(rows["token_ids"][1:, 0], rows["token_ids"][:-1, -1])
        rows = batch_of(causal_rows(tokenizer, 16, packed=False), text())
        begins = np.flatnonzero(rows["token_ids"][:, 0] == begin)
        assert len(begins) == len(parts)
        first = rows["token_ids"][begins[1]]
        assert first[1 : 1 + 9].tolist() == parts[1][:9]


def test_windows():
    ids = tf.ragged.constant([[], [1], [1, 2, 3], [1, 2, 3, 4]])
    assert windows(ids, 3).to_list() == [[1], [1, 2, 3], [1, 2, 3], [4]]
    assert windows(ids, 3, 2).to_list() == [[1, 2, 3], [1, 2, 3], [3, 4]]


def halves(rows, tokenizer):
    """The two texts of each row, decoded."""
    for ids, mask, segments in zip(
        *(rows[n] for n in ("token_ids", "padding_mask", "segment_ids"))
    ):
        ids = ids[mask == 1]
        yield tuple(tokenizer.decode(ids[segments[: len(ids)] == half]) for half in (0, 1))


def deviation(rows_of, source):
    """How many sigma the share of exchanged pairs is from a half, over ten passes."""
    labels = [rows_of(source, SEED + 10 * i)["exchanged"].numpy() for i in range(10)]
    return (np.mean(labels) - 0.5) * np.sqrt(4 * np.size(labels))


def test_next_sentences(wordpiece):
    many = text(documents=400)
    rows = batch_of(pair_rows(wordpiece, 40), many)
    count, exchanged = len(rows["exchanged"]), rows["exchanged"]
    assert abs(deviation(pair_rows(wordpiece, 40), many)) < 3
    assert rows["padding_mask"].sum(axis=1).min() > 4
    plain = " ".join(wordpiece.decode(wordpiece.encode(many)).split())
    number = re.compile(r"(\d+)\.")
    told = 0
    for (first, second), label in zip(halves(rows, wordpiece), exchanged):
        assert first and second
        if not label:
            assert f"{first} {second}".replace(" ##", "") in plain
        one, other = number.findall(first), number.findall(second)
        if one and other:
            assert (one[-1] != other[0]) == bool(label)
            told += 1
    assert told > count / 2


def test_the_order_of_sentences(wordpiece):
    many = text(documents=400)
    rows = batch_of(pair_rows(wordpiece, 40, sentence_order=True), many)
    exchanged = rows["exchanged"]
    assert abs(deviation(pair_rows(wordpiece, 40, sentence_order=True), many)) < 3
    plain = " ".join(wordpiece.decode(wordpiece.encode(many)).split())
    for (first, second), label in zip(halves(rows, wordpiece), exchanged):
        pair = f"{second} {first}" if label else f"{first} {second}"
        assert pair.replace(" ##", "") in plain


def test_one_document_has_no_other(wordpiece):
    rows = batch_of(pair_rows(wordpiece, 20), text().split("\n\n")[0])
    assert not rows["exchanged"].any()


@pytest.mark.parametrize("sentence_order", [False, True])
def test_a_piece_may_be_blank(wordpiece, sentence_order):
    rows = batch_of(pair_rows(wordpiece, 20, sentence_order=sentence_order), " \n\n")
    assert {name: len(x) for name, x in rows.items()} == dict.fromkeys(rows, 0)


# ------------------------------------------------------------------------------------ masks


@pytest.fixture(scope="module")
def many_rows(wordpiece):
    return batch_of(text_rows(wordpiece, 64), text(documents=1500))


def test_what_is_masked(wordpiece, many_rows):
    masked = masking(wordpiece)(many_rows, SEED)
    masked = {name: value.numpy() for name, value in masked.items()}
    old, new = many_rows["token_ids"], masked["token_ids"]
    special = [getattr(wordpiece, f"{name}_id") for name in ("pad", "unk", "cls", "sep", "mask")]
    free = ~np.isin(old, special)
    chosen = np.zeros_like(free)
    rows, slots = np.nonzero(masked["chosen"])
    chosen[rows, masked["positions"][rows, slots]] = True
    assert chosen.sum() == masked["chosen"].sum()  # no position twice
    assert not chosen[~free].any()
    np.testing.assert_array_equal(new[~chosen], old[~chosen])
    wanted = np.clip(np.round(0.15 * free.sum(axis=1)), 1, None)
    np.testing.assert_array_equal(chosen.sum(axis=1), wanted)
    np.testing.assert_array_equal(
        masked["ids"], np.take_along_axis(old, masked["positions"], axis=1)
    )
    # 80, 10, 10, within three sigma.
    count, before, after = chosen.sum(), old[chosen], new[chosen]
    others = wordpiece.vocab_size - len(special)
    shares = {0.8: after == wordpiece.mask_id, 0.1 + 0.1 / others: after == before}
    shares[0.1 - 0.1 / others] = (after != before) & (after != wordpiece.mask_id)
    for share, found in shares.items():
        assert abs(found.sum() - share * count) < 3 * np.sqrt(count * share * (1 - share)), share
    drawn = after[(after != before) & (after != wordpiece.mask_id)]
    assert not np.isin(drawn, special).any()
    counts = np.bincount(drawn, minlength=wordpiece.vocab_size)
    counts = np.delete(counts, special)
    expected = counts.sum() / others
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)  # evenly, of 85 tokens
    # Every place is as likely as any other.
    by_place = chosen[:-1].sum(axis=0)[1:-1] / free[:-1].sum(axis=0)[1:-1]
    places = free[:-1].sum(axis=0)[1:-1]
    share = chosen.sum() / free.sum()
    assert (np.abs(by_place - share) < 4.5 * np.sqrt(share * (1 - share) / places)).all()


def test_masks_follow_from_the_seed(wordpiece, many_rows):
    mask = masking(wordpiece)
    one, same = (mask(many_rows, SEED)["token_ids"].numpy() for _ in range(2))
    other = mask(many_rows, SEED + 7)["token_ids"].numpy()
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.1


def test_whole_words_are_masked(wordpiece, many_rows):
    ids = many_rows["token_ids"]
    masked = masking(wordpiece, whole_words=True, mask_rate=1.0, random_rate=0.0)(many_rows, SEED)
    hidden = masked["token_ids"].numpy() == wordpiece.mask_id
    begins = np.array([not token.startswith("##") for token in wordpiece.vocab])[ids]
    np.testing.assert_array_equal(begins, word_begins(wordpiece)[ids])
    word = np.cumsum(begins, axis=1)
    inner = ~begins & ~np.isin(np.roll(ids, 1, axis=1), [wordpiece.cls_id])
    assert inner.sum() > 1000  # there are words of several pieces
    np.testing.assert_array_equal(hidden[:, 1:][inner[:, 1:]], hidden[:, :-1][inner[:, 1:]])
    assert 0.12 < hidden.sum() / (many_rows["padding_mask"].sum() - 2 * len(ids)) <= 0.155
    tokens = masking(wordpiece, mask_rate=1.0, random_rate=0.0)(many_rows, SEED)
    hidden = tokens["token_ids"].numpy() == wordpiece.mask_id
    assert (hidden[:, 1:][inner[:, 1:]] != hidden[:, :-1][inner[:, 1:]]).any()
    assert word.max() > 20


def test_where_words_begin_by_other_tokenizers(bpe):
    begins = word_begins(bpe)
    ids = bpe.encode("sun moonstone")
    assert (
        begins[ids].sum() == 1
    )  # " moonstone", whatever its pieces; what comes first has no space
    assert begins[bpe.mask_id]
    pieces = SentencePieceTokenizer.train([text()], vocab_size=60)
    ids = pieces.encode("sun moonstone")
    assert word_begins(pieces)[ids].sum() == 2


def test_what_cannot_be_masked_is_refused(wordpiece):
    plain = ByteLevelBPETokenizer.train([text()], vocab_size=300)
    for make in (masking, lambda tokenizer: infilling(tokenizer, 16)):
        with pytest.raises(ValueError, match="must have a mask token"):
            make(plain)
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        masking(wordpiece, mask_rate=0.9, random_rate=0.2)
    model = MaskedLM(config(wordpiece), family="bert")
    with pytest.raises(ValueError, match=r"`model` must have a tokenizer"):
        TASKS["masked_lm"].dataset(model, "a")
    model.tokenizer = wordpiece
    with pytest.raises(ValueError, match="`max_length` must be at most 24"):
        TASKS["masked_lm"].dataset(model, ["a"], max_length=25)


def test_infilling(bpe):
    length = 66
    rows = batch_of(denoising_rows(bpe, length), text(documents=800))
    spoiled, whole = infilling(bpe, length, permute=False)(rows, SEED)
    spans = kept = 0
    lengths, gone = [], []
    for ids, mask, true, there in zip(
        *(x[name].numpy() for x in (spoiled, whole) for name in ("token_ids", "padding_mask"))
    ):
        ids, true = ids[mask == 1].tolist(), true[there == 1].tolist()
        assert (ids[0], ids[-1]) == (true[0], true[-1]) == (bpe.cls_id, bpe.sep_id)
        place = 0  # what is left is a part of the whole, in its order
        for token in ids:
            if token == bpe.mask_id:
                spans += 1
                continue
            place = true.index(token, place) + 1
            kept += 1
        lengths.append(len(true) - 2)
        gone.append(len(true) - sum(token != bpe.mask_id for token in ids))
    lengths, gone = np.array(lengths), np.array(gone)
    np.testing.assert_array_equal(gone, np.ceil(np.float32(0.3) * lengths))
    # So many Poisson draws of mean 3 reach 20, in the mean and with this deviation.
    count = (gone == 20).sum()
    assert count > 500
    assert abs(spans - 7.167 * count) < 3 * 1.52 * np.sqrt(count) + 10
    assert kept + gone.sum() == sum(whole["padding_mask"].numpy().ravel())


def test_sentences_are_shuffled_as_wholes(bpe):
    rows = batch_of(denoising_rows(bpe, 50), text(documents=100))
    spoiled, whole = infilling(bpe, 50, rate=1e-9, mean_span=50.0)(rows, SEED)
    moved = 0
    for ids, true, numbers in zip(
        spoiled["token_ids"].numpy(), whole["token_ids"].numpy(), rows["sentences"]
    ):
        numbers = numbers[numbers >= 0]
        parts = [tuple(true[1:-1][: len(numbers)][numbers == n]) for n in dict.fromkeys(numbers)]
        # One token of each row is hidden, at the least.
        found = [i for i in ids[1:-1] if i not in (bpe.mask_id, bpe.pad_id, bpe.sep_id)]
        assert len(found) == len(numbers) - 1
        in_order = [part for part in parts if part[0] in found]
        starts = [_place(found, part) for part in in_order]
        assert sum(start is None for start in starts) <= 1
        starts = [start for start in starts if start is not None]
        moved += starts != sorted(starts)
    assert moved > 0.7 * len(rows["sentences"])


def _place(ids, part):
    part = list(part)
    return next((i for i in range(len(ids)) if ids[i : i + len(part)] == part), None)


def test_lines_and_pairs(wordpiece):
    rows = batch_of(line_rows(wordpiece, 8), "sun moon\n\nsea\r\nhill")
    assert rows["token_ids"].shape == (3, 1, 8)
    assert wordpiece.decode(rows["token_ids"][1, 0]) == "sea"
    rows = batch_of(line_rows(wordpiece, 8, pairs=True), "sun\tmoon\nno pair\nsea\triver\tx")
    assert rows["token_ids"].shape == (2, 2, 8)
    assert wordpiece.decode(rows["token_ids"][1, 1]) == "river"


def test_pairs_are_in_all_rows_or_in_none(wordpiece):
    model = SentenceEncoder(config(wordpiece), family="bert", tokenizer=wordpiece)
    task = TASKS["contrastive"]
    whole, half = {"text": "sun", "text_pair": "moon"}, {"text": "star"}
    for rows in ([whole, half, whole], [half, whole, whole]):
        for read in (task.dataset, task.predict):
            with pytest.raises(ValueError, match=r"rows\[.\]: `text_pair` must be in all rows"):
                read(model, rows)
    assert task.predict(model, [whole, whole]).shape == (2, 2, 16)
    assert task.predict(model, [half, half]).shape == (2, 1, 16)


def test_begun():
    assert begun(np.array([[1, 2, 3]], "int32"), 9).numpy().tolist() == [[9, 1, 2]]


# ------------------------------------------------------------------------------------ losses


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cross_entropy(logits, ids):
    return -np.take_along_axis(log_softmax(logits), ids[..., None], axis=-1)[..., 0]


def token_logits(model, hidden):
    """A masked LM's head, in NumPy."""
    x = reference.ACTIVATIONS[model.activation](reference.dense(model.transform, hidden))
    x = reference.layernorm(model.layernorm, x, model.epsilon)
    table = np.asarray(model.backbone.embedding.token_emb.get_weights()[0], "float64")
    return x @ table.T + np.asarray(model.logits.bias, "float64")


def arrays(structure):
    return tf.nest.map_structure(lambda x: x.numpy(), structure)


def loss_of(model, task, inputs, targets, weights):
    model.compile("sgd", task.loss(), weighted_metrics=task.metrics())
    return model.evaluate(
        tf.data.Dataset.from_tensors((inputs, targets, weights)), verbose=0, return_dict=True
    )


def test_the_loss_of_masked_tokens_and_pairs(wordpiece):
    task = TASKS["masked_lm_pairs"]
    model = PairMaskedLM(config(wordpiece, activation="gelu"), family="bert", tokenizer=wordpiece)
    reference.randomise(model, scale=0.3)
    data = task.dataset(model, [text()], max_length=LENGTH, batch_size=8, training=False)
    inputs, targets, weights = arrays(next(iter(data)))
    found = loss_of(model, task, inputs, targets, weights)
    hidden = reference.transformer(
        model.backbone, *(inputs[n] for n in ("token_ids", "padding_mask", "segment_ids"))
    )
    at = np.take_along_axis(hidden, inputs["masked_positions"][..., None], axis=1)
    losses = cross_entropy(token_logits(model, at), targets["tokens"])
    tokens = (losses * weights["tokens"]).sum() / weights["tokens"].sum()
    pooled = np.tanh(reference.dense(model.pooler, hidden[:, 0]))
    pair = cross_entropy(reference.dense(model.pair, pooled), targets["pair"]).mean()
    assert weights["tokens"].min() == 0  # a row with fewer masks
    np.testing.assert_allclose(found["loss"], tokens + pair, rtol=1e-5)
    np.testing.assert_allclose(found["tokens_loss"], tokens, rtol=1e-5)
    np.testing.assert_allclose(found["pair_loss"], pair, rtol=1e-5)
    np.testing.assert_allclose(found["tokens_perplexity"], np.exp(tokens), rtol=1e-5)
    everywhere = model({name: inputs[name] for name in model.input})["tokens"]
    only = model(inputs)["tokens"]
    taken = np.take_along_axis(np.array(everywhere), inputs["masked_positions"][..., None], axis=1)
    np.testing.assert_allclose(only, taken, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_the_loss_of_tokens_is_that_of_keras(scale):
    random = np.random.default_rng(0)
    logits = tf.constant(random.normal(scale=scale, size=(3, 7, 50)).astype("float32"))
    targets, weights = random.integers(0, 50, (3, 7)), random.integers(0, 2, (3, 7))
    found = []
    options = dict(from_logits=True, reduction="mean_with_sample_weight")
    for loss in (token_loss(), keras.losses.SparseCategoricalCrossentropy(**options)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(targets, logits, sample_weight=weights)
        found.append((value, tape.gradient(value, logits)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=1e-7)
    assert token_loss().call(targets[:0], logits[:0]).shape == (0, 7)


def electra(tokenizer, **options):
    options = {"embedding_dim": 8, "activation": "gelu", **options}
    return ReplacedTokenDetection(
        config(tokenizer, **options), family="electra", tokenizer=tokenizer, generator_size=0.5
    )


def test_the_loss_of_replaced_tokens(wordpiece):
    task, model = TASKS["replaced_token_detection"], electra(wordpiece)
    reference.randomise(model, scale=0.3)
    favourite = 17  # so likely that it is always drawn, but no probability is 0
    bias = np.zeros(wordpiece.vocab_size)
    bias[favourite] = 40
    model.generator.logits.bias.assign(bias)
    data = task.dataset(model, [text()], max_length=LENGTH, batch_size=8, training=False)
    inputs, targets, weights = arrays(next(iter(data)))
    found = loss_of(model, task, inputs, targets, weights)

    positions, chosen = inputs["masked_positions"], weights["tokens"] == 1
    mask, segments = inputs["padding_mask"], inputs["segment_ids"]
    hidden = electra_states(model.generator, inputs["masked_token_ids"], mask, segments)
    at = np.take_along_axis(hidden, positions[..., None], axis=1)
    losses = cross_entropy(token_logits(model.generator, at), targets["tokens"])
    tokens = losses[chosen].mean()
    written = inputs["token_ids"].copy()
    rows, slots = np.nonzero(chosen)
    written[rows, positions[rows, slots]] = favourite
    hidden = electra_states(model.detector, written, mask, segments)
    x = reference.ACTIVATIONS["gelu"](reference.dense(model.detector.transform, hidden))
    logits = reference.dense(model.detector.classifier, x)[..., 0]
    replaced = written != inputs["token_ids"]
    probability = 1 / (1 + np.exp(-logits))
    losses = -np.where(replaced, np.log(probability), np.log(1 - probability))
    detected = losses[mask == 1].mean()
    assert 0 < replaced.sum() < chosen.sum() + 1
    np.testing.assert_allclose(found["loss"], tokens + 50 * detected, rtol=1e-5)
    np.testing.assert_allclose(found["detected_loss"], 50 * detected, rtol=1e-5)
    right = ((probability > 0.5) == replaced)[mask == 1].mean()
    np.testing.assert_allclose(found["detected_accuracy"], right, rtol=1e-5)


def electra_states(model, token_ids, padding_mask, segment_ids):
    """Hidden states where token vectors are projected, in NumPy."""
    layer, settings = model.backbone.embedding, model.config
    x = reference.embedding(layer, token_ids, segment_ids, settings.epsilon)
    x = reference.dense(layer.projection, x) if settings.embedding_dim else x
    for block in model.backbone.blocks:
        x = reference.block(
            block,
            x,
            settings.num_heads,
            activation=settings.activation,
            epsilon=settings.epsilon,
            bias=reference.masked(padding_mask),
        )
    return x


def causal(tokenizer, **options):
    options = {"causal": True, "num_segments": 0, **options}
    return CausalLM(config(tokenizer, **options), family="gpt2", tokenizer=tokenizer)


def test_the_loss_of_the_next_token(bpe):
    task = TASKS["causal_lm"]
    model = causal(bpe, norm_first=True, embedding_norm=False, activation="gelu_tanh")
    reference.randomise(model, scale=0.3)
    data = task.dataset(model, [text(3)], max_length=LENGTH, batch_size=20, training=False)
    batches = [arrays(batch) for batch in data]
    inputs, targets, weights = batches[-1]
    assert weights.min() == 0  # the last row is padded
    found = loss_of(model, task, inputs, targets, weights)
    x = reference.embedding(model.backbone.embedding, inputs["token_ids"])
    index = np.arange(x.shape[1])
    bias = np.where(index[None, :] <= index[:, None], 0.0, -np.inf)[None, None]
    for block in model.backbone.blocks:
        options = dict(activation="gelu_tanh", epsilon=model.config.epsilon, norm_first=True)
        x = reference.block(block, x, 2, bias=bias, **options)
    x = reference.layernorm(model.backbone.final_norm, x, model.config.epsilon)
    table = np.asarray(model.backbone.embedding.token_emb.get_weights()[0], "float64")
    losses = cross_entropy(x @ table.T, targets)
    loss = losses[weights == 1].mean()
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(loss), rtol=1e-5)


def test_the_loss_of_pairs():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(10, 4)).astype("float32")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit[0::2] @ unit[1::2].T / 0.05
    expected = cross_entropy(cosines, np.arange(5)).mean()
    loss = ContrastiveLoss()
    np.testing.assert_allclose(loss(np.arange(10), vectors), expected, rtol=1e-5)
    again = ContrastiveLoss.from_config(loss.get_config())
    np.testing.assert_allclose(again(np.arange(10), vectors), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of what keras-hub imports
def test_perplexity_is_that_of_keras_nlp():
    keras_hub = pytest.importorskip("keras_hub")
    random = np.random.default_rng(1)
    logits = random.normal(size=(3, 5, 7)).astype("float32")
    ids, weights = random.integers(0, 7, (3, 5)), random.integers(0, 2, (3, 5))
    ours, theirs = Perplexity(), keras_hub.metrics.Perplexity(from_logits=True)
    for metric in (ours, theirs):
        for _ in range(2):
            metric.update_state(ids, logits, weights)
    # Theirs takes the mean over texts of means over tokens, ours the mean over tokens.
    losses = cross_entropy(logits.astype("float64"), ids)
    expected = np.exp((losses * weights).sum() / weights.sum())
    np.testing.assert_allclose(float(ours.result()), expected, rtol=1e-6)
    for metric in (ours, theirs):
        metric.reset_state()
        metric.update_state(ids, logits)
    np.testing.assert_allclose(float(ours.result()), float(theirs.result()), rtol=1e-5)


# ------------------------------------------------------------------------------------ models


def test_scores_of_texts_leave_out_what_does_not_count():
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 6, 11)).astype("float32")
    targets, weights = random.integers(0, 11, (3, 6)), random.integers(0, 2, (3, 6))
    weights[1] = 0

    class Model:
        config, tokenizer = types.SimpleNamespace(max_length=6), object()

        def predict_on_batch(self, inputs):
            return logits[inputs]

    rows = [{"text": "a"}, {"text": "b"}, {"text": "c"}]

    def batch_of(texts, seed):
        at = slice(seed[1], seed[1] + len(texts))
        return at, targets[at], weights[at]

    found = scores(Model(), rows, batch_of, batch_size=2, tokenize=list)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(chances, targets[..., None], -1)[..., 0])
    right = (logits.argmax(-1) == targets) * weights
    wanted = np.stack([(losses * weights).sum(1), weights.sum(1), right.sum(1)], 1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="`rows` must hold at least one row"):
        scores(Model(), [], batch_of)


def test_generator_and_detector_share_their_tables(wordpiece, tmp_path):
    model = electra(wordpiece)
    ours, theirs = model.detector.backbone.embedding, model.generator.backbone.embedding
    for name in ("token_emb", "pos_emb", "segment_emb"):
        assert getattr(ours, name) is getattr(theirs, name)
    assert len({id(weight) for weight in model.weights}) == len(model.weights)
    assert any(each is model.seeds.state for each in model.variables)  # so checkpoints have it
    assert model.generator.config.embed_dim == 8
    reference.randomise(model)
    model.task = "replaced_token_detection"
    model.save_pretrained(tmp_path)
    again = ReplacedTokenDetection.from_pretrained(tmp_path)
    assert again.task == model.task
    assert again.tokenizer.vocab == wordpiece.vocab
    for old, new in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(old, new, err_msg=old.path)
    copy = ReplacedTokenDetection.from_config(model.get_config())
    assert copy.generator.config == model.generator.config
    low = ReplacedTokenDetection(model.config, family="electra", dtype="bfloat16")
    copy = ReplacedTokenDetection.from_config(low.get_config())
    assert copy.generator.dtype_policy == copy.detector.dtype_policy == low.generator.dtype_policy
    assert low.generator.dtype_policy.name == "bfloat16"
    fresh = ReplacedTokenDetection.from_pretrained(
        tmp_path, generator=tmp_path / "generator", generator_size=0.25
    )
    assert fresh.generator.config == model.generator.config


def test_only_chosen_tokens_are_replaced(wordpiece):
    model = electra(wordpiece)
    random = np.random.default_rng(0)
    ids = random.integers(5, 50, (200, 12)).astype("int32")
    positions = np.argsort(random.random((200, 12)), axis=1)[:, :3].astype("int32")
    weights = random.integers(0, 2, (200, 3)).astype("int32")
    probabilities = np.array([0.1, 0.2, 0.7])
    logits = np.full((200, 3, wordpiece.vocab_size), -1e9, "float32")
    logits[..., 60:63] = np.log(probabilities)
    written = np.array(model.replaced(ids, logits, positions, weights))
    there = np.zeros(ids.shape, bool)
    rows, slots = np.nonzero(weights)
    there[rows, positions[rows, slots]] = True
    np.testing.assert_array_equal(written != ids, there)
    counts = np.bincount(written[there], minlength=63)[60:]
    sigma = np.sqrt(counts.sum() * probabilities * (1 - probabilities))
    assert (np.abs(counts - counts.sum() * probabilities) < 3 * sigma).all()


def test_sentence_encoders_checkpoints(wordpiece, tmp_path):
    options = dict(family="bert", tokenizer=wordpiece)
    sentences = ["sun moon", "sea", "river hill stone tree leaf"]
    for pooling in ("mean", "first", "max"):
        for normalize in (True, False):
            model = SentenceEncoder(
                config(wordpiece), pooling=pooling, normalize=normalize, max_length=5, **options
            )
            vectors = model.encode(sentences, batch_size=2)
            model.save_pretrained(tmp_path)
            again = SentenceEncoder.from_pretrained(tmp_path)
            assert (again.pooling, again.normalize, again.max_length) == (pooling, normalize, 5)
            np.testing.assert_allclose(again.encode(sentences), vectors, atol=1e-6)
            hidden = reference.transformer(
                model.backbone,
                *(wordpiece([sentences[0]], max_length=5)[n] for n in model.input),
            )[0]
            wanted = {"mean": hidden.mean(0), "first": hidden[0], "max": hidden.max(0)}[pooling]
            wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
            np.testing.assert_allclose(vectors[0], wanted, atol=1e-5)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    with pytest.raises(ValueError, match=r"must ask for one of .*pooling_mode_lasttoken"):
        SentenceEncoder.from_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Dense"}]')
    with pytest.raises(ValueError, match=r"must list a Transformer.*Dense"):
        SentenceEncoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`pooling` must be one of mean"):
        SentenceEncoder(config(wordpiece), pooling="sum", **options)
    for broken in ("[{", '[{"path": ""}]', "[1]"):
        (tmp_path / "modules.json").write_text(broken)
        with pytest.raises(ValueError, match="modules.json` must be a JSON list of modules"):
            SentenceEncoder.from_pretrained(tmp_path)


def test_a_masked_lm_goes_on_as_a_sentence_encoder(wordpiece, tmp_path):
    MaskedLM(config(wordpiece), family="bert", tokenizer=wordpiece).save_pretrained(tmp_path)
    model = SentenceEncoder.from_pretrained(tmp_path)
    assert (model.pooling, model.normalize, model.max_length) == ("mean", True, LENGTH)
    PairMaskedLM(config(wordpiece), family="bert").save_pretrained(tmp_path / "pairs")
    assert SentenceEncoder.from_pretrained(tmp_path / "pairs").config == model.config


# ------------------------------------------------------------------------------------ training


def models(wordpiece, bpe):
    options = {"family": "bert", "tokenizer": wordpiece}
    seq2seq = config(bpe, num_decoder_layers=1, num_segments=0)
    return {
        "masked_lm": lambda: MaskedLM(config(wordpiece), **options),
        "masked_lm_pairs": lambda: PairMaskedLM(config(wordpiece), **options),
        "replaced_token_detection": lambda: electra(wordpiece),
        "causal_lm": lambda: causal(bpe),
        "denoising": lambda: Seq2SeqLM(seq2seq, family="bart", tokenizer=bpe),
        "contrastive": lambda: SentenceEncoder(config(wordpiece, rate=0.1), **options),
    }


FROM_TEXT = [name for name in TASKS if streams(TASKS[name])]
FIGURES = {  # of an evaluation, and of Keras
    "masked_lm": {"perplexity": "perplexity", "accuracy": "accuracy"},
    "causal_lm": {"perplexity": "perplexity", "accuracy": "accuracy"},
    "denoising": {"perplexity": "perplexity", "accuracy": "accuracy"},
    "masked_lm_pairs": {
        "perplexity": "tokens_perplexity",
        "accuracy": "tokens_accuracy",
        "pair accuracy": "pair_accuracy",
    },
    "replaced_token_detection": {
        "perplexity": "tokens_perplexity",
        "accuracy": "tokens_accuracy",
        "detected accuracy": "detected_accuracy",
    },
    "contrastive": {"accuracy": "accuracy"},
}


@pytest.mark.parametrize("name", FROM_TEXT)
def test_each_learns_and_is_evaluated(name, wordpiece, bpe, tmp_path):
    keras.utils.set_random_seed(2)
    model, task = models(wordpiece, bpe)[name](), TASKS[name]
    rows = [{"text": part} for part in text(20, seed=1).split("\n\n")]
    if name == "contrastive":
        lines = [line for row in rows for line in row["text"].split("\n")]
        rows = [{"text": a, "text_pair": a + " " + b} for a, b in zip(lines, WORDS * 2)]
    options = dict(epochs=2, learning_rate=5e-3, max_length=LENGTH, progress=False)
    data = task.dataset(model, [text()], batch_size=8, max_length=LENGTH, steps=12)
    # Validation is the same for all.
    history = fit(model, data, rows if name == "masked_lm" else None, task=name, **options)
    assert model.task == name
    assert history["loss"][-1] < history["loss"][0]
    if name == "masked_lm":
        assert all(np.isfinite(history[task.MONITOR]))
    outputs = task.predict(model, rows, batch_size=7)
    found = task.evaluate(model, rows, outputs)
    assert isinstance(found, task.RESULT)
    assert task.RESULT.from_dict(found.to_dict()) == found
    assert found.rows == len(rows)
    said = task.answers(model, rows, outputs)
    assert len(said) == len(rows)
    path = tmp_path / "text.txt"
    path.write_text(text(20, seed=1))
    options = dict(max_length=LENGTH, batch_size=5)
    streamed = evaluate(model, path, **options)
    validated = model.evaluate(
        task.dataset(model, path, training=False, **options), return_dict=True, verbose=0
    )
    for part, each in FIGURES[name].items():  # the detector draws anew what it looks at
        close = dict(atol=0.1) if part.startswith("detected") else dict(rtol=1e-5)
        np.testing.assert_allclose(streamed.figures()[part], validated[each], **close)
    key = "similarity" if name == "contrastive" else "perplexity"
    assert all(np.isfinite(each[key]) for each in said)
    if key == "perplexity":  # an empty text has none
        nothing = {"perplexity": None, "accuracy": None, "tokens": 0}
        assert task.answers(model, rows[:1], np.zeros((1, 3))) == [nothing]


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 5):
            raise RuntimeError("the machine went down")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15
def test_a_run_goes_on_from_its_checkpoint(wordpiece, tmp_path):
    task = TASKS["masked_lm"]

    def run(callbacks=(), **options):
        keras.utils.set_random_seed(5)
        model = MaskedLM(config(wordpiece, rate=0.1), family="bert", tokenizer=wordpiece)
        data = task.dataset(model, [text()], max_length=LENGTH, batch_size=8, seed=3, steps=8)
        options = dict(epochs=2, learning_rate=1e-3, progress=False, **options)
        history = fit(model, data, callbacks=callbacks, **options)
        return [weight.numpy() for weight in model.trainable_weights], history

    undisturbed, figures = run()
    backup = dict(backup=tmp_path / "backup", backup_every=3)
    with pytest.raises(RuntimeError, match="went down"):
        run([Crash()], **backup)
    weights, history = run(**backup)
    for found, expected in zip(weights, undisturbed, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(history["loss"], figures["loss"], rtol=1e-5)


def test_options_of_a_task():
    options = {"whole_words": True, "rate": 0.2, "steps": 7, "shard": [2, 0]}
    own, streaming = checked_options("masked_lm", options)
    assert (own, streaming) == ({"whole_words": True, "rate": 0.2}, {"steps": 7, "shard": [2, 0]})
    assert checked_options("masked_lm_pairs", {"sentence_order": True})[0]
    for name, wrong, message in (
        (
            "causal_lm",
            {"rate": 0.2},
            "packed, blank_lines, steps, shard, service. Received: 'rate'",
        ),
        ("similarity", {"steps": 1}, "none at all"),
        ("text_classification", {"steps": 1}, "none at all"),
        ("masked_lm", {"rate": "much"}, "`rate` must be a number. Received: 'much'"),
        ("masked_lm", {"packed": 1}, "`packed` must be true or false. Received: 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            checked_options(name, wrong)


# ------------------------------------------------------------------------------------ results


def test_results():
    scores = [[2 * np.log(4), 2, 1], [0.0, 2, 2]]
    found = evaluate_tokens(scores, ["hard", "easy"])
    assert isinstance(found, LanguageResult)
    np.testing.assert_allclose([found.perplexity, found.accuracy], [2, 0.75])
    assert [each["text"] for each in found.worst] == ["hard", "easy"]
    assert "perplexity  2.0000" in str(found)
    with pytest.raises(ValueError, match="must hold tokens"):
        evaluate_tokens([[0, 0, 0]])
    with pytest.raises(ValueError, match="must be as many"):
        evaluate_tokens(scores, "one")

    vectors = [[[1, 0], [0, 1]], [[0, 1], [1, 0.1]], [[1, 1], [2, 2]]]
    found = evaluate_pairs(vectors, [("a", "b"), ("c", "d"), ("e", "f")])
    assert isinstance(found, RetrievalResult)
    np.testing.assert_allclose(found.accuracy, 1 / 3)
    np.testing.assert_allclose(found.reciprocal_rank, np.mean([1 / 3, 1 / 3, 1]))
    assert {each["nearest"] for each in found.worst} == {"b", "d"}
    assert "mean reciprocal rank" in str(found)
    with pytest.raises(ValueError, match="at least two pairs"):
        evaluate_pairs([[[1, 0]]])
