"""Give a .tflite file what MediaPipe needs to take text and to name labels.

MediaPipe's own writer does not import from its wheel, and packs every weight anew. Here the file of
the converter stays as it is, byte for byte: a new root goes in front of it, which adds one buffer
with the metadata, and the files that the metadata names go behind it as a zip archive.
"""

import io
import unicodedata
import zipfile

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

BUFFER_NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
# The first version of MediaPipe's parser that knows all of this.
MIN_PARSER_VERSION = "1.5.0"
VOCAB_FILE, LABELS_FILE = "vocab.txt", "labels.txt"

# What MediaPipe calls our inputs, by which it finds them.
INPUTS = {
    "token_ids": ("ids", "Tokenized ids of the input text."),
    "padding_mask": ("mask", "Mask with 1 for real tokens and 0 for padding tokens."),
    "segment_ids": ("segment_ids", "0 for the first sequence, 1 for the second one, if there is."),
}

# Positions of fields and numbers of types in MediaPipe's metadata_schema.fbs.
FILE_NAME, FILE_DESCRIPTION, FILE_TYPE = 0, 1, 2
TENSOR_NAME, TENSOR_DESCRIPTION, TENSOR_CONTENT, TENSOR_FILES = 0, 1, 3, 6
UNION_TYPE, UNION_VALUE = 0, 1
GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_INPUT_UNITS = 2, 3, 5
MODEL_NAME, MODEL_DESCRIPTION, MODEL_GRAPHS, MODEL_PARSER = 0, 1, 3, 7
AXIS_LABELS, VOCABULARY = 2, 5
FEATURE_PROPERTIES, BERT_TOKENIZER_OPTIONS = 1, 4

# Positions in the schema of .tflite files, table `Model`; all fields but the version are offsets.
VERSION, BUFFERS, METADATA, MODEL_FIELDS = 0, 4, 6, 10
ALIGNMENT = 16  # of weights
ROOT_ROOM = 4096  # more than enough for a root table and its parts, but for the lists in it


def attach(content, inputs, vocab, labels, others=None):
    """Make a text classifier's .tflite file one that MediaPipe runs unchanged.

    Args:
        content: bytes, a .tflite file of the converter.
        inputs: sequence of str, keys of `INPUTS`, in the order of the file's inputs.
        vocab: sequence of str, the WordPiece vocabulary.
        labels: sequence of str.
        others: dict, name: bytes of further files to carry, or None.

    Returns:
        bytes, the same for the same arguments.

    Raises:
        ValueError: an entry or label holds a line break, or the weights lie behind the flatbuffer.
    """
    files = {VOCAB_FILE: _lines("vocab", vocab), LABELS_FILE: _lines("labels", labels)}
    files.update(others or {})
    return _with_files(_with_buffer(content, BUFFER_NAME, classifier_metadata(inputs)), files)


def attach_files(content, labels, files):
    """Put the labels and a tokenizer's files into a .tflite file that MediaPipe can't tokenize for.

    Args:
        content: bytes, the file.
        labels: sequence of str, names of the classes in the order of the scores; None for none.
        files: dict, name: bytes.

    Returns:
        bytes.

    Raises:
        ValueError: a label holds a line break.
    """
    names = {} if labels is None else {LABELS_FILE: _lines("labels", labels)}
    return _with_files(content, {**names, **files})


def plain_text(text):
    """Do to a text what MediaPipe leaves undone for an uncased vocabulary.

    MediaPipe lower-cases ASCII letters, and splits at ASCII white space and punctuation. BERT also
    lower-cases all other letters, drops accents and control characters, and knows more white space.

    Args:
        text: str.

    Returns:
        str, of which MediaPipe's tokenizer makes what `WordPieceTokenizer` makes of `text`.

    Example:
        >>> plain_text("Was für ein Café!")
        'was fur ein cafe!'
    """
    cleaned = "".join(map(_cleaned, text))
    bare = (c for c in unicodedata.normalize("NFD", cleaned) if unicodedata.category(c) != "Mn")
    # One character at a time, because at the end of a word `str.lower` writes another sigma.
    return "".join(char.lower() for char in bare)


def _cleaned(char):
    kind = unicodedata.category(char)
    if char in "\t\n\r" or kind.startswith("Z"):
        return " "
    return "" if kind in ("Cc", "Cf", "Co", "Cs") or char == "\ufffd" else char


