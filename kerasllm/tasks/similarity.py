"""Similarity: vectors of texts whose cosines are in the order of how alike people find the texts.

A number for a pair that is read as one row (`text_regression`) is more exact; vectors are made once
a text, so that thousands can be compared.
"""

import keras
from keras import ops

from kerasllm.data.parts import over_whole_batch
from kerasllm.data.pretraining import pair_batches
from kerasllm.evaluation.numbers import NumbersResult, evaluate_numbers
from kerasllm.models.sentence_encoder import SentenceEncoder
from kerasllm.tasks.contrastive import answers, cosines, predict, texts
from kerasllm.tasks.masked_lm import head
from kerasllm.tasks.text_classification import longest_row
from kerasllm.tasks.text_regression import numbers_of

MODEL = SentenceEncoder
COLUMNS = ("text", "text_pair", "score")
OPTIONAL_COLUMNS = ()
INPUTS = ("text", "text_pair")
MONITOR = "val_loss"
RESULT = NumbersResult
SCALE = 20.0  # of cosines in the loss, as in the published code

__all__ = ["answers", "dataset", "evaluate", "head", "loss", "metrics", "predict", "texts"]


def loss():
    """The loss: `RankingLoss`."""
    return RankingLoss()


def metrics():
    """The metrics shown while training: none, for an order is of all rows together."""
    return []


@keras.saving.register_keras_serializable(package="kerasllm")
class RankingLoss(keras.losses.Loss):
    """How far the cosines of pairs are from the order of their scores, whatever the scores' scale.

    For each two pairs of a batch of which the first has the higher score, the cosine of the second
    should be less: `log(1 + sum(exp(20 (cos second - cos first))))`, CoSENT. Under a strategy, the
    pairs of all replicas are compared.

    Call arguments:
        y_true: float `(2 * pairs,)`, the score of the pair that each text is of.
        y_pred: float `(2 * pairs, embed_dim)`, the vectors of first and second texts in turn.

    Example:
        >>> vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], "float32")
        >>> float(RankingLoss()(np.array([5.0, 5.0, 1.0, 1.0]), vectors)) < 1e-3
        True

    References:
        Su 2022, "CoSENT (1)", equation 5, https://kexue.fm/archives/8847.
    """

    compares_rows = True

    def call(self, y_true, y_pred):
        return over_whole_batch(self._of_rows)(y_true, y_pred)

    def _of_rows(self, y_true, y_pred):
        scores = ops.reshape(y_true, (-1,))[0::2]
        own = ops.diagonal(cosines(y_pred)) * SCALE
        higher = ops.expand_dims(scores, 1) > ops.expand_dims(scores, 0)  # (pairs, pairs)
        apart = ops.expand_dims(own, 0) - ops.expand_dims(own, 1)
        terms = ops.reshape(ops.where(higher, apart, -1e9), (-1,))
        # The 1 of the logarithm is the exponential of a 0 among the terms.
        value = ops.logsumexp(ops.concatenate([ops.zeros((1,), terms.dtype), terms]))
        return ops.broadcast_to(value, (ops.shape(y_pred)[0],))


def dataset(model, rows, *, batch_size=32, max_length=None, training=True, seed=0):
    """Make batches out of rows.

    Args:
        model: `SentenceEncoder` with a tokenizer.
        rows: list of dicts with `text`, `text_pair` and `score`, a number, the higher the more
            alike.
        batch_size: int, pairs in a (global) batch.
        max_length: int or None: texts are cut to so many tokens; None for the model's `max_length`.
        training: bool, whether the order is another one in each pass.
        seed: int.

    Returns:
        A `tf.data.Dataset` of known cardinality, of inputs, a dict of int32
        `(2 * batch_size, length)`, where the texts of a pair follow one another, and float32
        `(2 * batch_size,)`, the score of the pair.

    Raises:
        ValueError: the model has no tokenizer, a score is no number, or there are no rows.
    """
    length = longest_row(model, max_length or model.max_length)
    scores = numbers_of(rows)
    inputs = model.tokenizer(texts(rows), max_length=length)
    return pair_batches(inputs, scores, batch_size, shuffle=training, seed=seed)


def evaluate(model, rows, outputs):
    """Compare the cosines of pairs with their scores, by their order.

    Args:
        model: has no say.
        rows: list of rows with `text`, `text_pair` and `score`.
        outputs: of `predict`.

    Returns:
        `evaluation.NumbersResult`.
    """
    found = [answer["similarity"] for answer in answers(model, rows, outputs)]
    return evaluate_numbers(rows, numbers_of(rows), found, same_scale=False)
