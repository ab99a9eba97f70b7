"""A backbone with the head that says what comes next."""

import keras

from kerasllm.layers import Dense
from kerasllm.models.pretrained import Pretrained


@keras.saving.register_keras_serializable(package="kerasllm")
class CausalLM(Pretrained):
    """A decoder that scores, for each position, which token follows.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.
        cache: None, or keys and values so far, from `make_cache` or an earlier call; see
            `Transformer`.
        position: scalar int32: index of the first of `token_ids` in the cache.

    Returns:
        float32 `(batch, length, vocab_size)`: logits; with a `cache`, the pair of that and the new
        cache.

    Raises:
        ValueError: `backbone` names no size, the family has no such head, or its tokens see what
            follows them.

    Example:
        >>> model = CausalLM("gpt2_small")  # doctest: +SKIP
        >>> tuple(model(np.array([[464, 3797]])).shape)  # doctest: +SKIP
        (1, 2, 50257)

    References:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.
    """

    HEAD = "causal_lm"

    def _add_layers(self):
        config = self.config
        if not getattr(config, "causal", True):
            raise ValueError(
                "`backbone` must be causal: each token sees only itself and those before it. "
                f"Received: {config} (a language model would look up its answers)."
            )
        # Back to the width of a narrower token table (OPT-350m).
        self.projection = None
        if getattr(config, "embedding_dim", 0):
            self.projection = Dense(
                config.embedding_dim,
                use_bias=config.embedding_bias,
                kernel_initializer=self._initializer(),
                dtype=self.backbone.dtype_policy,
                name="projection",
            )
        self.logits = self._token_logits()

    def _head(self, hidden_states, inputs):
        if self.projection is not None:
            hidden_states = self.projection(hidden_states)
        return self.logits(hidden_states)