def classifier_metadata(inputs):
    """Describe a BERT text classifier in MediaPipe's words.

    Args:
        inputs: sequence of str, keys of `INPUTS`, in the order of the file's inputs.

    Returns:
        bytes, a flatbuffer `ModelMetadata`.
    """
    vocab = {
        FILE_NAME: VOCAB_FILE,
        FILE_DESCRIPTION: "WordPiece vocabulary.",
        FILE_TYPE: VOCABULARY,
    }
    labels = {FILE_NAME: LABELS_FILE, FILE_DESCRIPTION: "Names of classes.", FILE_TYPE: AXIS_LABELS}
    tokenizer = {UNION_TYPE: BERT_TOKENIZER_OPTIONS, UNION_VALUE: {0: [vocab]}}
    score = _tensor("probability", "Scores of the labels, which sum to 1.", [labels])
    graph = {
        GRAPH_INPUTS: [_tensor(*INPUTS[name]) for name in inputs],
        GRAPH_OUTPUTS: [score],
        GRAPH_INPUT_UNITS: [tokenizer],
    }
    builder = flatbuffers.Builder()
    root = {
        MODEL_NAME: "TextClassifier",
        MODEL_DESCRIPTION: "Classify the input text into a set of known categories.",
        MODEL_GRAPHS: [graph],
        MODEL_PARSER: MIN_PARSER_VERSION,
    }
    builder.Finish(_add(builder, root), IDENTIFIER)
    return bytes(builder.Output())


def _tensor(name, description, files=()):
    return {
        TENSOR_NAME: name,
        TENSOR_DESCRIPTION: description,
        TENSOR_CONTENT: {UNION_TYPE: FEATURE_PROPERTIES, UNION_VALUE: {}},
        TENSOR_FILES: list(files),
    }


def _add(builder, value):
    """Add a str, a list of tables or a table (dict of field position: value); return its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list):
        return _add_vector(builder, [_add(builder, item) for item in value])
    # Children come before the table that refers to them. All numbers in the schema are bytes here.
    fields = {
        slot: item if isinstance(item, int) else _add(builder, item) for slot, item in value.items()
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, field in fields.items():
        if isinstance(value[slot], int):
            builder.PrependUint8Slot(slot, field, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, field, 0)
    return builder.EndObject()


def _add_vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _with_buffer(content, name, data):
    """Put a new root in front of a .tflite file: the old one's, and one more named buffer."""
    content = bytes(content) + bytes(-len(content) % ALIGNMENT)
    old = schema.Model.GetRootAs(content)
    buffers = [old.Buffers(i) for i in range(old.BuffersLength())]
    entries = [old.Metadata(i) for i in range(old.MetadataLength())]
    if any(buffer.Offset() > 1 for buffer in buffers):
        raise ValueError(
            "`content` must hold its weights inside of the flatbuffer. Received: weights behind it "
            "(the file is over 2 GB, or was packed by another tool)."
        )

    # A builder works from the end to the front, and counts offsets from the end. So one that seems
    # to have written the old file already may refer to everything in it.
    room = ROOT_ROOM + len(data) + 4 * (len(buffers) + len(entries))
    builder = flatbuffers.Builder()
    builder.Bytes, builder.head, builder.minalign = bytearray(room) + content, room, ALIGNMENT

    def at(table):
        return len(content) - table._tab.Pos

    builder.StartVector(1, len(data), ALIGNMENT)
    for byte in reversed(data):
        builder.PrependUint8(byte)
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    buffer = schema.BufferEnd(builder)
    name = builder.CreateString(name)
    schema.MetadataStart(builder)
    schema.MetadataAddName(builder, name)
    schema.MetadataAddBuffer(builder, len(buffers))
    entry = schema.MetadataEnd(builder)
    new = {
        BUFFERS: _add_vector(builder, [*map(at, buffers), buffer]),
        METADATA: _add_vector(builder, [*map(at, entries), entry]),
    }

    builder.StartObject(MODEL_FIELDS)
    builder.PrependUint32Slot(VERSION, old.Version(), 0)
    for slot in range(VERSION + 1, MODEL_FIELDS):
        field = old._tab.Offset(4 + 2 * slot)
        if slot in new or field:
            target = new.get(slot) or len(content) - old._tab.Indirect(old._tab.Pos + field)
            builder.PrependUOffsetTRelativeSlot(slot, target, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    return bytes(builder.Output())


def _with_files(content, files):
    """Put files behind the flatbuffer, stored as they are, so that they can be mapped to memory."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            # A fixed date, so that equal models give equal files.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return stream.getvalue()


def _lines(argument, values):
    for value in values:
        if "\n" in value or "\r" in value:
            raise ValueError(f"`{argument}` must not hold line breaks. Received: {value!r}.")
    return "".join(value + "\n" for value in values).encode()
