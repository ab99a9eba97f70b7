"""How well questions are answered: exact match and F1 as SQuAD's scripts compute them."""

import dataclasses
import re
import string
from collections import Counter

from kerasllm.data.squad import gold_answers
from kerasllm.evaluation.result import Picture, Result, Table

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
WORDS = ("what", "who", "when", "where", "which", "why", "how", "other")
# The most words of a right answer, by which questions are grouped.
MOST = {"no answer": 0, "1 word": 1, "2 words": 2, "3–4 words": 4, "5–8 words": 8}
LENGTHS = (*MOST, "over 8 words")


def normalized(text) -> str:
    """Return an answer as SQuAD's scripts compare it.

    Lower-cased, without ASCII punctuation and English articles, its words parted by single spaces.

    Args:
        text: str.

    Returns:
        str.

    Example:
        >>> normalized("The  Denver Broncos!")
        'denver broncos'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def answer_scores(found, gold, version=1.1) -> tuple[float, float]:
    """Compare an answer with those that are right.

    Args:
        found: str; empty for "there is no answer".
        gold: list of str; empty where there is no answer.
        version: 1.1 or 2.0, of the script. In 2.0 there may be no answer, which is right if
            nothing was found; and where nothing remains of an answer once normalized, so there,
            too, while 1.1 calls that an exact match with an F1 of 0.

    Returns:
        The pair (exact match, F1), the best over the right answers.

    Example:
        >>> answer_scores("the Denver Broncos of 2015", ["Denver Broncos"])
        (0.0, 0.6666666666666666)
    """
    gold = list(map(normalized, gold))
    if version >= 2:
        gold = list(filter(None, gold)) or [""]
    found = normalized(found)
    exact = max((float(found == text) for text in gold), default=0.0)
    return exact, max((_f1(found, text, version) for text in gold), default=0.0)


def _f1(found, gold, version):
    found, gold = found.split(), gold.split()
    if version >= 2 and not (found and gold):
        return float(found == gold)
    same = sum((Counter(found) & Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)


@dataclasses.dataclass(frozen=True)
class Group:
    """The questions that have something in common.

    Args:
        name: str.
        support: int, number of questions.
        exact: float, share of them that was answered exactly.
        f1: float, mean of their F1.
    """

    name: str
    support: int
    exact: float
    f1: float


@dataclasses.dataclass(frozen=True)
class AnswersResult(Result):
    """What `evaluate_answers` found; print it for a table.

    Args:
        overall: `Group` of all questions.
        answerable: `Group` of those that have an answer, or None where all have.
        unanswerable: `Group` of those that have none, or None where all have.
        words: tuple of `Group`, by question word.
        lengths: tuple of `Group`, by the length of the (shortest) right answer.
        worst: tuple of dicts, the questions with the worst answers.
    """

    overall: Group
    answerable: Group | None
    unanswerable: Group | None
    words: tuple[Group, ...]
    lengths: tuple[Group, ...]
    worst: tuple[dict, ...] = ()

    PARTS = dict.fromkeys(("overall", "answerable", "unanswerable", "words", "lengths"), Group)

    def figures(self) -> dict:
        """Return the figures that sum it up, by name."""
        figures = {"F1": self.overall.f1, "exact match": self.overall.exact}
        if self.answerable is not None:
            figures["F1 where there is an answer"] = self.answerable.f1
        if self.unanswerable is not None:
            figures["accuracy where there is none"] = self.unanswerable.exact
        return {**figures, "questions": self.overall.support}

    def tables(self) -> list[Table]:
        """Return the figures by question word and by length of the answer."""

        def table(title, name, groups):
            rows = ((group.name, group.exact, group.f1, group.support) for group in groups)
            columns = (name, "exact match", "F1", "questions")
            return Table(title, columns, tuple(rows), bar="F1")

        return [
            table("By question word", "question word", self.words),
            table("By length of the answer", "right answer", self.lengths),
        ]

    def pictures(self) -> list[Picture]:
        """Return the F1 by question word and by length of the answer."""
        from kerasllm.evaluation import plots  # figures alone need no Matplotlib

        def picture(title, groups):
            figure = plots.plot_f1(
                groups, ("all questions", self.overall.f1), title=title, noun="question"
            )
            alt = " ".join(f"{group.name}: {group.f1:.2f}." for group in groups)
            return Picture(title, figure, alt=alt)

        return [
            picture("F1 by question word", self.words),
            picture("F1 by length of the right answer", self.lengths),
        ]


def evaluate_answers(rows, found, worst=20) -> AnswersResult:
    """Compare answers with the right ones, as SQuAD's scripts do.

    Where a question has no answer, version 2.0's script is followed, else version 1.1's.

    Args:
        rows: list of dicts with `question`, `context` and `answers` (`data.squad.gold_answers`).
        found: list of str, an answer for each; empty for "there is none".
        worst: int, how many of the worst answers to keep.

    Returns:
        An `AnswersResult`.

    Raises:
        ValueError: there are not as many answers as questions, or none.

    Example:
        >>> answers = [{"text": "one", "answer_start": 0}]
        >>> row = {"question": "How many?", "context": "one or two", "answers": answers}
        >>> evaluate_answers([row], ["the one"]).overall
        Group(name='all', support=1, exact=1.0, f1=1.0)

    References:
        Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
        section 6.1, and 2018, "Know What You Don't Know", section 5.
    """
    if not rows or len(rows) != len(found):
        raise ValueError(
            "`found` must have an answer for each of `rows`, at least one. Received: "
            f"{len(found)} for {len(rows)}."
        )
    gold = [[text for text, _ in gold_answers(row)] for row in rows]
    version = 1.1 if all(gold) else 2.0
    scores = [answer_scores(text, texts, version) for text, texts in zip(found, gold)]
    order = sorted(range(len(rows)), key=lambda i: scores[i][::-1])
    wrong = [i for i in order if scores[i][0] < 1]
    (overall,) = _groups(["all"] * len(rows), scores)
    kinds = {}
    if version >= 2:
        found_in = ["answerable" if texts else "unanswerable" for texts in gold]
        kinds = {group.name: group for group in _groups(found_in, scores)}
    return AnswersResult(
        overall=overall,
        answerable=kinds.get("answerable"),
        unanswerable=kinds.get("unanswerable"),
        words=_groups([_question_word(row["question"]) for row in rows], scores, WORDS),
        lengths=_groups([_length(texts) for texts in gold], scores, LENGTHS),
        worst=tuple(_example(rows[i], gold[i], found[i], scores[i]) for i in wrong[:worst]),
    )


def _groups(names, scores, order=("all", "answerable", "unanswerable")):
    """The `Group` of each name that there is."""
    groups = []
    for name in order:
        mine = [score for score, other in zip(scores, names) if other == name]
        if mine:
            exact, f1 = (sum(column) / len(mine) for column in zip(*mine))
            groups.append(Group(name, len(mine), exact, f1))
    return tuple(groups)


def _question_word(question):
    words = re.findall("[a-z]+", question.lower())
    return next((word for word in words if word in WORDS[:-1]), WORDS[-1])


def _length(texts):
    words = min((len(text.split()) for text in texts), default=0)
    return next((name for name, most in MOST.items() if words <= most), LENGTHS[-1])


def _example(row, gold, found, score):
    return {
        "text": row["question"],
        "where": getattr(row, "where", ""),
        "gold": "; ".join(dict.fromkeys(gold)) or "(no answer)",
        "found": found or "(no answer)",
        "F1": score[1],
        "context": row["context"],
    }
