"""What models that tell named classes apart share."""

from kerasllm import weights
from kerasllm.config import check_int
from kerasllm.models.pretrained import Pretrained


class Classifier(Pretrained):
    """A backbone with a head for `num_classes` classes, each of which has a name.

    A subclass is a `Pretrained` whose `_add_layers` takes `num_classes` and `rate` too.

    Args:
        num_classes: int, number of classes.
        backbone, family, tokenizer, dtype: of `Pretrained`.
        rate: float in [0, 1), dropout before the classifier.
        labels: sequence of `num_classes` str, names of the classes; None for `"0"`, `"1"`, ….

    Raises:
        ValueError: `labels` are not `num_classes` distinct names.
    """

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
        self._add_layers(num_classes, rate, **self._start(backbone, family, dtype))
        self._connect(tokenizer, **kwargs)
        self.num_classes = num_classes
        self.rate = rate
        self.labels = labels

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
            labels: sequence of str or None: names of the classes, in the checkpoint's order.
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
            lambda fields: label_options(fields, num_classes, labels, fresh_head),
        )

    def _fields(self):
        return label_fields(self)


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
    check_int("num_classes", num_classes, least=1)
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

    Raises:
        ValueError: they aren't there by their numbers.
    """
    stored = fields.get("id2label") or {}
    if not isinstance(stored, dict) or not all(str(key).isdecimal() for key in stored):
        raise ValueError(
            f"`id2label` of `config.json` must have labels by their numbers. Received: {stored!r}."
        )
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


def label_options(fields, num_classes, labels, fresh_head=False):
    """What a classifier is made with: what the caller says, else the checkpoint, else two classes.

    Args:
        fields: dict, the parsed `config.json`, with the backbone's dropout as `rate`.
        num_classes: int or None.
        labels: sequence of str or None.
        fresh_head: bool, whether the checkpoint's classifier is left out.

    Returns:
        dict of `num_classes`, `labels`, `rate`.

    Raises:
        ValueError: `labels` are the checkpoint's in another order, which would swap its classes.
    """
    names = stored_labels(fields)
    swapped = labels is not None and tuple(labels) != names and set(labels) == set(names)
    if swapped and not fresh_head:
        raise ValueError(
            f"`labels` must be in the checkpoint's order, {names}. Received: {tuple(labels)} (pass "
            "None for the checkpoint's, or `fresh_head=True` to start a new classifier)."
        )
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
