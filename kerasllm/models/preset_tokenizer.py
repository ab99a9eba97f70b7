"""The tokenizer of a preset, in and out, where keras-hub and we have the same kind of it.

Of keras-hub 0.32 it differs by kind whose ids ours are, in what few texts the two disagree on:

- WordPiece: those of transformers. keras-hub takes U+3000 for no blank, and leaves in what the
  other leaves out, such as U+FFFD.
- Byte-level BPE: those of transformers, which cuts a text as the family's vocabulary was learned.
  keras-hub cuts none before it merges, except in `tf.data`, by a pattern near to GPT-2's for every
  family. Where a merge reaches over a cut, as in long numbers, its ids are others.
- SentencePiece: those of that library, which keras-hub asks. transformers puts no second space
  before a text of LLaMA 2 and Mistral, writes ALBERT's in lower case, without accents, and loses
  marks of letters that are several characters; see `as_sentencepiece`. Left are marks in a wrong
  order, voice marks of half width, jamos, and pieces of equal scores.

Special tokens that stand in a text are plain text, unless `allow_special_tokens` says otherwise.
What the other class can't do (lower case in SentencePiece, another cut) is not written.
"""

import json
import logging
import pathlib
import tempfile

from kerasllm.families.keras_hub import PRESETS, VARIANTS
from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from kerasllm.tokenizers.pipeline import flat
from kerasllm.tokenizers.sentencepiece_model import (
    as_sentencepiece,
    llama_model,
    read_pipeline,
    unigram_model,
)
from kerasllm.weights import read_json

logger = logging.getLogger("kerasllm")

# Tables by what a class of keras-hub begins with.
WORDPIECE = ("Bert", "DistilBert", "Electra")
# Hugging Face's name, what its config says where keras-hub's class is otherwise, and the special
# tokens without which that class can't be made.
_ROBERTA = "<s> </s> <pad> <mask>"
_OPT = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
_LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": True}
BYTE_LEVEL_BPE = {
    "Roberta": ("Roberta", {}, _ROBERTA),
    "Bart": ("Bart", {}, "<s> </s> <pad>"),
    "GPT2": ("GPT2", {}, "<|endoftext|>"),
    "OPT": ("GPT2", _OPT, "</s> <pad>"),
    "Qwen": ("Qwen2", {}, "<|endoftext|>"),
    "Qwen3": ("Qwen2", {"eos_token": "<|im_end|>"}, "<|im_end|> <|endoftext|>"),
    "Bloom": ("Bloom", {}, "<s> </s> <pad>"),
    "Llama3": (
        *("Llama3", _LLAMA3),
        "<|begin_of_text|> <|end_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|>",
    ),
}
# As before, and the function that writes SentencePiece's file.
_LLAMA = ("Llama", {"add_bos_token": True}, "<s> </s>", llama_model)
SENTENCEPIECE = {
    "Llama": _LLAMA,
    "Mistral": _LLAMA,
    "T5": ("T5", {}, "</s> <pad>", unigram_model),
    "Albert": ("Albert", {}, "[CLS] [SEP] <pad> [MASK]", unigram_model),
    "XLMRoberta": ("XLMRoberta", {}, _ROBERTA, unigram_model),
}
# Of LLaMA 3's hundreds of special tokens, these are not in its presets: there are gaps in the ids.
RESERVED = "<|reserved_"
KINDS = {
    **dict.fromkeys(WORDPIECE, WordPieceTokenizer),
    **dict.fromkeys(BYTE_LEVEL_BPE, ByteLevelBPETokenizer),
    **dict.fromkeys(SENTENCEPIECE, SentencePieceTokenizer),
}


def serialized(module, name, fields, dtype="float32"):
    """Write an object of keras-hub as Keras serialises it.

    Args:
        module: str, where the class is, below `keras_hub.src.models`.
        name: str, of the class.
        fields: dict, of its constructor.
        dtype: str, its policy.

    Returns:
        dict, ready for JSON.
    """
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }
    common = {"name": module.split(".")[-1], "trainable": True, "dtype": policy}
    return {
        "module": f"keras_hub.src.models.{module}",
        "class_name": name,
        "config": {**common, **fields},
        "registered_name": f"keras_hub>{name}",
    }


