"""How good a classifier is, from the scores it gave: NumPy and scikit-learn, no TensorFlow."""

import dataclasses

import numpy as np
import sklearn.metrics

from kerasllm.data.rows import label_ids, place_of
from kerasllm.evaluation.result import Picture, Result, Table

BINS = 10  # of confidence, as wide as each other


@dataclasses.dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 of one class, or an average of them over all classes.

    A fraction without anything to divide by (a class that no row has, or that was never predicted)
    is 0.

    Args:
        name: str, the class, or `"macro average"` or `"weighted average"`.
        precision: float, share of the rows predicted as this class that are of it.
        recall: float, share of the rows of this class that were predicted as it.
        f1: float, harmonic mean of the two.
        support: int, number of rows of this class.
        predicted: int, number of rows predicted as this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclasses.dataclass(frozen=True)
class Bin:
    """The rows whose highest score lies in one tenth of 0 to 1.

    Args:
        low: float, where the tenth begins.
        high: float, where it ends.
        rows: int, number of rows, at least 1.
        confidence: float, mean of their highest scores.
        accuracy: float, share of them that were predicted rightly.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class ClassificationResult(Result):
    """What `evaluate_classes` found; print it for a table.

    Args:
        rows: int, number of rows.
        accuracy: float, share of the rows that were predicted rightly.
        log_loss: float, mean of -log(score of the true label).
        calibration_error: float, how far confidence and accuracy are apart, in the mean of the
            rows (ECE): 0.05 says that scores of 0.9 are right about 85% or 95% of the time.
        macro: `Scores`, mean over the classes, each counted alike.
        weighted: `Scores`, mean over the classes, each counted by its rows.
        classes: tuple of `Scores`, in the order of the labels.
        confusion: tuple of tuples of int; `confusion[i][j]` rows of class `i` are predicted as `j`.
        bins: tuple of `Bin`, from the least to the most confident; those without rows are left out.
        worst: tuple of dicts, of `worst_examples`.
    """

    rows: int
    accuracy: float
    log_loss: float
    calibration_error: float
    macro: Scores
    weighted: Scores
    classes: tuple[Scores, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]
    worst: tuple[dict, ...] = ()

    PARTS = {"macro": Scores, "weighted": Scores, "classes": Scores, "bins": Bin}

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(scores.name for scores in self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the classes for which a figure is 0 because there was nothing to count."""
        absent = [scores.name for scores in self.classes if not scores.support]
        unseen = [scores.name for scores in self.classes if scores.support and not scores.predicted]
        notes = []
        if absent:
            notes.append(
                f"No row is of {_listing(absent)}: recall and F1 count as 0 there, which lowers "
                "the macro average."
            )
        if unseen:
            notes.append(
                f"No row was predicted as {_listing(unseen)}: precision and F1 count as 0 there."
            )
        return tuple(notes)

    def confusions(self, count=10) -> list[tuple[str, str, int]]:
        """Return the most frequent mistakes.

        Args:
            count: int, how many at most.

        Returns:
            A list of `(true label, predicted label, rows)`, the most frequent first.
        """
        matrix = np.array(self.confusion)
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:count]
        pairs = [divmod(int(index), len(matrix)) for index in order]
        return [
            (self.labels[true], self.labels[predicted], int(matrix[true, predicted]))
            for true, predicted in pairs
            if matrix[true, predicted]
        ]

    def figures(self) -> dict:
        """Return the figures that sum it up, by name."""
        return {
            "accuracy": self.accuracy,
            "macro F1": self.macro.f1,
            "log loss": self.log_loss,
            "calibration error": self.calibration_error,
            "rows": self.rows,
            "classes": len(self.classes),
        }

    def tables(self) -> list[Table]:
        """Return the table of classes, the weakest first."""
        return [self._table(weakest_first(self.classes))]

    def _table(self, classes):
        return table_of_scores(
            "Classes",
            ("class", "rows"),
            classes,
            (self.macro, self.weighted),
            "Precision: of the rows predicted as this class, the share that is of it. Recall: of "
            "the rows of this class, the share that was found. F1: their harmonic mean. The "
            "weakest class comes first.",
        )

    def pictures(self) -> list[Picture]:
        """Return the confusion matrix and how far the scores can be read as probabilities."""
        from kerasllm.evaluation import plots  # figures alone need no Matplotlib

        confusions = " ".join(
            f"{rows} of {label} predicted as {other}." for label, other, rows in self.confusions(3)
        )
        bins = " ".join(
            f"Scores {bin.low:.1f} to {bin.high:.1f}: {bin.accuracy:.0%} right of {bin.rows}."
            for bin in self.bins
        )
        return [
            Picture(
                "Confusion matrix",
                plots.plot_confusion(self),
                "Each line holds the rows of one true label; the diagonal is right, all else is a "
                "mistake.",
                f"Confusion matrix of {len(self.classes)} classes. {confusions or 'No mistakes.'}",
            ),
            Picture(
                "Confidence",
                plots.plot_confidence(self),
                "On the dashed line a score can be read as a probability. Below it the model is "
                "surer than it should be, above it less sure.",
                "Accuracy by score of the predicted label; calibration error "
                f"{self.calibration_error:.3f}. {bins}",
            ),
        ]

    def __str__(self):
        first = (
            f"{self.rows} rows, {len(self.classes)} classes: accuracy {self.accuracy:.4f}, "
            f"log loss {self.log_loss:.4f}, calibration error {self.calibration_error:.4f}"
        )
        notes = ["", *self.notes] if self.notes else []
        return "\n".join([first, "", str(self._table(self.classes)), *notes])


