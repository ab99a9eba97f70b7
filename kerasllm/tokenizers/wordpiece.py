"""BERT WordPiece, from text to ids and back: the same ids in Python, in tf.data and in a graph.

Python asks the Rust `tokenizers` package. A graph has no such package, and none of TensorFlow's
own WordPiece tokenizers agrees with it, so the graph is given what the package makes of each
code point, as a table, and only the last step (matching word pieces) is TensorFlow Text's.
"""

import functools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from kerasllm.tokenizers.files import content, read, read_json, read_object, write
from kerasllm.tokenizers.rows import FIRST, SECOND, Template, make_batch
from kerasllm.tokenizers.texts import check_iterable, checked_ids, encode_batch, to_str
from kerasllm.tokenizers.windows import make_windows

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_CHARS = 100  # BERT's rule: a longer word is [UNK] as a whole
MAX_ENTRY_BYTES = 256  # a limit of TensorFlow Text's FastWordpieceTokenizer
FATAL_CHARS = "\0\x11"  # it marks nodes of its trie with these, and crashes where it reads one

# Classes of Hugging Face whose vocab.txt is read by BERT's rules when there is no tokenizer.json.
BERT_TOKENIZERS = ("Bert", "DistilBert", "Electra", "MobileBert", "SqueezeBert", "LayoutLM")


