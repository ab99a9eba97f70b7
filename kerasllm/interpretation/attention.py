"""Where each head of each layer looks."""

import dataclasses

import numpy as np
from keras import ops

from kerasllm.layers import recorded_attention
from kerasllm.tasks.text_classification import features
from kerasllm.tasks.translation import encode


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention weights over one text.

    Args:
        queries: tuple of str, the tokens that look.
        keys: tuple of str, the tokens that they look at.
        weights: float32 `(layers, heads, queries, keys)`, each row of keys summing to 1.
    """

    queries: tuple
    keys: tuple
    weights: np.ndarray


def attention_weights(model, text, text_pair=None, *, max_length=None) -> Attention:
    """Return where each head of each layer looks, for one text.

    Args:
        model: a model of the zoo with one stack of attention layers, with its tokenizer.
        text: str.
        text_pair: str or None, a second text, as the model was trained with.
        max_length: int or None: the text is cut to so many tokens; None for all the model can take.

    Returns:
        `Attention`.

    Raises:
        ValueError: the model has no tokenizer, or not one stack of attention layers.

    Example:
        >>> seen = attention_weights(model, "A warm, funny film.")  # doctest: +SKIP
        >>> seen.weights.shape  # doctest: +SKIP
        (6, 12, 9, 9)
    """
    inputs = features(model, row_of(text, text_pair), max_length)
    length = inputs["token_ids"].shape[1]
    one_stack = "decoder_token_ids" not in model.backbone.input
    found = _recorded(model, inputs) if one_stack else []
    if not found:
        raise ValueError(
            "`model` must have one stack of attention layers. Received: a "
            f"{type(model).__name__} of the family {model.family} (see `alignment` for a "
            "`Seq2SeqLM`)."
        )
    tokens = token_texts(model.tokenizer, inputs["token_ids"][0])
    return Attention(tokens, tokens, np.stack([x[0, :, :length, :length] for x in found]))


def alignment(model, source, target, *, max_length=None) -> Attention:
    """Return where each token of an answer looks in the source, for each head of each layer.

    Args:
        model: `Seq2SeqLM` with its tokenizer.
        source: str.
        target: str, the answer, as of `model.generate(source)`.
        max_length: int or None: both are cut to so many tokens; None for all the model can take.

    Returns:
        `Attention`, with the answer's tokens as queries (each when it is about to be written) and
        the source's as keys.

    Raises:
        ValueError: the model has no tokenizer.

    References:
        Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and
        Translate", section 5.2.2.
    """
    inputs, (answer,), _ = encode(model, [{"source": source, "target": target}], max_length)
    found = _recorded(model, inputs)
    # The encoder's layers come first; then, in each of the decoder's, itself and the source.
    across = found[model.config.num_layers + 1 :: 2]
    tokenizer = model.tokenizer
    return Attention(
        token_texts(tokenizer, answer),
        token_texts(tokenizer, inputs["token_ids"][0]),
        np.stack([weights[0] for weights in across]),
    )


def attention_rollout(attention) -> np.ndarray:
    """Follow attention through all layers: how much of each input token each output has seen.

    Args:
        attention: `Attention` of `attention_weights`.

    Returns:
        float32 `(layers, queries, keys)`: after each layer, each row summing to 1.

    References:
        Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3, attention
        rollout: the mean of the heads, half of it the residual connection.
    """
    heads = attention.weights.mean(axis=1)  # (layers, queries, keys)
    own = np.eye(heads.shape[-1], dtype="float32")
    seen, after = own, []
    for layer in heads:
        seen = (0.5 * layer + 0.5 * own) @ seen
        after.append(seen)
    return np.stack(after)


def row_of(text, text_pair):
    """Return the rows of one text, or one pair.

    Args:
        text: str.
        text_pair: str or None.

    Returns:
        list of a dict, as `tasks.text_classification.features` takes it.
    """
    return [{"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}]


def token_texts(tokenizer, token_ids) -> tuple:
    """Return what tokens read as.

    Args:
        tokenizer: of `kerasllm.tokenizers`.
        token_ids: int `(length,)`.

    Returns:
        tuple of str: the text of each, or its name in the vocabulary where it has none alone.
    """
    return tuple(_read(tokenizer, int(token_id)) for token_id in token_ids)


def _read(tokenizer, token_id):
    text = tokenizer.decode([token_id]).strip()
    return text if text and "\ufffd" not in text else tokenizer.token(token_id)


def _recorded(model, inputs):
    with recorded_attention() as found:
        model(inputs)
    return [ops.convert_to_numpy(ops.cast(weights, "float32")) for weights in found]
