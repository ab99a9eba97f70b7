"""A backbone with a classifier on its first token."""

import json
import logging

import keras
import numpy as np

from kerasllm import families, weights
from kerasllm.atomic import whole
from kerasllm.backbones.transformer import Transformer, token_inputs
from kerasllm.layers.dropout import Dropout
from kerasllm.tokenizers import WordPieceTokenizer

logger = logging.getLogger("kerasllm")

NAMES = ("token_ids", "padding_mask", "segment_ids")

# The border to Hugging Face and the tutorials: what they call our inputs.
ALIASES = {
    "input_ids": "token_ids",
    "attention_mask": "padding_mask",
    "token_type_ids": "segment_ids",
}


@keras.saving.register_keras_serializable(package="kerasllm")
class BertClassifier(keras.Model):
    """BERT with a classifier on its pooled first token.

    Args:
        num_classes: int, number of classes.
        bert: `Transformer`, `TransformerConfig`, or the name of a size (`families.SIZES`). A config
            or a size gives fresh weights; `from_pretrained` gives trained ones.
        rate: float in [0, 1), dropout before the classifier.
        labels: sequence of `num_classes` str, names of the classes; None for `"0"`, `"1"`, ….
        tokenizer: `WordPieceTokenizer` or None: what `predict` on text and the exports use.
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
        ValueError: `labels` are not `num_classes` distinct names, `bert` names no size, or a call
            gets inputs of another form.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> ids = np.array([[101, 2307, 102]])
        >>> tuple(model((ids, np.ones_like(ids))).shape)
        (1, 2)

    References:
        Devlin et al. 2018, "BERT", section 4.1 and figure 4.
    """

    def __init__(
        self,
        num_classes,
        bert="bert_base",
        rate=0.1,
        *,
        labels=None,
        tokenizer=None,
        dtype=None,
        **kwargs,
    ):
        labels = _checked_labels(num_classes, labels)
        bert = families.size_config(bert) if isinstance(bert, str) else bert
        # Layers
        self.bert = (
            bert if isinstance(bert, Transformer) else Transformer(bert, dtype=dtype, name="bert")
        )
        config = self.bert.config
        dtype = self.bert.dtype_policy
        initializer = keras.initializers.TruncatedNormal(stddev=config.initializer_range)
        self.pooler = keras.layers.Dense(
            config.embed_dim,
            activation="tanh",
            kernel_initializer=initializer,
            dtype=dtype,
            name="pooler",
        )
        self.dropout = Dropout(rate, dtype=dtype, name="dropout")
        self.classifier = keras.layers.Dense(
            num_classes,
            kernel_initializer=initializer.clone(),
            dtype="float32",
            name="classifier",
        )

        # Graph
        inputs = token_inputs(config)
        hidden_states = self.bert(inputs)  # (batch, length, embed_dim)
        pooled = self.pooler(hidden_states[:, 0, :])  # (batch, embed_dim)
        logits = self.classifier(self.dropout(pooled))  # (batch, num_classes)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)
        self.dtype_policy = dtype  # `compile` asks it whether float16 needs a loss scale

        # Config
        self.config = config
        self.num_classes = num_classes
        self.rate = rate
        self.labels = labels
        self.tokenizer = tokenizer

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(named_inputs(inputs, self.config.num_segments), *args, **kwargs)

    def get_config(self):
        return {
            "num_classes": self.num_classes,
            "bert": keras.saving.serialize_keras_object(self.bert),
            "rate": self.rate,
            "labels": list(self.labels),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**dict(config, bert=keras.saving.deserialize_keras_object(config["bert"])))

    @classmethod
    def from_pretrained(cls, name, num_classes=None, labels=None, *, fresh_head=False, dtype=None):
        """Read a Hugging Face checkpoint of BERT, with its tokenizer.

        Args:
            name: str or path-like: a local folder with `config.json`, `model.safetensors` and
                `vocab.txt` or `tokenizer.json`, or a name on the Hugging Face hub.
            num_classes: int or None: None for as many as the checkpoint or `labels` have.
            labels: sequence of str or None: names of the classes.
            fresh_head: bool, whether to leave out the checkpoint's classifier and start a new one.
            dtype: as for the constructor.

        Returns:
            `BertClassifier`. Where the checkpoint has no classifier (or no pooler), that layer is
            fresh, and a log line says so.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: config, weights or tokenizer don't fit; the message says which and how.
        """
        folder = weights.find_folder(name)
        fields = weights.read_json(folder / "config.json")
        family, config = families.config_from_hf(fields)
        labels, num_classes = _labels_of(fields, labels, num_classes)
        rate = fields.get("classifier_dropout")
        model = cls(
            num_classes,
            Transformer(config, dtype=dtype, name=family),
            config.rate if rate is None else rate,
            labels=labels,
            tokenizer=WordPieceTokenizer.from_pretrained(folder),
        )
        module = families.FAMILIES[family]
        head = dict(module.CLASSIFIER)
        ignored = module.IGNORED_TENSORS
        if fresh_head:
            ignored = (*ignored, head.pop("classifier") + r"\..*")
        absent = weights.load_weights(
            model,
            folder,
            families.name_map(family, head, config),
            prefix=module.PREFIX,
            ignored=ignored,
            fresh=tuple(head),
        )
        absent += ["classifier"] * fresh_head
        if absent:
            logger.info("Fresh weights, to be trained: %s.", ", ".join(absent))
        return model

    def save_pretrained(self, folder):
        """Write config, weights and tokenizer as a folder that `transformers` loads.

        Args:
            folder: str or path-like. Files of the same names are replaced, others stay.

        Raises:
            OSError: the folder can't be written.
        """
        module = families.FAMILIES["bert"]
        with whole(folder) as aside:
            aside.mkdir()
            fields = {
                "architectures": [module.CLASSIFIER_ARCHITECTURE],
                **families.config_to_hf("bert", self.config),
                "classifier_dropout": self.rate,
                "id2label": dict(enumerate(self.labels)),
                "label2id": {label: i for i, label in enumerate(self.labels)},
            }
            text = json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
            (aside / "config.json").write_text(text, encoding="utf-8")
            names = families.name_map("bert", module.CLASSIFIER, self.config)
            weights.save_weights(self, aside, names)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(aside)


