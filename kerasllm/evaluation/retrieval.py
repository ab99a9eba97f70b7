"""How well vectors of texts find one another."""

import dataclasses

import numpy as np

from kerasllm.evaluation.result import Result

WORST = 20
BLOCK = 1024  # vectors that are compared with all others at once


@dataclasses.dataclass(frozen=True)
class RetrievalResult(Result):
    """What `evaluate_pairs` found; print it for its figures.

    Args:
        accuracy: float, share of the texts whose nearest second text is their own.
        reciprocal_rank: float, mean of 1 / the place of their own among all second texts.
        alignment: float, mean squared distance of the two texts of a pair: the less, the closer.
        uniformity: float, log of the mean of exp(-2 × squared distance) of two texts: the less, the
            more evenly vectors are spread.
        rows: int, pairs.
        worst: tuple of dicts, the pairs that are farthest down.
    """

    accuracy: float
    reciprocal_rank: float
    alignment: float
    uniformity: float
    rows: int
    worst: tuple[dict, ...] = ()

    @property
    def notes(self):
        """Sentences on what makes the figures doubtful."""
        if self.alignment > 0:
            return ()
        return ("The two texts of each pair are the same: the uniformity alone tells anything.",)

    def figures(self) -> dict:
        """Return the figures that sum it up, by name."""
        return {
            "accuracy": self.accuracy,
            "mean reciprocal rank": self.reciprocal_rank,
            "alignment": self.alignment,
            "uniformity": self.uniformity,
            "rows": self.rows,
        }


def evaluate_pairs(vectors, texts=None) -> RetrievalResult:
    """Look for the second text of each pair among all second texts.

    Args:
        vectors: float `(rows, 2, width)`, of the two texts of each pair; each is taken to length 1.
        texts: list of pairs of str, or None.

    Returns:
        `RetrievalResult`.

    Raises:
        ValueError: there are no two pairs.

    Example:
        >>> found = evaluate_pairs([[[1, 0], [1, 0]], [[0, 1], [0, 2]]])
        >>> found.accuracy, found.alignment
        (1.0, 0.0)

    References:
        Wang and Isola 2020, "Understanding Contrastive Representation Learning", section 4.1.
    """
    vectors = np.asarray(vectors, "float64")
    if vectors.ndim != 3 or vectors.shape[1] != 2 or len(vectors) < 2:
        raise ValueError(
            "`vectors` must be of at least two pairs, (rows, 2, width). Received: shape "
            f"{vectors.shape}."
        )
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    first, second = vectors[:, 0], vectors[:, 1]
    place, nearest = _ranks(first, second)
    return RetrievalResult(
        accuracy=float(np.mean(place == 1)),
        reciprocal_rank=float(np.mean(1 / place)),
        alignment=float(np.mean(np.sum((first - second) ** 2, axis=-1))),
        uniformity=_uniformity(vectors.reshape(-1, vectors.shape[-1])),
        rows=len(vectors),
        worst=() if texts is None else tuple(_worst(place, nearest, texts)),
    )


def _blocks(vectors):
    """Vectors a few at a time: all of them against all would fill a machine's memory."""
    return (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))


def _ranks(first, second):
    """For each first vector the place of its own second one, and the number of the nearest."""
    place, nearest = [], []
    for block in _blocks(first):
        likeness = block @ second.T
        own = np.diagonal(likeness, offset=len(place))
        place += (1 + (likeness > own[:, None]).sum(axis=1)).tolist()
        nearest += likeness.argmax(axis=1).tolist()
    return np.array(place), nearest


def _uniformity(vectors):
    """The log of the mean of exp(-2 × squared distance) over all pairs of different vectors."""
    count = len(vectors)
    total = sum(
        np.exp(-2 * np.maximum(2 - 2 * part @ vectors.T, 0)).sum() for part in _blocks(vectors)
    )
    itself = np.exp(-2 * np.maximum(2 - 2 * (vectors**2).sum(axis=1), 0)).sum()
    return float(np.log((total - itself) / (count * (count - 1))))


def _worst(place, nearest, texts):
    for row in np.argsort(-place, kind="stable")[:WORST]:
        if place[row] > 1:
            yield {
                "text": texts[row][0],
                "pair": texts[row][1],
                "nearest": texts[nearest[row]][1],
                "place": int(place[row]),
            }
