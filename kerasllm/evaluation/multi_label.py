"""How good a classifier of several labels a text is."""

import dataclasses

import numpy as np

from kerasllm.data.rows import place_of
from kerasllm.evaluation.metrics import Scores, fractions, table_of_scores, weakest_first
from kerasllm.evaluation.result import Result, Table

WORST = 20


@dataclasses.dataclass(frozen=True)
class MultiLabelResult(Result):
    """What `evaluate_label_sets` found; a fraction without anything to divide by is 0.

    Args:
        rows: int, number of rows.
        exact: float, share of the rows with all labels right, and no others.
        micro: `Scores` of all labels together.
        macro: `Scores`, mean over the labels.
        classes: tuple of `Scores`, one a label.
        worst: tuple of dicts, the rows with the highest loss.
    """

    rows: int
    exact: float
    micro: Scores
    macro: Scores
    classes: tuple[Scores, ...]
    worst: tuple = ()

    PARTS = {"micro": Scores, "macro": Scores, "classes": Scores}

    @property
    def notes(self):
        """Sentences on labels that no row has."""
        absent = [scores.name for scores in self.classes if not scores.support]
        return (f"No row has {', '.join(absent)}.",) if absent else ()

    def figures(self) -> dict:
        """Return the figures, by name."""
        return {
            "micro F1": self.micro.f1,
            "macro F1": self.macro.f1,
            "all labels right": self.exact,
            "rows": self.rows,
            "labels": len(self.classes),
        }

    def tables(self) -> list[Table]:
        """Return the table of labels, the weakest first."""
        return [
            table_of_scores(
                "Labels",
                ("label", "rows"),
                weakest_first(self.classes),
                (self.micro, self.macro),
                "Precision: of the rows given this label, the share that has it. Recall: of the "
                "rows that have it, the share that was given it. The weakest label comes first.",
            )
        ]


def evaluate_label_sets(rows, targets, scores, labels, likely=0.5) -> MultiLabelResult:
    """Compare the probabilities of labels with those that rows have.

    Args:
        rows: list of rows with `text`.
        targets: float or int `(rows, labels)`, 1 for each label that a row has.
        scores: float `(rows, labels)`, from 0 to 1.
        labels: sequence of str.
        likely: float, above which a label is given.

    Returns:
        `MultiLabelResult`.

    Raises:
        ValueError: the shapes don't fit, or there are no rows.

    Example:
        >>> rows = [{"text": "a"}, {"text": "b"}]
        >>> found = evaluate_label_sets(rows, [[1, 0], [1, 1]], [[0.9, 0.2], [0.8, 0.1]], "xy")
        >>> round(found.micro.f1, 3), found.exact
        (0.8, 0.5)
    """
    targets, scores = np.asarray(targets) > 0.5, np.asarray(scores, float)
    if targets.shape != scores.shape or scores.shape != (len(rows), len(labels)) or not len(rows):
        raise ValueError(
            "`targets` and `scores` must have the shape (rows, labels). Received: "
            f"{targets.shape} and {scores.shape} for {len(rows)} rows and {len(labels)} labels."
        )
    given, names = scores > likely, np.array(list(labels))
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    losses = -np.where(targets, np.log(clipped), np.log(1 - clipped)).mean(axis=1)
    columns = (*fractions(targets, given, labels, None), given.sum(axis=0))
    return MultiLabelResult(
        rows=len(rows),
        exact=float((targets == given).all(axis=1).mean()),
        micro=_average("micro", targets, given, labels),
        macro=_average("macro", targets, given, labels),
        classes=tuple(
            Scores(name, *values)
            for name, values in zip(labels, zip(*(np.asarray(c).tolist() for c in columns)))
        ),
        worst=tuple(
            {
                "text": rows[i]["text"],
                "right": ", ".join(names[targets[i]]) or "none",
                "given": ", ".join(names[given[i]]) or "none",
                "loss": float(losses[i]),
                "where": place_of(rows[i], i),
            }
            for i in np.argsort(-losses, kind="stable")[:WORST].tolist()
        ),
    )


def _average(kind, targets, given, labels):
    found = map(float, fractions(targets, given, labels, kind)[:3])
    return Scores(f"{kind} average", *found, int(targets.sum()), int(given.sum()))
