"""What all backbones share: inputs, one way through the layers for graph and cache, configs."""

import keras
from keras import ops


class Backbone(keras.Model):
    """A functional model from token ids to hidden states, which also takes a step with a cache.

    A subclass names its config's class in `CONFIG`, makes its layers between `_start` and
    `_connect`, and says in `_forward` how they follow one another.

    Attributes:
        CONFIG: class of its config.
        config: its config.
    """

    CONFIG = None

    def _start(self, config, dtype):
        """Check the config; return the dtype policy of all layers."""
        if not isinstance(config, self.CONFIG):
            raise TypeError(
                f"`config` must be a `{self.CONFIG.__name__}`. Received: {type(config).__name__}."
            )
        return keras.dtype_policies.get(dtype or keras.config.dtype_policy())

    def _connect(self, config, inputs, dtype, **kwargs):
        """Build the graph, once all layers are there."""
        self.config = config
        super().__init__(inputs=inputs, outputs=self._forward(inputs)[0], **kwargs)
        self.dtype_policy = dtype  # as a constructor argument, functional models lose it
        self.input_spec = None  # a step with a cache has other inputs than the graph
        # On TensorFlow, `jit_compile="auto"` would compile anew for each length of a batch; other
        # backends are slow without compiling.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def call(self, inputs, training=None, mask=None, cache=None, position=0):
        if cache is None:
            return super().call(inputs, training=training, mask=mask)
        return self._forward(inputs, cache, position)

    def _forward(self, inputs, cache=None, position=0):
        """Both ways through the layers: the graph, and one step with a cache.

        Returns:
            The pair of hidden states and the new cache, an empty tuple without one.
        """
        raise NotImplementedError

    def _keys(self, inputs, cache):
        """The mask of all keys, and the number of queries, None for as many as keys."""
        padding_mask = inputs.get("padding_mask")
        if cache is None:
            return padding_mask, None
        if padding_mask is None:
            padding_mask = ops.ones((1, ops.shape(cache[0][0])[2]), dtype="int32")
        return padding_mask, ops.shape(inputs["token_ids"])[1]

    def _through_blocks(self, x, options, cache, position):
        """Hidden states after all blocks, each called with its `options`, and the new cache."""
        caches = []
        for i, (block, its_options) in enumerate(zip(self.blocks, options, strict=True)):
            if cache is None:
                x = block(x, **its_options)
            else:
                x, new = block(x, **its_options, cache=cache[i], position=position)
                caches.append(new)
        return x, tuple(caches)

    def _empty_cache(self, batch_size, max_length, num_heads, padding=0):
        """For each block the pair of keys and values, zeros: see `make_cache` of a subclass."""
        config = self.config
        max_length = config.max_length if max_length is None else max_length
        if not ops.is_tensor(max_length) and max_length > config.max_length:
            raise ValueError(
                f"`max_length` must be at most {config.max_length}, the positions that the model "
                f"knows. Received: {max_length}."
            )
        shape = (batch_size, num_heads, padding + max_length, config.projection_dim)
        dtype = self.blocks[0].compute_dtype
        return tuple(
            (ops.zeros(shape, dtype=dtype), ops.zeros(shape, dtype=dtype)) for _ in self.blocks
        )

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**dict(config, config=cls.CONFIG(**config["config"])))


def token_inputs(config):
    """The symbolic inputs of a Transformer, which every model on top shares.

    Args:
        config: any backbone's config.

    Returns:
        dict of `keras.KerasTensor`, int32 `(batch, length)`: `token_ids`, `padding_mask` and, where
        there are several segments, `segment_ids`.
    """
    names = ["token_ids", "padding_mask"] + ["segment_ids"] * has_segments(config)
    return {name: keras.Input((None,), dtype="int32", name=name) for name in names}


def has_segments(config):
    """Whether a model wants to be told which segment a token is in.

    Args:
        config: any backbone's config.

    Returns:
        bool. One segment (RoBERTa's) is none.
    """
    return getattr(config, "num_segments", 0) > 1
