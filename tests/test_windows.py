"""Windows hold all of a text, and their offsets say where its tokens stand."""

import itertools
import unicodedata

import numpy as np
import pytest

from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)

TEXTS = [
    "Café naïve ÉCOLE, don't  stop.",
    "北京大学 is in 北京; e\u0301te\u0301 ﬁne",
    "\tlow lower\u00a0lowest 😀 low ",
    "",
    "   ",
    "안녕 what\u200dever ½",
]


def train(kind):
    return kind.train([*TEXTS * 3, "low lower lowest stop"] * 3, vocab_size=330)


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "sentencepiece"])
def tokenizer(request):
    kinds = {
        "wordpiece": WordPieceTokenizer,
        "bpe": ByteLevelBPETokenizer,
        "sentencepiece": SentencePieceTokenizer,
    }
    return train(kinds[request.param])


def plain(text):
    """A text as all three tokenizers would have it, without white space."""
    text = unicodedata.normalize("NFKD", text.lower())
    return "".join(
        c for c in text if unicodedata.category(c) not in ("Mn", "Cf") and not c.isspace()
    )


def test_a_row_is_that_of_the_tokenizer(tokenizer):
    windows = tokenizer.windows(TEXTS, max_length=16)
    wanted = tokenizer(TEXTS, max_length=16)
    assert windows.inputs.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(windows.inputs[name], wanted[name])
    assert windows.texts.tolist() == list(range(len(TEXTS)))


def test_tokens_stand_where_their_offsets_say(tokenizer):
    windows = tokenizer.windows(TEXTS, max_length=128)
    for text, ids, offsets in zip(TEXTS, windows.inputs["token_ids"], windows.offsets):
        at = np.flatnonzero(offsets[:, 0] >= 0)
        assert ids[at].tolist() == tokenizer.encode(text)
        solid = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
        for first, last in itertools.combinations_with_replacement(solid, 2):
            decoded = tokenizer.decode(ids[first : last + 1])
            start, end = offsets[first, 0], offsets[last, 1]
            assert text[start:end] == text[start:end].strip()
            # Tokens of bytes are no text, unless all of a character's are there.
            if "\ufffd" not in decoded and tokenizer.unk_id not in ids[first : last + 1]:
                assert plain(decoded) in plain(text[start:end])
                # A token may be a part of its first or last character, as `1` is of `½`.
                assert plain(text[start + 1 : end - 1]) in plain(decoded)


def test_windows_overlap_and_hold_all(tokenizer):
    text = "low lower lowest stop " * 9
    ids = tokenizer.encode(text)
    windows = tokenizer.windows(["low", text, ""], max_length=12, stride=4)
    assert windows.texts.tolist() == sorted(windows.texts.tolist())
    assert set(windows.texts.tolist()) == {0, 1, 2}
    mine = windows.texts == 1
    pieces = [
        row[offsets[:, 0] >= 0].tolist()
        for row, offsets in zip(windows.inputs["token_ids"][mine], windows.offsets[mine])
    ]
    space = len(pieces[0])
    assert len(pieces) == -(-(len(ids) - space) // 4) + 1
    for number, piece in enumerate(pieces):
        assert piece == ids[4 * number : 4 * number + space]
    assert pieces[-1][-1] == ids[-1]


def test_the_second_text_of_a_pair_is_cut(tokenizer):
    question, context = "lower stop " * 20, "low lowest " * 20
    windows = tokenizer.windows([question, "low"], [context, context], max_length=20, stride=5)
    rows = windows.inputs["token_ids"]
    assert rows.shape[1] == 20
    question, context = tokenizer.encode(question), tokenizer.encode(context)
    counts = (windows.offsets[:, :, 0] >= 0).sum(axis=1)
    # A long question keeps half of the room, a short one leaves the more to the context.
    assert counts[0] < counts[windows.texts == 1][0]
    for row in rows[windows.texts == 0]:
        begin = row.tolist().index(question[0])
        assert row[begin : begin + 5].tolist() == question[:5]
    for text in (0, 1):
        mine = windows.texts == text
        tokens = [row[o[:, 0] >= 0] for row, o in zip(rows[mine], windows.offsets[mine])]
        assert tokens[0].tolist() == context[: len(tokens[0])]
        assert tokens[-1][-1] == context[-1]


def test_a_pair_that_fits_is_the_row_of_the_tokenizer(tokenizer):
    windows = tokenizer.windows(["low", "stop"], ["lower", "lowest low"], max_length=64, stride=20)
    wanted = tokenizer(["low", "stop"], ["lower", "lowest low"], max_length=64)
    for name in wanted:
        np.testing.assert_array_equal(windows.inputs[name], wanted[name])


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="`stride` must be at least 1"):
        tokenizer.windows(["low"], max_length=8, stride=0)
    with pytest.raises(ValueError, match="as many texts"):
        tokenizer.windows(["low"], ["low", "low"], max_length=8, stride=2)
    with pytest.raises(TypeError, match="`texts` must be a list"):
        tokenizer.windows("low", max_length=8)


def test_a_row_must_have_room():
    tokenizer = train(WordPieceTokenizer)
    with pytest.raises(ValueError, match="`max_length` must leave room"):
        tokenizer.windows(["low"], max_length=2, stride=1)
