"""How good a regression is: how far its numbers are off, and how well they keep the order."""

import dataclasses

import numpy as np
import scipy.stats

from kerasllm.data.rows import place_of
from kerasllm.evaluation.result import Picture, Result

WORST = 20
SHOWN = 1000  # points of the picture and of what is kept


@dataclasses.dataclass(frozen=True)
class NumbersResult(Result):
    """What `evaluate_numbers` found.

    Args:
        rows: int, number of rows.
        spearman: float, correlation of the ranks.
        pearson: float, correlation of the numbers.
        error: float, mean absolute error; None where the numbers are of another scale.
        squared_error: float, mean squared error; None likewise.
        points: tuple of pairs of float, right and given numbers of up to 1000 rows.
        worst: tuple of dicts, the rows with the largest errors.
    """

    rows: int
    spearman: float
    pearson: float
    error: float | None
    squared_error: float | None
    points: tuple
    worst: tuple = ()

    @property
    def notes(self):
        """Sentences for the reader."""
        if np.isnan(self.spearman):
            return ("All numbers are alike, so there is no correlation.",)
        return ()

    def figures(self) -> dict:
        """Return the figures, by name."""
        found = {
            "Spearman": self.spearman,
            "Pearson": self.pearson,
            "mean absolute error": self.error,
            "mean squared error": self.squared_error,
            "rows": self.rows,
        }
        return {name: value for name, value in found.items() if value is not None}

    def pictures(self) -> list[Picture]:
        """Return the given numbers over the right ones."""
        from kerasllm.evaluation.plots import plot_numbers  # figures alone need no Matplotlib

        error = ""
        if self.error is not None:
            error = f", mean absolute error {self.error:.3f}"
        return [
            Picture(
                "Numbers",
                plot_numbers(self),
                "On the dashed line a number is right." if error else "The order is what counts.",
                f"Given over right numbers of {len(self.points)} rows; Spearman's correlation "
                f"{self.spearman:.3f}{error}.",
            )
        ]


def evaluate_numbers(rows, targets, outputs, same_scale=True) -> NumbersResult:
    """Compare numbers that a model gave with the right ones.

    Args:
        rows: list of rows with `text` (and `text_pair`).
        targets: float `(rows,)`.
        outputs: float `(rows,)`.
        same_scale: bool, whether a right number equals its target; else the order alone counts, and
            the worst rows are those whose rank is farthest off.

    Returns:
        `NumbersResult`.

    Raises:
        ValueError: there are fewer than two rows, or not as many outputs as rows.

    Example:
        >>> rows = [{"text": "a"}, {"text": "b"}, {"text": "c"}]
        >>> result = evaluate_numbers(rows, [1.0, 2.0, 3.0], [0.9, 2.5, 2.6])
        >>> round(result.spearman, 3), round(result.error, 3)
        (1.0, 0.333)
    """
    targets, outputs = np.asarray(targets, float), np.asarray(outputs, float)
    if targets.shape != outputs.shape or len(targets) != len(rows) or len(rows) < 2:
        raise ValueError(
            "`outputs` must be one for each of at least two `rows`. Received: "
            f"{len(rows)} rows, shapes {targets.shape} and {outputs.shape}."
        )
    pair = (targets, outputs) if same_scale else map(scipy.stats.rankdata, (targets, outputs))
    off = np.abs(np.subtract(*pair))
    alike = np.ptp(targets) == 0 or np.ptp(outputs) == 0  # SciPy would warn, and give NaN too
    return NumbersResult(
        rows=len(rows),
        spearman=np.nan if alike else float(scipy.stats.spearmanr(targets, outputs).statistic),
        pearson=np.nan if alike else float(scipy.stats.pearsonr(targets, outputs).statistic),
        error=float(off.mean()) if same_scale else None,
        squared_error=float(np.mean(off**2)) if same_scale else None,
        points=tuple(zip(targets[:SHOWN].tolist(), outputs[:SHOWN].tolist())),
        worst=tuple(
            _example(rows[i], i, targets[i], outputs[i])
            for i in np.argsort(-off, kind="stable")[:WORST].tolist()
        ),
    )


def _example(row, number, right, given):
    pair = {"text_pair": row["text_pair"]} if "text_pair" in row else {}
    where = place_of(row, number)
    return {"text": row["text"], **pair, "right": right, "given": given, "where": where}
