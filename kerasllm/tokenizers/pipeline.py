"""A tokenizer that a `tokenizer.json` describes: what byte-level BPE and SentencePiece share.

The Rust `tokenizers` package does the work. Here are the rules around it: which files there must
be and that they agree, which tokens are special, and how a row of a batch is put together.
"""

import functools
import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models

from kerasllm.tokenizers.chat import FILE, read_template, render
from kerasllm.tokenizers.files import content, read_json, read_object, write
from kerasllm.tokenizers.rows import FIRST, SECOND, Template, make_batch
from kerasllm.tokenizers.texts import checked_ids, encode_batch, to_str
from kerasllm.tokenizers.windows import make_windows

# Characters that stand in no text: one before a part of a text that doesn't begin it, and one
# within a special token that somebody has typed.
BEFORE, PLAIN = "\ufdd0", "\ufdd1"

ROLES = ("pad", "bos", "eos", "unk", "mask", "cls", "sep")

_ROBERTA = {
    **{"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"},
    **{"cls": "<s>", "sep": "</s>"},
}
_END = "<|endoftext|>"

# Special tokens of Hugging Face's classes, where a folder's files name none.
SPECIAL_TOKENS = {
    "Albert": {
        **{"pad": "<pad>", "bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "mask": "[MASK]"},
        **{"cls": "[CLS]", "sep": "[SEP]"},
    },
    "Bart": _ROBERTA,
    "Bloom": {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "GPT2": {"bos": _END, "eos": _END, "unk": _END},
    "Llama": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "Qwen2": {"pad": _END, "eos": _END, "unk": _END},
    "Roberta": _ROBERTA,
    "T5": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
    "XLMRoberta": _ROBERTA,
}

# The class of a folder whose tokenizer_config.json names none, by the `model_type` of config.json.
CLASS_OF_MODEL = {
    **{"albert": "Albert", "bart": "Bart", "bloom": "Bloom", "gpt2": "GPT2", "llama": "Llama"},
    **{"mistral": "Llama", "mt5": "T5", "opt": "GPT2", "qwen2": "Qwen2", "qwen3": "Qwen2"},
    **{"roberta": "Roberta", "t5": "T5", "xlm-roberta": "XLMRoberta"},
}


class PipelineTokenizer:
    """What `ByteLevelBPETokenizer` and `SentencePieceTokenizer` have in common.

    Args:
        pipeline: dict, what a `tokenizer.json` holds.
        special_tokens: dict from `"pad"`, `"bos"`, `"eos"`, `"unk"`, `"mask"`, `"cls"` and
            `"sep"` to the token of that role; a role that is not there has none.
        allow_special_tokens: bool, whether special tokens in a text stand for those tokens.

    Attributes:
        chat_template: str or None: in Jinja's language, how a conversation is written as one text.
    """

    chat_template = None

    def __init__(self, pipeline, *, special_tokens=None, allow_special_tokens=False):
        _check_object(pipeline)
        model = {"type": model_type(pipeline), **(pipeline.get("model") or {})}
        pipeline = {**pipeline, "model": model, "truncation": None, "padding": None}
        self._check_pipeline(pipeline)
        self.special_tokens = {
            role: token for role, token in (special_tokens or {}).items() if token is not None
        }
        self.allow_special_tokens = allow_special_tokens
        self._rust = rust_tokenizer(pipeline)
        # As the library writes it, options have the names of today's files.
        self._check_pipeline(json.loads(self._rust.to_str()))
        ids = self._rust.get_vocab(with_added_tokens=True)
        self.vocab_size = len(ids)
        _check_ids(ids)
        for role, token in self.special_tokens.items():
            _check_special(role, token, ids)
        known = {token.content for token in self._special_added()}
        new = [token for token in self.special_tokens.values() if token not in known]
        self._rust.add_special_tokens([AddedToken(token, normalized=False) for token in new])
        for role in ROLES:
            setattr(self, f"{role}_id", ids.get(self.special_tokens.get(role)))
        self._template = self._read_template(pipeline.get("post_processor"), ids)
        self._encoder = self._make_encoder()

    # ---------------------------------------------------------------- what subclasses say

    def _check_pipeline(self, pipeline):
        """An error where the files are those of another kind of tokenizer."""
        raise NotImplementedError

    def _check_config(self, config):
        """An error where tokenizer_config.json contradicts the pipeline."""

    @classmethod
    def _from_lists(cls, folder, config, name):
        """The pipeline of a folder without `tokenizer.json`, and the path of its first file."""
        raise FileNotFoundError(
            f"`folder` must hold tokenizer.json. Received: {folder}, without it"
        )

    def _graph_class(self):
        """The class of `in_graph`'s module, imported here: Python's part needs no TensorFlow."""
        raise NotImplementedError

    # ---------------------------------------------------------------- parts

    def _model(self):
        """The `model` of a `tokenizer.json`."""
        return json.loads(self._rust.to_str())["model"]

    def _special_added(self):
        return [token for token in self._rust.get_added_tokens_decoder().values() if token.special]

    def _make_encoder(self):
        """What encodes: the tokenizer, told whether special tokens are plain text."""
        self._rust.encode_special_tokens = not self.allow_special_tokens
        return self._rust

    def _read_template(self, processor, ids):
        found = _template(processor, ids)
        if found is None:
            found = ((FIRST, 0),), ((FIRST, 0), (SECOND, 1))
        single, pair = found
        # Segments are for models of BERT's kind: GPT's and LLaMA's take none.
        two = self.cls_id is not None and any(segment for _, segment in pair)
        return Template(single, pair, with_segments=two)

    @property
    def _fill(self):
        """The id in the padding."""
        return next(i for i in (self.pad_id, self.eos_id, 0) if i is not None)

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
        """All special tokens, those without a role too: a dict from token to id."""
        added = self._rust.get_added_tokens_decoder().items()
        return {token.content: index for index, token in added if token.special}

    @property
    def row_ends(self):
        """The ids that stand before a text in its row, and after it: a pair of tuples of int."""
        return self._template.ends

    # ---------------------------------------------------------------- files

    @classmethod
    def from_pretrained(cls, folder):
        """Reads the tokenizer of a model folder in Hugging Face's layout.

        Args:
            folder: path of a folder with the files that the class names. Special tokens come from
                `tokenizer_config.json` and `special_tokens_map.json`; what is there must agree.
                `"split_special_tokens": false` in `tokenizer_config.json` sets
                `allow_special_tokens`. Lengths, padding sides and the cleaning of spaces after
                decoding, which these files may state too, are the caller's here.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: where the files are missing.
            ValueError: where a file is that of another tokenizer, or two disagree.
        """
        folder = Path(folder)
        path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
        config = read_object(config_path)
        name = class_name(folder)
        if path.exists():
            pipeline = read_json(path)
        else:
            pipeline, path = cls._from_lists(folder, config, name)
        allow = not (config.get("split_special_tokens", True))
        try:
            _check_object(pipeline)
            special = _special_tokens(folder, config, name, pipeline)
            pipeline = _with_bos_and_eos(pipeline, config, special)
            found = cls(pipeline, special_tokens=special, allow_special_tokens=allow)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        try:
            found._check_config(config)
            found._check_added(config)
        except ValueError as error:
            raise ValueError(f"{config_path}: {error}") from error
        found.chat_template = read_template(folder)
        return found

    def _check_added(self, config):
        """An error where tokenizer_config.json knows tokens that the vocabulary doesn't."""
        ids = self._rust.get_vocab(with_added_tokens=True)
        tokens = {content(token): i for i, token in _added(config)}
        for token, index in tokens.items():
            if token not in ids or index not in (None, ids[token]):
                raise ValueError(
                    f"added token {token!r} must be in the vocabulary with its id. Received: "
                    f"id {index} there and {ids.get(token)} in the vocabulary"
                )

    def save_pretrained(self, folder):
        """Writes `tokenizer.json`, `tokenizer_config.json` and any chat template into a folder.

        Hugging Face's AutoTokenizer loads them and gives equal ids.

        Args:
            folder: path of a folder, which is made where it is missing.

        Raises:
            OSError: where the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": not self.allow_special_tokens,
            **{f"{role}_token": token for role, token in self.special_tokens.items()},
        }
        write(folder / "tokenizer.json", self._to_json() + "\n")
        config = json.dumps(config, indent=2, ensure_ascii=False)
        write(folder / "tokenizer_config.json", config + "\n")
        if self.chat_template is not None:
            write(folder / FILE, self.chat_template)

    def _to_json(self):
        return self._rust.to_str(pretty=True)

    # ---------------------------------------------------------------- Python

    def encode(self, text):
        """Turns one text into ids, without the special tokens of a row.

        Args:
            text: `str`, or `bytes` in UTF-8.

        Returns:
            list of `int`.
        """
        return self._encoder.encode(to_str(text), add_special_tokens=False).ids

    def encode_chat(self, messages):
        """Turns a conversation into the ids that the assistant's answer follows.

        Special tokens of the template are those tokens; in what the messages say, they are plain
        text, so that a user cannot type one.

        Args:
            messages: list of dict with `role`, `"system"`, `"user"` or `"assistant"`, and
                `content`, str.

        Returns:
            list of `int`.

        Raises:
            ValueError: where there is no `chat_template`, or it refuses these messages.
        """
        if self.chat_template is None:
            raise ValueError(
                "`chat_template` must be set for a conversation. Received: None (is this a chat "
                "model?)"
            )
        text = render(self.chat_template, list(map(self._typed, messages)), self.special_tokens)
        ids = []
        for i, section in enumerate(self.at_special_tokens(text)):
            if isinstance(section, int):
                ids.append(section)
            else:
                ids += (self.encode_inner if i else self.encode)(section.replace(PLAIN, ""))
        return ids

    def _typed(self, message):
        """A message in which no special token stands, though somebody has typed one."""
        text = to_str(message["content"])
        for token in self.special_vocab:
            text = text.replace(token, token[:1] + PLAIN + token[1:])
        return {**message, "content": text}

    def encode_inner(self, text):
        """Turns a part of a text that doesn't begin it into ids.

        Args:
            text: `str`.

        Returns:
            list of `int`.
        """
        return self._inner.encode(BEFORE + text, add_special_tokens=False).ids[1:] if text else []

    @functools.cached_property
    def _inner(self):
        # With a token before it, which is left out again, a text is one within another.
        inner = Tokenizer.from_str(self._encoder.to_str())
        inner.encode_special_tokens = self._encoder.encode_special_tokens
        inner.add_tokens([AddedToken(BEFORE, normalized=False)])
        return inner

    def at_special_tokens(self, text):
        """Splits a text at special tokens.

        Args:
            text: str, not of a user.

        Returns:
            list of str, and of int, the ids of the special tokens.

        Raises:
            ValueError: where one of them takes the space beside it, too.
        """
        known = {token.content: token for token in self._special_added()}
        longest_first = sorted(map(re.escape, known), key=len, reverse=True)
        sections = re.split(f"({'|'.join(longest_first)})", text) if known else [text]
        for token in (known[section] for section in sections if section in known):
            if token.lstrip or token.rstrip or token.single_word:
                raise ValueError(
                    "`chat_template` must have special tokens without `lstrip`, `rstrip` and "
                    f"`single_word`. Received: {token!r}"
                )
        ids = self._rust.token_to_id
        return [ids(section) if section in known else section for section in sections if section]

    def decode(self, ids):
        """Turns ids back into text, leaving out special tokens.

        Args:
            ids: iterable of `int`.

        Returns:
            `str`; bytes that are not UTF-8 are U+FFFD in it.

        Raises:
            ValueError: where an id is not in the vocabulary.
        """
        return self._rust.decode(checked_ids(ids, self.vocab_size), skip_special_tokens=True)

    def __call__(self, texts, pairs=None, *, max_length, pad_to=None, padding_side="right"):
        """Turns a batch of texts, or of pairs of texts, into what a model takes.

        The special tokens of a row stand where the tokenizer's files say. What is longer than
        `max_length` loses tokens at its end; of a pair, the longer text loses them first.

        Args:
            texts: list, tuple or array of `str` or UTF-8 `bytes`.
            pairs: the second texts, as many as `texts`; or None.
            max_length: int, the longest row, special tokens included.
            pad_to: int, the width of the result, at least `max_length`; None makes it the
                longest row of this batch.
            padding_side: `"right"` or `"left"`, where the padding stands. Its id is `pad_id`, or
                `eos_id` where there is no such token.

        Returns:
            dict of int32 arrays `(batch, length)`: `token_ids`, `padding_mask` (1 at tokens, 0 at
            padding) and, for models of BERT's kind, `segment_ids` (1 at the second text).

        Raises:
            TypeError: where `texts` or `pairs` is a single string, or an item is no text.
            ValueError: where `pairs` differs from `texts` in length, a length is too small, or
                `padding_side` is another word.
        """
        return make_batch(
            self._template,
            encode_batch(self._encoder, texts, "texts"),
            None if pairs is None else encode_batch(self._encoder, pairs, "pairs"),
            max_length=max_length,
            pad_to=pad_to,
            padding_side=padding_side,
            pad_id=self._fill,
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
        """
        return make_windows(
            self._template,
            self._encoder,
            texts,
            pairs,
            max_length=max_length,
            stride=stride,
            pad_id=self._fill,
        )

    def in_graph(self):
        """Gives a `tf.Module` that does the same with string tensors, for tf.data and export.

        It needs the operations of TensorFlow alone, and no Python. Assign it to an attribute of
        the module that is exported, so that its tables are saved with it. Byte-pair encoding
        merges one round after another, so with it a text without any space costs time that grows
        with the square of its length.

        Returns:
            A `tf.Module` with `encode(texts)`, which takes strings `(batch,)` and gives an int32
            `tf.RaggedTensor` `(batch, None)`; `__call__(texts, pairs=None, *, max_length)`, which
            gives the dict of int32 tensors `(batch, length)` that the tokenizer itself gives,
            padded to the longest row, and at least two wide; and `decode(ids)`, which takes int32
            `(batch, length)`, also ragged, and gives strings `(batch,)`.

        Raises:
            ImportError: where TensorFlow is not installed.
            ValueError: where a step of the pipeline has no exact form in a graph.

        Example:
            >>> from kerasllm import SentencePieceTokenizer
            >>> tokenizer = SentencePieceTokenizer.train(["low lower lowest"] * 9, vocab_size=16)
            >>> graph = tokenizer.in_graph()
            >>> graph.decode(graph.encode(["lowest  tower"])).numpy().tolist()
            [b'lowest tower']
        """
        return self._graph_class()(self)


def class_name(folder):
    """Gives the name of a folder's tokenizer class, such as `"GPT2"`; None where no file says it.

    Args:
        folder: path of a model folder.
    """
    name = read_object(folder / "tokenizer_config.json").get("tokenizer_class")
    if name:
        return name.removesuffix("Fast").removesuffix("Tokenizer")
    return CLASS_OF_MODEL.get(read_object(folder / "config.json").get("model_type"))


def model_type(pipeline):
    """Gives the type of a pipeline's model, which older files leave to be seen from its parts.

    Args:
        pipeline: dict, what a `tokenizer.json` holds.
    """
    model = pipeline.get("model") or {}
    if "type" in model:
        return model["type"]
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"


def check_known(what, received, *known):
    """Raises `ValueError` where a part of a pipeline is none of those that are known."""
    if received not in known:
        raise ValueError(
            f"`{what}` must be {' or '.join(map(repr, known))}. Received: {received!r} "
            "(no other pipeline is supported)"
        )


def check_agrees(what, stated, found):
    """Raises `ValueError` where tokenizer_config.json states another option than the pipeline."""
    if stated is not None and bool(stated) != found:
        raise ValueError(
            f"`{what}` must agree with the tokenizer's pipeline, in which it is {found}. "
            f"Received: {stated!r} (correct the one that is wrong)"
        )


def flat(part, key):
    """Gives the steps of a normalizer, pre-tokenizer, decoder or post-processor as a list.

    Args:
        part: dict of a `tokenizer.json`, or None.
        key: str, where a `Sequence` holds its steps, e.g. `"normalizers"`.
    """
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part[key] for step in flat(inner, key)]


def _check_object(pipeline):
    if not isinstance(pipeline, dict):
        raise ValueError(f"`pipeline` must be a JSON object. Received: {type(pipeline).__name__}")


def rust_tokenizer(pipeline):
    """Gives the `tokenizers.Tokenizer` of what a `tokenizer.json` holds."""
    try:
        rust = Tokenizer.from_str(json.dumps(pipeline))
    except Exception as error:  # the library has no type of its own for it
        raise ValueError(
            f"`pipeline` must be one that the tokenizers package reads. Received: {error}"
        ) from error
    model = pipeline["model"]
    if model["type"] == "Unigram":
        # Its reader of JSON is off by the last bit of some numbers, which decides ties.
        pieces = [(piece, score) for piece, score in model["vocab"]]
        rust.model = models.Unigram(pieces, model["unk_id"], bool(model.get("byte_fallback")))
    return rust


def _check_ids(ids):
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(
            f"the ids of the vocabulary must be 0 to {len(ids) - 1}, each once. Received: ids "
            f"from {min(ids.values(), default=None)} to {max(ids.values(), default=None)}"
        )


def _check_special(role, token, ids):
    if role not in ROLES:
        raise ValueError(f"`special_tokens` must be among {', '.join(ROLES)}. Received: {role!r}")
    if token not in ids:
        raise ValueError(
            f"`special_tokens` must be in the vocabulary. Received: {token!r} as {role}, which "
            "is not (a model would have no row for it)"
        )


def _template(processor, ids):
    """Parts of the rows of one text and of two, as a post-processor says; None where it doesn't."""
    found = None
    for step in flat(processor, "processors"):
        kind = step.get("type")
        check_known(
            *("post_processor.type", kind, "ByteLevel", "TemplateProcessing"),
            *("RobertaProcessing", "BertProcessing"),
        )
        if kind == "TemplateProcessing":
            found = tuple(_parts(step[name], step["special_tokens"]) for name in ("single", "pair"))
        elif kind != "ByteLevel":
            cls, sep = ids[step["cls"][0]], ids[step["sep"][0]]
            roberta = kind == "RobertaProcessing"
            between, second = ([(sep, 0)], 0) if roberta else ([], 1)
            single = ((cls, 0), (FIRST, 0), (sep, 0))
            found = single, (*single, *between, (SECOND, second), (sep, second))
    return found


def _parts(pieces, special):
    parts = []
    for piece in pieces:
        ((kind, value),) = piece.items()
        if kind == "Sequence":
            parts.append((value["id"], value["type_id"]))
        else:
            parts += [(index, value["type_id"]) for index in special[value["id"]]["ids"]]
    return tuple(parts)


def _with_bos_and_eos(pipeline, config, special):
    """`pipeline` with the template that `add_bos_token` and `add_eos_token` of a config ask for."""
    if config.get("add_bos_token") is None and config.get("add_eos_token") is None:
        return pipeline
    bos = special.get("bos") if config.get("add_bos_token") else None
    eos = special.get("eos") if config.get("add_eos_token") else None
    ids = {**(_vocab(pipeline)), **{t["content"]: t["id"] for t in pipeline["added_tokens"]}}
    for name, token in (("bos_token", bos), ("eos_token", eos)):
        if token is not None and token not in ids:
            raise ValueError(f"`{name}` must be in the vocabulary. Received: {token!r}")

    def text(letter, segment):
        parts = [{"Sequence": {"id": letter, "type_id": segment}}]
        if bos is not None:
            parts.insert(0, {"SpecialToken": {"id": bos, "type_id": segment}})
        if eos is not None:
            parts.append({"SpecialToken": {"id": eos, "type_id": segment}})
        return parts

    tokens = {
        token: {"id": token, "ids": [ids[token]], "tokens": [token]}
        for token in (bos, eos)
        if token
    }
    wanted = {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": tokens,
    }
    stated = _template(pipeline.get("post_processor"), ids)
    if stated is not None and stated[0] != _template(wanted, ids)[0]:
        raise ValueError(
            "`post_processor` must put a row together as `add_bos_token` and `add_eos_token` of "
            f"tokenizer_config.json say. Received: {config.get('add_bos_token')} and "
            f"{config.get('add_eos_token')} there (correct the file that is wrong)"
        )
    return pipeline if stated is not None else {**pipeline, "post_processor": wanted}


def _vocab(pipeline):
    vocab = pipeline["model"]["vocab"]
    if isinstance(vocab, dict):
        return vocab
    return {entry: index for index, (entry, _) in enumerate(vocab)}


def _special_tokens(folder, config, name, pipeline):
    """The token of each role: as the files say, else as the class has it."""
    listed = read_object(folder / "special_tokens_map.json")
    defaults = SPECIAL_TOKENS.get(name, {})
    known = {*_vocab(pipeline), *(token["content"] for token in pipeline["added_tokens"])}
    found = {}
    for role in ROLES:
        key = f"{role}_token"
        stated = {content(where[key]) for where in (config, listed) if where.get(key) is not None}
        if len(stated) > 1:
            raise ValueError(
                f"tokenizer_config.json and special_tokens_map.json must agree on `{key}`. "
                f"Received: {' and '.join(sorted(map(repr, stated)))}"
            )
        if stated:
            found[role] = stated.pop()
        elif key not in config and defaults.get(role) in known:
            found[role] = defaults[role]
    return found


def _added(config):
    """`(id or None, token)` of the tokens that a tokenizer_config.json lists."""
    for index, token in (config.get("added_tokens_decoder") or {}).items():
        yield int(index), token
    for key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = config.get(key) or []
        yield from (
            (None, token) for token in (tokens.values() if isinstance(tokens, dict) else tokens)
        )
