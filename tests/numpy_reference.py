"""The layers once more, in NumPy and float64: written from the papers' formulas, head by head."""

import math

import keras
import numpy as np


def randomise(layer, seed=0, scale=0.4):
    """Give every weight of a layer or model a random value; nothing stays 0 or 1."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        mean = 1.0 if weight.name == "gamma" else 0.0
        weight.assign(rng.normal(mean, scale, weight.shape))
    return layer


def float32(tensor):
    """The array of a tensor, of a low precision too (NumPy has no bfloat16)."""
    return np.array(keras.ops.cast(tensor, "float32"))


def _weights(layer):
    return [np.asarray(weight, "float64") for weight in layer.get_weights()]


def dense(layer, x):
    kernel, bias = _weights(layer)
    return x @ kernel + bias


def layernorm(layer, x, epsilon):
    gamma, beta = _weights(layer)
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


ACTIVATIONS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def attention(layer, x, num_heads, context=None, bias=0.0):
    """Equation 1 of "Attention Is All You Need", one head and one row of the batch at a time."""
    context = x if context is None else context
    query, key, value = (
        dense(layer.query_dense, x),
        dense(layer.key_dense, context),
        dense(layer.value_dense, context),
    )
    width = x.shape[-1] // num_heads
    bias = np.broadcast_to(bias, (len(x), num_heads, x.shape[1], context.shape[1]))
    output = np.empty_like(x)
    for row in range(len(x)):
        for head in range(num_heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[row][:, part] @ key[row][:, part].T / math.sqrt(width)
            output[row][:, part] = softmax(scores + bias[row, head]) @ value[row][:, part]
    return dense(layer.combine_heads, output)


def block(
    layer,
    x,
    num_heads,
    *,
    activation="relu",
    epsilon=1e-6,
    norm_first=False,
    bias=0.0,
    context=None,
    context_bias=0.0,
):
    def feed_forward(x):
        expand, project = layer.ffn.layers
        return dense(project, ACTIVATIONS[activation](dense(expand, x)))

    sublayers = [(lambda x: attention(layer.att, x, num_heads, bias=bias), layer.layernorm1)]
    if context is not None:
        cross = lambda x: attention(layer.cross_att, x, num_heads, context, context_bias)  # noqa: E731
        sublayers.append((cross, layer.cross_layernorm))
    sublayers.append((feed_forward, layer.layernorm2))
    for sublayer, norm in sublayers:
        if norm_first:
            x = x + sublayer(layernorm(norm, x, epsilon))
        else:
            x = layernorm(norm, x + sublayer(x), epsilon)
    return x


def embedding(layer, token_ids, segment_ids=None, epsilon=None):
    (tokens,), (positions,) = _weights(layer.token_emb), _weights(layer.pos_emb)
    x = tokens[token_ids] + positions[: token_ids.shape[1]]
    if segment_ids is not None:
        x = x + _weights(layer.segment_emb)[0][segment_ids]
    return x if epsilon is None else layernorm(layer.layernorm, x, epsilon)


def masked(padding_mask):
    """A padding mask as a bias, with a true minus infinity."""
    return np.where(padding_mask, 0.0, -np.inf)[:, None, None, :]


def transformer(model, token_ids, padding_mask, segment_ids=None):
    config = model.config
    x = embedding(model.embedding, token_ids, segment_ids, config.epsilon)
    for layer in model.blocks:
        x = block(
            layer,
            x,
            config.num_heads,
            activation=config.activation,
            epsilon=config.epsilon,
            bias=masked(padding_mask),
        )
    return x
