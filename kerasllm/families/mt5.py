"""mT5: Xue et al. 2020, "mT5: A Massively Multilingual Pre-trained Text-to-Text Transformer"."""

from kerasllm.config import T5Config
from kerasllm.families import t5

MODEL_TYPE = "mt5"
CONFIG = T5Config

# As its checkpoints are.
SIZES = t5.sizes_of_1_1("mt5", vocab_size=250112)

FIELDS = {
    **{
        their: ours
        for their, ours in t5.FIELDS.items()
        if their not in ("tie_word_embeddings", "scale_decoder_outputs")
    },
    "vocab_size": ("vocab_size", 250112),
    "num_layers": ("num_layers", 8),
    "num_heads": ("num_heads", 6),
    "d_ff": ("ff_dim", 1024),
    "feed_forward_proj": ("feed_forward", "gated-gelu"),
}
SETTINGS = dict(tie_embedding=False)
FIXED_FIELDS = t5.FIXED_FIELDS
# `transformers` 5 writes that all are tied, and reads a head of its own all the same.
IGNORED_FIELDS = {*t5.IGNORED_FIELDS, "tie_word_embeddings"}
IGNORED_TENSORS = t5.IGNORED_TENSORS
PREFIX = t5.PREFIX
BACKBONE = t5.BACKBONE
HEADS = t5.heads("MT5")
read, write = t5.read, t5.write