class WordPieceTokenizer:
    """Turns text into the ids of BERT's WordPiece vocabulary, as Hugging Face's BertTokenizer does.

    Text may be `str` or UTF-8 `bytes`. Bytes that are not UTF-8, and lone surrogates in a `str`,
    are read as U+FFFD. Special tokens that stand in a text, such as `"[SEP]"`, are plain text
    unless `allow_special_tokens` says otherwise, so that a user cannot type one.

    Args:
        vocab: list of `str`, the entries in the order of their ids. `[PAD]`, `[UNK]`, `[CLS]` and
            `[SEP]` must be among them; an entry that continues a word begins with `##`.
        lowercase: bool, whether text is lower-cased.
        strip_accents: bool or None, whether accents are dropped; None means as `lowercase`.
        split_cjk: bool, whether each Chinese character is a word of its own.
        clean_text: bool, whether control characters are dropped and all white space is a space.
        allow_special_tokens: bool, whether `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]` in a
            text stand for those tokens, as they do by default in Hugging Face's tokenizers.

    Raises:
        ValueError: where `vocab` lacks a special token, holds an entry twice, or holds an entry
            that no file or graph could hold.

    Example:
        >>> tokenizer = WordPieceTokenizer(
        ...     ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sun", "##s"])
        >>> tokenizer.encode("The suns!")
        [5, 6, 7, 1]
        >>> tokenizer(["The sun", "suns"], max_length=16)["token_ids"].tolist()
        [[2, 5, 6, 3], [2, 6, 7, 3]]

    References:
        Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018, section 3;
        Song et al., "Fast WordPiece Tokenization", 2021, for the matching in the graph.
    """

    def __init__(
        self,
        vocab,
        *,
        lowercase=True,
        strip_accents=None,
        split_cjk=True,
        clean_text=True,
        allow_special_tokens=False,
    ):
        self.vocab = tuple(vocab)
        _check_vocab(self.vocab)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.split_cjk = split_cjk
        self.clean_text = clean_text
        self.allow_special_tokens = allow_special_tokens
        ids = {entry: index for index, entry in enumerate(self.vocab)}
        self.pad_id, self.unk_id = ids["[PAD]"], ids["[UNK]"]
        self.cls_id, self.sep_id = ids["[CLS]"], ids["[SEP]"]
        self.mask_id = ids.get("[MASK]")  # None where the vocabulary has none
        cls, sep = (self.cls_id, 0), (self.sep_id, 0)
        self._template = Template(
            single=(cls, (FIRST, 0), sep),
            pair=(cls, (FIRST, 0), sep, (SECOND, 1), (self.sep_id, 1)),
            with_segments=True,
        )
        self._special_tokens = [token for token in SPECIAL_TOKENS if token in ids]
        self._rust = Tokenizer(
            models.WordPiece(
                ids,
                unk_token="[UNK]",
                max_input_chars_per_word=MAX_WORD_CHARS,
                continuing_subword_prefix="##",
            )
        )
        self._rust.normalizer = normalizers.BertNormalizer(
            clean_text, split_cjk, strip_accents, lowercase
        )
        self._rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._rust.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        if allow_special_tokens:
            self._rust.add_special_tokens(self._special_tokens)

    @property
    def vocab_size(self):
        """Number of entries in the vocabulary, `int`."""
        return len(self.vocab)

    def token(self, token_id):
        """The entry of the vocabulary with an id, as it is written there.

        Args:
            token_id: int.

        Returns:
            str.
        """
        return self._rust.id_to_token(token_id)

    @property
    def special_vocab(self):
        """All special tokens, a dict from token to id."""
        return {token: self.vocab.index(token) for token in self._special_tokens}

    @property
    def row_ends(self):
        """The ids that stand before a text in its row, and after it: a pair of tuples of int."""
        return self._template.ends

    def _normalizer_options(self):
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        return self.clean_text, self.split_cjk, strip, self.lowercase

    # ---------------------------------------------------------------- files

    @classmethod
    def from_pretrained(cls, folder):
        """Reads the tokenizer of a model folder in Hugging Face's layout.

        Args:
            folder: path of a folder that holds `tokenizer.json` or `vocab.txt`, and maybe
                `tokenizer_config.json`; what is there must agree. With a lone `vocab.txt`, text is
                lower-cased, as Hugging Face's BertTokenizer does then.
                `"split_special_tokens": false` in `tokenizer_config.json` sets
                `allow_special_tokens`.

        Returns:
            A `WordPieceTokenizer`.

        Raises:
            FileNotFoundError: where the folder or these files are missing.
            ValueError: where a file is not that of a BERT WordPiece tokenizer, or two disagree.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun"]
            >>> WordPieceTokenizer(vocab).save_pretrained(folder)
            >>> WordPieceTokenizer.from_pretrained(folder).encode("Sun")
            [4]
        """
        folder = Path(folder)
        names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
        whole, config, plain = (folder / name for name in names)
        if not whole.exists() and not plain.exists():
            raise FileNotFoundError(
                f"`folder` must hold tokenizer.json or vocab.txt. Received: {folder}, with neither"
            )
        found = []  # (path, vocab or None, options) of each file
        if whole.exists():
            found.append((whole, *_read_tokenizer_json(whole)))
        if plain.exists():
            found.append((plain, _read_vocab_txt(plain), {}))
        if config.exists():
            options = _read_tokenizer_config(config, needs_class=not whole.exists())
            found.append((config, None, options))
        vocab = _agreed_vocab(
            [(path, entries) for path, entries, _ in found if entries is not None]
        )
        options = _agreed_options([(path, options) for path, _, options in found])
        try:
            return cls(vocab, **options)
        except ValueError as error:
            raise ValueError(f"{found[0][0]}: {error}") from error

    def save_pretrained(self, folder):
        """Writes `vocab.txt`, `tokenizer.json` and `tokenizer_config.json` into a folder.

        Hugging Face's BertTokenizer loads them and gives equal ids (with `clean_text=False`,
        which that class does not know, only PreTrainedTokenizerFast does).

        Args:
            folder: path of a folder, which is made where it is missing.

        Raises:
            OSError: where the folder cannot be written.

        Example:
            >>> import pathlib, tempfile
            >>> folder = tempfile.mkdtemp()
            >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun"]
            >>> WordPieceTokenizer(vocab).save_pretrained(folder)
            >>> sorted(path.name for path in pathlib.Path(folder).iterdir())
            ['tokenizer.json', 'tokenizer_config.json', 'vocab.txt']
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rust = Tokenizer.from_str(self._rust.to_str())
        rust.add_special_tokens(self._special_tokens)
        rust.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        config = {
            "tokenizer_class": "BertTokenizer" if self.clean_text else "PreTrainedTokenizerFast",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.split_cjk,
            "clean_text": self.clean_text,
            "split_special_tokens": not self.allow_special_tokens,
        }
        for token in self._special_tokens:
            config[token.strip("[]").lower() + "_token"] = token
        write(folder / "vocab.txt", "".join(entry + "\n" for entry in self.vocab))
        write(folder / "tokenizer.json", rust.to_str(pretty=True) + "\n")
        write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    @classmethod
    def train(cls, texts, *, vocab_size=8000, min_frequency=2, lowercase=True, **options):
        """Learns a vocabulary from texts.

        The same texts give the same vocabulary, entry for entry, in every process. Each Chinese
        character is a word (unless `split_cjk=False`), so Chinese text gives its characters.

        Args:
            texts: iterable of `str` or UTF-8 `bytes`.
            vocab_size: int, the largest number of entries. Characters come before word pieces,
                and frequent characters before rare ones, where not all fit.
            min_frequency: int, how often a character or a word piece must occur to be an entry.
            lowercase: bool, whether text is lower-cased.
            **options: further options of `WordPieceTokenizer`.

        Returns:
            A `WordPieceTokenizer`.

        Raises:
            ValueError: where `vocab_size` leaves no room for characters, or no character of
                `texts` occurs `min_frequency` times.

        Example:
            >>> tokenizer = WordPieceTokenizer.train(["low lower lowest"] * 2, vocab_size=100)
            >>> tokenizer.decode(tokenizer.encode("Lower"))
            'lower'
        """
        check_iterable(texts)
        if vocab_size <= len(SPECIAL_TOKENS):
            raise ValueError(
                f"`vocab_size` must be more than {len(SPECIAL_TOKENS)}, the number of special "
                f"tokens. Received: {vocab_size} (choose some thousands)"
            )
        splitter = cls(SPECIAL_TOKENS, lowercase=lowercase, **options)
        words = Counter(word for text in texts for word in splitter._words(text))
        room = vocab_size - len(SPECIAL_TOKENS)
        alphabet, entries = _alphabet(words, min_frequency, room)
        if not entries:
            raise ValueError(
                f"`texts` must hold characters that occur `min_frequency` times. Received: "
                f"{len(words)} different words and min_frequency={min_frequency} (give more text, "
                "or a smaller `min_frequency`)"
            )
        # The trainer numbers what it meets in the order of a randomly seeded hash table, and
        # breaks ties by number. Entries that it is told of beforehand have a fixed number.
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[*SPECIAL_TOKENS, *entries],
            show_progress=False,
        )
        rust = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        known = ((word, count) for word, count in sorted(words.items()) if alphabet >= set(word))
        rust.train_from_iterator((f"{word} " * count for word, count in known), trainer)
        ids = rust.get_vocab()
        return cls(sorted(ids, key=ids.get), lowercase=lowercase, **options)

    def _words(self, text):
        plain = self._rust.normalizer.normalize_str(to_str(text))
        return [word for word, _ in self._rust.pre_tokenizer.pre_tokenize_str(plain)]

    # ---------------------------------------------------------------- Python

    def encode(self, text):
        """Turns one text into ids, without `[CLS]` and `[SEP]`.

        Args:
            text: `str`, or `bytes` in UTF-8.

        Returns:
            list of `int`.

        Example:
            >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun", "##s"]
            >>> WordPieceTokenizer(vocab).encode("Suns")
            [4, 5]
        """
        return self._rust.encode(to_str(text), add_special_tokens=False).ids

    def decode(self, ids):
        """Turns ids back into text, leaving out `[PAD]`, `[CLS]` and `[SEP]`.

        Args:
            ids: iterable of `int`.

        Returns:
            `str`. What encoding lost (case, accents, white space) does not come back.

        Raises:
            ValueError: where an id is not in the vocabulary.

        Example:
            >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun", "##s"]
            >>> WordPieceTokenizer(vocab).decode([2, 4, 5, 3, 0])
            'suns'
        """
        ids = checked_ids(ids, self.vocab_size)
        return self._rust.decoder.decode([self.vocab[i] for i in ids if i not in self._silent])

    @property
    def _silent(self):
        """The ids that decoding leaves out."""
        return {self.pad_id, self.cls_id, self.sep_id}

    def __call__(self, texts, pairs=None, *, max_length, pad_to=None, padding_side="right"):
        """Turns a batch of texts, or of pairs of texts, into what a BERT model takes.

        A row is `[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]`. What is longer than
        `max_length` loses tokens at its end; of a pair, the longer text loses them first.

        Args:
            texts: list, tuple or array of `str` or UTF-8 `bytes`.
            pairs: the second texts, as many as `texts`; or None.
            max_length: int, the longest row, special tokens included.
            pad_to: int, the width of the result, at least `max_length`; None makes it the
                longest row of this batch.
            padding_side: `"right"` or `"left"`, where the padding stands.

        Returns:
            dict of int32 arrays `(batch, length)`: `token_ids`, `padding_mask` (1 at tokens, 0 at
            padding) and `segment_ids` (1 at the second text and its `[SEP]`, else 0).

        Raises:
            TypeError: where `texts` or `pairs` is a single string, or an item is no text.
            ValueError: where `pairs` differs from `texts` in length, a length is too small, or
                `padding_side` is another word.

        Example:
            >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun", "##s", "moon"]
            >>> batch = WordPieceTokenizer(vocab)(["sun", "suns"], ["moon", ""], max_length=8)
            >>> batch["token_ids"].tolist()
            [[2, 4, 3, 6, 3], [2, 4, 5, 3, 3]]
            >>> batch["segment_ids"].tolist()
            [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]
        """
        return make_batch(
            self._template,
            encode_batch(self._rust, texts, "texts"),
            None if pairs is None else encode_batch(self._rust, pairs, "pairs"),
            max_length=max_length,
            pad_to=pad_to,
            padding_side=padding_side,
            pad_id=self.pad_id,
        )

    def windows(self, texts, pairs=None, *, max_length, stride=None):
        """Turns texts into rows as `__call__` does, but cuts long ones into several that overlap.

        Args:
            texts: list, tuple or array of `str` or UTF-8 `bytes`.
            pairs: the second texts, which are cut then; or None. A first text keeps at most half
                of the room in a row.
            max_length: int, the longest row, special tokens included.
            stride: int, tokens from the beginning of a window to that of the next; None for one
                window a text, which loses what is longer.

        Returns:
            `Windows`: the rows, which text each is of, and where in it each token stands.

        Example:
            >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun", "##s", "moon"]
            >>> windows = WordPieceTokenizer(vocab).windows(["suns, Moon"], max_length=5, stride=2)
            >>> windows.inputs["token_ids"].tolist()
            [[2, 4, 5, 1, 3], [2, 1, 6, 3, 0]]
            >>> windows.offsets[1].tolist()
            [[-1, -1], [4, 5], [6, 10], [-1, -1], [-1, -1]]
        """
        return make_windows(
            self._template,
            self._rust,
            texts,
            pairs,
            max_length=max_length,
            stride=stride,
            pad_id=self.pad_id,
        )

    # ---------------------------------------------------------------- graph

    def in_graph(self):
        """Gives a `tf.Module` that does the same with string tensors, for tf.data and export.

        It needs the operations of TensorFlow and of TensorFlow Text, and no Python. Assign it to
        an attribute of the module that is exported, so that its tables are saved with it.

        Returns:
            A `tf.Module` with `encode(texts)`, which takes strings `(batch,)` and gives an int32
            `tf.RaggedTensor` `(batch, None)`; `__call__(texts, pairs=None, *, max_length)`, which
            gives the dict of int32 tensors `(batch, length)` that the tokenizer itself gives,
            padded to the longest row, and at least two wide; and `decode(ids)`, which takes int32
            `(batch, length)`, also ragged, and gives strings `(batch,)`.

        Raises:
            ImportError: where TensorFlow or TensorFlow Text is not installed.

        Example:
            >>> import tensorflow as tf
            >>> graph = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun"]).in_graph()
            >>> texts = tf.data.Dataset.from_tensor_slices(["Sun", "sun sun"]).batch(2)
            >>> for batch in texts.map(lambda texts: graph(texts, max_length=64)):
            ...     print(batch["token_ids"].numpy().tolist())
            [[2, 4, 3, 0], [2, 4, 4, 3]]
        """
        return _graph_module(self)


# -------------------------------------------------------------------- vocabulary


def _check_vocab(vocab):
    if len(set(vocab)) != len(vocab):
        twice = [entry for entry, count in Counter(vocab).items() if count > 1]
        raise ValueError(
            f"`vocab` must hold each entry once. Received: {len(twice)} entries more than once, "
            f"such as {twice[:5]}"
        )
    missing = [token for token in SPECIAL_TOKENS if token not in vocab and token != "[MASK]"]
    if missing:
        raise ValueError(
            f"`vocab` must hold [PAD], [UNK], [CLS] and [SEP]. Received: {len(vocab)} entries "
            f"without {', '.join(missing)} (is this a BERT vocabulary?)"
        )
    for entry in vocab:
        if set(entry) & {"\n", "\r", *FATAL_CHARS} or len(entry.encode()) > MAX_ENTRY_BYTES:
            raise ValueError(
                f"`vocab` entries must be one line of at most {MAX_ENTRY_BYTES} bytes, without the "
                f"control characters {FATAL_CHARS!r}. Received: {entry[:40]!r}"
            )


def _alphabet(words, min_frequency, room):
    """The characters that the vocabulary holds, and the entries (`c`, `##c`) made of them."""
    counts, inside = Counter(), set()
    for word, count in words.items():
        inside.update(word[1:])
        for char in word:
            counts[char] += count
    chars, entries = [], []
    for char in sorted(counts, key=lambda char: (-counts[char], char)):
        new = [char, "##" + char] if char in inside else [char]
        if counts[char] < min_frequency or len(entries) + len(new) > room:
            break
        chars.append(char)
        entries += new
    return set(chars), sorted(entries)


# -------------------------------------------------------------------- Hugging Face's files


def _read_vocab_txt(path):
    return read(path).removesuffix("\n").split("\n")


def _expect(path, what, received, *allowed):
    if received not in allowed:
        raise ValueError(
            f"{path}: `{what}` must be {' or '.join(map(repr, allowed))}, as in BERT's WordPiece. "
            f"Received: {received!r} (no other pipeline is supported)"
        )


def _read_tokenizer_json(path):
    """Vocabulary and options that a tokenizer.json holds, if it is BERT's WordPiece."""
    whole = read_json(path)
    parts = {}
    for name, kind in (
        ("model", "WordPiece"),
        ("normalizer", "BertNormalizer"),
        ("pre_tokenizer", "BertPreTokenizer"),
    ):
        parts[name] = (whole.get(name) if isinstance(whole, dict) else None) or {}
        _expect(path, f"{name}.type", parts[name].get("type"), kind)
    model, normalizer = parts["model"], parts["normalizer"]
    _expect(path, "model.unk_token", model.get("unk_token"), "[UNK]")
    _expect(path, "model.continuing_subword_prefix", model.get("continuing_subword_prefix"), "##")
    limit = model.get("max_input_chars_per_word")
    _expect(path, "model.max_input_chars_per_word", limit, MAX_WORD_CHARS)
    ids = model.get("vocab") or {}
    for token in whole.get("added_tokens") or []:
        content = token.get("content")
        _expect(path, "added_tokens", content, *SPECIAL_TOKENS)
        _expect(path, f"added_tokens: id of {content}", token.get("id"), ids.get(content))
    _check_template(path, whole.get("post_processor"))
    return _vocab_by_id(path, ids), {
        "clean_text": normalizer.get("clean_text", True),
        "split_cjk": normalizer.get("handle_chinese_chars", True),
        "strip_accents": normalizer.get("strip_accents"),
        "lowercase": normalizer.get("lowercase", True),
    }