def weakest_first(classes) -> list[Scores]:
    """Sort scores by their F1.

    Args:
        classes: iterable of `Scores`.

    Returns:
        list of `Scores`.
    """
    return sorted(classes, key=lambda scores: scores.f1)


def table_of_scores(title, columns, classes, averages, about) -> Table:
    """Return precision, recall, F1 and support as a table.

    Args:
        title: str.
        columns: pair of str, what the rows of the table are, and what their support counts.
        classes: iterable of `Scores`.
        averages: iterable of `Scores`, which stand below them.
        about: str, how to read it.

    Returns:
        `Table`.
    """

    def row(scores):
        return scores.name, scores.precision, scores.recall, scores.f1, scores.support

    kind, support = columns
    columns = (kind, "precision", "recall", "F1", support)
    below = tuple(map(row, averages))
    return Table(title, columns, tuple(map(row, classes)), about, below, bar="F1")


def evaluate_classes(targets, scores, labels) -> ClassificationResult:
    """Compare the scores of a classifier with the true classes.

    The predicted class of a row is the one with its highest score; of equal ones, the first.

    Args:
        targets: int array `(rows,)`, the true class ids.
        scores: float array `(rows, classes)`, probabilities: at least 0, with sum 1 in each row.
        labels: sequence of str, the names of the classes.

    Returns:
        A `ClassificationResult`.

    Raises:
        ValueError: the arguments are not as above or do not fit each other.

    Example:
        >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
        >>> result = evaluate_classes([0, 1, 1], scores, ["bad", "good"])
        >>> result.confusion
        ((1, 0), (1, 1))
        >>> round(result.accuracy, 4), round(result.macro.f1, 4)
        (0.6667, 0.6667)

    References:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, for the
        calibration error.
    """
    targets, scores, labels = _checked(targets, scores, labels)
    predicted = scores.argmax(axis=1)
    bins = _bins(scores.max(axis=1), predicted == targets)
    matrix = np.bincount(targets * len(labels) + predicted, minlength=len(labels) ** 2)
    return ClassificationResult(
        rows=len(targets),
        accuracy=float(np.mean(predicted == targets)),
        log_loss=float(_losses(targets, scores).mean()),
        calibration_error=sum(b.rows * abs(b.accuracy - b.confidence) for b in bins) / len(targets),
        macro=_average("macro", targets, predicted, labels),
        weighted=_average("weighted", targets, predicted, labels),
        classes=_classes(targets, predicted, labels),
        confusion=tuple(map(tuple, matrix.reshape(len(labels), -1).tolist())),
        bins=bins,
    )


def evaluate_scores(rows, scores, labels, worst=20) -> ClassificationResult:
    """Compare the scores that a classifier gave to rows with their labels.

    Args:
        rows: list of rows with `text` and `label`.
        scores: float `(rows, num_classes)`, probabilities.
        labels: sequence of str, names of the classes.
        worst: int, how many of the worst examples to keep.

    Returns:
        A `ClassificationResult` with `worst`.

    Raises:
        ValueError: a row has another label, or the scores are no probabilities.

    Example:
        >>> rows = [{"text": "Lovely.", "label": "good"}]
        >>> evaluate_scores(rows, [[0.1, 0.9]], ["bad", "good"]).accuracy
        1.0
    """
    targets = label_ids(rows, labels)
    examples = worst_examples(rows, targets, scores, labels, worst)
    return dataclasses.replace(evaluate_classes(targets, scores, labels), worst=tuple(examples))


