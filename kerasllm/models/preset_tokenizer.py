"""The tokenizer of a preset, in and out, where keras-hub and we have the same kind of it."""

import json
import logging
import pathlib
import shutil
import tempfile

from kerasllm.families.keras_hub import PRESETS
from kerasllm.tokenizers import ByteLevelBPETokenizer, WordPieceTokenizer
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


def load_preset_tokenizer(folder, family):
    """Read a preset's tokenizer.

    Args:
        folder: `pathlib.Path`.
        family: str.

    Returns:
        A tokenizer of `kerasllm.tokenizers`; None where there is none, or none of the kinds that
        are the same there and here, which a log line says.

    Raises:
        ValueError: a file is broken.
    """
    path, assets = folder / "tokenizer.json", folder / "assets" / "tokenizer"
    if not path.is_file():
        return None
    fields = read_json(path)["config"]
    if family in WORDPIECE:
        lines = (assets / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
        return WordPieceTokenizer(
            [line.rstrip() for line in lines if line.rstrip()],
            lowercase=fields["lowercase"],
            strip_accents=fields["strip_accents"],
            allow_special_tokens=fields.get("special_tokens_in_strings", False),
        )
    if family in BYTE_LEVEL_BPE:
        return _load_byte_level_bpe(assets, family, fields)
    logger.warning("The tokenizer in `%s` is of a kind that is not read from presets.", folder)
    return None


def _load_byte_level_bpe(assets, family, fields):
    name, special = BYTE_LEVEL_BPE[family]
    prefix = fields.get("add_prefix_space", False)
    config = {"tokenizer_class": name, "add_prefix_space": prefix, **special}
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        shutil.copy(assets / "vocabulary.json", place / "vocab.json")
        shutil.copy(assets / "merges.txt", place / "merges.txt")
        (place / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return ByteLevelBPETokenizer.from_pretrained(place)


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
    if fields is None:
        if tokenizer is not None:
            logger.warning("The preset is without a tokenizer: keras-hub's is of another kind.")
        return None
    preset = PRESETS[family]
    module, name = f"{preset.module}.{preset.module}_tokenizer", f"{preset.name}Tokenizer"
    assets = folder / "assets" / "tokenizer"
    assets.mkdir(parents=True)
    for file, text in files.items():
        (assets / file).write_text(text, encoding="utf-8", newline="\n")
    fields = serialized(module, name, {"config_file": "tokenizer.json", **fields}, "int32")
    text = json.dumps(fields, ensure_ascii=False, indent=4) + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return fields


def _byte_level_bpe(tokenizer):
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        pipeline = read_json(pathlib.Path(place) / "tokenizer.json")
    model = pipeline["model"]
    added = {token["content"]: token["id"] for token in pipeline["added_tokens"]}
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    steps = json.dumps(pipeline["pre_tokenizer"])
    return {"add_prefix_space": '"add_prefix_space": true' in steps}, {
        "vocabulary.json": json.dumps({**model["vocab"], **added}, ensure_ascii=False),
        "merges.txt": "".join(f"{pair}\n" for pair in merges),
    }
