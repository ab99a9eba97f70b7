"""A backbone with the head that says what comes next."""

import keras
from keras import ops

from kerasllm.models.generative import Generative


@keras.saving.register_keras_serializable(package="kerasllm")
class CausalLM(Generative):
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
        >>> new_ids = model.generate([[464, 3797]], max_new_tokens=4)[0]  # doctest: +SKIP

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
        self.projection = self._narrowing()
        self.logits = self._token_logits()

    def _head(self, hidden_states, inputs):
        if self.projection is not None:
            hidden_states = self.projection(hidden_states)
        return self.logits(hidden_states)

    def _encode(self, prompt):
        """The ids of a text, without the special tokens that would end it."""
        ids = self.tokenizer.encode(prompt)
        return [*self.tokenizer.row_ends[0], *ids] if ids else self._begins()

    def _begins(self):
        """The token that an empty text begins with, a list; empty where there is none."""
        begins = [self._special_id(name) for name in ("bos", "cls", "eos")]
        return [token for token in begins if isinstance(token, int)][:1]

    def _fit(self, row, max_new_tokens, truncate):
        most = self.config.max_length
        if truncate:
            row = row[-max(most - max_new_tokens, most // 2) :]
        if len(row) >= most:
            raise ValueError(
                f"`prompts` must be at most {most - 1} tokens long, so that one more fits into the "
                f"model's {most} positions. Received: {len(row)} tokens (shorten the text, or pass "
                "`truncate=True` to keep its end)."
            )
        return row, min(max_new_tokens, most - len(row))

    def _width(self, lengths):
        positions = getattr(self.config, "positions", "counted")
        if positions not in ("learned", "sinusoidal"):
            return super()._width(lengths)
        # Padding at the left would take the first positions.
        if min(lengths) < max(lengths):
            raise ValueError(
                f"`prompts` must have equal lengths where `positions` are {positions!r}. Received: "
                f"{lengths} tokens (pass them one by one, or count positions: `'counted'`)."
            )
        return lengths[0]

    def _prepare(self, inputs, room):
        token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]
        batch, length = ops.shape(token_ids)
        mask = ops.concatenate([padding_mask, ops.ones((batch, room), dtype="int32")], axis=1)
        # A text that ends at the last position is computed on with the others: out of sight.
        most = self.config.max_length
        mask = mask * ops.cast(ops.cumsum(mask, axis=1) <= most, "int32")
        cache = self.make_cache(batch, 0, padding=length + room)
        return token_ids, padding_mask, {"padding_mask": mask, "own": cache}

    def _step(self, token_ids, position, cache):
        inputs = {"token_ids": token_ids, "padding_mask": cache["padding_mask"]}
        hidden_states, own = self.backbone(inputs, cache=cache["own"], position=position)
        logits = self._head(hidden_states[:, -1:], inputs)  # (batch, 1, vocab_size)
        return logits[:, 0], {**cache, "own": own}
