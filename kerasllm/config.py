"""What a backbone is made of: frozen dataclasses, checked when made."""

import dataclasses
import math

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The sizes and options of one Transformer backbone.

    Args:
        vocab_size: int, number of rows of the token table.
        num_layers: int, number of `TransformerBlock`s.
        num_heads: int, attention heads of a block; divides `embed_dim`.
        embed_dim: int, width of the residual stream.
        ff_dim: int, inner width of a block's `ffn`.
        max_length: int, number of learned positions, so the longest input in tokens.
        num_segments: int, rows of the segment table; 0 for none.
        rate: float in [0, 1), dropout on embeddings and on both sublayers of a block.
        attention_rate: float in [0, 1), dropout on attention weights.
        activation: str, one of `ACTIVATIONS`; `"gelu"` is the exact (erf) form,
            `"gelu_tanh"` its approximation.
        epsilon: float, added to the variance in every LayerNorm.
        initializer_range: float, standard deviation of fresh weights.
        pad_id: int, the token id that fills up a batch.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> config = TransformerConfig(100, num_layers=2, embed_dim=64, ff_dim=128, num_heads=4)
        >>> config.projection_dim
        16

    References:
        Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.
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

    def __post_init__(self):
        for name in ("vocab_size", "num_layers", "num_heads", "embed_dim", "ff_dim", "max_length"):
            _check_int(name, getattr(self, name), least=1)
        for name in ("num_segments", "pad_id"):
            _check_int(name, getattr(self, name), least=0)
        for name in ("rate", "attention_rate"):
            _check_number(name, getattr(self, name), lambda x: 0 <= x < 1, "from 0 to below 1")
        for name in ("epsilon", "initializer_range"):
            _check_number(name, getattr(self, name), lambda x: 0 < x < math.inf, "above 0")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {', '.join(ACTIVATIONS)}. "
                f"Received: {self.activation!r}."
            )
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