def _vocab_by_id(path, ids):
    vocab = sorted(ids, key=ids.get)
    if [ids[entry] for entry in vocab] != list(range(len(ids))):
        raise ValueError(
            f"{path}: the ids of `model.vocab` must be 0 to {len(ids) - 1}, each once. Received: "
            f"ids from {min(ids.values())} to {max(ids.values())}"
        )
    return vocab


def _check_template(path, processor):
    """An error where a row is put together in another way than BERT's."""
    if processor is None:
        return
    _expect(
        path, "post_processor.type", processor.get("type"), "TemplateProcessing", "BertProcessing"
    )
    if processor["type"] == "BertProcessing":
        _expect(path, "post_processor.cls", processor["cls"][0], "[CLS]")
        _expect(path, "post_processor.sep", processor["sep"][0], "[SEP]")
        return
    for name, wanted in (
        ("single", "[CLS]:0 A:0 [SEP]:0"),
        ("pair", "[CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1"),
    ):
        pieces = [next(iter(piece.values())) for piece in processor[name]]
        template = " ".join(f"{piece['id']}:{piece['type_id']}" for piece in pieces)
        _expect(path, f"post_processor.{name}", template, wanted)


def _read_tokenizer_config(path, needs_class):
    """Options that a tokenizer_config.json states."""
    config = read_object(path)
    if needs_class and config.get("tokenizer_class"):
        family = config["tokenizer_class"].removesuffix("Fast").removesuffix("Tokenizer")
        _expect(path, "tokenizer_class", family, *BERT_TOKENIZERS)
    _expect(path, "do_basic_tokenize", config.get("do_basic_tokenize", True), True)
    _expect(path, "never_split", config.get("never_split") or None, None)
    for token in SPECIAL_TOKENS:
        name = token.strip("[]").lower() + "_token"
        _expect(path, name, content(config.get(name, token)), token)
    added = [*(config.get("added_tokens_decoder") or {}).values()]
    added += config.get("additional_special_tokens") or []
    added += config.get("extra_special_tokens") or []
    for token in added:
        _expect(path, "additional special tokens", content(token), *SPECIAL_TOKENS)
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "split_cjk",
        "clean_text": "clean_text",
    }
    options = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    if "split_special_tokens" in config:
        options["allow_special_tokens"] = not config["split_special_tokens"]
    return options


