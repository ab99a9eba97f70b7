"""Models: a backbone and a head, a `keras.Model`."""

from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.lora import add_lora, load_lora, merge_lora, save_lora
from kerasllm.models.masked_lm import MaskedLM
from kerasllm.models.pair_masked_lm import PairMaskedLM
from kerasllm.models.replaced_token_detection import ReplacedTokenDetection
from kerasllm.models.sentence_encoder import SentenceEncoder
from kerasllm.models.seq2seq_lm import Seq2SeqLM
from kerasllm.models.span_labeler import SpanLabeler
from kerasllm.models.text_classifier import BertClassifier, TextClassifier
from kerasllm.models.token_classifier import TokenClassifier
from kerasllm.models.token_detector import TokenDetector

MODELS = {
    model.HEAD: model
    for model in (
        *(TextClassifier, TokenClassifier, SpanLabeler),
        *(MaskedLM, PairMaskedLM, TokenDetector, SentenceEncoder, CausalLM, Seq2SeqLM),
    )
}

__all__ = [
    "MODELS",
    "BertClassifier",
    "CausalLM",
    "MaskedLM",
    "PairMaskedLM",
    "ReplacedTokenDetection",
    "SentenceEncoder",
    "Seq2SeqLM",
    "SpanLabeler",
    "TextClassifier",
    "TokenClassifier",
    "TokenDetector",
    "add_lora",
    "load_lora",
    "merge_lora",
    "save_lora",
]
