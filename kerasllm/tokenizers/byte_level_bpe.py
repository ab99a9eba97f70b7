"""Byte-level byte-pair encoding: GPT-2, RoBERTa, OPT, BART, BLOOM, LLaMA 3, Qwen, SmolLM2."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kerasllm.tokenizers.files import content, read, read_object
from kerasllm.tokenizers.pipeline import (
    SPECIAL_TOKENS,
    PipelineTokenizer,
    check_agrees,
    check_known,
    flat,
)
from kerasllm.tokenizers.texts import check_iterable, to_str

END = "<|endoftext|>"

# How a class splits text, for folders that hold vocab.json and merges.txt alone; None is as GPT-2.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    **dict.fromkeys(("GPT2", "Roberta", "Bart")),
    "Qwen2": _LLAMA3.replace("{1,3}", ""),
    "Bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "Llama3": _LLAMA3,  # no name of Hugging Face's, but that of keras-hub's presets
}


class ByteLevelBPETokenizer(PipelineTokenizer):
    """Turns text into the ids of byte-pair encoding over bytes, as Hugging Face's classes do.

    This is the tokenizer of GPT-2, RoBERTa, OPT, BART, BLOOM, LLaMA 3, Qwen 2 and 3 and SmolLM2.
    Text may be `str` or UTF-8 `bytes`; what is no UTF-8 in it is read as U+FFFD. Every text has
    ids, and decoding gives it back (with Qwen, in normal form C).

    Special tokens that stand in a text, such as `"<|endoftext|>"`, are plain text unless
    `allow_special_tokens` says otherwise, so that a user cannot type one.

    Args:
        pipeline: dict, what a `tokenizer.json` holds. `from_pretrained` and `train` make it.
        special_tokens: dict from `"pad"`, `"bos"`, `"eos"`, `"unk"`, `"mask"`, `"cls"` and
            `"sep"` to the token of that role; a role that is not there has none.
        allow_special_tokens: bool, whether special tokens in a text stand for those tokens, as
            they do by default in Hugging Face's tokenizers.

    Raises:
        ValueError: where `pipeline` is none of byte-level BPE, or lacks a special token.

    Example:
        >>> tokenizer = ByteLevelBPETokenizer.train(["low lower lowest"] * 2, vocab_size=262)
        >>> tokenizer.encode("slow lower")
        [83, 258, 260, 82]
        >>> tokenizer.decode([83, 258, 260, 82])
        'slow lower'
        >>> tokenizer(["low", "lower"], max_length=8, padding_side="left")["padding_mask"].tolist()
        [[0, 0, 1], [1, 1, 1]]

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2;
        Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.
    """

    def _check_pipeline(self, pipeline):
        model = pipeline.get("model") or {}
        check_known("model.type", model.get("type"), "BPE")
        check_known("model.dropout", model.get("dropout") or None, None)
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            check_known(f"model.{name}", model.get(name) or "", "")
        check_known("model.byte_fallback", bool(model.get("byte_fallback")), False)
        normalizers = [step.get("type") for step in flat(pipeline.get("normalizer"), "normalizers")]
        for kind in normalizers:
            check_known("normalizer.type", kind, "NFC", "NFD", "NFKC", "NFKD")
        steps = flat(pipeline.get("pre_tokenizer"), "pretokenizers")
        check_known("pre_tokenizer.type", steps[-1].get("type") if steps else None, "ByteLevel")
        for step in steps[:-1]:
            check_known("pre_tokenizer.type", step.get("type"), "Split", "Digits")
        check_known("decoder.type", (pipeline.get("decoder") or {}).get("type"), "ByteLevel")
        self._steps = normalizers, steps

    def _check_config(self, config):
        prefix = self._steps[1][-1]["add_prefix_space"]
        check_agrees("add_prefix_space", config.get("add_prefix_space"), prefix)

    @classmethod
    def _from_lists(cls, folder, config, name):
        vocab, merges = folder / "vocab.json", folder / "merges.txt"
        if not vocab.exists() or not merges.exists():
            raise FileNotFoundError(
                "`folder` must hold tokenizer.json, or vocab.json and merges.txt. Received: "
                f"{folder}, without them"
            )
        if name not in PATTERNS:
            raise ValueError(
                f"{folder}: vocab.json and merges.txt must come with a `tokenizer_class` of "
                "tokenizer_config.json, or a `model_type` of config.json, that says how text is "
                f"split: {', '.join(PATTERNS)}. Received: {name!r}"
            )
        lines = read(merges).splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#ver")]
        ids = read_object(vocab)
        prefix = bool(config.get("add_prefix_space"))
        pipeline = _pipeline(ids, pairs, prefix, name)
        if name in ("Roberta", "Bart"):
            processor = {"type": "RobertaProcessing", "trim_offsets": True}
            for role in ("cls", "sep"):
                token = content(config.get(f"{role}_token")) or SPECIAL_TOKENS[name][role]
                processor[role] = [token, ids.get(token)]
            pipeline["post_processor"] = {**processor, "add_prefix_space": prefix}
        added = read_object(folder / "added_tokens.json")
        listed = config.get("added_tokens_decoder") or {}
        added = {**added, **{token["content"]: int(i) for i, token in listed.items()}}
        pipeline["added_tokens"] = [
            _added_token(token, index, listed.get(str(index), {}))
            for token, index in sorted(added.items(), key=lambda item: item[1])
        ]
        return pipeline, vocab

    @classmethod
    def train(cls, texts, *, vocab_size=8000, min_frequency=2, special_tokens=None):
        """Learns a vocabulary from texts, with GPT-2's way of splitting them.

        Args:
            texts: iterable of `str` or UTF-8 `bytes`.
            vocab_size: int, the largest number of entries: the special tokens, 256 bytes, and
                what is merged.
            min_frequency: int, how often a pair must occur to be merged.
            special_tokens: dict from role to token; None means GPT-2's one, `"<|endoftext|>"`, as
                `"bos"`, `"eos"`, `"pad"` and `"unk"`. With `"cls"` and `"sep"`, they stand around
                each text, as in RoBERTa and BART.

        Returns:
            A `ByteLevelBPETokenizer`.

        Raises:
            ValueError: where `vocab_size` leaves no room for the bytes.

        Example:
            >>> tokenizer = ByteLevelBPETokenizer.train(["low lower lowest"] * 2, vocab_size=300)
            >>> tokenizer.decode(tokenizer.encode("Déjà lu"))
            'Déjà lu'
        """
        check_iterable(texts)
        special_tokens = special_tokens or dict.fromkeys(("bos", "eos", "pad", "unk"), END)
        special = list(dict.fromkeys(special_tokens.values()))
        if vocab_size < 256 + len(special):
            raise ValueError(
                f"`vocab_size` must be at least {256 + len(special)}, the bytes and the special "
                f"tokens. Received: {vocab_size} (choose some thousands)"
            )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        rust = Tokenizer(models.BPE())
        rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        rust.decoder = decoders.ByteLevel()
        rust.train_from_iterator((to_str(text) for text in texts), trainer)
        if {"cls", "sep"} <= set(special_tokens):
            around = [special_tokens[role] for role in ("sep", "cls")]
            around = [(token, rust.token_to_id(token)) for token in around]
            rust.post_processor = processors.RobertaProcessing(*around, add_prefix_space=False)
        return cls(json.loads(rust.to_str()), special_tokens=special_tokens)

    @property
    def prefix_is_kept(self):
        """Whether the offsets of `windows` count the space that is put before a text, bool."""
        processor = json.loads(self._rust.to_str())["post_processor"] or {}
        return self._steps[1][-1]["add_prefix_space"] and not processor.get("add_prefix_space")

    def _graph_class(self):
        from kerasllm.tokenizers.byte_level_bpe_in_graph import ByteLevelBPEInGraph

        return ByteLevelBPEInGraph


def _pipeline(vocab, merges, add_prefix_space, name):
    prefix = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True}
    splits = {**prefix, "use_regex": PATTERNS[name] is None}
    if PATTERNS[name] is not None:
        pattern = {"type": "Split", "pattern": {"Regex": PATTERNS[name]}}
        pattern |= {"behavior": "Isolated", "invert": False}
        splits = {"type": "Sequence", "pretokenizers": [pattern, splits]}
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    model |= {"dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    model |= {"ignore_merges": name == "Llama3"}
    return {
        **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": []},
        "normalizer": {"type": "NFC"} if name == "Qwen2" else None,
        "pre_tokenizer": splits,
        "post_processor": None,
        "decoder": {**prefix, "use_regex": True},
        "model": model,
    }


def _added_token(token, index, options):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **flags, "special": True, **options}