def _agreed_vocab(found):
    (path, vocab), *others = found
    for other_path, other in others:
        if other != vocab:
            same = sum(a == b for a, b in zip(vocab, other))
            raise ValueError(
                f"The vocabularies of {path} and {other_path} must be equal. Received: "
                f"{len(vocab)} and {len(other)} entries, {same} of them equal (remove the file "
                "that is wrong)"
            )
    return vocab


def _agreed_options(found):
    agreed, source = {}, {}
    for path, options in found:
        for name, value in options.items():
            if name in agreed and not _same_option(name, value, options, agreed):
                raise ValueError(
                    f"{source[name]} and {path} must agree on `{name}`. Received: "
                    f"{agreed[name]!r} and {value!r} (correct the one that is wrong)"
                )
            agreed.setdefault(name, value)
            source.setdefault(name, path)
    return agreed


def _same_option(name, value, options, agreed):
    if name == "strip_accents":  # None means as `lowercase`
        lowercase = options.get("lowercase", agreed.get("lowercase"))
        return (lowercase if value is None else value) == (
            lowercase if agreed[name] is None else agreed[name]
        )
    return value == agreed[name]


# -------------------------------------------------------------------- the graph's tables

# What a code point becomes is written as up to three numbers. Each is a code point (with the rank
# of a combining mark above bit 21), or one of these:
NOTHING = -1
ITSELF = 0x110000
BARRIER = 0x110001  # nothing, but the marks before it stay before those after it
RANK_BITS = 21


