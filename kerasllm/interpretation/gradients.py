"""What an answer hangs on: each token's share of a model's output."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from kerasllm.interpretation.attention import row_of, token_texts
from kerasllm.models import SpanLabeler, TextClassifier, TokenClassifier
from kerasllm.tasks.text_classification import features


@dataclasses.dataclass(frozen=True)
class Attribution:
    """The shares of a text's tokens in one output of a model.

    Args:
        tokens: tuple of str.
        shares: float32 `(tokens,)`: above 0 where a token speaks for the output.
        target: str, which output.
        output: float, the logit for the text.
        baseline: float, the logit for the text without its words. The shares add up to the
            difference of the two, but for the error of the sum.
    """

    tokens: tuple
    shares: np.ndarray
    target: str
    output: float
    baseline: float


def integrated_gradients(
    model, text, text_pair=None, *, target=None, steps=64, max_length=None
) -> Attribution:
    """Say how much each token of a text adds to an output of a model.

    The gradients of the output by the token embeddings are summed up on the way from a text that
    has the token of padding (or of masking) in place of each word, to the text.

    Args:
        model: `TextClassifier`, `TokenClassifier` or `SpanLabeler` of a Transformer, with its
            tokenizer.
        text: str.
        text_pair: str or None, a second text (for `SpanLabeler`, `text` is the question and
            `text_pair` the context).
        target: of a `TextClassifier`, a label; of a `TokenClassifier`, the pair of an index of a
            token and a label; of a `SpanLabeler`, the pair of `"start"` or `"end"` and an index of
            a token. None for the likeliest (of a tagger: at the token that is surest of a label
            other than its first).
        steps: int, points of the sum; more are exacter.
        max_length: int or None: the text is cut to so many tokens; None for all the model can take.

    Returns:
        `Attribution`.

    Raises:
        TypeError: the model is of another class.
        ValueError: the model has no tokenizer, or no such output.

    Example:
        >>> found = integrated_gradients(model, "not bad at all")  # doctest: +SKIP
        >>> dict(zip(found.tokens, found.shares.round(2)))  # doctest: +SKIP
        {'[CLS]': 0.0, 'not': -1.1, 'bad': 2.4, 'at': 0.1, 'all': 0.3, '[SEP]': 0.0}

    References:
        Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", section 3, equation 1;
        the sum of section 5 by the midpoint rule.
    """
    inputs = features(model, row_of(text, text_pair), max_length)
    embed, outputs = _halves(model, inputs)
    whole = embed(inputs)  # (1, length, embed_dim)
    empty = embed({**inputs, "token_ids": _without_words(model.tokenizer, inputs["token_ids"])})
    logits = outputs(whole)
    index, name = _target(model, logits[0].numpy(), target)
    points = (np.arange(steps, dtype="float32") + 0.5) / steps
    points = tf.constant(points[:, np.newaxis, np.newaxis], whole.dtype)
    with tf.GradientTape() as tape:
        between = empty + points * (whole - empty)  # (steps, length, embed_dim)
        tape.watch(between)
        chosen = tf.gather_nd(outputs(between), [(i, *index) for i in range(steps)])
    mean = tf.reduce_mean(tf.cast(tape.gradient(chosen, between), "float32"), axis=0)
    shares = tf.reduce_sum(mean * tf.cast(whole - empty, "float32")[0], axis=-1)
    return Attribution(
        tokens=token_texts(model.tokenizer, inputs["token_ids"][0]),
        shares=shares.numpy(),
        target=name,
        output=float(logits[0].numpy()[index]),
        baseline=float(outputs(empty)[0].numpy()[index]),
    )


def _halves(model, inputs):
    """A model in two: from ids to embeddings, and from embeddings to logits."""
    backbone = model.backbone
    embedded = getattr(getattr(backbone, "embedding", None), "output", None)
    if not isinstance(model, (TextClassifier, TokenClassifier, SpanLabeler)) or embedded is None:
        raise TypeError(
            "`model` must be a classifier, a tagger or a span labeler of a Transformer. Received: "
            f"a {type(model).__name__} of the family {model.family}."
        )
    names = list(backbone.input)
    first = keras.Model(dict(backbone.input), embedded)
    second = keras.Model([embedded, *backbone.input.values()], backbone.output)
    inputs = {name: tf.constant(inputs[name]) for name in names if name in inputs}
    for name in names:
        inputs.setdefault(name, tf.zeros_like(inputs["token_ids"]))  # segments of a single text

    def outputs(embedded):
        count = tf.shape(embedded)[0]
        repeated = {name: tf.repeat(x, count, axis=0) for name, x in inputs.items()}
        hidden_states = second([embedded, *(repeated[name] for name in names)], training=False)
        return model._head(hidden_states, repeated)

    return lambda given: first({**inputs, **{n: given[n] for n in names if n in given}}), outputs


def _without_words(tokenizer, token_ids):
    """The same row with its words replaced; what stands before and after texts remains."""
    special = {getattr(tokenizer, f"{role}_id", None) for role in ("cls", "sep", "bos", "eos")}
    empty = next(
        found
        for role in ("pad", "mask", "unk", "eos")
        if (found := getattr(tokenizer, f"{role}_id", None)) is not None
    )
    kept = np.isin(token_ids, [x for x in special if x is not None])
    return np.where(kept, token_ids, empty).astype("int32")


def _target(model, logits, target):
    """The index of an output, and its name."""
    if isinstance(model, SpanLabeler):
        sides = ("start", "end")
        side, token = target or ("start", None)
        _check(side in sides, f"`target` must begin with one of {sides}", target)
        token = int(logits[:, sides.index(side)].argmax()) if token is None else token
        _check(0 <= token < len(logits), f"`target` must name one of {len(logits)} tokens", target)
        return (token, sides.index(side)), f"{side} at token {token}"
    labels = model.labels
    if isinstance(model, TextClassifier):
        label = labels[int(logits.argmax())] if target is None else target
        _check(label in labels, f"`target` must be one of {', '.join(labels)}", target)
        return (labels.index(label),), label
    if target is None:
        lead = logits[:, 1:].max(axis=1) - logits[:, 0]
        token = int(lead.argmax())
        target = token, labels[1 + int(logits[token, 1:].argmax())]
    token, label = target
    _check(0 <= token < len(logits), f"`target` must name one of {len(logits)} tokens", target)
    _check(label in labels, f"`target` must have one of {', '.join(labels)}", target)
    return (token, labels.index(label)), f"{label} at token {token}"


def _check(holds, rule, received):
    if not holds:
        raise ValueError(f"{rule}. Received: {received!r}.")
