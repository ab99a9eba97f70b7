"""What a backbone is made of: frozen dataclasses, checked when made."""

import dataclasses
import math

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh")
POSITIONS = ("learned", "counted", "sinusoidal", "alibi")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The sizes and options of one Transformer backbone.

    Args:
        vocab_size: int, number of rows of the token table.
        num_layers: int, number of `TransformerBlock`s.
        num_heads: int, attention heads of a block; divides `embed_dim`.
        embed_dim: int, width of the residual stream.
        ff_dim: int, inner width of a block's `ffn`.
        max_length: int, number of positions, so the longest input in tokens.
        num_segments: int, rows of the segment table; 0 for none.
        rate: float in [0, 1), dropout on embeddings and on both sublayers of a block.
        attention_rate: float in [0, 1), dropout on attention weights.
        activation: str, one of `ACTIVATIONS`; `"gelu"` is the exact (erf) form,
            `"gelu_tanh"` its approximation.
        epsilon: float, added to the variance in every LayerNorm.
        initializer_range: float, standard deviation of fresh weights.
        pad_id: int, the token id that fills up a batch.
        norm_first: bool, LayerNorm before each sublayer, and once more after the last block
            (pre-norm), instead of after each sum.
        causal: bool, whether a token sees only itself and those before it.
        positions: str, one of `POSITIONS`: `"learned"` is a table by index, `"counted"` the same by
            the count of real tokens so far, `"sinusoidal"` fixed waves, `"alibi"` a bias on
            attention that falls with distance.
        position_offset: int, rows at the top of the position table that no real token uses.
        embedding_dim: int, width of the tables, projected to `embed_dim`; 0 for `embed_dim` itself.
        embedding_bias: bool, whether that projection has a bias.
        embedding_norm: bool, LayerNorm over the summed embeddings.
        scale_embedding: bool, multiply token vectors by the square root of `embed_dim`.
        share_blocks: bool, one block's weights in all layers.
        num_decoder_layers: int, blocks of a decoder that attends to this stack; 0 for none.
        tie_embedding: bool, whether a language model's head is the token table.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> config = TransformerConfig(100, num_layers=2, embed_dim=64, ff_dim=128, num_heads=4)
        >>> config.projection_dim
        16

    References:
        Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3;
        counted positions: Zhang et al. 2022, "OPT"; sinusoidal and scaled: Vaswani et al. 2017,
        "Attention Is All You Need", sections 3.4 and 3.5; ALiBi: Press et al. 2021, "Train Short,
        Test Long", section 3; projected tables and shared blocks: Lan et al. 2019, "ALBERT",
        section 3.1; tied embeddings: Press and Wolf 2016, "Using the Output Embedding".
    """

    vocab_size: int
    num_layers: int = 12
    num_heads: int = 12
    embed_dim: int = 768
    ff_dim: int = 3072
    max_length: int = 512
    num_segments: int = 2
    rate: float = 0.1
    attention_rate: float = 0.1
    activation: str = "gelu"
    epsilon: float = 1e-12
    initializer_range: float = 0.02
    pad_id: int = 0
    norm_first: bool = False
    causal: bool = False
    positions: str = "learned"
    position_offset: int = 0
    embedding_dim: int = 0
    embedding_bias: bool = True
    embedding_norm: bool = True
    scale_embedding: bool = False
    share_blocks: bool = False
    num_decoder_layers: int = 0
    tie_embedding: bool = True

    def __post_init__(self):
        for name in ("vocab_size", "num_layers", "num_heads", "embed_dim", "ff_dim", "max_length"):
            _check_int(name, getattr(self, name), least=1)
        for name in (
            "num_segments", "pad_id", "position_offset", "embedding_dim", "num_decoder_layers"
        ):  # fmt: skip
            _check_int(name, getattr(self, name), least=0)
        for name in ("rate", "attention_rate"):
            _check_number(name, getattr(self, name), lambda x: 0 <= x < 1, "from 0 to below 1")
        for name in ("epsilon", "initializer_range"):
            _check_number(name, getattr(self, name), lambda x: 0 < x < math.inf, "above 0")
        for name, known in (("activation", ACTIVATIONS), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(known)}. "
                    f"Received: {getattr(self, name)!r}."
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise ValueError(f"`{field.name}` must be True or False. Received: {value!r}.")
        if self.pad_id >= self.vocab_size:
            raise ValueError(
                "`pad_id` must be below `vocab_size`. "
                f"Received: pad_id={self.pad_id}, vocab_size={self.vocab_size}."
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                "`embed_dim` must be divisible by `num_heads`. "
                f"Received: embed_dim={self.embed_dim}, num_heads={self.num_heads}."
            )

    @property
    def projection_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    def to_dict(self) -> dict:
        """The fields as plain values, ready for JSON and for `TransformerConfig(**fields)`."""
        return dataclasses.asdict(self)


def _check_int(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {value!r}.")


def _check_number(name, value, holds, rule):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
        raise ValueError(f"`{name}` must be a number {rule}. Received: {value!r}.")
