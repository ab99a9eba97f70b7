"""Training: the recipe, its parts, and where it runs."""

from kerasllm.training.fit import fit
from kerasllm.training.multi_task import MultiTask, mixing_weights
from kerasllm.training.optimizer import AdamW, freeze, freeze_all_but_last, layer_rates
from kerasllm.training.privacy import Privacy
from kerasllm.training.schedules import LinearWarmup
from kerasllm.training.strategies import STRATEGIES, strategy

__all__ = [
    "STRATEGIES",
    "AdamW",
    "LinearWarmup",
    "MultiTask",
    "Privacy",
    "fit",
    "freeze",
    "freeze_all_but_last",
    "layer_rates",
    "mixing_weights",
    "strategy",
]
