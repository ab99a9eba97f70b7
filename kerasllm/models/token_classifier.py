"""A backbone with a classifier on each token."""

import keras

from kerasllm.layers import Dense, Dropout
from kerasllm.models.classifier import Classifier


@keras.saving.register_keras_serializable(package="kerasllm")
class TokenClassifier(Classifier):
    """A backbone that gives each token one of several labels, as for named entities.

    Args:
        num_classes: int, number of labels.
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        rate: float in [0, 1), dropout before the classifier.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        labels: sequence of `num_classes` str, names of the labels; None for `"0"`, `"1"`, ….
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.

    Returns:
        float32 `(batch, length, num_classes)`: logits.

    Raises:
        ValueError: `labels` are not `num_classes` distinct names, `backbone` names no size, or the
            family has no such head.

    Example:
        >>> model = TokenClassifier(3, "bert_tiny", labels=("O", "B-PER", "I-PER"))
        >>> tuple(model(np.array([[101, 2307, 102]])).shape)
        (1, 3, 3)

    References:
        Devlin et al. 2018, "BERT", section 5.3 and figure 4 (d).
    """

    HEAD = "token_classifier"

    def _add_layers(self, num_classes, rate):
        self.dropout = Dropout(rate, dtype=self.backbone.dtype_policy, name="dropout")
        self.classifier = Dense(
            num_classes,
            kernel_initializer=self._initializer(),
            dtype="float32",
            name="classifier",
        )

    def _head(self, hidden_states, inputs):
        return self.classifier(self.dropout(hidden_states))
