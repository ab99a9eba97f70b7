"""How good a model is: figures (`metrics`), pictures (`plots`) and a page of both (`report`).

TensorFlow is imported only when `evaluate` runs a model.
"""

from kerasllm.evaluation.evaluate import Evaluation, evaluate, evaluate_scores
from kerasllm.evaluation.metrics import ClassificationResult, evaluate_classes, worst_examples
from kerasllm.evaluation.plots import (
    plot_classes,
    plot_confidence,
    plot_confusion,
    plot_history,
)
from kerasllm.evaluation.report import write_report

__all__ = [
    "ClassificationResult",
    "Evaluation",
    "evaluate",
    "evaluate_classes",
    "evaluate_scores",
    "plot_classes",
    "plot_confidence",
    "plot_confusion",
    "plot_history",
    "worst_examples",
    "write_report",
]
