"""Learning rates over the steps of a run."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kerasllm")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rise from 0 to a peak in a straight line, then fall to 0 in another.

    Args:
        peak: float, the highest learning rate.
        total_steps: int, steps of the whole run.
        warmup_steps: int, steps until the peak.

    Raises:
        ValueError: `warmup_steps` is not between 0 and `total_steps`.

    Example:
        >>> float(LinearWarmup(1.0, total_steps=100, warmup_steps=10)(5))
        0.5

    References:
        Devlin et al. 2018, "BERT", appendix A.2.
    """

    def __init__(self, peak, total_steps, warmup_steps=0):
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(
                "`warmup_steps` must be between 0 and `total_steps`. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = step / max(self.warmup_steps, 1)
        falling = (self.total_steps - step) / max(self.total_steps - self.warmup_steps, 1)
        share = ops.where(step < self.warmup_steps, rising, falling)
        return self.peak * ops.maximum(share, 0.0)

    def get_config(self):
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }
