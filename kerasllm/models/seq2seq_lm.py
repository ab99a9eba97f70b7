"""An encoder–decoder with the head that says what comes next."""

import keras
import numpy as np
from keras import ops

from kerasllm.models.generative import Generative, padded


@keras.saving.register_keras_serializable(package="kerasllm")
class Seq2SeqLM(Generative):
    """An encoder that reads a text, and a decoder that scores which token of the answer follows.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: dict of int32: `token_ids` and `padding_mask`, `(batch, length)`, of the text;
            `decoder_token_ids` and `decoder_padding_mask`, `(batch, decoder_length)`, of the
            answer (Hugging Face's names are understood). Masks default to all ones.
        cache: None, or keys and values so far, from `make_cache` or an earlier call; see
            `EncoderDecoder`.
        position: scalar int32: index of the first of `decoder_token_ids` in the cache.

    Returns:
        float32 `(batch, decoder_length, vocab_size)`: logits; with a `cache`, the pair of that and
        the new cache.

    Raises:
        ValueError: `backbone` names no size, or the family has no such head.

    Example:
        >>> model = Seq2SeqLM.from_pretrained("my_translator")  # doctest: +SKIP
        >>> answer = model.generate("Wie geht es dir?", num_beams=4)  # doctest: +SKIP

    References:
        Vaswani et al. 2017, "Attention Is All You Need", sections 3.1 and 3.4.
    """

    HEAD = "seq2seq_lm"

    def _add_layers(self, use_bias=True, scale_output=False):
        """Make the head; the options are those of a family.

        Args:
            use_bias: bool, whether each token has a bias.
            scale_output: bool, whether hidden states are scaled down before the token table.
        """
        config = self.config
        self.scale = config.embed_dim**-0.5 if scale_output and config.tie_embedding else 1.0
        self.logits = self._token_logits(use_bias)

    def _head(self, hidden_states, inputs):
        return self.logits(hidden_states if self.scale == 1.0 else hidden_states * self.scale)

    @property
    def begin(self):
        """The id of the token with which an answer begins, which is no part of it."""
        # T5 and Marian begin with the token of padding, and T5's config may not say so.
        return self.special_ids.get("decoder_start", self.config.pad_id)

    def _fit(self, row, max_new_tokens, truncate):
        most = self.config.max_length
        if truncate and len(row) > most:
            row = [*row[: most - 1], row[-1]]  # with the token that ends a text
        if len(row) > most:
            raise ValueError(
                f"`prompts` must be at most {most} tokens long, the model's positions. Received: "
                f"{len(row)} tokens (shorten the text, or pass `truncate=True` to keep its "
                "beginning)."
            )
        return row, min(max_new_tokens, most - 1)

    def _forced(self):
        names = ("forced_bos", "forced_eos")
        return {name: np.array([self.special_ids.get(name, -1)]) for name in names}

    def _prompts(self, rows, width):
        begins = np.full((len(rows), 1), self.begin, "int32")
        return {**padded(rows, width, left=False), "decoder_token_ids": begins}

    def _context(self, row, token_ids):
        return [], token_ids

    def _prepare(self, inputs, room):
        prompt = inputs["decoder_token_ids"]
        own = self.make_cache(ops.shape(prompt)[0], 1 + room, context=self.backbone.encode(inputs))
        cache = {"padding_mask": inputs["padding_mask"], "own": own}
        return prompt, ops.ones_like(prompt), cache

    def _step(self, token_ids, position, cache):
        inputs = {"decoder_token_ids": token_ids, "padding_mask": cache["padding_mask"]}
        hidden_states, own = self.backbone(inputs, cache=cache["own"], position=position)
        logits = self._head(hidden_states[:, -1:], inputs)  # (batch, 1, vocab_size)
        return logits[:, 0], {**cache, "own": own}
