"""A backbone with a classifier on one token of the text, or on all."""

import keras
from keras import ops

from kerasllm import weights
from kerasllm.layers import Dropout, activation_function
from kerasllm.layers.attention import MASKED
from kerasllm.models.pretrained import Pretrained


@keras.saving.register_keras_serializable(package="kerasllm")
class TextClassifier(Pretrained):
    """A backbone with a classifier on the first token of a text, on the last, or on all.

    Args:
        num_classes: int, number of classes.
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        rate: float in [0, 1), dropout before the classifier.
        family: str or None: family of the backbone, which says how its classifier works; None where
            `backbone` is the name of a size.
        labels: sequence of `num_classes` str, names of the classes; None for `"0"`, `"1"`, ….
        tokenizer: of `kerasllm.tokenizers`, or None: what `predict` on text and the exports use.
            `save_pretrained` writes it, a `.keras` file does not.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.

    Call arguments:
        inputs: int32 tensors `(batch, length)`: the pair `(input_ids, attention_mask)` of the
            tutorials, the same with segment ids as the third, or a dict of `token_ids`,
            `padding_mask`, `segment_ids` (Hugging Face's names are understood). The mask defaults
            to all ones, the segments to all zeros.

    Returns:
        float32 `(batch, num_classes)`: logits.

    Raises:
        ValueError: `labels` are not `num_classes` distinct names, `backbone` names no size, the
            family has no text classifier, or a call gets inputs of another form.

    Example:
        >>> model = TextClassifier(2, "gpt2_small")  # doctest: +SKIP

    References:
        Devlin et al. 2018, "BERT", section 4.1 and figure 4; on the last token: Radford et al.
        2018, "Improving Language Understanding by Generative Pre-Training", section 3.2; on the
        largest values: Conneau et al. 2017, "Supervised Learning of Universal Sentence
        Representations", section 3.2.2.
    """

    HEAD = "text_classifier"

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
        self._add_layers(num_classes, rate, dtype, **self._start(backbone, family, dtype))
        self._connect(tokenizer, **kwargs)
        self.num_classes = num_classes
        self.rate = rate
        self.labels = labels

    def _add_layers(
        self,
        num_classes,
        rate,
        dtype,
        token="first",
        activation=None,
        dropout_first=False,
        use_bias=True,
    ):
        """Make the head; the options are those of a family.

        Args:
            token: str, `"first"` or `"last"`, the token that stands for the text; or `"max"`: the
                largest value of each unit over all tokens does.
            activation: str or None, of the `pooler`, a `Dense` before the classifier; None for no
                pooler, unless the config says (`"config"`).
            dropout_first: bool, whether there is dropout before the pooler too.
            use_bias: bool, of the classifier.
        """
        self.token, self.dropout_first = token, dropout_first
        config, policy = self.config, self.backbone.dtype_policy
        initializer = keras.initializers.TruncatedNormal(stddev=config.initializer_range)
        self.pooler = None
        if activation is not None:
            self.pooler = keras.layers.Dense(
                config.embed_dim,
                activation=activation_function(activation),
                kernel_initializer=initializer,
                dtype=policy,
                name="pooler",
            )
        self.dropout = Dropout(rate, dtype=policy, name="dropout")
        self.classifier = keras.layers.Dense(
            num_classes,
            use_bias=use_bias,
            kernel_initializer=initializer.clone(),
            dtype="float32",
            name="classifier",
        )

    def _head(self, hidden_states, inputs):
        x = self._pooled(hidden_states, inputs["padding_mask"])  # (batch, embed_dim)
        if self.pooler is not None:
            x = self.pooler(self.dropout(x) if self.dropout_first else x)
        return self.classifier(self.dropout(x))  # (batch, num_classes)

    def _pooled(self, hidden_states, padding_mask):
        if self.token == "first":
            return hidden_states[:, 0, :]
        if self.token == "max":
            real = ops.expand_dims(padding_mask, -1) > 0  # (batch, length, 1)
            return ops.max(ops.where(real, hidden_states, MASKED), axis=1)
        # The last real token, wherever the padding is: the mask times 1, 2, 3, … is largest there.
        index = ops.cumsum(ops.ones_like(padding_mask), axis=1)  # (batch, length)
        last = ops.max(index * padding_mask, axis=1, keepdims=True)  # (batch, 1)
        at_last = ops.cast(ops.expand_dims(ops.equal(index, last), -1), hidden_states.dtype)
        return ops.sum(at_last * hidden_states, axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "rate": self.rate,
            "labels": list(self.labels),
        }

    @classmethod
    def from_pretrained(cls, name, num_classes=None, labels=None, *, fresh_head=False, dtype=None):
        """Read a Hugging Face checkpoint, or a preset of keras-hub, with its tokenizer.

        Args:
            name: str or path-like: a local folder with `config.json`, `model.safetensors` (or its
                shards; of a preset, `model.weights.h5`) and a tokenizer; or a name on the Hugging
                Face hub, or keras-hub's name of a preset.
            num_classes: int or None: None for as many as the checkpoint or `labels` have.
            labels: sequence of str or None: names of the classes.
            fresh_head: bool, whether to leave out the checkpoint's classifier and start a new one.
            dtype: str or `keras.DTypePolicy`, e.g. `"bfloat16"`; None for Keras' global one.

        Returns:
            The model. Where the checkpoint has no classifier (or no pooler), that layer is fresh,
            and a log line says so.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: config, weights or tokenizer don't fit; the message says which and how.
        """
        return cls._read(
            weights.find_folder(name),
            fresh_head,
            dtype,
            lambda fields: label_options(fields, num_classes, labels),
        )

    def _fields(self):
        return label_fields(self)


