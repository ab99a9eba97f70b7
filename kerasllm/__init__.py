"""kerasllm: a Keras / TensorFlow model zoo to learn from, train with and deploy."""

import importlib

__version__ = "0.1.0"

# Public name: module. Each is imported when it is first used, so that `import kerasllm` is quick.
_PLACES = {
    "BertClassifier": "kerasllm.models",
    "ByteLevelBPETokenizer": "kerasllm.tokenizers",
    "CausalLM": "kerasllm.models",
    "EncoderDecoder": "kerasllm.backbones",
    "Llama": "kerasllm.backbones",
    "LlamaBlock": "kerasllm.layers",
    "LlamaConfig": "kerasllm.config",
    "MaskedLM": "kerasllm.models",
    "MultiHeadSelfAttention": "kerasllm.layers",
    "PairMaskedLM": "kerasllm.models",
    "Recurrent": "kerasllm.backbones",
    "RecurrentConfig": "kerasllm.config",
    "ReplacedTokenDetection": "kerasllm.models",
    "SentenceEncoder": "kerasllm.models",
    "SentencePieceTokenizer": "kerasllm.tokenizers",
    "Seq2SeqLM": "kerasllm.models",
    "SpanLabeler": "kerasllm.models",
    "T5": "kerasllm.backbones",
    "T5Block": "kerasllm.layers",
    "T5Config": "kerasllm.config",
    "TextClassifier": "kerasllm.models",
    "TokenAndPositionEmbedding": "kerasllm.layers",
    "TokenClassifier": "kerasllm.models",
    "TokenDetector": "kerasllm.models",
    "TokenLogits": "kerasllm.layers",
    "Transformer": "kerasllm.backbones",
    "TransformerBlock": "kerasllm.layers",
    "TransformerConfig": "kerasllm.config",
    "WordPieceTokenizer": "kerasllm.tokenizers",
    "add_lora": "kerasllm.models",
    "evaluate": "kerasllm.tasks",
    "fit": "kerasllm.training",
    "load_lora": "kerasllm.models",
    "load_tokenizer": "kerasllm.tokenizers",
    "merge_lora": "kerasllm.models",
    "read_rows": "kerasllm.data",
    "save_lora": "kerasllm.models",
    "split_rows": "kerasllm.data",
    "to_litert_lm": "kerasllm.export",
    "to_saved_model": "kerasllm.export",
    "to_tflite": "kerasllm.export",
    "write_report": "kerasllm.evaluation",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(f"module 'kerasllm' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__():
    return __all__
