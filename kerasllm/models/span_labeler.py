"""A backbone with the head that marks where an answer begins and ends."""

import keras

from kerasllm.layers import Dense
from kerasllm.models.pretrained import Pretrained


@keras.saving.register_keras_serializable(package="kerasllm")
class SpanLabeler(Pretrained):
    """A backbone that scores each token as the first and as the last of an answer.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.
        special_ids: dict or None, of an encoder–decoder: ids of its `eos` and `decoder_start`, for
            the graph; None for what the tokenizer says, then those of published checkpoints.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. `(input_ids, attention_mask, token_type_ids)`.

    Returns:
        float32 `(batch, length, 2)`: logits of being the first token, and of being the last.

    Raises:
        ValueError: `backbone` names no size, or the family has no such head.

    Example:
        >>> model = SpanLabeler("bert_tiny")
        >>> tuple(model(np.array([[101, 2307, 102]])).shape)
        (1, 3, 2)

    References:
        Devlin et al. 2018, "BERT", section 4.2 and figure 4 (c).
    """

    HEAD = "span_labeler"

    def _add_layers(self, narrowed=False):
        """Make the head; `narrowed` says whether a family reads its narrower hidden states."""
        self.projection = self._narrowing() if narrowed else None
        self.span = Dense(2, kernel_initializer=self._initializer(), dtype="float32", name="span")

    def _head(self, hidden_states, inputs):
        if self.projection is not None:
            hidden_states = self.projection(hidden_states)
        return self.span(hidden_states)