@keras.saving.register_keras_serializable(package="kerasllm")
class BertClassifier(TextClassifier):
    """BERT with a classifier on its pooled first token, as the tutorials have it.

    Args:
        num_classes: int, number of classes.
        bert: the name of a size of BERT, a `TransformerConfig`, or a `Transformer`, as `backbone`
            of `TextClassifier`.
        rate: float in [0, 1), dropout before the classifier.
        **options: of `TextClassifier`.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.

    Returns:
        float32 `(batch, num_classes)`: logits.

    Raises:
        ValueError: as for `TextClassifier`.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> ids = np.array([[101, 2307, 102]])
        >>> tuple(model((ids, np.ones_like(ids))).shape)
        (1, 2)

    References:
        Devlin et al. 2018, "BERT", section 4.1 and figure 4.
    """

    def __init__(self, num_classes, bert="bert_base", rate=0.1, **options):
        backbone = options.pop("backbone", bert)
        super().__init__(num_classes, backbone, rate, **{"family": "bert", **options})

    @property
    def bert(self):
        """The backbone."""
        return self.backbone


def checked_labels(num_classes, labels):
    """Return the names of the classes, checked.

    Args:
        num_classes: int.
        labels: sequence of str, or None for `"0"`, `"1"`, ….

    Returns:
        tuple of `num_classes` str.

    Raises:
        ValueError: they are not `num_classes` distinct names.
    """
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(
            f"`num_classes` must be an integer of at least 1. Received: {num_classes!r}."
        )
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a sequence of names. Received: {labels!r}.")
    labels = tuple(str(i) for i in range(num_classes)) if labels is None else tuple(labels)
    if len(labels) != num_classes or len(set(labels)) != num_classes:
        raise ValueError(
            f"`labels` must be {num_classes} distinct names, one a class. Received: {labels}."
        )
    return labels


def stored_labels(fields):
    """The names of the classes in a Hugging Face config, in order; empty where it has none.

    Args:
        fields: dict, the parsed `config.json`.

    Returns:
        tuple of str.
    """
    stored = fields.get("id2label") or {}
    # Hugging Face's placeholder names say nothing.
    return tuple(str(stored[key]).removeprefix("LABEL_") for key in sorted(stored, key=int))


def label_fields(model):
    """What a classifier writes into `config.json`.

    Args:
        model: a model with `rate` and `labels`.

    Returns:
        dict.
    """
    return {
        "classifier_dropout": model.rate,
        "id2label": dict(enumerate(model.labels)),
        "label2id": {label: i for i, label in enumerate(model.labels)},
    }


def label_options(fields, num_classes, labels):
    """What a classifier is made with: what the caller says, else the checkpoint, else two classes.

    Args:
        fields: dict, the parsed `config.json`, with the backbone's dropout as `rate`.
        num_classes: int or None.
        labels: sequence of str or None.

    Returns:
        dict of `num_classes`, `labels`, `rate`.
    """
    names = stored_labels(fields)
    if labels is None and names and num_classes in (None, len(names)):
        labels = names
    if num_classes is None:
        num_classes = fields.get("num_labels", 2) if labels is None else len(labels)
    rate = fields.get("classifier_dropout")
    return {
        "num_classes": num_classes,
        "labels": labels,
        "rate": fields["rate"] if rate is None else rate,
    }
