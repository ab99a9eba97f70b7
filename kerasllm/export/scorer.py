"""What exports of models that take texts start from: a float32 copy, and how it is tried."""

import time

import keras
import numpy as np
import tensorflow as tf

from kerasllm.export import verify
from kerasllm.models import TextClassifier
from kerasllm.tasks import name_of, task_of
from kerasllm.tasks.multi_label import LIKELY
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.tokenizers.splitting_in_graph import valid

BATCH_SIZE = 16
FEW = 4  # texts that are tried through the signatures other than the one for text


class TextModel(tf.Module):
    """A float32 copy of a model that takes texts, whose variables TensorFlow finds, and finds once.

    A subclass says in `signatures` what is exported, and in `_answers` what Keras gives.

    Args:
        model: a model of `kerasllm.models` with a tokenizer, trained under any dtype policy or
            strategy. It is not changed.
        max_length: int or None, tokens that a text is cut to; None for all that the model takes.
        texts: list of str, to verify the artefact on.

    Attributes:
        weights: list of `tf.Variable`, all weights.
        task: str, a name in `kerasllm.tasks.TASKS`.
        labels: tuple of str, maybe none.
        input_names: tuple of str, in the model's order.
        max_length: int.
        needs_text: bool, whether an artefact needs TensorFlow Text.
        inputs: tuple of str, what `serving_default` takes: columns of a row.
        methods: dict, TensorFlow Serving's name of a method by that of the signature, where it is
            not that of all others.

    Raises:
        ValueError: the model has no tokenizer, or one with more entries than the model has rows, or
            `max_length` does not fit the model.
    """

    def __init__(self, model, max_length=None, texts=verify.SENTENCES):
        super().__init__(name="model")
        check_tokenizer(model)
        self.max_length = _checked_length(model, max_length)
        self.task = name_of(model)
        self.labels = tuple(getattr(model, "labels", ()))
        self.input_names = tuple(tensor.name for tensor in model.inputs)
        self.needs_text = isinstance(model.tokenizer, WordPieceTokenizer)
        copy = float32_copy(model)
        copy.tokenizer, rows = model.tokenizer, self._rows(list(texts))
        # The Keras model stays in closures. If this module held it, TensorFlow would save its
        # variables under a name that only TensorFlow's Python loader can follow.
        self.weights = [weight.value for weight in copy.weights]
        self._get_model = lambda: copy
        self._get_rows = lambda: rows

    inputs, methods = ("text",), {}

    @property
    def model(self):
        """The float32 copy, with the tokenizer."""
        return self._get_model()

    @property
    def tokenizer(self):
        """The tokenizer, in Python."""
        return self.model.tokenizer

    @property
    def parameter_bytes(self):
        """Size of all weights, int."""
        return sum(int(np.prod(weight.shape)) * weight.dtype.size for weight in self.weights)

    def specs(self, batch=None, length=None):
        """`tf.TensorSpec` of each input, int32 `(batch, length)`, by name."""
        return {name: tf.TensorSpec([batch, length], tf.int32, name) for name in self.input_names}

    def _named(self, inputs):
        """Of a tokenizer's dict, what the model takes."""
        if "segment_ids" not in inputs:  # not all tokenizers make them
            inputs = {**inputs, "segment_ids": tf.zeros_like(inputs["token_ids"])}
        return {name: inputs[name] for name in self.input_names}

    def _make_rows(self, make, *ids, **options):
        """What `make`, of `rows_in_graph` or `windows_in_graph`, puts together of ids."""
        tokenizer = self.tokenizer
        pad_id = getattr(tokenizer, "_fill", tokenizer.pad_id)  # not all have a token for padding
        options = {"max_length": self.max_length, "pad_id": pad_id, **options}
        return make(tokenizer._template, *ids, **options)

    def tokenize(self, texts, pairs=None, pad_to=None):
        """The model's inputs for a list of texts, a dict of int32 arrays `(texts, length)`."""
        ids = self.tokenizer(texts, pairs, max_length=self.max_length, pad_to=pad_to)
        ids.setdefault("segment_ids", np.zeros_like(ids["token_ids"]))  # of a single text
        return {name: ids[name] for name in self.input_names}

    # ---------------------------------------------------------------- signatures

    def signatures(self):
        """The functions that are exported: dict of concrete functions, by name."""
        raise NotImplementedError

    def _of_texts(self, function, *names):
        """A signature of strings `(batch,)`; see `any_batch`."""
        specs = [tf.TensorSpec([None], tf.string, name) for name in names]
        texts = tf.function(lambda *texts: any_batch(function, *texts), autograph=False)
        return texts.get_concrete_function(*specs)

    # ---------------------------------------------------------------- the verification

    def _rows(self, texts):
        """The rows of the task that the texts make."""
        return [{"text": text} for text in texts]

    def _tries(self):
        """What is asked: pairs of the name of a signature and the rows that it is asked for."""
        rows = self._get_rows()
        yield from (("serving_default", part) for part in ([], rows[:1]))
        yield from self._more_tries(rows[:FEW])
        yield from (("serving_default", part) for part in chunks(rows))

    def _more_tries(self, rows):
        """Tries of the other signatures."""
        return ()

    def _inputs(self, signature, rows):
        """Inputs of a signature, as the runners take them."""
        return {name: [verify.as_json(row[name]) for row in rows] for name in self.inputs}

    def _answers(self, rows):
        """What Keras gives: dict of the signatures' outputs, a list with one for each row."""
        raise NotImplementedError

    def predict(self, rows):
        """Answer rows with the float32 copy, as the model's task does in Python."""
        return task_of(self.model).predict(
            self.model, rows, max_length=self.max_length, batch_size=BATCH_SIZE
        )

    def expected(self):
        """What Keras answers to all `calls`, a list of dicts; and the milliseconds of a row.

        It computes on the CPU, as the fresh processes: a GPU multiplies float32 with fewer digits.
        """
        tries = [rows for _, rows in self._tries()]
        with tf.device("CPU:0"):
            for _ in range(2):  # the first time traces
                start = time.perf_counter()
                found = [self._answers(rows) if rows else {} for rows in tries]
                seconds = time.perf_counter() - start
        return found, 1000 * seconds / sum(map(len, tries))

    def calls(self, signature=None):
        """All tries, as the runners take them."""
        for name, rows in self._tries():
            yield {"signature": name, "inputs": self._inputs(name, rows)}

    def check(self, expected, answers, tolerance, what):
        """Compare answers to `calls` with those of Keras.

        Args:
            expected: list of dicts, of `expected`.
            answers: list of dicts, of a runner.
            tolerance: float, largest difference of a number that is accepted.
            what: str, names the artefact in the error.

        Returns:
            dict of fields of the report.

        Raises:
            ValueError: a number differs by more, or anything else differs at all.
        """
        found = []
        for (_, rows), wanted, answer in zip(self._tries(), expected, answers):
            outputs = answer["outputs"]
            if rows:
                pairs = [(wanted[name], outputs[name]) for name in outputs]
                found.append(verify.check_outputs(pairs, tolerance, what))
            elif any(outputs.values()):
                raise ValueError(
                    f"{what} must give nothing for an empty batch. Received: {outputs}."
                )
        rows = self._get_rows()
        seconds = sum(answer["seconds"] for answer in answers[-len(chunks(rows)) :])
        worst = max(found, key=lambda numbers: numbers["largest_difference"])
        worst["sentences"] = len(rows)
        worst["label_flips"] = worst["label_flips"] if self.labels else None
        return {**worst, "milliseconds": 1000 * seconds / len(rows)}


