"""Where a model is trained: `tf.distribute` strategies by name."""

import tensorflow as tf

STRATEGIES = {
    "default": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
}


def strategy(name="default"):
    """Return the strategy of a name. Make the model in its scope; `fit` then uses it by itself.

    Args:
        name: str: `"default"` for one device, `"mirrored"` for all GPUs (or, where there are none,
            all logical CPUs) of this machine.

    Returns:
        `tf.distribute.Strategy`.

    Raises:
        ValueError: no such strategy.

    Example:
        >>> with strategy("mirrored").scope():
        ...     model = BertClassifier(2, "bert_tiny")
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {', '.join(STRATEGIES)}. Received: {name!r}.")
    return STRATEGIES[name]()
