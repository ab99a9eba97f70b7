"""The layers once more, in NumPy and float64: written from the papers' formulas, head by head."""

import math

import keras
import numpy as np


def randomise(layer, seed=0, scale=0.4):
    """Give every weight of a layer or model a random value; nothing stays 0 or 1."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        mean = 1.0 if weight.name in ("gamma", "scale") else 0.0
        weight.assign(rng.normal(mean, scale, weight.shape))
    return layer


def float32(tensor):
    """The array of a tensor, of a low precision too (NumPy has no bfloat16)."""
    return np.array(keras.ops.cast(tensor, "float32"))


def _weights(layer):
    return [np.asarray(weight, "float64") for weight in layer.get_weights()]


def dense(layer, x):
    kernel, *bias = _weights(layer)
    return x @ kernel + sum(bias)


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


def rms_norm(layer, x, epsilon):
    (scale,) = _weights(layer)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def rotated(x, positions, theta):
    """Each pair as a complex number, turned by its angle."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=1)


def rotary_attention(layer, x, positions, bias, theta):
    """One query head and one row of the batch at a time; heads of a group share keys and values."""
    query, key, value = (
        dense(part, x) for part in (layer.query_dense, layer.key_dense, layer.value_dense)
    )
    width, group = layer.projection_dim, layer.num_heads // layer.num_kv_heads
    output = np.empty((*x.shape[:2], layer.num_heads * width))
    for row in range(len(x)):
        for head in range(layer.num_heads):
            mine = slice(head * width, (head + 1) * width)
            shared = slice(head // group * width, (head // group + 1) * width)
            q, k, v = query[row][:, mine], key[row][:, shared], value[row][:, shared]
            if layer.qk_norm:
                q = rms_norm(layer.query_norm, q, layer.epsilon)
                k = rms_norm(layer.key_norm, k, layer.epsilon)
            q, k = rotated(q, positions[row], theta), rotated(k, positions[row], theta)
            output[row][:, mine] = softmax(q @ k.T / math.sqrt(width) + bias[row]) @ v
    return dense(layer.combine_heads, output)


def gated_feed_forward(layer, x, activation):
    gate = ACTIVATIONS[activation](dense(layer.gate, x))
    return dense(layer.project, gate * dense(layer.expand, x))


def llama(model, token_ids, padding_mask):
    config = model.config
    x = _weights(model.embedding)[0][token_ids]
    positions = np.cumsum(padding_mask, axis=1) - 1
    index = np.arange(token_ids.shape[1])
    ahead = index[None, :] - index[:, None]  # (query, key)
    for layer, window in zip(model.blocks, config.windows):
        seen = (ahead <= 0) & (ahead > -(window or len(index)))
        seen = seen & (padding_mask[:, None, :] == 1)
        # A query that sees nothing is padding itself: it may see all.
        bias = np.where(seen | ~seen.any(-1, keepdims=True), 0.0, -np.inf)
        normed = rms_norm(layer.norm1, x, config.epsilon)
        x = x + rotary_attention(layer.att, normed, positions, bias, config.rope_theta)
        normed = rms_norm(layer.norm2, x, config.epsilon)
        x = x + gated_feed_forward(layer.ffn, normed, config.activation)
    return rms_norm(model.final_norm, x, config.epsilon)


def t5_bucket(distance, num_buckets, max_distance, causal):
    """The bucket of one distance from a query to a key: near ones exactly, far ones by logarithm."""
    first = 0
    if not causal:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
    distance = max(-distance, 0) if causal else abs(distance)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return first + min(exact + int(share * (num_buckets - exact) + 1e-9), num_buckets - 1)


def t5_bias(layer, length):
    """One pair of tokens at a time: (heads, query, key)."""
    (table,) = _weights(layer)
    buckets = [
        [
            t5_bucket(key - query, layer.num_buckets, layer.max_distance, layer.causal)
            for key in range(length)
        ]
        for query in range(length)
    ]
    bias = table[np.array(buckets)].transpose(2, 0, 1)
    return np.where(np.tri(length) == 0, -np.inf, bias) if layer.causal else bias


def t5_attention(layer, x, bias, context=None):
    """One head and one row at a time, without a scale; heads of any width."""
    context = x if context is None else context
    query = dense(layer.query_dense, x)
    key, value = dense(layer.key_dense, context), dense(layer.value_dense, context)
    bias = np.broadcast_to(bias, (len(x), layer.num_heads, x.shape[1], context.shape[1]))
    output = np.empty_like(query)
    for row in range(len(x)):
        for head in range(layer.num_heads):
            part = slice(head * layer.projection_dim, (head + 1) * layer.projection_dim)
            scores = query[row][:, part] @ key[row][:, part].T
            output[row][:, part] = softmax(scores + bias[row, head]) @ value[row][:, part]
    return dense(layer.combine_heads, output)


def t5_stack(model, token_ids, padding_mask, context=None, context_mask=None):
    config = model.config
    x = _weights(model.embedding)[0][token_ids]
    bias = t5_bias(model.attention_bias, token_ids.shape[1]) + masked(padding_mask)
    for layer in model.blocks:
        x = x + t5_attention(layer.att, rms_norm(layer.layernorm1, x, config.epsilon), bias)
        if context is not None:
            normed = rms_norm(layer.cross_layernorm, x, config.epsilon)
            x = x + t5_attention(layer.cross_att, normed, masked(context_mask), context)
        normed = rms_norm(layer.layernorm2, x, config.epsilon)
        if config.gated:
            x = x + gated_feed_forward(layer.ffn, normed, config.activation)
        else:
            expand, _, project = layer.ffn.layers
            x = x + dense(project, ACTIVATIONS[config.activation](dense(expand, normed)))
    return rms_norm(model.final_norm, x, config.epsilon)


def t5(model, token_ids, padding_mask, decoder_token_ids, decoder_padding_mask):
    context = t5_stack(model.encoder, token_ids, padding_mask)
    return t5_stack(model.decoder, decoder_token_ids, decoder_padding_mask, context, padding_mask)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrent_step(cell, weights, x, states):
    """The equations of PyTorch's manual, gate by gate, for one token of one row."""
    kernel, recurrent_kernel, bias, recurrent_bias = weights
    units = len(states[0])
    new = [(x @ kernel + bias)[start : start + units] for start in range(0, len(bias), units)]
    old = states[0] @ recurrent_kernel + recurrent_bias
    old = [old[start : start + units] for start in range(0, len(bias), units)]
    if cell == "rnn":
        return [np.tanh(new[0] + old[0])]
    if cell == "gru":
        reset, update = sigmoid(new[0] + old[0]), sigmoid(new[1] + old[1])
        candidate = np.tanh(new[2] + reset * old[2])
        return [(1 - update) * candidate + update * states[0]]
    i, f, o = (sigmoid(new[gate] + old[gate]) for gate in (0, 1, 3))
    memory = f * states[1] + i * np.tanh(new[2] + old[2])
    return [o * np.tanh(memory), memory]


def recurrent_block(layer, x, padding_mask):
    """One layer, row by row, over the real tokens alone; zeros where there is padding."""
    directions = [(layer.forward_layer, 1)]
    if layer.bidirectional:
        directions.append((layer.backward_layer, -1))
    output = np.zeros((*x.shape[:2], layer.units * len(directions)))
    for part, (direction, order) in enumerate(directions):
        columns = slice(part * layer.units, (part + 1) * layer.units)
        for row in range(len(x)):
            states = [np.zeros(layer.units), np.zeros(layer.units)]
            for token in np.flatnonzero(padding_mask[row])[::order]:
                states = recurrent_step(layer.cell, _weights(direction), x[row, token], states)
                output[row, token, columns] = states[0]
    return output
