"""A backbone with the head that fills in masked tokens."""

import logging

import keras

from kerasllm import families
from kerasllm.layers import Dense, activation_function
from kerasllm.models.pretrained import Pretrained

logger = logging.getLogger("kerasllm")

POSITIONS = "masked_positions"  # an input that asks for these rows alone


@keras.saving.register_keras_serializable(package="kerasllm")
class MaskedLM(Pretrained):
    """A backbone that scores, for each position, which token stands there.

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
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`. A dict may
            also have `masked_positions`, int32 `(batch, masked)`: then only these are scored, which
            saves a large share of the time in training.

    Returns:
        float32 `(batch, length, vocab_size)`, or `(batch, masked, vocab_size)`: logits.

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

    def __init__(
        self,
        backbone,
        *,
        family=None,
        tokenizer=None,
        activation=None,
        epsilon=None,
        dtype=None,
        **kwargs,
    ):
        self._start(backbone, family, dtype)
        self.activation = activation or self._usual()["activation"]
        self.epsilon = epsilon or self._usual()["epsilon"]
        self._add_layers()
        self._connect(tokenizer, **kwargs)

    def _usual(self):
        """What the family's head has in Hugging Face's code."""
        options = families.head(self.family, self.HEAD).options
        return {
            "activation": options.get("activation") or self.config.activation,
            "epsilon": self.config.epsilon,
        }

    def _add_layers(self):
        config, policy = self.config, self.backbone.dtype_policy
        self.transform = Dense(
            config.embedding_dim or config.embed_dim,
            activation=activation_function(self.activation),
            kernel_initializer=self._initializer(),
            dtype=policy,
            name="transform",
        )
        self.layernorm = keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=policy, name="layernorm"
        )
        self.logits = self._token_logits(use_bias=True)

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, dict) and POSITIONS in inputs:
            inputs = dict(inputs)
            kwargs[POSITIONS] = inputs.pop(POSITIONS)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None, mask=None, masked_positions=None, **options):
        if masked_positions is None:
            return super().call(inputs, training=training, mask=mask, **options)
        return self._head_at(masked_positions, inputs, training)

    def _head_at(self, positions, inputs, training):
        return self._head(self.backbone(inputs, training=training, rows=positions), inputs)

    def _head(self, hidden_states, inputs):
        return self.logits(self.layernorm(self.transform(hidden_states)))

    def get_config(self):
        return {**super().get_config(), "activation": self.activation, "epsilon": self.epsilon}

    def _fields(self):
        self.tell_of_head("transformers", self._usual())
        return {}

    def tell_of_head(self, library, theirs):
        """Log where a library's head of this kind computes with other constants than this one.

        Args:
            library: str, its name.
            theirs: dict of its `activation` and `epsilon`, which its files don't say.
        """
        ours = {name: getattr(self, name) for name in theirs}
        if ours != theirs:
            logger.warning(
                "%s gives the head of this family %s where this model has %s: logits will differ.",
                *(library, theirs, ours),
            )
