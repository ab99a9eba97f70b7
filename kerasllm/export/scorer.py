"""What every export starts from: a classifier as plain float32 TensorFlow, ids to probabilities."""

import time

import keras
import numpy as np
import tensorflow as tf

from kerasllm.models import TextClassifier
from kerasllm.tasks import task_of

BATCH_SIZE = 16


class Scorer(tf.Module):
    """A float32 copy of a classifier whose variables TensorFlow finds, and finds once.

    Args:
        model: `TextClassifier`, trained under any dtype policy or strategy. It is not changed.
        max_length: int or None, tokens that a text is cut to; None for the model's `max_length`.

    Attributes:
        weights: list of `tf.Variable`, all weights.
        labels: tuple of str.
        tokenizer: `WordPieceTokenizer`.
        input_names: tuple of str, in the model's order.
        max_length: int.

    Raises:
        ValueError: the model has no tokenizer, one with more entries than the model has rows, or
            `max_length` does not fit the model.
    """

    def __init__(self, model, max_length=None):
        super().__init__(name="scorer")
        _check_classifier(model)
        self.max_length = _checked_length(model, max_length)
        self.labels = model.labels
        self.input_names = tuple(tensor.name for tensor in model.inputs)
        copy = float32_copy(model)
        # The Keras model stays in closures. If this module held it, TensorFlow would save its
        # variables under a name that only TensorFlow's Python loader can follow.
        self.weights = [weight.value for weight in copy.weights]
        self._get_tokenizer = lambda: model.tokenizer
        probabilities = task_of(model).probabilities
        self._scores = lambda inputs: probabilities(copy(inputs))

    @property
    def tokenizer(self):
        return self._get_tokenizer()

    @property
    def parameter_bytes(self):
        """Size of all weights, int."""
        return sum(int(np.prod(weight.shape)) * weight.dtype.size for weight in self.weights)

    def specs(self, batch=None, length=None):
        """`tf.TensorSpec` of each input, int32 `(batch, length)`, by name."""
        return {name: tf.TensorSpec([batch, length], tf.int32, name) for name in self.input_names}

    def scores(self, inputs):
        """Turn token ids into probabilities.

        Args:
            inputs: dict of int32 `(batch, length)`, with at least the names in `input_names`.

        Returns:
            float32 `(batch, num_classes)`: probabilities, or numbers, as the model's task has it.
        """
        if "segment_ids" not in inputs:  # not all tokenizers make them
            inputs = {**inputs, "segment_ids": tf.zeros_like(inputs["token_ids"])}
        return self._scores({name: inputs[name] for name in self.input_names})

    def score_texts(self, texts):
        """Score texts in Keras, with the tokenizer in Python: what artefacts are compared with.

        Args:
            texts: list of str.

        Returns:
            The pair of float32 `(texts, num_classes)` and the milliseconds that a text took.
        """
        # On the CPU, as the fresh processes: a GPU multiplies float32 with fewer digits.
        with tf.device("CPU:0"):
            scores = tf.function(self.scores, input_signature=[self.specs()], autograph=False)
            scores(self.tokenize(texts[:1]))  # traces
            start = time.perf_counter()
            rows = [scores(self.tokenize(chunk)).numpy() for chunk in chunks(texts)]
            seconds = time.perf_counter() - start
        return np.concatenate(rows), 1000 * seconds / len(texts)

    def tokenize(self, texts, pad_to=None):
        """The model's inputs for a list of texts, a dict of int32 arrays `(texts, length)`."""
        ids = self.tokenizer(texts, max_length=self.max_length, pad_to=pad_to)
        ids.setdefault("segment_ids", np.zeros_like(ids["token_ids"]))  # of a single text
        return {name: ids[name] for name in self.input_names}


def chunks(values, size=BATCH_SIZE):
    """Cut a list into lists of at most `size`."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def at_least_one_row(tensor):
    """Give an empty batch one row, because the layers' reshapes fail without any."""
    shape = tf.shape(tensor)
    missing = tf.maximum(1 - shape[:1], 0)
    return tf.concat([tensor, tf.zeros(tf.concat([missing, shape[1:]], 0), tensor.dtype)], 0)


def first_rows(rows, tensors):
    """Cut each of a dict of tensors to its first rows."""
    return {name: tensor[:rows] for name, tensor in tensors.items()}


def float32_copy(model, **changes):
    """Build a model again in float32, on the CPU, outside any strategy, with equal weights.

    Mixed precision leaves casts in an export that few runtimes know, and quantises badly.

    Args:
        model: a model of `kerasllm.models`.
        **changes: fields of the backbone's config that shall be others.

    Returns:
        A model of the same class, without tokenizer.
    """
    config = model.get_config()
    config["backbone"]["config"]["dtype"] = "float32"
    config["backbone"]["config"]["config"] |= changes
    # Keras counts up its names within a process; an artefact shall not depend on that.
    config["backbone"]["config"]["name"], config["name"] = "backbone", model.HEAD
    with tf.device("CPU:0"):
        copy = type(model).from_config(config)
        for new, old in zip(copy.weights, model.weights, strict=True):
            new.assign(keras.ops.cast(old, "float32"))
    return copy


def _check_classifier(model):
    if not isinstance(model, TextClassifier):
        raise ValueError(
            f"`model` must be a text classifier. Received: {type(model).__name__}. Give any other "
            "Keras model `inputs`, examples to verify its artefact on."
        )
    check_tokenizer(model)


def check_tokenizer(model):
    """Check that a model has a tokenizer, and a row for each of its entries.

    Args:
        model: a model of `kerasllm.models`.

    Raises:
        ValueError: it has not.
    """
    if model.tokenizer is None:
        raise ValueError(
            "`model` must have a tokenizer, because the artefact takes text. Received: "
            "model.tokenizer=None (set `model.tokenizer` to the one it was trained with)."
        )
    if model.tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            "`model` must have a row for each entry of its tokenizer. Received: "
            f"{model.config.vocab_size} rows and {model.tokenizer.vocab_size} entries (set "
            "`model.tokenizer` to the one it was trained with)."
        )


def _checked_length(model, max_length):
    longest = model.config.max_length
    max_length = longest if max_length is None else max_length
    if not 3 <= max_length <= longest:
        raise ValueError(
            f"`max_length` must be from 3 to {longest}, the positions that the model knows. "
            f"Received: {max_length}."
        )
    return max_length
