"""A backbone with the head that fills in masked tokens."""

import keras

from kerasllm.layers import TokenLogits, activation_function
from kerasllm.models.pretrained import Pretrained


@keras.saving.register_keras_serializable(package="kerasllm")
class MaskedLM(Pretrained):
    """A backbone that scores, for each position, which token stands there.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.

    Returns:
        float32 `(batch, length, vocab_size)`: logits.

    Raises:
        ValueError: `backbone` names no size, or the family has no such head.

    Example:
        >>> model = MaskedLM("bert_tiny")
        >>> tuple(model(np.array([[101, 103, 102]])).shape)
        (1, 3, 30522)

    References:
        Devlin et al. 2018, "BERT", section 3.1, task 1.
    """

    HEAD = "masked_lm"

    def __init__(self, backbone, *, family=None, tokenizer=None, dtype=None, **kwargs):
        self._add_layers(**self._start(backbone, family, dtype))
        self._connect(tokenizer, **kwargs)

    def _add_layers(self, activation=None):
        """Make the head; the options are those of a family.

        Args:
            activation: str or None, of `transform`; None for that of the blocks.
        """
        config, policy = self.config, self.backbone.dtype_policy
        initializer = keras.initializers.TruncatedNormal(stddev=config.initializer_range)
        self.transform = keras.layers.Dense(
            config.embedding_dim or config.embed_dim,
            activation=activation_function(activation or config.activation),
            kernel_initializer=initializer,
            dtype=policy,
            name="transform",
        )
        self.layernorm = keras.layers.LayerNormalization(
            epsilon=config.epsilon, dtype=policy, name="layernorm"
        )
        self.logits = TokenLogits(
            self.backbone.embedding.token_emb if config.tie_embedding else config.vocab_size,
            use_bias=True,
            kernel_initializer=initializer.clone(),
            dtype=policy,
            name="logits",
        )

    def _head(self, hidden_states, inputs):
        return self.logits(self.layernorm(self.transform(hidden_states)))
