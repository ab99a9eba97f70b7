"""A backbone with a classifier on each token."""

import keras

from kerasllm import weights
from kerasllm.layers import Dropout
from kerasllm.models.pretrained import Pretrained
from kerasllm.models.text_classifier import checked_labels, label_fields, label_options


@keras.saving.register_keras_serializable(package="kerasllm")
class TokenClassifier(Pretrained):
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

    def __init__(
        self,
        num_classes,
        backbone,
        rate=0.1,
        *,
        family=None,
        labels=None,
        tokenizer=None,
        dtype=None,
        **kwargs,
    ):
        labels = checked_labels(num_classes, labels)
        self._start(backbone, family, dtype)
        config = self.config
        self.dropout = Dropout(rate, dtype=self.backbone.dtype_policy, name="dropout")
        self.classifier = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=config.initializer_range),
            dtype="float32",
            name="classifier",
        )
        self._connect(tokenizer, **kwargs)
        self.num_classes = num_classes
        self.rate = rate
        self.labels = labels

    def _head(self, hidden_states, inputs):
        return self.classifier(self.dropout(hidden_states))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "rate": self.rate,
            "labels": list(self.labels),
        }

    @classmethod
    def from_pretrained(cls, name, num_classes=None, labels=None, *, fresh_head=False, dtype=None):
        """Read a Hugging Face checkpoint, with its tokenizer; see `TextClassifier`."""
        return cls._read(
            weights.find_folder(name),
            fresh_head,
            dtype,
            lambda fields: label_options(fields, num_classes, labels),
        )

    def _fields(self):
        return label_fields(self)
