"""What a backbone is made of: frozen dataclasses, checked when made."""

import dataclasses
import math

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh")
POSITIONS = ("learned", "counted", "sinusoidal", "alibi")
CELLS = ("rnn", "lstm", "gru")

CHOICES = {"activation": ACTIVATIONS, "positions": POSITIONS, "cell": CELLS}
RATES = ("rate", "attention_rate")


class Config:
    """What the configs of all backbones share: each field is checked by its type and limit."""

    # The least that an integer may be, where not 1; what a float must be above, where not 0.
    _LIMITS = {}

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._check(field.type, field.name, getattr(self, field.name))
        if self.pad_id >= self.vocab_size:
            raise ValueError(
                "`pad_id` must be below `vocab_size`. "
                f"Received: pad_id={self.pad_id}, vocab_size={self.vocab_size}."
            )

    def _check(self, kind, name, value):
        if kind is str:
            _check_choice(name, value, CHOICES[name])
        elif kind is bool:
            _check_bool(name, value)
        elif kind is int:
            check_int(name, value, self._LIMITS.get(name, 1))
        elif name in RATES:
            check_number(name, value, lambda x: 0 <= x < 1, "from 0 to below 1")
        elif kind is float:
            limit = self._LIMITS.get(name, 0)
            check_number(name, value, lambda x: limit < x < math.inf, f"above {limit}")

    def to_dict(self) -> dict:
        """The fields as plain values, ready for JSON and for the same class: `Class(**fields)`."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Config):
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

    _LIMITS = dict.fromkeys(
        ("num_segments", "pad_id", "position_offset", "embedding_dim", "num_decoder_layers"), 0
    )

    def __post_init__(self):
        super().__post_init__()
        if self.embed_dim % self.num_heads:
            raise ValueError(
                "`embed_dim` must be divisible by `num_heads`. "
                f"Received: embed_dim={self.embed_dim}, num_heads={self.num_heads}."
            )

    @property
    def projection_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(Config):
    """The sizes and options of one recurrent backbone.

    Args:
        vocab_size: int, number of rows of the token table.
        cell: str, one of `CELLS`.
        num_layers: int, recurrent layers, one on the other.
        embed_dim: int, width of the token vectors.
        units: int, width of a layer's state in each direction.
        bidirectional: bool, whether each layer reads the text from both ends.
        max_length: int, the longest input in tokens.
        rate: float in [0, 1), dropout on the input of every layer.
        initializer_range: float, standard deviation of fresh token vectors, and of heads.
        pad_id: int, the token id that fills up a batch.
        tie_embedding: bool, whether a language model's head is the token table.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> config = RecurrentConfig(100, cell="gru", units=64, bidirectional=True)
        >>> config.width, config.causal
        (128, False)

    References:
        See `kerasllm.layers.RecurrentBlock`; tied embeddings: Press and Wolf 2016, "Using the
        Output Embedding".
    """

    vocab_size: int
    cell: str = "lstm"
    num_layers: int = 1
    embed_dim: int = 128
    units: int = 128
    bidirectional: bool = False
    max_length: int = 512
    rate: float = 0.1
    initializer_range: float = 0.1
    pad_id: int = 0
    tie_embedding: bool = False

    _LIMITS = {"pad_id": 0}

    def __post_init__(self):
        super().__post_init__()
        if self.tie_embedding and self.width != self.embed_dim:
            raise ValueError(
                "`tie_embedding` must come with an output as wide as a token vector. "
                f"Received: embed_dim={self.embed_dim}, and an output {self.width} wide."
            )

    @property
    def width(self) -> int:
        """Width of the hidden states: `units`, or twice as many in two directions."""
        return self.units * (1 + self.bidirectional)

    @property
    def causal(self) -> bool:
        """Whether a token sees only itself and those before it."""
        return not self.bidirectional


ROPE_SCALINGS = ("linear", "dynamic", "llama3", "yarn", "longrope")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary positions reach beyond the length that a model was first trained on.

    Args:
        kind: str, one of `ROPE_SCALINGS`: `"linear"` squeezes all positions; `"dynamic"` raises the
            base, with the longest text of a batch, once that is beyond the original length (steps
            with a cache keep the earlier keys as they are, so from there on they differ from it);
            `"llama3"` and `"yarn"` squeeze the pairs that turn slowly and keep the fast ones;
            `"longrope"` has a factor for each pair.
        factor: float of at least 1, how many times longer texts may become.
        original_max_length: int, the longest before, in tokens; `"linear"` alone needs none.
        slow: float, pairs with fewer turns than this over the original length are squeezed in full.
        fast: float, pairs with more turns than this are kept as they are.
        attention_factor: float, scale of rotated queries and keys; 0 for what the paper has.
        short_factors: tuple of `projection_dim / 2` float, of `"longrope"`, up to the original
            length.
        long_factors: the same, of longer texts.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> RopeScaling("llama3", 32.0, original_max_length=8192, slow=1.0, fast=4.0).kind
        'llama3'

    References:
        Linear: Chen et al. 2023, "Extending Context Window of Large Language Models via Positional
        Interpolation", section 2.3; dynamic and YaRN: Peng et al. 2023, "YaRN", sections 3.3 and
        3.4; llama3: Grattafiori et al. 2024, "The Llama 3 Herd of Models", and its code; LongRoPE:
        Ding et al. 2024, "LongRoPE", section 3.
    """

    kind: str
    factor: float
    original_max_length: int = 0
    slow: float = 1.0
    fast: float = 32.0
    attention_factor: float = 0.0
    short_factors: tuple = ()
    long_factors: tuple = ()

    def __post_init__(self):
        _check_choice("kind", self.kind, ROPE_SCALINGS)
        check_number("factor", self.factor, lambda x: 1 <= x < math.inf, "of at least 1")
        # LongRoPE divides by the logarithm of the length.
        least = {"linear": 0, "longrope": 2}.get(self.kind, 1)
        check_int("original_max_length", self.original_max_length, least=least)
        check_number("slow", self.slow, lambda x: 0 < x < math.inf, "above 0")
        check_number("fast", self.fast, lambda x: self.slow < x < math.inf, "above `slow`")
        check_number(
            "attention_factor", self.attention_factor, lambda x: 0 <= x < math.inf, "of at least 0"
        )
        for name in ("short_factors", "long_factors"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)):
                raise ValueError(f"`{name}` must be a tuple of numbers. Received: {values!r}.")
            for value in values:
                check_number(name, value, lambda x: 0 < x < math.inf, "above 0")
            object.__setattr__(self, name, tuple(values))  # JSON has lists


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Config):
    """The sizes and options of one backbone of LLaMA's kind.

    Args:
        vocab_size: int, number of rows of the token table.
        num_layers: int, number of `LlamaBlock`s.
        num_heads: int, heads of the queries in a block.
        num_kv_heads: int, heads of keys and values; divides `num_heads`; 0 for as many.
        projection_dim: int, width of a head, even; 0 for `embed_dim / num_heads`.
        embed_dim: int, width of the residual stream.
        ff_dim: int, inner width of a block's `ffn`.
        max_length: int, the longest input in tokens.
        attention_rate: float in [0, 1), dropout on attention weights.
        activation: str, one of `ACTIVATIONS`, of the gate in `ffn`.
        epsilon: float, added to the mean square in every RMSNorm.
        initializer_range: float, standard deviation of fresh weights.
        pad_id: int, the token id that fills up a batch.
        rope_theta: float, base of the rotary wave lengths.
        rope_scaling: `RopeScaling`, or its fields as a dict, or None.
        qkv_bias: bool, whether the projections to queries, keys and values have a bias.
        output_bias: bool, whether attention's projection back has one.
        ffn_bias: bool, whether the projections of `ffn` have one.
        qk_norm: bool, RMSNorm over each query and each key.
        sliding_window: int, how many tokens one sees, itself and those just before it; 0 for all.
        full_layers: int, how many layers, from the first, see all in spite of `sliding_window`.
        tie_embedding: bool, whether a language model's head is the token table.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> config = LlamaConfig(100, num_layers=2, num_heads=4, embed_dim=64, ff_dim=128)
        >>> config.num_kv_heads, config.projection_dim
        (4, 16)

    References:
        Touvron et al. 2023, "LLaMA", section 2.2, and "Llama 2", section 2.2; rotary positions: Su
        et al. 2021, "RoFormer", section 3.2; grouped queries: Ainslie et al. 2023, "GQA"; sliding
        window: Jiang et al. 2023, "Mistral 7B", section 2; QK norm: Yang et al. 2025, "Qwen3
        Technical Report", section 2.
    """

    vocab_size: int
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 0
    projection_dim: int = 0
    embed_dim: int = 4096
    ff_dim: int = 11008
    max_length: int = 2048
    attention_rate: float = 0.0
    activation: str = "silu"
    epsilon: float = 1e-6
    initializer_range: float = 0.02
    pad_id: int = 0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    full_layers: int = 0
    tie_embedding: bool = False

    _LIMITS = {
        **{"num_kv_heads": 0, "projection_dim": 0, "pad_id": 0, "rope_theta": 1},
        **{"sliding_window": 0, "full_layers": 0},
    }

    def __post_init__(self):
        super().__post_init__()
        self._fill_in()
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "`num_heads` must be divisible by `num_kv_heads`. "
                f"Received: num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}."
            )
        if self.projection_dim % 2:
            raise ValueError(
                "`projection_dim` must be even, because positions rotate pairs. "
                f"Received: {self.projection_dim}."
            )
        self._check_scaling()

    def _fill_in(self):
        """Set what was left open, so that equal models have equal configs."""
        if not self.num_kv_heads:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if not self.projection_dim:
            if self.embed_dim % self.num_heads:
                raise ValueError(
                    "`embed_dim` must be divisible by `num_heads`, or `projection_dim` given. "
                    f"Received: embed_dim={self.embed_dim}, num_heads={self.num_heads}."
                )
            object.__setattr__(self, "projection_dim", self.embed_dim // self.num_heads)
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))

    def _check_scaling(self):
        scaling = self.rope_scaling
        if scaling is None:
            return
        if not isinstance(scaling, RopeScaling):
            raise ValueError(
                "`rope_scaling` must be a RopeScaling, a dict of its fields, or None. "
                f"Received: {scaling!r}."
            )
        counts = len(scaling.short_factors), len(scaling.long_factors)
        if scaling.kind == "longrope" and counts != (self.projection_dim // 2,) * 2:
            raise ValueError(
                f"`rope_scaling` must have {self.projection_dim // 2} short and as many long "
                f"factors, half of `projection_dim`. Received: {counts[0]} and {counts[1]}."
            )

    @property
    def windows(self) -> tuple:
        """For each layer, how many tokens one sees; 0 for all."""
        return tuple(
            0 if i < self.full_layers else self.sliding_window for i in range(self.num_layers)
        )

    @property
    def causal(self) -> bool:
        """Whether a token sees only itself and those before it: always."""
        return True


@dataclasses.dataclass(frozen=True)
class T5Config(Config):
    """The sizes and options of one backbone of T5's kind.

    Args:
        vocab_size: int, number of rows of the token table.
        num_layers: int, number of `T5Block`s, of the encoder where there is a decoder.
        num_decoder_layers: int, blocks of a decoder that attends to this stack; 0 for none.
        num_heads: int, attention heads of a block.
        projection_dim: int, width of a head.
        embed_dim: int, width of the residual stream.
        ff_dim: int, inner width of a block's `ffn`.
        max_length: int, the longest input in tokens.
        rate: float in [0, 1), dropout on embeddings, attention weights, inner values of `ffn`, both
            ends of a stack and every sublayer.
        activation: str, one of `ACTIVATIONS`, of `ffn` or its gate.
        gated: bool, whether `ffn` has a gate (version 1.1).
        epsilon: float, added to the mean square in every RMSNorm.
        initializer_factor: float, scale of fresh weights.
        pad_id: int, the token id that fills up a batch.
        causal: bool, whether a token sees only itself and those before it, as in the decoder.
        num_buckets: int of at least 4, distances that attention tells apart.
        max_distance: int, tokens from which on all distances are alike.
        tie_embedding: bool, whether a language model's head is the token table (not in 1.1).

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> config = T5Config(100, num_layers=2, num_decoder_layers=1, embed_dim=64, ff_dim=128)
        >>> config.num_heads, config.projection_dim
        (12, 64)

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
        Transformer", sections 2.1 and 3.1.2; gates: Shazeer 2020, "GLU Variants Improve
        Transformer", equation 6.
    """

    vocab_size: int
    num_layers: int = 12
    num_decoder_layers: int = 12
    num_heads: int = 12
    projection_dim: int = 64
    embed_dim: int = 768
    ff_dim: int = 3072
    max_length: int = 512
    rate: float = 0.1
    activation: str = "relu"
    gated: bool = False
    epsilon: float = 1e-6
    initializer_factor: float = 1.0
    pad_id: int = 0
    causal: bool = False
    num_buckets: int = 32
    max_distance: int = 128
    tie_embedding: bool = True

    _LIMITS = {"num_decoder_layers": 0, "pad_id": 0, "num_buckets": 4}

    def __post_init__(self):
        super().__post_init__()
        if self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                "`max_distance` must be above half of `num_buckets`, which are one distance each. "
                f"Received: max_distance={self.max_distance}, num_buckets={self.num_buckets}."
            )

    @property
    def initializer_range(self) -> float:
        """Standard deviation of fresh weights that are as wide as the residual stream."""
        return self.initializer_factor * self.embed_dim**-0.5


def _check_choice(name, value, known):
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}. Received: {value!r}.")


def _check_bool(name, value):
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {value!r}.")


def check_int(name, value, least):
    """Check that an argument is an integer, and not too small.

    Args:
        name: str, of the argument.
        value: what it is.
        least: int, the least that it may be.

    Raises:
        ValueError: it is none, or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {value!r}.")


def check_number(name, value, holds, rule):
    """Check that an argument is a number by a rule.

    Args:
        name: str, of the argument.
        value: what it is.
        holds: function from a number to bool.
        rule: str, the same in words, e.g. `"above 0"`.

    Raises:
        ValueError: it is no number, or the rule doesn't hold.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
        raise ValueError(f"`{name}` must be a number {rule}. Received: {value!r}.")