class Scorer(TextModel):
    """A text classifier: see `TextModel`.

    `serving_default` takes `text`, string `(batch,)`, `pairs` takes `text` and `text_pair`, and
    `token_ids` the model's own int32 inputs `(batch, length)`. What they give is up to the task.
    `classify` or, of a regression, `regress` is that of TensorFlow Serving.

    Args:
        model: `TextClassifier`.
        max_length, texts: of `TextModel`.
    """

    def __init__(self, model, max_length=None, texts=verify.SENTENCES):
        check_classifier(model)
        super().__init__(model, max_length, texts)
        model, probabilities = self.model, task_of(model).probabilities
        self._scores = lambda inputs: probabilities(model(inputs))
        self._of_serving = "regress" if self.task == "text_regression" else "classify"
        self.methods = {self._of_serving: f"tensorflow/serving/{self._of_serving}"}

    def scores(self, inputs):
        """Turn token ids into probabilities.

        Args:
            inputs: dict of int32 `(batch, length)`, with at least the names in `input_names`.

        Returns:
            float32 `(batch, num_classes)`: probabilities, or numbers, as the model's task has it.
        """
        return self._scores(self._named(inputs))

    def score_texts(self, texts):
        """Score texts in Keras, with the tokenizer in Python: what artefacts are compared with.

        Args:
            texts: list of str.

        Returns:
            The pair of float32 `(texts, num_classes)` and the milliseconds that a text took.
        """
        rows = [{"text": text} for text in texts]
        with tf.device("CPU:0"):
            self.predict(rows)  # traces
            start = time.perf_counter()
            scores = self.predict(rows)
            seconds = time.perf_counter() - start
        return scores.reshape(len(rows), -1), 1000 * seconds / len(rows)

    def signatures(self):
        self.in_graph = self.tokenizer.in_graph()  # an attribute, so that its tables are saved

        def from_texts(*texts):
            return self._words(self.scores(self.in_graph(*texts, max_length=self.max_length)))

        def from_ids(**inputs):
            rows = tf.shape(inputs["token_ids"])[0]
            inputs = {name: at_least_one_row(ids) for name, ids in inputs.items()}
            return first_rows(rows, self._words(self.scores(inputs)))

        def of_serving(examples):
            features = {"text": tf.io.FixedLenFeature([], tf.string)}
            found = any_batch(from_texts, tf.io.parse_example(examples, features)["text"])
            if self._of_serving == "regress":
                return {"outputs": found["score"]}
            shape = tf.shape(found["scores"])
            return {"classes": tf.broadcast_to(self.labels, shape), "scores": found["scores"]}

        from_ids, of_serving = (tf.function(x, autograph=False) for x in (from_ids, of_serving))
        examples = tf.TensorSpec([None], tf.string, "inputs")
        return {
            "serving_default": self._of_texts(from_texts, "text"),
            "pairs": self._of_texts(from_texts, "text", "text_pair"),
            "token_ids": from_ids.get_concrete_function(**self.specs()),
            self._of_serving: of_serving.get_concrete_function(examples),
        }

    def _words(self, scores):
        """What is given of scores `(batch, num_classes)`."""
        labels = tf.constant(self.labels)
        if self.task == "text_regression":
            return {"score": scores[:, 0]}
        if self.task == "multi_label":
            every = tf.broadcast_to(labels, tf.shape(scores))
            likely = tf.ragged.boolean_mask(every, scores > LIKELY)
            return {"scores": scores, "labels": likely.to_tensor("")}
        return {"scores": scores, "label": tf.gather(labels, tf.argmax(scores, axis=1))}

    def _more_tries(self, rows):
        pairs = [{**row, "text_pair": other["text"]} for row, other in zip(rows, rows[::-1])]
        return [("token_ids", rows), (self._of_serving, rows), ("pairs", pairs)]

    def _inputs(self, signature, rows):
        if signature == "token_ids":
            ids = self.tokenize([row["text"] for row in rows])
            return {name: value.tolist() for name, value in ids.items()}
        if signature == self._of_serving:
            return {"inputs": [_example(row["text"]) for row in rows]}
        inputs = super()._inputs(signature, rows)
        if signature == "pairs":
            inputs["text_pair"] = [verify.as_json(row["text_pair"]) for row in rows]
        return inputs

    def _answers(self, rows):
        outputs = self.predict(rows)
        if self.task == "text_regression":
            return {"score": outputs, "outputs": outputs}
        words = task_of(self.model).answers(self.model, rows, outputs)
        name = "labels" if self.task == "multi_label" else "label"
        return {
            "scores": outputs,
            name: [answer[name] for answer in words],
            "classes": [list(self.labels)] * len(rows),
        }


