"""The one stack of recurrent layers behind RNN, LSTM and GRU."""

import keras
from keras import ops

from kerasllm.backbones.backbone import Backbone, token_inputs
from kerasllm.config import RecurrentConfig
from kerasllm.layers import RecurrentBlock, TokenAndPositionEmbedding


@keras.saving.register_keras_serializable(package="kerasllm")
class Recurrent(Backbone):
    """Token ids to hidden states, through an embedding and `num_layers` recurrent layers.

    It is called as a `Transformer` is, so the same heads stand on it.

    Args:
        config: `RecurrentConfig`.
        initializer: Keras initializer of the token table, e.g. `"zeros"` where weights come next;
            None for a normal distribution with the config's `initializer_range`.
        dtype: str or `keras.DTypePolicy`, e.g. `"mixed_float16"`; None for Keras' global one.

    Call arguments:
        inputs: dict of int32 `(batch, length)`: `token_ids` and `padding_mask` (1 = real).
        cache: None, or what `make_cache` gave or an earlier call returned: the states so far. Then
            `token_ids` are the tokens from `position` on, and `padding_mask` is
            `(batch, max_length)`, over the whole text: 1 for every real token (None for all).
        position: scalar int32: index of the first of `token_ids` in that mask.

    Returns:
        float `(batch, length, config.width)`: the hidden states of the last layer; with a `cache`,
        the pair of that and the new cache.

    Raises:
        TypeError: `config` is no `RecurrentConfig`.
        ValueError: a `cache` for a bidirectional network.

    Example:
        >>> config = RecurrentConfig(100, cell="gru", embed_dim=8, units=6, bidirectional=True)
        >>> ids = np.array([[5, 7, 9]])
        >>> tuple(Recurrent(config)({"token_ids": ids, "padding_mask": ids > 0}).shape)
        (1, 3, 12)

    References:
        Elman 1990, "Finding Structure in Time"; Hochreiter and Schmidhuber 1997, "Long Short-Term
        Memory"; Cho et al. 2014, "Learning Phrase Representations using RNN Encoder–Decoder".
    """

    CONFIG = RecurrentConfig

    def __init__(self, config, initializer=None, dtype=None, **kwargs):
        dtype = self._start(config, dtype)

        # Layers
        self.embedding = TokenAndPositionEmbedding(
            config.max_length,
            config.vocab_size,
            config.embed_dim,
            embeddings_initializer=initializer
            or keras.initializers.TruncatedNormal(stddev=config.initializer_range),
            positions=None,  # the order of the tokens is in the states
            dtype=dtype,
            name="embedding",
        )
        self.blocks = [
            RecurrentBlock(
                config.units,
                config.cell,
                config.bidirectional,
                config.rate,
                dtype=dtype,
                name=f"block_{i}",
            )
            for i in range(config.num_layers)
        ]

        # Graph
        self._connect(config, token_inputs(config), dtype, **kwargs)

    def _forward(self, inputs, cache=None, position=0):
        token_ids, padding_mask = inputs["token_ids"], inputs.get("padding_mask")
        if cache is not None and padding_mask is not None:
            padding_mask = ops.slice(padding_mask, (0, position), ops.shape(token_ids))
        x = self.embedding(token_ids)
        caches = []
        for i, block in enumerate(self.blocks):
            if cache is None:
                x = block(x, padding_mask)
            else:
                x, states = block(x, padding_mask, cache=cache[i])
                caches.append(tuple(states))
        return x, tuple(caches)

    def make_cache(self, batch_size, max_length=None, padding=0):
        """Make the states before the first token, for `call`.

        Args:
            batch_size: int, or scalar int tensor.
            max_length, padding: as for a Transformer; of no account here, where a state has the
                same size after any number of tokens.

        Returns:
            tuple with, for each layer, a tuple of its states, zeros `(batch, units)`: the hidden
            state and, of an LSTM, the cell state.

        Raises:
            ValueError: the network is bidirectional.

        Example:
            >>> cache = Recurrent(RecurrentConfig(100, num_layers=2, units=6)).make_cache(1)
            >>> len(cache), len(cache[0]), tuple(cache[0][0].shape)
            (2, 2, (1, 6))
        """
        if self.config.bidirectional:
            raise ValueError(
                "`bidirectional` must be False in the config of a network that shall go on token "
                "by token. Received: True (its other direction begins at the end of the text)."
            )
        dtype = self.blocks[0].compute_dtype
        return tuple(
            tuple(ops.zeros((batch_size, size), dtype) for size in block.forward_layer.state_size)
            for block in self.blocks
        )
