"""A backbone with the head that finds replaced tokens."""

import keras

from kerasllm.layers import Dense, activation_function
from kerasllm.models.pretrained import Pretrained


@keras.saving.register_keras_serializable(package="kerasllm")
class TokenDetector(Pretrained):
    """ELECTRA's discriminator: a backbone that scores each token as replaced by a generator.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.

    Returns:
        float32 `(batch, length)`: logits, above 0 where a token looks replaced.

    Raises:
        ValueError: `backbone` names no size, or the family has no such head.

    Example:
        >>> model = TokenDetector("electra_small")  # doctest: +SKIP

    References:
        Clark et al. 2020, "ELECTRA", section 2.
    """

    HEAD = "token_detector"

    def _add_layers(self):
        config = self.config
        self.transform = Dense(
            config.embed_dim,
            activation=activation_function(config.activation),
            kernel_initializer=self._initializer(),
            dtype=self.backbone.dtype_policy,
            name="transform",
        )
        self.classifier = Dense(
            1, kernel_initializer=self._initializer(), dtype="float32", name="classifier"
        )

    def _head(self, hidden_states, inputs):
        logits = self.classifier(self.transform(hidden_states))  # (batch, length, 1)
        return keras.ops.squeeze(logits, -1)