def _example(text):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
    example = tf.train.Example(features=tf.train.Features(feature={"text": feature}))
    return example.SerializeToString().decode("latin-1")


def chunks(values, size=BATCH_SIZE):
    """Cut a list into lists of at most `size`."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def at_least_one_row(tensor):
    """Give an empty batch one row, because the layers' reshapes fail without any."""
    shape = tf.shape(tensor)
    missing = tf.maximum(1 - shape[:1], 0)
    return tf.concat([tensor, tf.zeros(tf.concat([missing, shape[1:]], 0), tensor.dtype)], 0)


def any_batch(function, *texts):
    """Call a function that takes strings `(batch,)` and can't do without a row.

    Args:
        function: from string tensors, in UTF-8, to a dict of tensors.
        *texts: strings `(batch,)`, all of one length, maybe 0.

    Returns:
        What `function` gives, as many rows as there are texts.
    """
    rows = tf.shape(texts[0])[0]
    for others in texts[1:]:
        tf.debugging.assert_equal(rows, tf.shape(others)[0], "The texts must be as many.")
    return first_rows(rows, function(*(valid(at_least_one_row(text)) for text in texts)))


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


def check_classifier(model):
    """Check that a model is one that `Scorer` takes.

    Args:
        model: any object.

    Raises:
        ValueError: it is no `TextClassifier`.
    """
    if not isinstance(model, TextClassifier):
        raise ValueError(
            f"`model` must be a text classifier. Received: {type(model).__name__}. Give any other "
            "Keras model `inputs`, examples to verify its artefact on."
        )


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
    # That of a sentence encoder is less, as it was trained.
    max_length = getattr(model, "max_length", longest) if max_length is None else max_length
    if not 3 <= max_length <= longest:
        raise ValueError(
            f"`max_length` must be from 3 to {longest}, the positions that the model knows. "
            f"Received: {max_length}."
        )
    return max_length
