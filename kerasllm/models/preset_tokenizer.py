"""The tokenizer of a preset, in and out, where keras-hub and we have the same kind of it.

That is so of WordPiece, of the byte-level BPE of GPT-2's kin and of Qwen, and of the SentencePiece
of LLaMA 2, Mistral and T5. SentencePiece itself puts a space before each text, Hugging Face's class
for LLaMA before none that begins with one; a preset's tokenizer does as the former. keras-hub cuts
a text by GPT-2's pattern in a graph, and not at all outside of one: of byte-level BPE some ids are
others there, and more of BLOOM and LLaMA 3, which are left out. So are ALBERT and XLM-R, whose
texts it does not lower-case, and normalizes in another way.
"""

import json
import logging
import pathlib
import tempfile

from kerasllm.families.keras_hub import PRESETS
from kerasllm.tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
    sentencepiece_model,
)
from kerasllm.weights import read_json

logger = logging.getLogger("kerasllm")

WORDPIECE = ("bert", "distilbert", "electra")
# Hugging Face's class, and the special tokens where keras-hub's are others than that class has.
_OPT = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
BYTE_LEVEL_BPE = {
    "roberta": ("RobertaTokenizer", {}),
    "bart": ("BartTokenizer", {}),
    "gpt2": ("GPT2Tokenizer", {}),
    "opt": ("GPT2Tokenizer", _OPT),
    "qwen2": ("Qwen2Tokenizer", {}),
    "qwen3": ("Qwen2Tokenizer", {"eos_token": "<|im_end|>"}),
}
# As SentencePiece does it, and the published `tokenizer.json` of LLaMA 2.
_SPACES = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "pre_tokenizer": None,
}
# Hugging Face's class, what its config says, what a preset's tokenizer does otherwise, and the
# function that writes its file.
_LLAMA = ("Llama", {"add_bos_token": True}, _SPACES, sentencepiece_model.llama_model)
SENTENCEPIECE = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "t5": ("T5", {}, {}, sentencepiece_model.t5_model),
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
    fields = stored["config"]
    if family in WORDPIECE:
        lines = (assets / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
        return WordPieceTokenizer(
            [line.rstrip() for line in lines if line.rstrip()],
            lowercase=fields.get("lowercase", False),
            strip_accents=fields.get("strip_accents", False),
            allow_special_tokens=fields.get("special_tokens_in_strings", False),
        )
    if family in BYTE_LEVEL_BPE:
        return _load_byte_level_bpe(assets, family, fields)
    if family in SENTENCEPIECE and stored.get("class_name") == _class_name(family):
        return _load_sentencepiece(assets / "vocabulary.spm", family)
    logger.warning("The tokenizer in `%s` is of a kind that is not read from presets.", folder)
    return None


def _load_byte_level_bpe(assets, family, fields):
    name, special = BYTE_LEVEL_BPE[family]
    prefix = fields.get("add_prefix_space", False)
    config = {"tokenizer_class": name, "add_prefix_space": prefix, **special}
    files = {"vocab.json": assets / "vocabulary.json", "merges.txt": assets / "merges.txt"}
    files = {name: path.read_bytes() for name, path in files.items()}
    return _from_files(ByteLevelBPETokenizer, files, config)


def _load_sentencepiece(path, family):
    name, said, changes, _ = SENTENCEPIECE[family]
    config = {"tokenizer_class": f"{name}Tokenizer", **said}
    pipeline = sentencepiece_model.read_pipeline(path, name, config)
    files = {"tokenizer.json": json.dumps({**pipeline, **changes}).encode()}
    return _from_files(SentencePieceTokenizer, files, config)


def _from_files(kind, files, config):
    """A tokenizer of Hugging Face's files: bytes by name."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        files = {**files, "tokenizer_config.json": json.dumps(config).encode()}
        for name, content in files.items():
            (place / name).write_bytes(content)
        return kind.from_pretrained(place)


def _class_name(family):
    return f"{PRESETS[family].name}Tokenizer"


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
    fields, files = None, {}
    if isinstance(tokenizer, WordPieceTokenizer) and family in WORDPIECE:
        strip = tokenizer.lowercase if tokenizer.strip_accents is None else tokenizer.strip_accents
        fields = {
            "lowercase": tokenizer.lowercase,
            "strip_accents": strip,
            "special_tokens_in_strings": tokenizer.allow_special_tokens,
        }
        files["vocabulary.txt"] = "".join(f"{entry}\n" for entry in tokenizer.vocab)
    elif isinstance(tokenizer, ByteLevelBPETokenizer) and family in BYTE_LEVEL_BPE:
        fields, files = _byte_level_bpe(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer) and family in SENTENCEPIECE:
        fields, files = _sentencepiece(tokenizer, family)
    if fields is None:
        if tokenizer is not None:
            logger.warning("The preset is without a tokenizer: keras-hub's is of another kind.")
        return None
    preset = PRESETS[family]
    module, name = f"{preset.module}.{preset.module}_tokenizer", _class_name(family)
    assets = folder / "assets" / "tokenizer"
    assets.mkdir(parents=True)
    for file, content in files.items():
        (assets / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    fields = serialized(module, name, {"config_file": "tokenizer.json", **fields}, "int32")
    text = json.dumps(fields, ensure_ascii=False, indent=4) + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return fields


def _pipeline(tokenizer):
    """What a `tokenizer.json` of a tokenizer holds."""
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        return read_json(pathlib.Path(place) / "tokenizer.json")


def _sentencepiece(tokenizer, family):
    *_, write = SENTENCEPIECE[family]
    model = write(_pipeline(tokenizer), tokenizer.special_tokens)
    fields = {"proto": None, "sequence_length": None, "add_bos": False, "add_eos": False}
    return (fields, {"vocabulary.spm": model}) if model else (None, {})


def _byte_level_bpe(tokenizer):
    pipeline = _pipeline(tokenizer)
    model = pipeline["model"]
    added = {token["content"]: token["id"] for token in pipeline["added_tokens"]}
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    steps = json.dumps(pipeline["pre_tokenizer"])
    return {"add_prefix_space": '"add_prefix_space": true' in steps}, {
        "vocabulary.json": json.dumps({**model["vocab"], **added}, ensure_ascii=False),
        "merges.txt": "".join(f"{pair}\n" for pair in merges),
    }
