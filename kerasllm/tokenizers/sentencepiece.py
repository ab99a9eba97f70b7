"""SentencePiece's two models: Unigram (ALBERT, T5, XLM-R) and byte-pair encoding (LLaMA 2)."""

import json
import re
from decimal import Decimal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from kerasllm.tokenizers.pipeline import (
    PipelineTokenizer,
    check_agrees,
    check_known,
    flat,
    rust_tokenizer,
)
from kerasllm.tokenizers.sentencepiece_model import FILES, read_pipeline
from kerasllm.tokenizers.texts import check_iterable, to_str

NORMALIZERS = (
    *("Precompiled", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"),
    *("Replace", "Prepend", "Strip", "Nmt"),
)
PRE_TOKENIZERS = ("WhitespaceSplit", "Metaspace")
DECODERS = ("Metaspace", "Replace", "ByteFallback", "Fuse", "Strip")


class SentencePieceTokenizer(PipelineTokenizer):
    """Turns text into the ids of a SentencePiece vocabulary, as Hugging Face's classes do.

    This is the tokenizer of ALBERT, T5 and XLM-R (Unigram: the likeliest pieces), and of LLaMA 2,
    Mistral and TinyLlama (byte-pair encoding, with tokens of single bytes for characters that are
    no entry). Text may be `str` or UTF-8 `bytes`; what is no UTF-8 in it is read as U+FFFD.

    It follows `tokenizer.json`, as the `tokenizers` package does. Of a folder that holds only the
    original `spiece.model`, `sentencepiece.bpe.model` or `tokenizer.model`, it makes what Hugging
    Face's class makes of it, which differs in small ways from what SentencePiece itself does. Of
    LLaMA's kind, a row begins with `<s>` only where `tokenizer_config.json` says `"add_bos_token":
    true`, and ends with `</s>` only where it says `"add_eos_token": true`: so it is in
    `transformers` 5, while version 4 began rows with `<s>` also where no file said so.

    Special tokens that stand in a text, such as `"</s>"`, are plain text unless
    `allow_special_tokens` says otherwise, so that a user cannot type one. This holds for Unigram
    too, where Hugging Face's `split_special_tokens` takes `"</s>"` for the entry that it also is.

    Args:
        pipeline: dict, what a `tokenizer.json` holds. `from_pretrained` and `train` make it.
        special_tokens: dict from `"pad"`, `"bos"`, `"eos"`, `"unk"`, `"mask"`, `"cls"` and
            `"sep"` to the token of that role; a role that is not there has none.
        allow_special_tokens: bool, whether special tokens in a text stand for those tokens, as
            they do by default in Hugging Face's tokenizers.

    Raises:
        ValueError: where `pipeline` is none of SentencePiece, or lacks a special token.

    Example:
        >>> tokenizer = SentencePieceTokenizer.train(["low lower lowest"] * 9, vocab_size=16)
        >>> tokenizer.decode(tokenizer.encode("lowest  tower"))
        'lowest tower'
        >>> tokenizer(["low", "lower"], max_length=8)["token_ids"][:, -1].tolist()
        [0, 1]

    References:
        Kudo, "Subword Regularization", 2018, section 3.2; Kudo and Richardson, "SentencePiece: A
        simple and language independent subword tokenizer and detokenizer", 2018.
    """

    def _check_pipeline(self, pipeline):
        model = pipeline.get("model") or {}
        check_known("model.type", model.get("type"), "Unigram", "BPE")
        check_known("model.dropout", model.get("dropout") or None, None)
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            check_known(f"model.{name}", model.get(name) or "", "")
        self._steps = {}
        for part, key, known in (
            ("normalizer", "normalizers", NORMALIZERS),
            ("pre_tokenizer", "pretokenizers", PRE_TOKENIZERS),
            ("decoder", "decoders", DECODERS),
        ):
            self._steps[part] = flat(pipeline.get(part), key)
            for step in self._steps[part]:
                check_known(f"{part}.type", step.get("type"), *known)
        space = [step["type"] for step in self._steps["normalizer"] + self._steps["pre_tokenizer"]]
        if "Metaspace" not in space and "Replace" not in space:
            raise ValueError(
                "`pipeline` must write spaces as ▁, by Metaspace or Replace. Received: "
                f"{', '.join(space) or 'no step'} (is this a SentencePiece tokenizer?)"
            )

    def _check_config(self, config):
        kinds = {step["type"] for step in self._steps["normalizer"]}
        schemes = {step.get("prepend_scheme") for step in self._steps["pre_tokenizer"]}
        prefix = "Prepend" in kinds or bool(schemes & {"always", "first"})
        check_agrees("add_prefix_space", config.get("add_prefix_space"), prefix)
        check_agrees("do_lower_case", config.get("do_lower_case"), "Lowercase" in kinds)
        check_agrees("keep_accents", config.get("keep_accents"), "StripAccents" not in kinds)

    def _make_encoder(self):
        if self.allow_special_tokens:
            return super()._make_encoder()
        encoder = rust_tokenizer(self._without_special_tokens())
        encoder.encode_special_tokens = True  # that is: as plain text
        return encoder

    def _without_special_tokens(self):
        """The pipeline whose model finds no special token in a text."""
        pipeline = json.loads(self._rust.to_str())
        model = pipeline["model"]
        special = {token.content for token in self._special_added()}
        if model["type"] == "BPE":
            model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in special]
            return pipeline
        # A name with a space is that of no piece of a text, where spaces are written as ▁.
        model["vocab"] = [
            (" " + piece if piece in special else piece, score) for piece, score in model["vocab"]
        ]
        for token in pipeline["added_tokens"]:
            if token["special"]:
                token["content"] = " " + token["content"]
        return pipeline

    def _to_json(self):
        return _with_exact_scores(super()._to_json())

    @classmethod
    def _from_lists(cls, folder, config, name):
        paths = [folder / file for file in FILES if (folder / file).exists()]
        if not paths:
            raise FileNotFoundError(
                f"`folder` must hold tokenizer.json, or one of {', '.join(FILES)}. Received: "
                f"{folder}, without them"
            )
        return read_pipeline(paths[0], name, config), paths[0]

    @classmethod
    def train(cls, texts, *, vocab_size=8000, special_tokens=None):
        """Learns a Unigram vocabulary from texts, in normal form KC, with T5's rows.

        Args:
            texts: iterable of `str` or UTF-8 `bytes`.
            vocab_size: int, the largest number of entries, special tokens included.
            special_tokens: dict from role to token; it must have `"unk"`. None means `"<pad>"`,
                `"</s>"` as `"eos"`, and `"<unk>"`. A row ends with that of `"eos"`.

        Returns:
            A `SentencePieceTokenizer`.

        Raises:
            ValueError: where `vocab_size` leaves no room, or `texts` hold nothing to learn from.

        Example:
            >>> tokenizer = SentencePieceTokenizer.train(["low lower lowest"] * 9, vocab_size=16)
            >>> tokenizer.eos_id
            1
        """
        check_iterable(texts)
        special_tokens = special_tokens or {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
        special = list(dict.fromkeys(special_tokens.values()))
        if "unk" not in special_tokens:
            raise ValueError(
                f"`special_tokens` must name an `unk`. Received: {special_tokens} (a character "
                "that no text of the training had must be something)"
            )
        if vocab_size <= len(special):
            raise ValueError(
                f"`vocab_size` must be more than {len(special)}, the number of special tokens. "
                f"Received: {vocab_size} (choose some thousands)"
            )
        rust = Tokenizer(models.Unigram())
        rust.normalizer = normalizers.NFKC()
        rust.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
        rust.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            unk_token=special_tokens["unk"],
            show_progress=False,
        )
        texts = [to_str(text) for text in texts]
        if not any(text.strip() for text in texts):
            raise ValueError(
                f"`texts` must hold text to learn from. Received: {len(texts)} empty texts"
            )
        rust.train_from_iterator(texts, trainer)
        pipeline = json.loads(rust.to_str())
        eos = special_tokens.get("eos")
        if eos is not None:
            pipeline["post_processor"] = _ends_with(eos, special.index(eos))
        return cls(pipeline, special_tokens=special_tokens)

    def _graph_class(self):
        from kerasllm.tokenizers.sentencepiece_in_graph import SentencePieceInGraph

        return SentencePieceInGraph


