"""Contrastive pretraining: a text is nearer to its pair than to all others of a batch.

Without pairs, the two are one text read twice, under another dropout each time.
"""

import keras
import numpy as np
from keras import ops

from kerasllm.data.parts import over_whole_batch
from kerasllm.data.pretraining import line_rows, twins
from kerasllm.data.texts import stream
from kerasllm.evaluation.retrieval import RetrievalResult, evaluate_pairs
from kerasllm.models.sentence_encoder import SentenceEncoder
from kerasllm.tasks.masked_lm import head
from kerasllm.tasks.text_classification import longest_row, pairs_of, texts

MODEL = SentenceEncoder
COLUMNS = ("text",)
OPTIONAL_COLUMNS = ("text_pair",)
INPUTS = ("text",)
MONITOR = "val_loss"
RESULT = RetrievalResult
TEMPERATURE = 0.05  # of the paper, section 3

__all__ = [
    "answers", "dataset", "evaluate", "evaluate_batches", "head", "loss", "metrics", "predict",
    "texts",
]  # fmt: skip


def loss(temperature=TEMPERATURE):
    """The loss: cross entropy of finding a text's pair among those of the batch.

    Args:
        temperature: float.

    Returns:
        `ContrastiveLoss`.
    """
    return ContrastiveLoss(temperature)


def metrics():
    """The metrics shown while training: how often a text's pair is the nearest of the batch."""
    return [keras.metrics.MeanMetricWrapper(_found, name="accuracy")]


@keras.saving.register_keras_serializable(package="kerasllm")
class ContrastiveLoss(keras.losses.Loss):
    """Cross entropy of telling which of the batch's second texts is a first text's pair.

    The rows of predictions are the first and second text of a pair in turn. Under a strategy, the
    pairs of all replicas are compared.

    Args:
        temperature: float, by which cosines are divided.
        **kwargs: of `keras.losses.Loss`.

    Example:
        >>> vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> round(float(ContrastiveLoss(1.0)(np.array([0, 0, 1, 1]), vectors)), 4)
        0.3133

    References:
        Gao et al. 2021, "SimCSE", equation 1; Henderson et al. 2017, "Efficient Natural Language
        Response Suggestion for Smart Reply", section 4.
    """

    compares_rows = True

    def __init__(self, temperature=TEMPERATURE, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        return over_whole_batch(self._of_rows)(y_pred)

    def _of_rows(self, vectors):
        likeness = cosines(vectors) / self.temperature
        own = ops.diagonal(likeness)
        return ops.repeat(ops.logsumexp(likeness, axis=-1) - own, 2)  # one a row

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


def cosines(vectors):
    """Compare all first texts with all second ones.

    Args:
        vectors: float `(2 * pairs, width)`, of the first and second text of each pair in turn.

    Returns:
        float `(pairs, pairs)`, the cosines.
    """
    vectors = ops.normalize(vectors, axis=-1)
    return ops.matmul(vectors[0::2], ops.transpose(vectors[1::2]))


def _found(y_true, y_pred):
    return over_whole_batch(_nearest)(y_pred)


def _nearest(vectors):
    likeness = cosines(vectors)
    nearest = ops.argmax(likeness, axis=-1)
    right = ops.equal(nearest, ops.arange(ops.shape(likeness)[0], dtype=nearest.dtype))
    return ops.repeat(ops.cast(right, "float32"), 2)


def dataset(
    model,
    source,
    *,
    batch_size=32,
    max_length=None,
    training=True,
    seed=0,
    pairs=False,
    **streaming,
):
    """Make batches out of plain text, a line being a text.

    Args:
        model: `SentenceEncoder` with a tokenizer.
        source: path, pattern, list of either, list of texts, or rows with `text` and perhaps
            `text_pair` (in all or in none).
        batch_size: int, pairs in a (global) batch, the more the harder; the last pairs of a pass,
            which fill none, are left out.
        max_length: int or None: texts are cut to so many tokens; None for the model's `max_length`.
        training: bool, whether the order is another one in each pass.
        seed: int.
        pairs: bool, whether a line holds a pair, with a tab between its texts. Rows tell it.
        **streaming: `steps`, `shard`, `service` and others of `data.texts.stream`.

    Returns:
        A `tf.data.Dataset` of known cardinality, of inputs, a dict of int32
        `(2 * batch_size, length)`, where the texts of a pair follow one another, and int32
        `(2 * batch_size,)`, the number of the pair.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, a pair is incomplete, or an argument is out of its
            range.

    Example:
        >>> history = fit(model, dataset(model, "wiki/*.txt", batch_size=64))  # doctest: +SKIP

    References:
        Gao et al. 2021, "SimCSE", section 3.
    """
    if isinstance(source, (list, tuple)) and source and isinstance(source[0], dict):
        pairs = pairs_of(source) is not None
        source = [_line(row) for row in source]
    length = longest_row(model, max_length or model.max_length)
    return stream(
        source,
        line_rows(model.tokenizer, length, pairs=pairs),
        twins,
        **dict(batch_size=batch_size, training=training, seed=seed, drop_remainder=True),
        **streaming,
    )


def _line(row):
    """A row as a line of a file."""
    return "\t".join(" ".join(text.split()) for text in texts([row]))


def predict(model, rows, *, max_length=None, batch_size=32):
    """Turn texts into vectors.

    Args:
        model: `SentenceEncoder` with a tokenizer.
        rows: list of dicts with `text`, and `text_pair` in all or in none.
        max_length: int or None: texts are cut to so many tokens; None for the model's `max_length`.
        batch_size: int.

    Returns:
        float32 `(rows, texts, embed_dim)`, where `texts` is 2 with pairs, else 1.

    Raises:
        ValueError: there are no rows, or a pair is incomplete.
    """
    number = 1 if pairs_of(rows) is None else 2
    found = model.encode(texts(rows), max_length=max_length, batch_size=batch_size)
    return found.reshape(len(rows), number, -1)


def answers(model, rows, outputs):
    """Put vectors into words: how alike the texts of a pair are, or the vector itself.

    Args:
        model: has no say.
        rows: list of dicts.
        outputs: of `predict`.

    Returns:
        list of dicts: `similarity`, the cosine of a pair; or `vector`, a list of float.
    """
    return [
        {"vector": vectors[0].tolist()} if len(vectors) == 1 else {"similarity": _cosine(*vectors)}
        for vectors in np.asarray(outputs)
    ]


def _cosine(a, b):
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def evaluate(model, rows, outputs):
    """Look for the pair of each text among those of all rows.

    Args:
        model: has no say.
        rows: list of dicts with `text` and `text_pair`.
        outputs: of `predict`.

    Returns:
        `evaluation.retrieval.RetrievalResult`.

    Raises:
        ValueError: the rows have no pairs.
    """
    return evaluate_pairs(outputs, [tuple(texts([row])) for row in rows])


def evaluate_batches(model, batches, metrics):
    """Look for the pair of each text among those of all batches.

    Args:
        model: `SentenceEncoder`.
        batches: what `dataset` gives without `training`.
        metrics: have no say.

    Returns:
        `evaluation.retrieval.RetrievalResult`.

    Raises:
        ValueError: there are no two pairs.
    """
    vectors = np.concatenate([model.predict_on_batch(inputs) for inputs, _ in batches])
    return evaluate_pairs(vectors.reshape(-1, 2, vectors.shape[-1]))
