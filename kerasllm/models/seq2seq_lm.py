"""An encoder–decoder with the head that says what comes next."""

import keras

from kerasllm.models.pretrained import Pretrained


@keras.saving.register_keras_serializable(package="kerasllm")
class Seq2SeqLM(Pretrained):
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
        >>> model = Seq2SeqLM("bart_base")  # doctest: +SKIP

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