@functools.lru_cache(maxsize=8)
def _code_point_tables(clean_text, split_cjk, strip_accents, lowercase):
    """What BERT's normalizer, and its splitting into words, make of each code point.

    All they do looks at one code point at a time, but for one thing: with `strip_accents` marks
    that follow each other are put in canonical order first. Nearly all of them are dropped then,
    but not marks younger than the library's tables, nor spacing ones. So these carry a rank.

    Returns:
        int32 arrays `(blocks, kinds, forms)`: `forms[kinds[blocks[code >> 8] * 256 + code % 256]]`
        is what `code` becomes, with a space wherever a word ends or begins.
    """
    normalize = normalizers.BertNormalizer(
        clean_text, split_cjk, strip_accents, lowercase
    ).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    marks = _mark_ranks(normalize) if strip_accents else {}
    ranks = {**dict.fromkeys(FATAL_CHARS, 0), **marks}  # characters that are never ITSELF
    kinds_of, blocks, numbers = {(ITSELF,): 0}, [], {}
    for start in range(0, 0x110000, 256):
        chars = _block(start)
        words = split(normalize(_between_zeros(chars)))
        texts = " ".join(word for word, _ in words).split("0")[1:-1]
        barriers = _barriers(normalize, [c for c, text in zip(chars, texts) if not text], marks)
        forms = [_form(char, text, ranks, barriers) for char, text in zip(chars, texts)]
        kinds = tuple(kinds_of.setdefault(form, len(kinds_of)) for form in forms)
        blocks.append(numbers.setdefault(kinds, len(numbers)))
    width = max(map(len, kinds_of))
    forms = [form + (NOTHING,) * (width - len(form)) for form in kinds_of]
    kinds = np.concatenate([np.array(kinds, np.int32) for kinds in numbers])
    return np.array(blocks, np.int32), kinds, np.array(forms, np.int32)


