"""SentencePiece's own file (`spiece.model`), made into what a `tokenizer.json` would hold.

Hugging Face's classes don't encode with SentencePiece: they take its pieces, and do the rest in
their own way. So do these functions, a small one for each family, and the ids are theirs. Of the
options in the file only the table of its normalization counts; `add_dummy_prefix` and
`remove_extra_whitespaces` are, as with those classes, what the family has.
"""

import base64
import struct
from collections import defaultdict
from typing import NamedTuple

from tokenizers import normalizers

from kerasllm.tokenizers.files import content, read_object
from kerasllm.tokenizers.pipeline import SPECIAL_TOKENS, flat

FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # SentencePiece.Type
VARINT, BYTES, FIXED32 = 0, 2, 5  # how a protobuf field is written
SIZES = {1: 8, FIXED32: 4}
PARTS = ("pieces", "trainer_spec", "normalizer_spec")  # ModelProto's fields 1 to 3

# XLM-R's first tokens, where its SentencePiece file has `<unk>`, `<s>` and `</s>`.
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")

# What `as_sentencepiece` adds to a table.
NORMAL_FORM = {"type": "NFC"}
SINGLE_SPACES = [
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]

# The order in which Hugging Face's classes add special tokens that are no pieces.
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Model(NamedTuple):
    """What a SentencePiece file holds.

    Args:
        pieces: list of `(text, score, type)`.
        algorithm: int, `UNIGRAM` or `BPE`, or that of another model.
        unk_id: int, the index of the piece for what is no piece.
        charsmap: bytes, the table of the normalization; empty where there is none.
    """

    pieces: list
    algorithm: int
    unk_id: int
    charsmap: bytes


def read_model(path):
    r"""Reads a SentencePiece file, which is a protobuf message of the type `ModelProto`.

    Args:
        path: path of the file.

    Returns:
        A `Model`.

    Raises:
        ValueError: where it is not such a file, or not the whole of one.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "spiece.model")
        >>> piece = b"\x0a\x03sun\x15\x00\x00\x80\xbf"
        >>> _ = path.write_bytes(b"\x0a\x0a" + piece + b"\x12\x02\x18\x02\x1a\x00")
        >>> read_model(path)
        Model(pieces=[('sun', -1.0, 1)], algorithm=2, unk_id=0, charsmap=b'')

    References:
        `sentencepiece_model.proto` of google/sentencepiece.
    """
    try:
        found = _fields(path.read_bytes())
        pieces = [_piece(_fields(data)) for data in found[1, BYTES]]
        # A message that stands twice is one with the fields of both.
        trainer, normalizer = (_fields(b"".join(found[number, BYTES])) for number in (2, 3))
        charsmap = _checked_charsmap(_last(normalizer[2, BYTES], b""))
    except ValueError as error:
        raise ValueError(
            f"{path} must be a SentencePiece model. Received: {error} (is it whole?)"
        ) from error
    missing = [name for number, name in enumerate(PARTS, 1) if not found[number, BYTES]]
    if missing:
        raise ValueError(
            f"{path} must be a SentencePiece model. Received: one without {' and '.join(missing)} "
            "(is it whole?)"
        )
    algorithm, unk_id = _last(trainer[3, VARINT], UNIGRAM), _last(trainer[40, VARINT], 0)
    return Model(pieces, algorithm, unk_id, charsmap)


def _piece(fields):
    (score,) = struct.unpack("<f", _last(fields[2, FIXED32], b"\0" * 4))
    text = _last(fields[1, BYTES], b"").decode("utf-8")
    return text, score, _last(fields[3, VARINT], NORMAL)


def _checked_charsmap(charsmap):
    """The table, if the `tokenizers` package can read it.

    In a pipeline a bad one would be no error of Python's, but a panic of that package.
    """
    try:
        if charsmap:
            normalizers.Precompiled(charsmap)
    except Exception as error:  # the library has no type of its own for it
        raise ValueError(f"a precompiled_charsmap that is no table: {error}") from error
    return charsmap