def named_inputs(inputs, num_segments):
    """Bring a model's inputs into the form of its graph.

    Args:
        inputs: see `BertClassifier`'s call arguments.
        num_segments: int, 0 where the model has no segment ids.

    Returns:
        dict of `token_ids`, `padding_mask` and, with segments, `segment_ids`.

    Raises:
        ValueError: there are no token ids among the inputs, or unknown names, or text, or shapes
            other than (batch, length).
    """
    if isinstance(inputs, (tuple, list)):
        if len(inputs) > len(NAMES):
            raise ValueError(f"`inputs` must be at most {NAMES}. Received: {len(inputs)} values.")
        inputs = dict(zip(NAMES, inputs))
    elif not isinstance(inputs, dict):
        inputs = {"token_ids": inputs}
    inputs = {ALIASES.get(name, name): _tensor(value) for name, value in inputs.items()}
    unknown = inputs.keys() - set(NAMES)
    if unknown or "token_ids" not in inputs:
        raise ValueError(
            "`inputs` must have `token_ids`, and may have `padding_mask` and `segment_ids`. "
            f"Received: {sorted(inputs)}."
        )
    _check_shapes(inputs)
    ids = inputs["token_ids"]
    inputs.setdefault("padding_mask", keras.ops.ones_like(ids))
    if num_segments:
        inputs.setdefault("segment_ids", keras.ops.zeros_like(ids))
    else:
        inputs.pop("segment_ids", None)
    return inputs


def _tensor(value):
    if isinstance(value, keras.KerasTensor):
        return value
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if getattr(value.dtype, "name", "").startswith(("str", "bytes", "object")):
        raise ValueError(
            "`inputs` must be token ids, not text. "
            f"Received: dtype={value.dtype}. The model's tokenizer makes ids from text."
        )
    return keras.ops.convert_to_tensor(value, dtype="int32")


def _check_shapes(inputs):
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    ids_shape = shapes["token_ids"]
    for shape in shapes.values():
        fits = all(a == b or None in (a, b) for a, b in zip(shape, ids_shape))
        if len(shape) != 2 or not fits:
            raise ValueError(
                f"`inputs` must all have the same shape (batch, length). Received: {shapes}."
            )


def _checked_labels(num_classes, labels):
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


def _labels_of(fields, labels, num_classes):
    """Labels and their number: what the caller says, else what the checkpoint says, else two."""
    stored = fields.get("id2label") or {}
    # Hugging Face's placeholder names say nothing.
    names = [str(stored[key]).removeprefix("LABEL_") for key in sorted(stored, key=int)]
    if labels is None and names and num_classes in (None, len(names)):
        labels = names
    if num_classes is None:
        num_classes = fields.get("num_labels", 2) if labels is None else len(labels)
    return labels, num_classes