def read_serialized(path):
    """Read an object of keras-hub as Keras serialises it.

    Args:
        path: `pathlib.Path` of a JSON file.

    Returns:
        dict, with its fields as `config`.

    Raises:
        ValueError: the file holds none; the message names it.
    """
    fields = read_json(path)
    if not isinstance(fields.get("config"), dict):
        raise ValueError(
            f"`{path}` must hold an object as Keras serialises it, with a `config`. Received: "
            f"{sorted(fields)}."
        )
    return fields


def load_preset_tokenizer(folder, family):
    """Read a preset's tokenizer.

    Args:
        folder: `pathlib.Path`.
        family: str.

    Returns:
        A tokenizer of `kerasllm.tokenizers`; None where there is none, or none of the kinds that
        are the same there and here, which a log line says.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: a file is broken.
    """
    path, assets = folder / "tokenizer.json", folder / "assets" / "tokenizer"
    if not path.is_file():
        return None
    stored = read_serialized(path)
    fields, name = stored["config"], str(stored.get("class_name")).removesuffix("Tokenizer")
    if name not in KINDS or not name.startswith(PRESETS[family].name):
        logger.warning("The tokenizer in `%s` is of a kind that is not read from presets.", folder)
        return None
    if name in WORDPIECE:
        lines = (assets / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
        return WordPieceTokenizer(
            [line.rstrip() for line in lines if line.rstrip()],
            lowercase=fields.get("lowercase", False),
            strip_accents=fields.get("strip_accents", False),
            allow_special_tokens=fields.get("special_tokens_in_strings", False),
        )
    if name in BYTE_LEVEL_BPE:
        vocab, merges = assets / "vocabulary.json", (assets / "merges.txt").read_bytes()
        return _byte_level_bpe(name, read_json(vocab), merges, fields)
    return _sentencepiece(assets / "vocabulary.spm", name)


def _byte_level_bpe(name, vocab, merges, fields):
    kind, said, needed = BYTE_LEVEL_BPE[name]
    ids = set(vocab.values())
    last = min(max(ids, default=0), 2 * len(ids))  # fewer than that, if the file is whole
    special = {f"{RESERVED}{i}|>": i for i in range(last) if i not in ids}
    tokens = {*(fields.get("unsplittable_tokens") or ()), *needed.split()} & vocab.keys()
    special |= {token: vocab[token] for token in tokens}
    config = {
        "tokenizer_class": f"{kind}Tokenizer",
        "add_prefix_space": fields.get("add_prefix_space", False),
        "added_tokens_decoder": {i: {"content": token} for token, i in special.items()},
        **said,
    }
    files = {"vocab.json": json.dumps({**vocab, **special}).encode(), "merges.txt": merges}
    return _from_files(ByteLevelBPETokenizer, files, config)


def _sentencepiece(path, name):
    kind, said, *_ = SENTENCEPIECE[name]
    config = {"tokenizer_class": f"{kind}Tokenizer", **said}
    pipeline = as_sentencepiece(read_pipeline(path, kind, config))
    files = {"tokenizer.json": json.dumps(pipeline).encode()}
    return _from_files(SentencePieceTokenizer, files, config)


def _from_files(kind, files, config):
    """A tokenizer of Hugging Face's files: bytes by name."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        files = {**files, "tokenizer_config.json": json.dumps(config).encode()}
        for name, content in files.items():
            (place / name).write_bytes(content)
        return kind.from_pretrained(place)


def save_tokenizer(tokenizer, folder, family):
    """Write a tokenizer into a preset.

    Args:
        tokenizer: of `kerasllm.tokenizers`, or None.
        folder: `pathlib.Path` that exists.
        family: str.

    Returns:
        dict, their serialised tokenizer; None where there is none, or none of the kinds that are
        the same there and here, which a log line says.
    """
    if tokenizer is None:
        return None
    presets = (PRESETS[family], VARIANTS.get(family, PRESETS[family]))
    fitting = [preset for preset in presets if KINDS.get(preset.name) is type(tokenizer)]
    if not fitting:
        return _without("keras-hub's is of another kind.")
    preset, name = fitting[0], fitting[0].name
    try:
        fields, files = _WRITERS[type(tokenizer)](tokenizer, name)
    except ValueError as error:
        return _without(f"keras-hub's {name}Tokenizer can't do the same: {error}.")
    assets = folder / "assets" / "tokenizer"
    assets.mkdir(parents=True)
    for file, content in files.items():
        (assets / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    module = f"{preset.module}.{preset.module}_tokenizer"
    fields = {"config_file": "tokenizer.json", **fields}
    fields = serialized(module, f"{name}Tokenizer", fields, "int32")
    text = json.dumps(fields, ensure_ascii=False, indent=4) + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return fields


def _without(reason):
    logger.warning("The preset is without a tokenizer: %s", reason)


def _pipeline(tokenizer):
    """What a `tokenizer.json` of a tokenizer holds."""
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        return read_json(pathlib.Path(place) / "tokenizer.json")


# Each gives the fields of a tokenizer and its files; an error where keras-hub can't do the same.


def _write_wordpiece(tokenizer, _):
    strip = tokenizer.lowercase if tokenizer.strip_accents is None else tokenizer.strip_accents
    fields = {
        "lowercase": tokenizer.lowercase,
        "strip_accents": strip,
        "special_tokens_in_strings": tokenizer.allow_special_tokens,
    }
    return fields, {"vocabulary.txt": "".join(f"{entry}\n" for entry in tokenizer.vocab)}


def _write_sentencepiece(tokenizer, name):
    *_, needed, write = SENTENCEPIECE[name]
    pipeline = _pipeline(tokenizer)
    _check_needed(pipeline, needed)
    model = write(pipeline, tokenizer.special_tokens)
    if model is None:
        raise ValueError("SentencePiece does not cut or normalize a text as this one does")
    fields = {"proto": None, "sequence_length": None, "add_bos": False, "add_eos": False}
    return fields, {"vocabulary.spm": model}


def _write_byte_level_bpe(tokenizer, name):
    pipeline, special = _pipeline(tokenizer), tokenizer.special_vocab
    _check_needed(pipeline, BYTE_LEVEL_BPE[name][-1])
    model = pipeline["model"]
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    merges = "".join(f"{pair}\n" for pair in merges)
    vocab = {**model["vocab"], **{t["content"]: t["id"] for t in pipeline["added_tokens"]}}
    vocab = {token: i for token, i in vocab.items() if not token.startswith(RESERVED)}
    fields = {
        "add_prefix_space": '"add_prefix_space": true' in json.dumps(pipeline["pre_tokenizer"]),
        "unsplittable_tokens": [token for token in special if token in vocab],
    }
    again = _byte_level_bpe(name, vocab, merges.encode(), fields)
    if _cuts(_pipeline(again)) != _cuts(pipeline):
        raise ValueError("it does not cut a text as this one does")
    return fields, {"vocabulary.json": json.dumps(vocab, ensure_ascii=False), "merges.txt": merges}


_WRITERS = {
    WordPieceTokenizer: _write_wordpiece,
    ByteLevelBPETokenizer: _write_byte_level_bpe,
    SentencePieceTokenizer: _write_sentencepiece,
}


def _cuts(pipeline):
    """What comes before the merges of byte-level BPE."""
    steps = flat(pipeline["pre_tokenizer"], "pretokenizers")
    steps = [{**step, "trim_offsets": True} for step in steps]
    return pipeline["normalizer"], steps, pipeline["model"].get("ignore_merges", False)


def _check_needed(pipeline, needed):
    vocab = pipeline["model"]["vocab"]
    known = {*(vocab if isinstance(vocab, dict) else (piece for piece, _ in vocab))}
    known |= {token["content"] for token in pipeline["added_tokens"]}
    missing = sorted(set(needed.split()) - known)
    if missing:
        raise ValueError(f"it needs {', '.join(missing)}")
