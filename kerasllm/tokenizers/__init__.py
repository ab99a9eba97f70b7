"""Text to ids and back: the same in Python, in tf.data and inside an exported graph."""

from pathlib import Path

from kerasllm.tokenizers.byte_level_bpe import ByteLevelBPETokenizer
from kerasllm.tokenizers.files import read_object
from kerasllm.tokenizers.pipeline import flat, model_type
from kerasllm.tokenizers.sentencepiece import SentencePieceTokenizer
from kerasllm.tokenizers.sentencepiece_model import FILES
from kerasllm.tokenizers.wordpiece import WordPieceTokenizer

__all__ = [
    "ByteLevelBPETokenizer",
    "SentencePieceTokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
]

# The class whose folder it is, by a file that it holds, where there is no tokenizer.json.
CLASS_OF_FILE = {
    "vocab.txt": WordPieceTokenizer,
    "merges.txt": ByteLevelBPETokenizer,
    **dict.fromkeys(FILES, SentencePieceTokenizer),
}


def load_tokenizer(folder):
    """Reads the tokenizer of a model folder, of whichever class it is.

    Args:
        folder: path of a folder in Hugging Face's layout.

    Returns:
        A `WordPieceTokenizer`, `ByteLevelBPETokenizer` or `SentencePieceTokenizer`; None where the
        folder holds no tokenizer at all.

    Raises:
        FileNotFoundError: where a file is there whose other half is missing.
        ValueError: where the tokenizer is of another kind, or a file of it is broken.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> load_tokenizer(folder)
        >>> WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun"]).save_pretrained(folder)
        >>> load_tokenizer(folder).encode("Sun")
        [4]
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        return _class_of(folder / "tokenizer.json").from_pretrained(folder)
    for name, kind in CLASS_OF_FILE.items():
        if (folder / name).exists():
            return kind.from_pretrained(folder)
    return None


def _class_of(path):
    pipeline = read_object(path)
    model = model_type(pipeline)
    if model == "WordPiece":
        return WordPieceTokenizer
    if model == "Unigram":
        return SentencePieceTokenizer
    if model == "BPE":
        decoder = [step.get("type") for step in flat(pipeline.get("decoder"), "decoders")]
        return ByteLevelBPETokenizer if "ByteLevel" in decoder else SentencePieceTokenizer
    raise ValueError(
        f"{path}: `model.type` must be WordPiece, BPE or Unigram. Received: {model!r} (no other "
        "tokenizer is supported)"
    )
