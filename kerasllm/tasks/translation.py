"""Translation: a text in another language; or any text that answers a text.

Tables may hold several references of a row as a list: the first one is learnt, all are compared
with what the model writes.
"""

import keras
import numpy as np
from keras import ops

from kerasllm.data.sentences import close_up, joined
from kerasllm.evaluation.texts import TextsResult, evaluate_translations, references
from kerasllm.models.seq2seq_lm import Seq2SeqLM
from kerasllm.tasks.language_modeling import cross_entropy
from kerasllm.tasks.text_classification import features

MODEL = Seq2SeqLM
COLUMNS = ("source", "target")
OPTIONAL_COLUMNS = ()
INPUTS = ("source",)
MONITOR = "val_accuracy"
RESULT = TextsResult


def head(rows):
    """What a model's head must be for these rows: nothing of its own."""
    return {}


def texts(rows):
    """The texts of rows, for a vocabulary of both languages."""
    return [text for row in rows for text in (joined(row["source"]), *references(row))]


def loss(label_smoothing=0.1):
    """The loss: cross entropy of the next token, smoothed.

    Args:
        label_smoothing: float in [0, 1), the part of 1 that all tokens share.

    Returns:
        `SmoothedCrossentropy`.

    References:
        Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", section 7;
        Vaswani et al. 2017, "Attention Is All You Need", section 5.4.
    """
    return SmoothedCrossentropy(label_smoothing)


def metrics():
    """The metrics shown while training: how often the right token is the likeliest."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


@keras.saving.register_keras_serializable(package="kerasllm")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross entropy between logits and ids, with a part of the probability shared by all classes.

    Args:
        label_smoothing: float in [0, 1), that part.
        reduction: str: by default the mean over the tokens, each with its weight.
        **kwargs: of `keras.losses.Loss`.

    Example:
        >>> loss = SmoothedCrossentropy(0.1)
        >>> round(float(loss(np.array([[1]]), np.array([[[0.0, 2.0]]], "float32"))), 4)
        0.2269
    """

    def __init__(self, label_smoothing=0.0, reduction="mean_with_sample_weight", **kwargs):
        super().__init__(reduction=reduction, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        losses = cross_entropy(y_true, y_pred)
        true = ops.expand_dims(ops.cast(y_true, "int32"), -1)
        logits = ops.squeeze(ops.take_along_axis(y_pred, true, axis=-1), -1)
        # The same cross entropy with the mean of the logits in place of the true one's.
        return losses + self.label_smoothing * (logits - ops.mean(y_pred, axis=-1))

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    Args:
        model: `Seq2SeqLM` with a tokenizer.
        rows: list of dicts with `source`, a text or a list of its sentences, and `target`, a text
            or a list of references, of which the first is learnt.
        max_length: int or None: both texts are cut to so many tokens; None for all the model can
            take.

    Returns:
        The triple (features, targets, weights): dict of int32 `(rows, length)`; int32 `(rows,
        decoder_length)`, the tokens that the decoder must give, which reads those before them; and
        float32 of the same shape, 0 at padding.

    Raises:
        ValueError: there are no rows, one has no texts, or `max_length` is beyond the model's.
    """
    sources = _tokens(model, [joined(row["source"]) for row in rows], max_length)
    targets = _tokens(model, [references(row)[0] for row in rows], max_length)
    token_ids, mask = targets["token_ids"], targets["padding_mask"]
    before = np.concatenate([np.full_like(token_ids[:, :1], model.begin), token_ids[:, :-1]], 1)
    inputs = {**sources, "decoder_token_ids": before, "decoder_padding_mask": mask}
    return inputs, token_ids, mask.astype("float32")


def _tokens(model, texts, max_length):
    inputs = features(model, [{"text": text} for text in texts], max_length)
    return {name: inputs[name] for name in ("token_ids", "padding_mask")}


def predict(
    model, rows, *, max_length=None, batch_size=32, max_new_tokens=128, num_beams=1, **options
):
    """Write the answer to each row.

    Args:
        model: `Seq2SeqLM` with a tokenizer.
        rows: list of dicts with `source`.
        max_length: int or None, as for `encode`.
        batch_size: int.
        max_new_tokens: int, the most tokens that are written.
        num_beams: int, how many texts are followed at once; 1 for the likeliest token each time.
        **options: of `model.generate`.

    Returns:
        list of str.
    """
    inputs = _tokens(model, [joined(row["source"]) for row in rows], max_length)
    lengths = inputs["padding_mask"].sum(axis=1)
    prompts = [ids[:length].tolist() for ids, length in zip(inputs["token_ids"], lengths)]
    options = dict(options, max_new_tokens=max_new_tokens, num_beams=num_beams)
    written = written_on(model, prompts, batch_size, **options)
    # Such a tokenizer can't tell where there were spaces.
    return [*map(close_up, written)] if getattr(model.tokenizer, "split_cjk", False) else written


def written_on(model, prompts, batch_size, **options):
    """Write on from prompts, those of like length together.

    Args:
        model: has `generate` and a tokenizer.
        prompts: list of lists of token ids.
        batch_size: int.
        **options: of `model.generate`.

    Returns:
        list of str, in the order of the prompts.
    """
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    written = [""] * len(prompts)
    for start in range(0, len(prompts), batch_size):
        part = order[start : start + batch_size]
        found = model.generate([prompts[i] for i in part], details=True, **options)
        for i, generated in zip(part, found):
            written[i] = generated.text
    return written


def answers(model, rows, outputs):
    """Put what was written into words.

    Args:
        model: `Seq2SeqLM`.
        rows: list of dicts.
        outputs: list of str.

    Returns:
        list of dicts: `target`.
    """
    return [{"target": output} for output in outputs]


def evaluate(model, rows, outputs):
    """Compare translations with references.

    Args:
        model: `Seq2SeqLM`.
        rows: list of rows with `source` and `target`.
        outputs: list of str.

    Returns:
        `evaluation.texts.TextsResult`.
    """
    return evaluate_translations(rows, outputs)