def _block(start):
    """256 characters, with a digit in place of surrogates, and of 0, which is the separator."""
    codes = range(start, start + 256)
    return ["1" if c == ord("0") or 0xD800 <= c < 0xE000 else chr(c) for c in codes]


def _between_zeros(texts):
    return "0" + "0".join(texts) + "0"


def _form(char, text, ranks, barriers):
    if not text:
        return (BARRIER,) if char in barriers else (NOTHING,)
    return tuple(
        ITSELF if c == char and c not in ranks else ord(c) | ranks.get(c, 0) << RANK_BITS
        for c in text
    )


def _mark_ranks(normalize):
    """The place, from 1, in canonical order of each combining mark that `normalize` keeps."""
    nfd = normalizers.NFD().normalize_str
    last = "\u0345"  # the mark that comes after all others
    marks = []
    for start in range(0, 0x110000, 256):
        chars = _block(start)
        texts = nfd(_between_zeros([last + char for char in chars])).split("0")[1:-1]
        marks += [char for char, text in zip(chars, texts) if not text.startswith(last)]

    def order(a, b):
        if nfd(a + b) != a + b:
            return 1
        return -1 if nfd(b + a) != b + a else 0

    kept = sorted((c for c in marks if normalize(c) == c), key=functools.cmp_to_key(order))
    ranks = {}
    for before, mark in zip([None, *kept], kept):
        new = before is None or order(before, mark) < 0
        ranks[mark] = ranks.get(before, 0) + new
    return ranks