def _last(values, default):
    return values[-1] if values else default


def _fields(data):
    """The fields of a protobuf message: lists of values, by number and way of writing."""
    found, at = defaultdict(list), 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == BYTES or kind in SIZES:
            size, at = _varint(data, at) if kind == BYTES else (SIZES[kind], at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        found[number, kind].append(value)
    if at > len(data):
        raise ValueError("an end in the midst of a field")
    return found


def _varint(data, at):
    """The number that is written from `at` on, seven bits a byte, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):  # no number has more bytes
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number without an end")


def llama_model(pipeline, special):
    """Gives the SentencePiece file of byte-pair encoding that does what a pipeline says.

    Args:
        pipeline: dict, what a `tokenizer.json` holds.
        special: dict from `"unk"`, `"bos"` and `"eos"` to the token of that role.

    Returns:
        bytes, a protobuf message of the type `ModelProto`; None where SentencePiece can't say it:
        another model or normalization, or merges in another order than that of their pieces.

    References:
        `sentencepiece_model.proto` of google/sentencepiece.
    """
    model = pipeline["model"]
    ids = dict(model["vocab"]) if model["type"] == "BPE" else {}
    made = dict.fromkeys("".join(pair) for pair in model.get("merges", ()))
    if not ids or not model.get("byte_fallback") or not _is_llama(pipeline, special):
        return None
    if list(made) != sorted(made, key=ids.get):
        return None
    added = {token["content"]: token for token in pipeline["added_tokens"]}
    ids |= {text: token["id"] for text, token in added.items()}
    kinds = {text: CONTROL if token["special"] else USER_DEFINED for text, token in added.items()}
    kinds |= {f"<0x{byte:02X}>": BYTE for byte in range(256)} | {special["unk"]: UNKNOWN}
    pieces = [
        _field(1, text.encode()) + _field(2, -float(i)) + _field(3, kinds.get(text, NORMAL))
        for text, i in sorted(ids.items(), key=lambda item: item[1])
    ]
    numbers = {3: BPE, 4: len(ids), 35: 1, 40: ids[special["unk"]]}  # of TrainerSpec
    numbers |= {41: ids[special["bos"]], 42: ids[special["eos"]]}
    names = {45: special["unk"], 46: special["bos"], 47: special["eos"]}
    trainer = [_field(number, value) for number, value in numbers.items()]
    trainer += [_field(number, text.encode()) for number, text in names.items()]
    # Of NormalizerSpec: a space before the text, none removed.
    normalizer = [_field(1, b"identity"), _field(3, 1), _field(4, 0), _field(5, 1)]
    return _model_proto(pieces, trainer, normalizer)


def unigram_model(pipeline, special):
    """Gives the SentencePiece file of a unigram model that does what a pipeline says.

    Args:
        pipeline: dict, what a `tokenizer.json` holds.
        special: dict from `"unk"` and others to the token of that role.

    Returns:
        bytes, a protobuf message of the type `ModelProto`, without the tokens that stand for spans,
        and with the first and last ones of XLM-R as they were before fairseq's came; None where
        SentencePiece can't say it: it has no other steps than those of its table.

    References:
        As of `llama_model`.
    """
    model = pipeline["model"]
    steps = flat(pipeline.get("normalizer"), "normalizers")
    steps = [step for step in steps if step not in (NORMAL_FORM, *SINGLE_SPACES)]
    said = [step["type"] for step in steps]
    if model["type"] != "Unigram" or said not in ([], ["Precompiled"]) or "unk" not in special:
        return None
    charsmap = base64.b64decode(steps[0]["precompiled_charsmap"]) if steps else b""
    vocab, unk_id = model["vocab"], model["unk_id"]
    if [text for text, _ in vocab[: len(FAIRSEQ)]] == [*FAIRSEQ]:
        vocab = [(text, 0.0) for text in ("<unk>", "<s>", "</s>")] + vocab[len(FAIRSEQ) : -1]
        unk_id = 0
    types = dict.fromkeys(special.values(), CONTROL) | {special["unk"]: UNKNOWN}
    pieces = [
        _field(1, text.encode()) + _field(2, float(score)) + _field(3, types.get(text, NORMAL))
        for text, score in vocab
        if not text.startswith("<extra_id_")
    ]
    numbers = {"unk": 45, "bos": 46, "eos": 47, "pad": 48}  # the names, of TrainerSpec
    trainer = [_field(3, UNIGRAM), _field(4, len(pieces)), _field(40, unk_id)]
    trainer += [
        _field(number, special[role].encode())
        for role, number in numbers.items()
        if role in special
    ]
    # Of NormalizerSpec: a space before the text, of several one, and written as ▁.
    normalizer = [_field(1, b"nmt_nfkc"), _field(2, charsmap), *(_field(i, 1) for i in (3, 4, 5))]
    return _model_proto(pieces, trainer, normalizer)


def as_sentencepiece(pipeline):
    """Makes a pipeline that does as Hugging Face's class one that does as SentencePiece itself.

    Of a unigram model's steps only the table stays, and of several spaces one. The normal form C
    comes first: where SentencePiece finds several characters in its table, the `tokenizers` package
    often finds but the first. What its user has defined, the model finds as pieces. Of byte-pair
    encoding, a space is put before each text, as in the published `tokenizer.json` of LLaMA 2.

    Args:
        pipeline: dict, as `read_pipeline` gives it.

    Returns:
        dict.
    """
    if pipeline["model"]["type"] == "BPE":
        steps = [{"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")]
        return {**pipeline, "normalizer": _sequence(steps), "pre_tokenizer": None}
    steps = flat(pipeline["normalizer"], "normalizers")
    steps = [step for step in steps if step["type"] == "Precompiled"]
    steps = [NORMAL_FORM, *steps, *SINGLE_SPACES] if steps else SINGLE_SPACES
    return {
        **pipeline,
        "normalizer": _sequence(steps),
        "pre_tokenizer": _metaspace("always", split=True),
        "added_tokens": [token for token in pipeline["added_tokens"] if token["special"]],
    }


def _model_proto(pieces, trainer, normalizer):
    parts = [(1, piece) for piece in pieces]
    parts += [(2, b"".join(trainer)), (3, b"".join(normalizer))]
    return b"".join(_field(number, part) for number, part in parts)


def _is_llama(pipeline, special):
    """Whether spaces are written as ▁, one is put before a text, and nothing else is done."""
    steps = flat(pipeline.get("normalizer"), "normalizers")
    steps += flat(pipeline.get("pre_tokenizer"), "pretokenizers")
    said = {(step["type"], step.get("prepend_scheme", step.get("prepend"))) for step in steps}
    spaces = [step.get("pattern") for step in steps if step["type"] == "Replace"]
    cut = any(step.get("split", True) for step in steps if step["type"] == "Metaspace")
    return (
        special.keys() >= {"unk", "bos", "eos"}
        and not cut
        and spaces in ([], [{"String": " "}])
        and said in (
            {("Metaspace", "always")}, {("Metaspace", "first")},
            {("Prepend", "▁"), ("Replace", None)},
        )
    )  # fmt: skip


def _field(number, value):
    """A field of a protobuf message: bytes, a number, or one with a fraction."""
    if isinstance(value, float):
        return _written(number << 3 | FIXED32) + struct.pack("<f", value)
    if isinstance(value, int):
        return _written(number << 3 | VARINT) + _written(value)
    return _written(number << 3 | BYTES) + _written(len(value)) + value


def _written(value):
    """A number, seven bits a byte: what `_varint` reads."""
    found = b""
    while value > 0x7F:
        value, found = value >> 7, found + bytes([value & 0x7F | 0x80])
    return found + bytes([value])


# ------------------------------------------------------------------ pipelines


def read_pipeline(path, name, config):
    """Gives what a `tokenizer.json` in place of a SentencePiece file would hold.

    Args:
        path: path of the file, beside which `special_tokens_map.json` and `added_tokens.json` may
            stand.
        name: str or None, the tokenizer's class, such as `"T5"`.
        config: dict, what `tokenizer_config.json` holds.

    Returns:
        dict. There is no post-processor in that of LLaMA, whose rows are as `add_bos_token` and
        `add_eos_token` of `config` say; without them, as in `transformers` 5, no token is added.

    Raises:
        ValueError: where the family is not known, or `path` is no model of its kind.
    """
    if name not in CONVERSIONS:
        raise ValueError(
            f"{path} must come with a `tokenizer_class` of tokenizer_config.json, or a "
            "`model_type` of config.json, that says what its tokenizer adds: "
            f"{', '.join(CONVERSIONS)}. Received: {name!r}"
        )
    algorithm, convert, *row = CONVERSIONS[name]
    model = read_model(path)
    if model.algorithm != algorithm:
        raise ValueError(
            f"{path}: `trainer_spec.model_type` must be {algorithm} (1 is Unigram, 2 is BPE) for "
            f"the class {name}. Received: {model.algorithm}"
        )
    model, steps = convert(model, config)
    ids = {text: index for index, (text, _, _) in enumerate(model.pieces)}
    steps["model"] = _unigram(model) if algorithm == UNIGRAM else _bpe(ids)
    roles = _role_tokens(path.parent, name, config)
    try:
        steps["added_tokens"] = _added_tokens(path.parent, config, model, roles, ids)
        steps["post_processor"] = _post_processor(*row, roles, ids) if row else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {"version": "1.0", "truncation": None, "padding": None, **steps}


def _unigram(model):
    vocab = [[text, score] for text, score, _ in model.pieces]
    return {"type": "Unigram", "unk_id": model.unk_id, "vocab": vocab, "byte_fallback": False}


def _bpe(ids):
    """The merges of pieces: each way to make one of two others, in the order of the pieces."""
    merges = []
    for text in ids:
        cuts = ((text[:i], text[i:]) for i in range(1, len(text)))
        merges += [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
    options = {"dropout": None, "unk_token": None, "fuse_unk": True, "byte_fallback": True}
    return {"type": "BPE", "vocab": dict(ids), "merges": merges, **options}


def _role_tokens(folder, name, config):
    """The token of each role, as the files have it, or else the class; some are objects."""
    listed, found = read_object(folder / "special_tokens_map.json"), {}
    for role in ROLES:
        key = f"{role}_token"
        stated = listed.get(key) or config.get(key)
        found[role] = stated if stated or key in config else SPECIAL_TOKENS[name].get(role)
    return {role: token for role, token in found.items() if token}


def _added_tokens(folder, config, model, roles, ids):
    """The tokens that are found in a text before it is cut; new ones get the next of `ids`."""
    special = list(roles.values())
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    special += extra.values() if isinstance(extra, dict) else extra
    if not extra:  # what a folder names stands in place of these, as in Hugging Face's classes
        special += [
            {"content": text, "special": kind == CONTROL, "normalized": False}
            for text, _, kind in model.pieces
            if kind in (CONTROL, USER_DEFINED)
        ]
    stated = _stated_tokens(folder, config, {content(token) for token in special})
    found = {token["content"]: token for _, token in stated}
    found |= {
        content(token): _added_token(token) for token in special if content(token) not in found
    }
    for text, token in found.items():
        token["id"] = ids.setdefault(text, len(ids))
    for index, token in stated:
        if token["id"] != index:
            raise ValueError(
                f"added token {token['content']!r} must have the id {token['id']}: it is that "
                f"piece, or follows the pieces. Received: {index} in the files beside it"
            )
    return sorted(found.values(), key=lambda token: token["id"])


def _stated_tokens(folder, config, special):
    """`(id, token)` of the tokens that the files list with their ids, in that order."""
    stated = config.get("added_tokens_decoder")
    if stated is None:
        ids = read_object(folder / "added_tokens.json")
        stated = {i: {"content": text, "special": text in special} for text, i in ids.items()}
    stated = [(int(index), _added_token(token)) for index, token in stated.items()]
    return sorted(stated, key=lambda item: item[0])


def _added_token(token):
    options = token if isinstance(token, dict) else {"content": token}
    special = options.get("special", True)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    flags = {flag: options.get(flag, default) for flag, default in flags.items()}
    return {"content": options["content"], "special": special, **flags}


def _post_processor(single, pair, roles, ids):
    """The rows of one text and of two, written as roles and texts: `"cls A sep B:1 sep:1"`."""
    special = {}

    def part(name):
        name, _, segment = name.partition(":")
        if name in ("A", "B"):
            return {"Sequence": {"id": name, "type_id": int(segment or 0)}}
        if name not in roles:
            raise ValueError(f"`{name}_token` must be a token: each row has it. Received: none")
        token = content(roles[name])
        special[token] = {"id": token, "ids": [ids[token]], "tokens": [token]}
        return {"SpecialToken": {"id": token, "type_id": int(segment or 0)}}

    rows = {"single": [*map(part, single.split())], "pair": [*map(part, pair.split())]}
    return {"type": "TemplateProcessing", **rows, "special_tokens": special}


# ------------------------------------------------------------------ families


def _albert(model, config):
    steps = [_replace("``", '"'), _replace("''", '"')]
    if not config.get("keep_accents"):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if config.get("do_lower_case", True):
        steps.append({"type": "Lowercase"})
    return model, _words(steps + _charsmap(model), _has_prefix(config))


def _t5(model, config):
    count = config.get("extra_ids", 100)
    extra = [(f"<extra_id_{index}>", 0.0, CONTROL) for index in reversed(range(count))]
    return model._replace(pieces=model.pieces + extra), _words(_charsmap(model), True)


def _xlm_roberta(model, config):
    """With the first ids of fairseq, where the model was trained, and its last one."""
    first = [(token, 0.0, NORMAL) for token in FAIRSEQ]
    pieces = [*first, *model.pieces[3:], ("<mask>", 0.0, NORMAL)]
    model = model._replace(pieces=pieces, unk_id=3)
    return model, _words(_charsmap(model), _has_prefix(config))


def _llama(model, config):
    """One word a text: with spaces in the midst of pieces, and no normalization."""
    prefix = _has_prefix(config)
    first = "always" if config.get("legacy") else "first"
    metaspace = _metaspace(first if prefix else "never", split=False)
    decoder = [_replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    decoder = {"type": "Sequence", "decoders": decoder}
    return model, {"normalizer": None, "pre_tokenizer": metaspace, "decoder": decoder}


def _words(steps, prefix):
    """The steps of the families whose texts are cut at white space."""
    metaspace = _metaspace("always" if prefix else "never", split=True)
    cut = [{"type": "WhitespaceSplit"}, metaspace]
    return {
        "normalizer": _sequence(steps) if steps else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
        "decoder": metaspace,
    }


def _sequence(steps):
    return {"type": "Sequence", "normalizers": steps}


def _has_prefix(config):
    stated = config.get("add_prefix_space")
    return True if stated is None else bool(stated)


def _metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def _replace(old, new):
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _charsmap(model):
    charsmap = base64.b64encode(model.charsmap).decode()
    return [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []


# The algorithm of a family by the name of its class, its conversion, and its rows of one text and
# of two; LLaMA's rows stand in tokenizer_config.json.
CONVERSIONS = {
    "Albert": (UNIGRAM, _albert, "cls A sep", "cls A sep B:1 sep:1"),
    "T5": (UNIGRAM, _t5, "A eos", "A eos B eos"),
    "XLMRoberta": (UNIGRAM, _xlm_roberta, "bos A eos", "bos A eos eos B eos"),
    "Llama": (BPE, _llama),
}
