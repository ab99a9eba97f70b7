"""How well a tagger finds entities: figures by `seqeval`, no TensorFlow."""

import dataclasses
import re
from collections import Counter

import seqeval.metrics.sequence_labeling as loose
import seqeval.metrics.v1 as strict
from seqeval.scheme import IOBES, Tokens

from kerasllm.evaluation.metrics import (
    ClassificationResult,
    Scores,
    table_of_scores,
    weakest_first,
)
from kerasllm.evaluation.result import Picture, Result, Table

OUTSIDE = "O"
NOTHING = "no entity"  # what an entity is confused with that was missed, or found where none is
TAG = re.compile(r"([BIMESLU])[-_](.+)")
LETTER = re.compile("([BIMESLU])()")  # where all entities are of one type, as words of Chinese
UNTYPED = "_"  # what seqeval calls that type

# seqeval's letters for those of a scheme: inside, end, single.
LETTERS = {"M": "I", "L": "E", "U": "S"}


def scheme_of(labels) -> str:
    """Return the scheme by which tags mark where entities begin and end.

    Args:
        labels: iterable of str, all tags that there are.

    Returns:
        `"BIO"` (begin, inside), `"BIOES"` (end and single too), `"BMES"` (the same with middle for
        inside), `"BILOU"` (the same with last and unit); or `"tags"`: no tag begins with such a
        letter, so each word that isn't `O` counts as an entity of its own, as a part of speech.
        Letters alone, with `B` among them, are a scheme too.

    Raises:
        ValueError: some tags are of a scheme and others aren't, or letters of two schemes are
            mixed.

    Example:
        >>> scheme_of(["O", "B-NAME", "M-NAME", "E-NAME"]), scheme_of(["NOUN", "VERB"])
        ('BMES', 'tags')
    """
    labels = set(map(str, labels)) - {OUTSIDE}
    untyped = "B" in labels and all(map(LETTER.fullmatch, labels))
    found = {label: (LETTER if untyped else TAG).fullmatch(label) for label in labels}
    letters = {match[1] for match in found.values() if match}
    others = sorted(label for label, match in found.items() if not match)
    if not letters:
        return "tags" if labels else "BIO"
    schemes = [name for name in ("BIO", "BIOES", "BMES", "BILOU") if letters <= set(name)]
    if others or not schemes:
        raise ValueError(
            "`labels` must be tags of one scheme: BIO, BIOES, BMES or BILOU, as B-PER, I-PER, O; "
            f"or plain tags without such letters. Received: {', '.join(others or sorted(labels))}."
        )
    return schemes[0]


def entities_of(tags, scheme) -> list[tuple[str, int, int]]:
    """Return the entities that tags mark, as `seqeval` finds them.

    In BIO, an entity also begins at an inside tag that continues nothing, as in the script
    `conlleval`. In the schemes with ends, only what begins and ends as it should is an entity
    (`seqeval`'s strict mode).

    Args:
        tags: list of str, of one sentence.
        scheme: str, as `scheme_of` gives it.

    Returns:
        A list of `(type, start, end)`: the entity is `tags[start:end]`.

    Example:
        >>> entities_of(["B-PER", "I-PER", "O", "I-LOC"], "BIO")
        [('PER', 0, 2), ('LOC', 3, 4)]
        >>> entities_of(["B-PER", "E-PER", "O", "I-LOC"], "BIOES")
        [('PER', 0, 2)]
    """
    tags = _for_seqeval(tags, scheme)
    if scheme == "BIO":
        return [(kind, start, last + 1) for kind, start, last in loose.get_entities(tags)]
    return [(found.tag, found.start, found.end) for found in Tokens(tags, IOBES).entities]


