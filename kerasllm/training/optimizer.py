"""AdamW as BERT is fine-tuned with it, in one fused kernel a variable."""

import keras
from keras import ops

from kerasllm import families, weights
from kerasllm.layers import Dense

# Variables that a weight decay would only disturb: biases, and LayerNorm's scale and shift.
NOT_DECAYED = ("bias", "recurrent_bias", "gamma", "beta", "scale")


@keras.saving.register_keras_serializable(package="kerasllm")
class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay, none of it on norms and biases.

    Differs from `keras.optimizers.AdamW` in three ways: norms and biases are left out of the decay
    without being asked; a variable can have a learning rate of its own; and on TensorFlow the whole
    update of a variable is one fused kernel, in half the time.

    Args:
        learning_rate: float or `LearningRateSchedule`.
        weight_decay: float, share of the learning rate times the weight that is taken off a step.
        epsilon: float, added to the root of the second moment.
        rate_factors: dict or None: path of a variable (`keras.Variable.path`): factor on its
            learning rate; see `layer_rates`. Others have factor 1.
        **kwargs: of `keras.optimizers.Adam`, e.g. `beta_1`, `global_clipnorm`.

    Example:
        >>> optimizer = AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0)
        >>> model.compile(optimizer, loss="sparse_categorical_crossentropy")

    References:
        Loshchilov and Hutter 2017, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    def __init__(
        self,
        learning_rate=5e-5,
        weight_decay=0.01,
        *,
        epsilon=1e-6,
        rate_factors=None,
        name="adamw",
        **kwargs,
    ):
        super().__init__(learning_rate, epsilon=epsilon, name=name, **kwargs)
        # Not Keras' own `weight_decay`, which would be applied a second time.
        self.decay = weight_decay
        self.rate_factors = dict(rate_factors or {})

    def build(self, variables):
        super().build(variables)
        unknown = self.rate_factors.keys() - {variable.path for variable in variables}
        if unknown:
            raise ValueError(
                "`rate_factors` must name trainable variables of the model. "
                f"Received: {sorted(unknown)}."
            )
        self._factors = [self.rate_factors.get(v.path, 1.0) for v in variables]
        self._decays = [self.decay * (v.name not in NOT_DECAYED) for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self._factors[index]
        if self._decays[index]:
            self.assign(variable, variable * (1 - rate * self._decays[index]))
        if keras.backend.backend() == "tensorflow" and not self.amsgrad:
            self._fused_update(gradient, variable, index, rate)
        else:
            super().update_step(gradient, variable, rate)

    def _clip_gradients(self, grads):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Rows that occur repeatedly in `tf.IndexedSlices` are not summed yet, and the norm
            # would be another.
            grads = [None if grad is None else tf.convert_to_tensor(grad) for grad in grads]
        return super()._clip_gradients(grads)

    def _fused_update(self, gradient, variable, index, rate):
        import tensorflow as tf

        step = ops.cast(self.iterations + 1, variable.dtype)
        beta_1 = ops.cast(self.beta_1, variable.dtype)
        beta_2 = ops.cast(self.beta_2, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(beta_1, step),
            beta2_power=ops.power(beta_2, step),
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=ops.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.decay,
            "rate_factors": self.rate_factors,
        }


def layer_rates(backbone, decay):
    """Learning-rate factors that fall from the top of a backbone to its bottom.

    The last block has the factor `decay`, the one below `decay**2`, and so on to the embedding;
    what stands on the backbone keeps 1.

    Args:
        backbone: a model with `embedding` and `blocks`.
        decay: float in (0, 1], factor from one layer to the one below.

    Returns:
        dict: path of a variable: factor. For `AdamW(rate_factors=…)`.

    Raises:
        ValueError: `decay` is out of its range.

    References:
        Howard and Ruder 2018, "ULMFiT", section 3.2 (discriminative fine-tuning).
    """
    if not 0 < decay <= 1:
        raise ValueError(f"`decay` must be above 0 and at most 1. Received: {decay!r}.")
    layers = [_below(backbone), *([block] for block in backbone.blocks)]
    return {
        variable.path: decay ** (len(layers) - depth)
        for depth, group in enumerate(layers)
        for layer in group
        for variable in layer.trainable_variables
    }


def _below(backbone):
    """What stands below the blocks: the embeddings, and tables of positions (T5's)."""
    stacks = [getattr(backbone, side, None) for side in ("encoder", "decoder")]
    stacks = [stack for stack in stacks if stack is not None] or [backbone]
    tables = [getattr(stack, "attention_bias", None) for stack in stacks]
    embeddings = [stack.embedding for stack in stacks]
    return [layer for layer in (*embeddings, *tables) if layer is not None]


def freeze(backbone, blocks):
    """Keep the embedding and the lowest blocks of a backbone as they are.

    Args:
        backbone: a model with `embedding` and `blocks`.
        blocks: int, how many blocks to freeze besides the embedding.

    Raises:
        ValueError: the backbone has fewer blocks.
    """
    if not 0 <= blocks <= len(backbone.blocks):
        raise ValueError(
            f"`blocks` must be between 0 and {len(backbone.blocks)}, as many as the backbone has. "
            f"Received: {blocks!r}."
        )
    for layer in [*_below(backbone), *backbone.blocks[:blocks]]:
        layer.trainable = False


def freeze_all_but_last(model):
    """Keep a model as it is, but for the last layer of its head.

    So few weights learn a task less well, but from few rows, and under much noise: this is the way
    to strict differential privacy.

    Args:
        model: a model of `kerasllm.models` whose head ends in a `Dense` layer: a classifier, a
            tagger or a span labeler.

    Raises:
        ValueError: the model's head ends otherwise.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> freeze_all_but_last(model)
        >>> [tuple(weight.shape) for weight in model.trainable_weights]
        [(128, 2), (2,)]

    References:
        Tramèr and Boneh 2021, "Differentially Private Learning Needs Better Features (or Much More
        Data)", section 3.
    """
    head = families.head(model.family, model.HEAD).layers if hasattr(model, "HEAD") else {}
    last = weights.attribute(model, list(head)[-1]) if head else None
    if not isinstance(last, Dense):
        raise ValueError(
            "`model` must have a head that ends in a `Dense` layer. Received: a "
            f"{type(model).__name__}."
        )
    for weight in model.trainable_weights:
        weight.trainable = False
    for weight in last.weights:
        weight.trainable = True
