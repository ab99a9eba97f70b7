"""Any Keras model as an artefact: its own tensors in and out, verified on the caller's examples."""

import time

import keras
import numpy as np
import tensorflow as tf

from kerasllm.export import verify
from kerasllm.export.scorer import Scorer


class TensorModel(tf.Module):
    """A Keras model whose variables TensorFlow finds, and finds once.

    Args:
        model: `keras.Model`, functional or `Sequential`, all float32.
        inputs: examples of its input, to verify the artefact on: an array `(examples, …)`, a list
            of them, or a dict by name of input.

    Attributes:
        weights: list of `tf.Variable`, all weights.
        examples: dict of arrays, by name of input.
        needs_text: bool, whether an artefact needs TensorFlow Text.

    Raises:
        ValueError: the model's inputs are not known or not float32's, or `inputs` don't fit them.
    """

    def __init__(self, model, inputs):
        super().__init__(name="model")
        _check_model(model)
        self._names = [tensor._keras_history.operation.name for tensor in model.inputs]
        self._shapes = [tuple(tensor.shape) for tensor in model.inputs]
        self._dtypes = [tensor.dtype for tensor in model.inputs]
        self.examples = self._named(inputs)
        # The Keras model stays in a closure; see `Scorer`.
        self.weights = [weight.value for weight in model.weights]
        self._call = lambda inputs: model(_like(model.input, inputs), training=False)

    needs_text = False
    parameter_bytes = Scorer.parameter_bytes  # which is a sum over `weights` too

    def specs(self, single=False):
        """`tf.TensorSpec` of each input, by name: of any batch, or of a `single` example."""
        shapes = [self.examples[name].shape[1:] for name in self._names]
        return {
            name: tf.TensorSpec([1, *example] if single else shape, dtype, name)
            for name, shape, dtype, example in zip(self._names, self._shapes, self._dtypes, shapes)
        }

    def answer(self, inputs):
        """The model's outputs as a dict: of its own names, or `output`, or `output_0`, …."""
        outputs = self._call([inputs[name] for name in self._names])
        if isinstance(outputs, dict):
            return outputs
        if isinstance(outputs, (list, tuple)):
            return {f"output_{i}": output for i, output in enumerate(outputs)}
        return {"output": outputs}

    def signature(self, single=False):
        """A concrete function of `answer`, with `specs` as keyword arguments."""
        graph = tf.function(lambda **inputs: self.answer(inputs), autograph=False)
        return graph.get_concrete_function(**self.specs(single))

    def signatures(self):
        """What is exported, by name."""
        return {"serving_default": self.signature()}

    def expected(self):
        """What Keras answers to the examples: dict of arrays; and the milliseconds of each."""
        with tf.device("CPU:0"):
            graph = self.signature()
            start = time.perf_counter()
            outputs = graph(**{name: tf.constant(rows) for name, rows in self.examples.items()})
            outputs = {name: output.numpy() for name, output in outputs.items()}
            seconds = time.perf_counter() - start
        return outputs, 1000 * seconds / self.count

    @property
    def count(self):
        """Number of examples, int."""
        return len(next(iter(self.examples.values())))

    def calls(self, signature=None):
        """The examples one at a time, as the runners take them."""
        for i in range(self.count):
            rows = {name: rows[i : i + 1].tolist() for name, rows in self.examples.items()}
            yield {"signature": signature, "inputs": rows} if signature else rows

    def check(self, expected, answers, tolerance, what, check=verify.check_difference):
        """Compare answers to `calls` with those of Keras; return fields of a report."""
        found = []
        for name, values in expected.items():
            received = [answer["outputs"][name][0] for answer in answers]
            pair = [np.reshape(rows, (self.count, -1)) for rows in (values, received)]
            found.append(check(*pair, tolerance, f"{what}, `{name}`,"))
        milliseconds = 1000 * sum(answer["seconds"] for answer in answers) / self.count
        worst = max(found, key=lambda numbers: numbers["largest_difference"])
        return {**worst, "milliseconds": milliseconds}

    def _named(self, inputs):
        if not isinstance(inputs, (dict, list, tuple)):
            inputs = [inputs]
        if not isinstance(inputs, dict):
            inputs = dict(zip(self._names, inputs))
        if set(inputs) != set(self._names):
            raise ValueError(
                f"`inputs` must be examples for {[*self._names]}. Received: {sorted(inputs)}."
            )
        named = {
            name: np.asarray(inputs[name], dtype) for name, dtype in zip(self._names, self._dtypes)
        }
        for (name, rows), shape in zip(named.items(), self._shapes):
            fits = len(rows.shape) == len(shape) and all(
                wanted in (None, there) for wanted, there in zip(shape, rows.shape)
            )
            if not fits or not len(rows) or len(rows) != len(named[self._names[0]]):
                raise ValueError(
                    f"`inputs` must have at least one example, and `{name}` the shape {shape}. "
                    f"Received: {rows.shape}."
                )
        return named


def _like(structure, tensors):
    """Tensors in the order of `tf.nest`, in the structure of a model's input."""
    return keras.tree.pack_sequence_as(structure, tensors)


def _check_model(model):
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a functional `keras.Model`, whose inputs are known. Received: "
            f"{type(model).__name__}."
        )
    types = {weight.dtype for weight in model.weights} | {
        layer.compute_dtype for layer in model._flatten_layers()
    }
    if not {dtype for dtype in types if "float" in dtype} <= {"float32"}:
        raise ValueError(
            f"`model` must compute in float32. Received: {sorted(types)} (build it again in "
            "float32, and `set_weights`)."
        )