def worst_examples(rows, targets, scores, labels, count=20) -> list[dict]:
    """Return the rows that a classifier is most wrong about: those with the highest loss.

    Read them first when a model disappoints: they are wrong labels as often as hard texts.

    Args:
        rows: sequence of mappings with a `"text"`, such as `kerasllm.data.Row`.
        targets: int array `(rows,)`, the true class ids.
        scores: float array `(rows, classes)`, probabilities.
        labels: sequence of str, the names of the classes.
        count: int, how many at most.

    Returns:
        A list of dicts with `where` (str, e.g. `"test.csv:17"`), `text`, `label` and `predicted`
        (str), `score` (float, that of the true label) and `loss` (float), the worst first.

    Raises:
        ValueError: the arguments are not as above or do not fit each other.

    Example:
        >>> rows = [{"text": "Lovely."}, {"text": "Awful."}]
        >>> worst = worst_examples(rows, [1, 0], [[0.1, 0.9], [0.2, 0.8]], ["bad", "good"], count=1)
        >>> worst[0]["text"], worst[0]["label"], worst[0]["predicted"], worst[0]["score"]
        ('Awful.', 'bad', 'good', 0.2)
    """
    targets, scores, labels = _checked(targets, scores, labels)
    if len(rows) != len(targets):
        raise ValueError(
            f"`rows` must be as many as `targets`. Received: {len(rows)} rows, {len(targets)} "
            "targets."
        )
    losses = _losses(targets, scores)
    return [
        {
            "where": place_of(rows[i], i),
            "text": rows[i]["text"],
            "label": labels[targets[i]],
            "predicted": labels[scores[i].argmax()],
            "score": float(scores[i, targets[i]]),
            "loss": float(losses[i]),
        }
        for i in np.argsort(-losses, kind="stable")[:count].tolist()
    ]


def _classes(targets, predicted, labels):
    precision, recall, f1, support = fractions(targets, predicted, labels, average=None)
    counts = np.bincount(predicted, minlength=len(labels))
    columns = (precision, recall, f1, support, counts)
    rows = zip(*(column.tolist() for column in columns))
    return tuple(Scores(name, *row) for name, row in zip(labels, rows))


def _average(kind, targets, predicted, labels):
    found = map(float, fractions(targets, predicted, labels, average=kind)[:3])
    rows = len(targets)
    return Scores(f"{kind} average", *found, support=rows, predicted=rows)


def fractions(targets, predicted, labels, average):
    """Return precision, recall, F1 and support of all labels, or averages of them.

    Args:
        targets, predicted: int `(rows,)`, or bool `(rows, labels)` where a row may have several.
        labels: sequence of str.
        average: str or None, of scikit-learn's `precision_recall_fscore_support`.

    Returns:
        Four float arrays `(labels,)`, or with an average three float and None.
    """
    # All class ids are named, or a class that no row has would silently drop out of the averages.
    return sklearn.metrics.precision_recall_fscore_support(
        targets, predicted, labels=range(len(labels)), average=average, zero_division=0
    )


def _losses(targets, scores):
    true = scores[np.arange(len(targets)), targets]
    # A score of 0 must stay finite: one such row would make the mean, and the report, useless.
    return -np.log(np.maximum(true, np.finfo(np.float64).eps))


def _bins(confidence, right):
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(
            low=number / BINS,
            high=(number + 1) / BINS,
            rows=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for number in range(BINS)
        if (inside := numbers == number).any()
    )


def _checked(targets, scores, labels):
    """Return the arguments as int64 `(rows,)`, float64 `(rows, classes)` and a tuple of str."""
    labels = _checked_labels(labels)
    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.ndim != 1 or targets.size == 0 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            "`targets` must be class ids, integers of shape (rows,), at least one. Received: "
            f"shape {targets.shape}, dtype {targets.dtype}."
        )
    if scores.shape != (len(targets), len(labels)):
        raise ValueError(
            f"`scores` must have the shape (rows, classes), here {(len(targets), len(labels))}. "
            f"Received: shape {scores.shape}."
        )
    wrong = np.flatnonzero((targets < 0) | (targets >= len(labels)))
    if wrong.size:
        raise ValueError(
            f"`targets` must be from 0 to {len(labels) - 1}, one of the {len(labels)} labels. "
            f"Received: {targets[wrong[0]]} in row {wrong[0]}."
        )
    return targets.astype(np.int64), _checked_scores(scores), labels


def _checked_labels(labels):
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a sequence of names. Received: {labels!r}.")
    names = tuple(map(str, labels))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`labels` must be distinct names, at least one. Received: {names}.")
    return names


def _checked_scores(scores):
    scores = scores.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf: told below
        sums = scores.sum(axis=1)
    # 1e-3 lets scores pass that were computed in float16; written so that NaN does not.
    good = (scores >= 0).all(axis=1) & (np.abs(sums - 1) <= 1e-3)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(
            "`scores` must be probabilities: finite, at least 0, with sum 1 in each row. Received: "
            f"{np.array2string(scores[row], precision=4, threshold=6)} with sum {sums[row]:.4g} "
            f"in row {row} (pass logits through softmax first)."
        )
    return scores


def _listing(names, most=10):
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([f"'{name}'" for name in names[:most]] + more)
