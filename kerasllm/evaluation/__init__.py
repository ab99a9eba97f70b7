"""How good a model is: figures, tables and pictures (`result`), and a page of them (`report`).

Nothing here runs a model: `kerasllm.evaluate` does.
"""

from kerasllm.evaluation.metrics import (
    ClassificationResult,
    evaluate_classes,
    evaluate_scores,
    worst_examples,
)
from kerasllm.evaluation.plots import (
    plot_classes,
    plot_confidence,
    plot_confusion,
    plot_history,
)
from kerasllm.evaluation.report import write_report
from kerasllm.evaluation.result import Picture, Table, lines

__all__ = [
    "ClassificationResult",
    "Picture",
    "Table",
    "evaluate_classes",
    "evaluate_scores",
    "lines",
    "plot_classes",
    "plot_confidence",
    "plot_confusion",
    "plot_history",
    "worst_examples",
    "write_report",
]
