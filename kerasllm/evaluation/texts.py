"""How good written texts are: BLEU and chrF of translations, ROUGE of summaries.

The figures are those of the packages `sacrebleu` and `rouge-score`; what is our own is only what
counts as a word. They are imported when a figure is asked for, as they are slow to import.
"""

import dataclasses
import re

import numpy as np

from kerasllm.data.rows import place_of
from kerasllm.data.sentences import CHINESE, joined, sentences
from kerasllm.evaluation.result import Picture, Result, Table

# As rouge-score has words, and besides each Chinese character, and words of other letters.
WORDS = re.compile(rf"[a-z0-9]+|[{CHINESE}]|[^\W\da-z_{CHINESE}]+")
ROUGE = {"ROUGE-L": "rougeL", "ROUGE-1": "rouge1", "ROUGE-2": "rouge2"}


@dataclasses.dataclass(frozen=True)
class TextsResult(Result):
    """What `evaluate_translations` or `evaluate_summaries` found; print it for a table.

    Args:
        rows: int, number of rows.
        scores: dict, name: float, the most important first.
        baseline: dict, the same of texts that need no model; empty where there is no such thing.
        length_ratio: float, words (or Chinese characters) written, for one of the references.
        measure: str, what `row_scores` are.
        row_scores: tuple of float, one a row.
        about: str, how the scores were computed.
        empty: int, rows for which nothing was written.
        worst: tuple of dicts, the rows with the lowest scores: `where`, `source`, `written`,
            `reference`, and the score.
    """

    rows: int
    scores: dict
    baseline: dict
    length_ratio: float
    measure: str
    row_scores: tuple[float, ...]
    about: str
    empty: int = 0
    worst: tuple[dict, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what makes the scores doubtful."""
        empty = f"Nothing was written for {self.empty} of {self.rows} rows."
        return (empty,) if self.empty else ()

    def figures(self) -> dict:
        """Return the figures that sum it up, by name."""
        baseline = {f"{name} of the first sentence": x for name, x in self.baseline.items()}
        return {**self.scores, **baseline, "length ratio": self.length_ratio, "rows": self.rows}

    def tables(self) -> list[Table]:
        """Return the table of scores."""
        columns = ("score", "this model", *["first sentence"] * bool(self.baseline))
        rows = tuple(
            (name, value, *([self.baseline[name]] if self.baseline else []))
            for name, value in self.scores.items()
        )
        return [Table("Scores", columns, rows, self.about)]

    def pictures(self) -> list[Picture]:
        """Return how the scores of the rows are spread."""
        from kerasllm.evaluation import plots  # figures alone need no Matplotlib

        return [
            Picture(
                f"{self.measure} of the rows",
                plots.plot_spread(self.row_scores, self.measure),
                "How many rows have such a score. A heap at the left are rows that failed.",
                f"{self.measure}: half of the rows are above {np.median(self.row_scores):.3f}.",
            )
        ]

    def __str__(self):
        (table,) = self.tables()
        last = f"{self.rows} rows, length ratio {self.length_ratio:.3f}. {self.about}"
        return "\n".join([str(table), "", last, *self.notes])


def evaluate_translations(rows, outputs, worst=20) -> TextsResult:
    """Compare translations with references, by BLEU and chrF.

    Chinese is cut into characters (sacrebleu's `zh`) for BLEU, all else into words (its `13a`).

    Args:
        rows: list of rows with `source` and `target`: a reference, or a list of them.
        outputs: list of str, the translations.
        worst: int, how many of the worst rows to keep.

    Returns:
        `TextsResult`: scores from 0 to 100.

    Raises:
        ValueError: there are not as many outputs as rows, or none.

    Example:
        >>> rows = [{"source": "It is late.", "target": ["已经很晚了。", "很晚了。"]}]
        >>> round(evaluate_translations(rows, ["已经很晚了。"]).scores["BLEU"], 4)
        100.0

    References:
        Papineni et al. 2002, "BLEU"; Popović 2015, "chrF"; Post 2018, "A Call for Clarity in
        Reporting BLEU Scores".
    """
    from sacrebleu.metrics import BLEU, CHRF

    targets = _targets(rows, outputs)
    chinese = sum(map(_is_chinese, (texts[0] for texts in targets))) > len(targets) / 2
    bleu, chrf = BLEU(tokenize="zh" if chinese else "13a"), CHRF()
    streams = [
        [texts[i] if i < len(texts) else None for texts in targets]
        for i in range(max(map(len, targets)))
    ]
    scores = {
        "BLEU": float(bleu.corpus_score(outputs, streams).score),
        "chrF": float(chrf.corpus_score(outputs, streams).score),
    }
    return _result(
        rows,
        outputs,
        targets,
        worst,
        scores=scores,
        baseline={},
        measure="chrF",
        row_scores=tuple(
            float(chrf.sentence_score(output, texts).score)
            for output, texts in zip(outputs, targets)
        ),
        about=f"sacrebleu: BLEU {bleu.get_signature()}; chrF {chrf.get_signature()}.",
    )


def evaluate_summaries(rows, outputs, worst=20) -> TextsResult:
    """Compare summaries with references, by ROUGE, beside what the first sentence would get.

    Of several references the one that fits best counts, for each score. Words are not stemmed;
    each Chinese character is a word.

    Args:
        rows: list of rows with `source`: a text, or a list of its sentences; and `target`: a
            reference, or a list of them.
        outputs: list of str, the summaries.
        worst: int, how many of the worst rows to keep.

    Returns:
        `TextsResult`: scores from 0 to 1, the means of F1 over the rows.

    Raises:
        ValueError: there are not as many outputs as rows, or none.

    Example:
        >>> rows = [{"source": "A cat sat. It slept.", "target": "It slept"}]
        >>> found = evaluate_summaries(rows, ["A cat slept."])
        >>> found.scores["ROUGE-1"], found.baseline["ROUGE-1"]
        (0.4, 0.0)

    References:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    firsts = [next(iter(sentences(row["source"])), "") for row in rows]
    return _by_rouge(rows, outputs, worst, firsts)


def evaluate_replies(rows, outputs, worst=20) -> TextsResult:
    """Compare answers with references, by ROUGE and by how many are the same word for word.

    Args:
        rows: list of rows with `source` and `target`: a reference, or a list of them.
        outputs: list of str, the answers.
        worst: int, how many of the worst rows to keep.

    Returns:
        `TextsResult`: scores from 0 to 1, as of `evaluate_summaries`, and `exact match`.

    Raises:
        ValueError: there are not as many outputs as rows, or none.

    Example:
        >>> found = evaluate_replies([{"source": "2 + 2?", "target": "It is 4."}], ["It is 5."])
        >>> found.scores["exact match"], round(found.scores["ROUGE-L"], 4)
        (0.0, 0.6667)

    References:
        Wang et al. 2022, "Super-NaturalInstructions", section 5, for ROUGE-L of answers.
    """
    found = _by_rouge(rows, outputs, worst)
    right = [_tokens(output) in map(_tokens, references(row)) for row, output in zip(rows, outputs)]
    scores = {**found.scores, "exact match": float(np.mean(right))}
    return dataclasses.replace(found, scores=scores)


def rouge(outputs, targets):
    """Score each of several texts.

    Args:
        outputs: list of str.
        targets: list of lists of str, the references of each.

    Returns:
        dict, `"ROUGE-L"`, `"ROUGE-1"`, `"ROUGE-2"`: float64 `(texts,)`, F1.

    Example:
        >>> rouge(["the cat"], [["the cat", "a dog"]])["ROUGE-2"].tolist()
        [1.0]
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE.values()), tokenizer=_Words())
    found = [scorer.score_multi(texts, output) for output, texts in zip(outputs, targets)]
    return {
        name: np.array([scores[theirs].fmeasure for scores in found], float)
        for name, theirs in ROUGE.items()
    }


def references(row):
    """The texts that are right answers for a row.

    Args:
        row: has `target`, a str or a list of them.

    Returns:
        list of str.

    Raises:
        ValueError: there is none, or one is no text.

    Example:
        >>> references({"target": "Hallo"})
        ['Hallo']
    """
    target = row["target"]
    texts = [target] if isinstance(target, str) else target
    if not isinstance(texts, (list, tuple)) or not texts or not all(map(_is_text, texts)):
        raise ValueError(
            f"{place_of(row)}: `target` must be a text, or a list of texts. "
            f"Received: {target!r:.80}."
        )
    return list(texts)


class _Words:
    """What `rouge-score` asks for words."""

    def tokenize(self, text):
        return _tokens(text)


def _tokens(text):
    return WORDS.findall(text.lower())


def _by_rouge(rows, outputs, worst, baseline=()):
    targets = _targets(rows, outputs)
    scores = rouge(outputs, targets)
    others = rouge(baseline, targets) if baseline else {}
    return _result(
        rows,
        outputs,
        targets,
        worst,
        scores={name: float(values.mean()) for name, values in scores.items()},
        baseline={name: float(values.mean()) for name, values in others.items()},
        measure="ROUGE-L",
        row_scores=tuple(scores["ROUGE-L"].tolist()),
        about="rouge-score, F1, without stemming; each Chinese character is a word.",
    )


def _targets(rows, outputs):
    if len(rows) != len(outputs) or not rows:
        raise ValueError(
            "`outputs` must be as many as `rows`, at least one. Received: "
            f"{len(outputs)} outputs, {len(rows)} rows."
        )
    return [references(row) for row in rows]


def _result(rows, outputs, targets, worst, *, measure, row_scores, **fields):
    written = sum(len(_tokens(output)) for output in outputs)
    wanted = sum(len(_tokens(texts[0])) for texts in targets)
    order = np.argsort(row_scores, kind="stable")[:worst].tolist()
    return TextsResult(
        rows=len(rows),
        length_ratio=written / max(wanted, 1),
        measure=measure,
        row_scores=row_scores,
        empty=sum(not output.strip() for output in outputs),
        worst=tuple(
            {
                "where": place_of(rows[i], i),
                "source": joined(rows[i]["source"]),
                "written": outputs[i],
                "reference": targets[i][0],
                measure: row_scores[i],
            }
            for i in order
        ),
        **fields,
    )


def _is_chinese(text):
    words = _tokens(text)
    return sum(re.match(f"[{CHINESE}]", word) is not None for word in words) > len(words) / 2


def _is_text(value):
    return isinstance(value, str)