def _with_exact_scores(text):
    """A `tokenizer.json` from which the `tokenizers` package reads each score as it is.

    Its reader is off by the last bit where a number has many digits, and that decides between
    equal sums. Of the ways to write a number, there is one that it reads right.
    """
    line = re.compile(r"^( +)(-?[0-9]+[.][0-9]+)$", re.MULTILINE)
    literals = sorted({match[2] for match in line.finditer(text)})
    read = _scores_read(literals)
    ways = {old: _ways(old) for old, found in zip(literals, read) if float(old) != found}
    flat = [way for some in ways.values() for way in some]
    right = {way for way, found in zip(flat, _scores_read(flat)) if float(way) == found}
    best = {old: next((way for way in some if way in right), old) for old, some in ways.items()}
    return line.sub(lambda match: match[1] + best.get(match[2], match[2]), text)


def _ways(literal):
    """Decimal numbers that stand for the same floating-point number."""
    exact = Decimal(float(literal))
    digits = [round(exact, places) for places in range(12, 20)]
    digits += [digits[-1] + Decimal(step).scaleb(-19) for step in range(-400, 400, 7)]
    return [str(number) for number in digits if float(number) == float(literal)]


def _scores_read(literals):
    """What the `tokenizers` package makes of numbers in JSON."""
    pieces = ", ".join(f'["{i}", {literal}]' for i, literal in enumerate(["0.0", *literals]))
    rust = Tokenizer.from_str(
        f'{{"model": {{"type": "Unigram", "unk_id": 0, "vocab": [{pieces}]}}}}'
    )
    return [score for _, score in json.loads(rust.to_str())["model"]["vocab"]][1:]


def _ends_with(token, index):
    """The post-processor of rows whose texts end with a token, as T5's do."""
    end = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }
