"""Sentences from files with a word and its tag on each line (CoNLL)."""

import re

ENDINGS = (".conll", ".bmes", ".bio", ".annotated")
DOCUMENT = "-DOCSTART-"  # the word on a line that begins a document in CoNLL's own files


def read_conll(file, text):
    r"""Read the sentences of a file.

    A line is a word and its tag between tabs or spaces; what stands between them, as CoNLL's parts
    of speech, is left out. A line of white space ends a sentence. Where no line of the file has a
    tag, the sentences have none.

    Args:
        file: str, the name in messages.
        text: str, what the file holds.

    Yields:
        `(where, row)`: the place of the first word, e.g. `"train.conll:17"`, and a dict with
        `tokens` and `tags`, lists of str.

    Raises:
        ValueError: a line has another number of fields than the first one, or an empty word.

    Example:
        >>> list(read_conll("x.conll", "New\tB-LOC\nYork\tI-LOC\n\nNo\tO\n"))[0]
        ('x.conll:1', {'tokens': ['New', 'York'], 'tags': ['B-LOC', 'I-LOC']})
    """
    count, first, words = None, 1, []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.rstrip(" \t\r")
        if not line:
            yield from _sentence(f"{file}:{first}", words)
            words = []
            continue
        # Spaces that are no separators, such as the ideographic one, may be words.
        fields = line.split("\t") if "\t" in line else re.split(" +", line)
        if fields[0] == DOCUMENT:
            continue
        count = count or len(fields)
        if len(fields) != count or not fields[0]:
            raise ValueError(
                f"{file}:{number}: the line must have {_fields(count)}, as the first one has, and "
                f"no empty word. Received: {line[:80]!r}."
            )
        first = first if words else number
        words.append(fields)


def _sentence(where, words):
    if words:
        columns = {"tokens": [fields[0] for fields in words]}
        if len(words[0]) > 1:
            columns["tags"] = [fields[-1] for fields in words]
        yield where, columns


def _fields(count):
    return "a word alone" if count == 1 else f"a word and its tag in {count} fields"
