"""How well a language model foretells tokens: perplexity and accuracy."""

import dataclasses

import numpy as np

from kerasllm.evaluation.result import Result

WORST = 20


@dataclasses.dataclass(frozen=True)
class LanguageResult(Result):
    """What `evaluate_tokens` found; print it for its figures.

    Args:
        perplexity: float, e to the mean of -log(probability of the true token): the model is as
            unsure as if it chose among so many equally likely ones.
        accuracy: float, share of the tokens for which the true one was the likeliest.
        loss: float, that mean itself.
        tokens: int, how many were scored.
        rows: int, texts, or rows of a running text, that they were in.
        others: dict, figures of what else the model is pretrained on, by name.
        worst: tuple of dicts, the texts with the highest perplexity.
    """

    perplexity: float
    accuracy: float
    loss: float
    tokens: int
    rows: int
    others: dict = dataclasses.field(default_factory=dict)
    worst: tuple[dict, ...] = ()

    def figures(self) -> dict:
        """Return the figures that sum it up, by name."""
        return {
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "loss": self.loss,
            **self.others,
            "tokens": self.tokens,
            "rows": self.rows,
        }


def evaluate_tokens(scores, texts=None) -> LanguageResult:
    """Sum up how well the tokens of texts were foretold.

    Args:
        scores: float `(rows, 3)`: of each text the sum of -log(probability of the true token), how
            many tokens were scored, and for how many the true one was the likeliest.
        texts: list of str, the texts, or None.

    Returns:
        `LanguageResult`.

    Raises:
        ValueError: no token was scored, or there are not as many texts as scores.

    Example:
        >>> found = evaluate_tokens([[2 * np.log(8), 2, 1]])
        >>> round(found.perplexity, 4), found.accuracy
        (8.0, 0.5)
    """
    scores = np.asarray(scores, "float64").reshape(-1, 3)
    loss, tokens, right = scores.sum(axis=0)
    if not tokens:
        raise ValueError("`scores` must hold tokens. Received: none (are all texts empty?).")
    if texts is not None and len(texts) != len(scores):
        raise ValueError(
            f"`texts` must be as many as `scores`. Received: {len(texts)} and {len(scores)}."
        )
    return LanguageResult(
        perplexity=_perplexity(loss, tokens),
        accuracy=float(right / tokens),
        loss=float(loss / tokens),
        tokens=int(tokens),
        rows=len(scores),
        worst=() if texts is None else tuple(_worst(scores, texts)),
    )


def _perplexity(loss, tokens):
    return float(np.exp(loss / tokens))


def _worst(scores, texts):
    each = scores[:, 0] / np.maximum(scores[:, 1], 1)
    for row in np.argsort(-each, kind="stable")[:WORST]:
        if scores[row, 1]:
            yield {
                "text": texts[row],
                "perplexity": _perplexity(*scores[row, :2]),
                "tokens": int(scores[row, 1]),
            }