def _barriers(normalize, gone, marks):
    """Those of the characters `gone` that keep the order of the marks on their two sides."""
    if not marks or not gone:
        return set()
    low, high = min(marks, key=marks.get), max(marks, key=marks.get)
    texts = normalize(_between_zeros([high + char + low for char in gone])).split("0")[1:-1]
    return {char for char, text in zip(gone, texts) if text == high + low}


def _without_fatal_chars(forms, vocab):
    """`forms` with another character that no entry of `vocab` holds for each of FATAL_CHARS."""
    used = set().union(*vocab)
    absent = next(code for code in range(0x10FFFF, 0, -1) if chr(code) not in used)
    return np.where(np.isin(forms, [ord(c) for c in FATAL_CHARS]), np.int32(absent), forms)


def _decoded_entries(tokenizer):
    """What each entry decodes to at the beginning of a text, and within one: two lists of `str`.

    Within a text it brings the space before it. The library cleans up each entry by itself.
    """
    decode = tokenizer._rust.decoder.decode
    first = [decode([entry]) for entry in tokenizer.vocab]
    return first, [decode(["x", entry])[1:] for entry in tokenizer.vocab]


# -------------------------------------------------------------------- the graph


def _graph_module(tokenizer):
    """The `tf.Module` of `WordPieceTokenizer.in_graph`."""
    # Here, and not above, so that Python's part needs no TensorFlow. The class below is local for
    # the same reason.
    try:
        import tensorflow as tf
        import tensorflow_text as tf_text

        from kerasllm.tokenizers import joining_in_graph, rows_in_graph
    except ImportError as error:
        raise ImportError(
            "`in_graph` needs TensorFlow and the TensorFlow Text of the same version. Received: "
            f"{error} (install tensorflow-text)"
        ) from error

    class InGraphWordPiece(tf.Module):
        """A `WordPieceTokenizer` made of TensorFlow operations: see its `in_graph`."""

        def __init__(self):
            super().__init__(name="wordpiece")
            with tf.init_scope():  # tensors of the module, also where a graph is being traced
                blocks, kinds, forms = _code_point_tables(*tokenizer._normalizer_options())
                forms = _without_fatal_chars(forms, tokenizer.vocab)
                self._blocks, self._kinds, self._forms = map(tf.constant, (blocks, kinds, forms))
                self._pieces = tf_text.FastWordpieceTokenizer(
                    vocab=list(tokenizer.vocab),
                    token_out_type=tf.int32,
                    unknown_token="[UNK]",
                    no_pretokenization=True,
                    # The limit is in characters: `_words` sees to it.
                    max_bytes_per_word=4 * MAX_WORD_CHARS,
                )
                first, within = _decoded_entries(tokenizer)
                self._first, self._within = tf.constant(first), tf.constant(within)
                entries = range(tokenizer.vocab_size)
                self._is_silent = tf.constant([i in tokenizer._silent for i in entries])

        def encode(self, texts):
            """Turns strings `(batch,)` into a ragged int32 tensor of ids `(batch, None)`."""
            texts = tf.convert_to_tensor(texts, tf.string)
            if texts.shape.rank != 1:
                raise ValueError(
                    f"`texts` must be strings of shape (batch,). Received: shape {texts.shape}"
                )
            if not tokenizer.allow_special_tokens:
                return self._pieces.tokenize(self._words(texts)).merge_dims(1, 2)
            # The next operation ends a text at NUL. Of the other fatal character comes the same.
            texts = tf.strings.regex_replace(texts, r"\x00", FATAL_CHARS[1])
            special = "|".join(re.escape(token) for token in tokenizer._special_tokens)
            parts = tf_text.regex_split(texts, special, keep_delim_regex_pattern=special)
            ids = self._pieces.tokenize(self._words(parts.values, keep=special))
            return parts.with_values(ids.merge_dims(1, 2)).merge_dims(1, 2)

        def __call__(self, texts, pairs=None, *, max_length):
            """Turns strings `(batch,)` into a dict of int32 tensors `(batch, length)`."""
            return rows_in_graph.make_batch(
                tokenizer._template,
                self.encode(texts),
                None if pairs is None else self.encode(pairs),
                max_length=max_length,
                pad_id=tokenizer.pad_id,
            )

        def decode(self, ids):
            """Turns int32 ids `(batch, length)`, also ragged, into strings `(batch,)`."""
            ids = joining_in_graph.without(joining_in_graph.as_ragged(ids), self._is_silent)
            texts = joining_in_graph.texts_of(ids, self._within, self._first)
            return joining_in_graph.join(texts, ids)

        def _words(self, texts, keep=None):
            """Strings `(batch,)` as words `(batch, None)`; those that match `keep` are one."""
            plain = self._normalized(texts)
            if keep is not None:
                plain = tf.where(tf.strings.regex_full_match(texts, keep), texts, plain)
            words = tf.strings.split(plain)
            too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > MAX_WORD_CHARS
            return words.with_values(tf.where(too_long, "[UNK]", words.values))

        def _normalized(self, texts):
            codes = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")  # (batch, None)
            code = codes.values
            block = tf.gather(self._blocks, tf.bitwise.right_shift(code, 8))
            kind = tf.gather(self._kinds, block * 256 + code % 256)
            forms = tf.gather(self._forms, kind)  # (codes, forms of one)
            forms = tf.where(forms == ITSELF, code[:, None], forms)
            width = self._forms.shape[1]
            row = tf.repeat(codes.value_rowids(), width)
            forms = tf.reshape(forms, [-1])
            has_marks = tf.reduce_any(forms >= 1 << RANK_BITS)
            forms = tf.cond(has_marks, lambda: self._in_order(forms, row), lambda: forms)
            code = tf.bitwise.bitwise_and(forms, (1 << RANK_BITS) - 1)
            # Neither NOTHING nor BARRIER:
            codes = self._filtered(code, row, code < ITSELF, codes.nrows())
            return tf.strings.unicode_encode(codes, "UTF-8")

        def _filtered(self, values, row, kept, nrows):
            """Ragged tensor of the values that are kept, `row` being the row of each."""
            values, row = tf.boolean_mask(values, kept), tf.boolean_mask(row, kept)
            return tf.RaggedTensor.from_value_rowids(values, row, nrows, validate=False)

        def _in_order(self, forms, row):
            """Sorts each run of combining marks by rank; nothing passes another character."""
            rank = tf.bitwise.right_shift(forms, RANK_BITS)  # -1 of NOTHING, which is no barrier
            run = tf.cumsum(tf.cast(rank == 0, tf.int64)) + row
            key = run * 256 + tf.cast(rank, tf.int64)  # Unicode has fewer ranks
            return tf.gather(forms, tf.argsort(key, stable=True))

    return InGraphWordPiece()
