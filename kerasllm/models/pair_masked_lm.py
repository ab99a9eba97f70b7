"""A backbone with BERT's two heads of pretraining: masked tokens, and how two texts belong."""

import keras
from keras import ops

from kerasllm.layers import Dense, activation_function
from kerasllm.models.masked_lm import MaskedLM


@keras.saving.register_keras_serializable(package="kerasllm")
class PairMaskedLM(MaskedLM):
    """A `MaskedLM` that also says whether the second of two texts follows the first.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        activation: str or None, of the head, one of `kerasllm.config.ACTIVATIONS`; None for the
            family's.
        epsilon: float or None, of the head's LayerNorm; None for that of the blocks.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: as for `MaskedLM`, `masked_positions` too.

    Returns:
        dict of float32 logits: `tokens`, `(batch, length, vocab_size)` or `(batch, masked,
        vocab_size)`; `pair`, `(batch, 2)`, where class 0 says that the second text follows the
        first, and 1 that it doesn't (BERT), or that they are in the other order (ALBERT).

    Raises:
        ValueError: `backbone` names no size, or the family has no such heads.

    Example:
        >>> model = PairMaskedLM("bert_tiny")
        >>> tuple(model(np.array([[101, 103, 102, 2003, 102]]))["pair"].shape)
        (1, 2)

    References:
        Devlin et al. 2018, "BERT", section 3.1; Lan et al. 2019, "ALBERT", section 3.1.
    """

    HEAD = "pair_masked_lm"

    def _add_layers(self):
        super()._add_layers()
        self.pooler = Dense(
            self.config.embed_dim,
            activation=activation_function("tanh"),
            kernel_initializer=self._initializer(),
            dtype=self.backbone.dtype_policy,
            name="pooler",
        )
        self.pair = Dense(2, kernel_initializer=self._initializer(), dtype="float32", name="pair")

    def _head_at(self, positions, inputs, training):
        rows = ops.concatenate([ops.zeros_like(positions[:, :1]), positions], axis=1)
        hidden_states = self.backbone(inputs, training=training, rows=rows)
        return self._heads(hidden_states[:, 0, :], hidden_states[:, 1:, :], inputs)

    def _head(self, hidden_states, inputs):
        return self._heads(hidden_states[:, 0, :], hidden_states, inputs)

    def _heads(self, first, hidden_states, inputs):
        tokens = super()._head(hidden_states, inputs)
        return {"tokens": tokens, "pair": self.pair(self.pooler(first))}