@dataclasses.dataclass(frozen=True)
class EntitiesResult(Result):
    """What `evaluate_entities` found; print it for a table.

    Args:
        sentences: int, number of sentences.
        scheme: str, of `scheme_of`.
        accuracy: float, share of the words with the right tag.
        overall: `Scores` of all entities together (micro average).
        macro: `Scores`, mean over the types, each counted alike.
        classes: tuple of `Scores`, one a type, by name.
        confusion: tuple of tuples of int; `confusion[i][j]` entities of type `i` were found as
            type `j`, with the same bounds. The last type is `NOTHING`.
        worst: tuple of dicts, the sentences with the most mistakes.
    """

    sentences: int
    scheme: str
    accuracy: float
    overall: Scores
    macro: Scores
    classes: tuple[Scores, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[dict, ...] = ()

    PARTS = {"overall": Scores, "macro": Scores, "classes": Scores}
    confusions = ClassificationResult.confusions

    @property
    def labels(self) -> tuple[str, ...]:
        """The types of entities, and `NOTHING`."""
        return (*(scores.name for scores in self.classes), NOTHING)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on types whose figures say nothing."""
        absent = [scores.name for scores in self.classes if not scores.support]
        if not absent:
            return ()
        return (f"No entity is of {', '.join(absent)}, which lowers the macro average.",)

    def figures(self) -> dict:
        """Return the figures that sum it up, by name."""
        return {
            "entity F1": self.overall.f1,
            "precision": self.overall.precision,
            "recall": self.overall.recall,
            "macro F1": self.macro.f1,
            "tag accuracy": self.accuracy,
            "entities": self.overall.support,
            "sentences": self.sentences,
        }

    def tables(self) -> list[Table]:
        """Return the table of types, the weakest first."""
        return [
            table_of_scores(
                "Entities",
                ("type", "entities"),
                weakest_first(self.classes),
                (self.overall, self.macro),
                "An entity is right if its type and both its bounds are. Precision: of the "
                "entities that were found, the share that is right. Recall: of the entities that "
                "there are, the share that was found. The weakest type comes first.",
            )
        ]

    def pictures(self) -> list[Picture]:
        """Return the F1 of each type, and which types are taken for which."""
        from kerasllm.evaluation import plots  # figures alone need no Matplotlib

        classes = weakest_first(self.classes)
        confusions = " ".join(
            f"{count} of {kind} found as {other}." for kind, other, count in self.confusions(3)
        )
        return [
            Picture(
                "F1 of each type",
                plots.plot_f1(
                    classes,
                    ("all entities", self.overall.f1),
                    title="F1 of each type, weakest first",
                    noun="entity",
                ),
                alt=" ".join(f"{scores.name}: {scores.f1:.2f}." for scores in classes),
            ),
            Picture(
                "Confusion of types",
                plots.plot_confusion(self),
                f"Entities whose bounds were found, by type. Under “{NOTHING}” stand those that "
                "were missed, beside it those that were found where there are none.",
                f"Confusion matrix of {len(self.classes)} types. {confusions or 'No mistakes.'}",
            ),
        ]


def evaluate_entities(rows, found, labels=(), worst=20) -> EntitiesResult:
    """Compare found tags with the right ones, entity by entity.

    Precision, recall and F1 are `seqeval`'s: in its default mode (as the script `conlleval`) for
    BIO, in its strict mode for BIOES, BMES and BILOU; see `entities_of`.

    Args:
        rows: list of dicts with `tokens` and `tags`, lists of str.
        found: list of lists of str, a tag for each word.
        labels: iterable of str, tags that there may be beside those in `rows` and `found`.
        worst: int, how many of the worst sentences to keep.

    Returns:
        An `EntitiesResult`.

    Raises:
        ValueError: the tags are of no scheme, or not as many as the words.

    Example:
        >>> rows = [{"tokens": ["Ann", "Lee", "left"], "tags": ["B-PER", "I-PER", "O"]}]
        >>> evaluate_entities(rows, [["B-PER", "O", "O"]]).figures()["entity F1"]
        0.0

    References:
        Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", section
        2.3, for `conlleval`.
    """
    right = [list(map(str, row["tags"])) for row in rows]
    found = [list(map(str, tags)) for tags in found]
    if not rows or list(map(len, right)) != list(map(len, found)):
        raise ValueError(
            "`found` must have a tag for each word of `rows`, at least one. Received: "
            f"{sum(map(len, found))} tags in {len(found)} rows for {sum(map(len, right))} words "
            f"in {len(rows)} rows."
        )
    scheme = scheme_of({*labels, *(tag for tags in (*right, *found) for tag in tags)})
    there = [set(entities_of(tags, scheme)) for tags in right]
    seen = [set(entities_of(tags, scheme)) for tags in found]
    same = [a == b for one, other in zip(right, found) for a, b in zip(one, other)]
    mistakes = [len(one ^ other) for one, other in zip(there, seen)]
    order = sorted((i for i in range(len(rows)) if mistakes[i]), key=lambda i: -mistakes[i])
    overall, macro, classes = _scores(right, found, there, seen, scheme)
    return EntitiesResult(
        sentences=len(rows),
        scheme=scheme,
        accuracy=sum(same) / max(len(same), 1),
        overall=overall,
        macro=macro,
        classes=classes,
        confusion=_confusion(there, seen, [scores.name for scores in classes]),
        worst=tuple(_example(rows[i], there[i], seen[i], mistakes[i]) for i in order[:worst]),
    )


def _for_seqeval(tags, scheme):
    """Tags in the letters that seqeval knows."""
    if scheme == "tags":
        return [tag if tag == OUTSIDE else f"S-{tag}" for tag in tags]
    matches = ((tag, TAG.fullmatch(tag) or LETTER.fullmatch(tag)) for tag in tags)
    return [f"{LETTERS.get(m[1], m[1])}-{m[2] or UNTYPED}" if m else tag for tag, m in matches]


def _scores(right, found, there, seen, scheme):
    """The `Scores` of all entities, of their types' mean, and of each type."""
    supports = Counter(kind for entities in there for kind, *_ in entities)
    counts = Counter(kind for entities in seen for kind, *_ in entities)
    kinds = sorted({*supports, *counts})
    whole = sum(supports.values()), sum(counts.values())
    if not kinds:
        nothing = (0.0, 0.0, 0.0, 0, 0)
        return Scores("all entities", *nothing), Scores("macro average", *nothing), ()
    right, found = ([_for_seqeval(tags, scheme) for tags in each] for each in (right, found))

    def fractions(average):
        options = dict(average=average, zero_division=0)
        if scheme == "BIO":
            return loose.precision_recall_fscore_support(right, found, **options)[:3]
        return strict.precision_recall_fscore_support(right, found, scheme=IOBES, **options)[:3]

    each = zip(kinds, *(column.tolist() for column in fractions(None)))
    return (
        Scores("all entities", *map(float, fractions("micro")), *whole),
        Scores("macro average", *map(float, fractions("macro")), *whole),
        tuple(Scores(name, *values, supports[name], counts[name]) for name, *values in each),
    )


def _confusion(there, seen, kinds):
    index = {kind: i for i, kind in enumerate([*kinds, NOTHING])}
    matrix = [[0] * len(index) for _ in index]
    for right, found in zip(there, seen):
        right, found = ({(a, b): kind for kind, a, b in each} for each in (right, found))
        for bounds in {*right, *found}:
            kind, other = right.get(bounds, NOTHING), found.get(bounds, NOTHING)
            matrix[index[kind]][index[other]] += 1
    return tuple(map(tuple, matrix))


def _example(row, right, found, mistakes):
    def words(entities):
        shown = sorted(entities, key=lambda entity: entity[1:])
        return "; ".join(f"{' '.join(row['tokens'][a:b])} [{kind}]" for kind, a, b in shown)

    return {
        "text": " ".join(row["tokens"]),
        "where": getattr(row, "where", ""),
        "gold": words(right) or NOTHING,
        "found": words(found) or NOTHING,
        "mistakes": mistakes,
    }
