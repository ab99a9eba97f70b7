"""Training: the recipe, its parts, and where it runs."""

from kerasllm.training.fit import fit
from kerasllm.training.optimizer import AdamW, freeze, layer_rates
from kerasllm.training.privacy import Privacy
from kerasllm.training.schedules import LinearWarmup
from kerasllm.training.strategies import STRATEGIES, strategy

__all__ = [
    "STRATEGIES",
    "AdamW",
    "LinearWarmup",
    "Privacy",
    "fit",
    "freeze",
    "layer_rates",
    "strategy",
]
