"""The original Transformer: Vaswani et al. 2017, "Attention Is All You Need".

Its checkpoints in Hugging Face's hub are those of Marian (Junczys-Dowmunt et al. 2018, "Marian:
Fast Neural Machine Translation in C++"), which translate between a thousand pairs of languages.
"""

from kerasllm.families import bart
from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "marian"


def _size(embed_dim, **fields):
    """Sections 3.3 and 3.4; fresh weights are as wide as makes token vectors of length 1."""
    wide = dict(embed_dim=embed_dim, ff_dim=4 * embed_dim, initializer_range=embed_dim**-0.5)
    return dict(activation="relu", scale_embedding=True, **wide, **fields)


# Table 3, and one to try.
SIZES = {
    "transformer_tiny": _size(128, num_layers=2, num_decoder_layers=2, num_heads=4),
    "transformer_base": _size(512, num_layers=6, num_decoder_layers=6, num_heads=8),
    "transformer_big": _size(1024, num_layers=6, num_decoder_layers=6, num_heads=16, rate=0.3),
}

FIELDS = {
    **bart.FIELDS,
    "vocab_size": ("vocab_size", 58101),
    "pad_token_id": ("pad_id", 58100),
}
SETTINGS = dict(num_segments=0, positions="sinusoidal", embedding_norm=False, epsilon=1e-5)
FIXED_FIELDS = {
    "is_encoder_decoder": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "normalize_before": False,
    "normalize_embedding": False,
    "static_position_embeddings": True,
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
}
IGNORED_FIELDS = {*bart.IGNORED_FIELDS, "decoder_vocab_size", "extra_pos_embeddings"}
# The sinusoids too, which need no weights.
IGNORED_TENSORS = (*bart.IGNORED_TENSORS, r"(encoder|decoder)\.embed_positions\.weight")
PREFIX = bart.PREFIX
BACKBONE = {
    ours: theirs
    for ours, theirs in bart.BACKBONE.items()
    if not ours.endswith(("embedding.pos_emb", "embedding.layernorm"))
}
HEADS = {
    "seq2seq_lm": Head("MarianMTModel", {"logits.bias": Stored("final_logits_bias", leading=1)}),
}
read, write = bart.read, bart.write
