"""Rows of text and labels from files, folders, lists and datasets, each row checked and located.

Standard library and NumPy only, so that a command line can read and check data before it pays for
the import of TensorFlow.
"""

import codecs
import csv
import importlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from kerasllm.data.conll import ENDINGS, read_conll
from kerasllm.data.samples import SAMPLES
from kerasllm.data.squad import is_squad, read_squad

TABLES = (".csv", ".tsv", ".txt")
# What the columns of the tasks hold; of others, anything.
STRING, LIST = {str: "a string"}, {list: "a list"}
KINDS = {
    **dict.fromkeys(("text", "text_pair", "question", "context", "prompt", "response"), STRING),
    **dict.fromkeys(("source", "target", "labels"), {**STRING, **LIST}),
    **dict.fromkeys(("tokens", "tags", "messages"), LIST),
    "label": {**STRING, int: "a number", float: "a number"},
}


class Row(dict):
    """One example: a dict from column name to value that knows where it was read.

    Args:
        values: mapping or pairs, as for `dict`.
        where: str, e.g. `"train.csv:17"`, `"rows[3]"` or `"pos/12.txt"`.

    Example:
        >>> row = Row({"text": "Lovely.", "label": "positive"}, where="train.csv:17")
        >>> row["label"], row.where
        ('positive', 'train.csv:17')
    """

    __slots__ = ("where",)

    def __init__(self, values=(), where=""):
        super().__init__(values)
        self.where = where


def read_rows(
    source, columns=("text", "label"), rename=None, split=None, optional=(), header=None
) -> list[Row]:
    """Read every row of a source and check it.

    | `source` | a row |
    |---|---|
    | `x.csv` | a record; the first one names the columns; a text may hold quoted line breaks |
    | `x.tsv` | a line of fields between tabs; quotes are plain characters |
    | `x.txt` | a line `label text`, split at its first space; or a text, if no label is asked |
    | `x.txt` with tabs, and a `header` | as `x.tsv` |
    | `x.jsonl`, `x.json` | an object on a line of its own, or one of a list |
    | `x.json` in SQuAD's layout | a question: `question`, `context`, `answers`, and its `id` |
    | `x.conll`, `x.bmes`, `x.bio`, `x.annotated` | a sentence: lists of `tokens` and `tags` |
    | a folder | a text file; the name of its subfolder is the label |
    | `"sample:NAME[:SPLIT]"` | a row of a set in `kerasllm.data.SAMPLES` |
    | `"hf:NAME[:SPLIT]"` | a row of a Hugging Face dataset (needs the package `datasets`) |
    | `"tfds:NAME[:SPLIT]"` | a row of a TFDS dataset (needs `tensorflow_datasets`) |
    | a list (or any iterable) | a dict, a tuple in the order of `columns`, or a lone text |
    | a tuple of lists `(texts, labels)` | one item of each |
    | a `tf.data.Dataset`, unbatched | a dict, a tuple in the order of `columns`, or a lone text |

    Files are UTF-8, with or without a byte order mark; blank lines are skipped. Class ids of `hf:`
    and `tfds:` become the names that the dataset has for them; other labels stay what they are,
    strings or ids.

    Args:
        source: see above.
        columns: names of the columns that each row must have.
        rename: dict, our name of a column → its name in the source, e.g. `{"text": "review"}`.
        split: str, `SPLIT` of a name (default `"train"`), or a subfolder of a folder.
        optional: names of columns that a row may have besides.
        header: names of the columns of a `.csv`, `.tsv` or `.txt` file whose first line holds none.

    Returns:
        A list of `Row`, in the order of the source.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ImportError: the package for a `hf:` or `tfds:` source is not installed.
        TypeError: the source is an object of another type.
        ValueError: the source has an unknown name or ending, no rows, or a bad row, which the
            message locates.

    Example:
        >>> rows = read_rows("sample:reviews_en:test")
        >>> len(rows), sorted(rows[0])
        (400, ['label', 'text'])
        >>> read_rows([("Lovely.", 1)])[0]
        {'text': 'Lovely.', 'label': 1}
    """
    rename = dict(rename or {})
    unknown = sorted(set(rename) - set(columns) - set(optional))
    if unknown:
        raise ValueError(
            f"`rename` must be keyed by names in `columns` or `optional`. Received: "
            f"{_listing(unknown)} (the name in the source is the value: "
            f'`{{"text": "review"}}`).'
        )
    needed = [rename.get(name, name) for name in columns]
    extra = [rename.get(name, name) for name in optional]
    names = dict(zip([*columns, *optional], needed + extra, strict=True))
    rows = []
    for where, record in _records(source, needed, extra, split, header):
        _check_columns(where, needed, record)
        rows.append(_row(where, record, names, optional))
    if not rows:
        raise ValueError(f"`source` must hold rows. Received: {_short(source)}, which has none.")
    return rows


def place_of(row, number=None) -> str:
    """Return how a message names a row.

    Args:
        row: mapping.
        number: int, which of the rows it is; or None.

    Returns:
        str: where it was read, if it knows; else its number.

    Example:
        >>> place_of(Row(where="train.csv:17")), place_of({"text": "Lovely."}, 3)
        ('train.csv:17', 'rows[3]')
    """
    known = getattr(row, "where", "")
    return known or ("A row" if number is None else f"rows[{number}]")


def label_names(rows) -> tuple[str, ...]:
    """Return the distinct labels of the rows as strings, sorted; numbers are sorted as numbers.

    Args:
        rows: list of rows with a `label`.

    Returns:
        A tuple of str; the position of a name is its class id.

    Example:
        >>> label_names([{"label": "10"}, {"label": "9"}, {"label": "10"}])
        ('9', '10')
    """
    names = {str(row["label"]) for row in rows}
    numeric = all(_is_number(name) for name in names)
    return tuple(sorted(names, key=lambda name: (float(name) if numeric else 0, name)))


def label_ids(rows, labels, column="label") -> np.ndarray:
    """Return the class id of each row: the position of its label in `labels`.

    Where no name in `labels` is a number, a row may also hold the id itself (`1` or `"1"`).

    Args:
        rows: list of rows with the column.
        labels: sequence of names, e.g. of `label_names(rows)` or `model.labels`.
        column: str.

    Returns:
        int32 array `(len(rows),)`.

    Raises:
        ValueError: a row has a label that is not in `labels`; the message says which row.

    Example:
        >>> label_ids([{"label": "positive"}, {"label": "0"}], ("negative", "positive"))
        array([1, 0], dtype=int32)
    """
    labels = [str(name) for name in labels]
    ids = {name: index for index, name in enumerate(labels)}
    if not any(_is_number(name) for name in labels):
        ids.update((str(index), index) for index in range(len(labels)))
    result = np.empty(len(rows), np.int32)
    for number, row in enumerate(rows):
        index = ids.get(str(row[column]))
        if index is None:
            raise ValueError(
                f"{place_of(row, number)}: `{column}` must be one of the "
                f"{len(labels)} known labels: {_listing(labels)}. Received: "
                f"{_short(row[column])} (mend the row, or train with labels that include it)."
            )
        result[number] = index
    return result


def split_rows(rows, fractions=(0.8, 0.1, 0.1), seed=0, by=None) -> tuple[list, ...]:
    """Shuffle the rows with a seed and cut them into parts, the same on every machine.

    Args:
        rows: sequence.
        fractions: sizes of the parts, positive, with sum 1.
        seed: int, at least 0.
        by: str or None, a column whose equal values stay together, such as the sentence that has
            several translations; the fractions are those of the values then.

    Returns:
        A tuple of lists, one a fraction; together they hold each row once.

    Raises:
        ValueError: `fractions` are not as above, or leave a part without a row; or a row has no
            column `by`.

    Example:
        >>> train, dev, test = split_rows(range(10))
        >>> len(train), len(dev), len(test)
        (8, 1, 1)
    """
    if by is not None:
        groups = {}
        for number, row in enumerate(rows):
            _check_columns(place_of(row, number), [by], row)
            groups.setdefault(str(row[by]), []).append(row)
        parts = split_rows(list(groups.values()), fractions, seed)
        return tuple([row for group in part for row in group] for part in parts)
    if min(fractions, default=0) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"`fractions` must be positive with sum 1. Received: {fractions}.")
    # Raw PCG64 output is the one stream that NumPy promises never to change; `permutation` is not.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(rows)), kind="stable")
    ends = np.rint(np.cumsum(fractions) * len(rows)).astype(int)
    parts = tuple([rows[i] for i in part] for part in np.split(order, ends[:-1]))
    if not all(parts):
        raise ValueError(
            f"`fractions` must leave each part at least one row. Received: {fractions} of "
            f"{len(rows)} rows (pass more rows, or larger fractions)."
        )
    return parts


def _row(where, record, names, optional):
    row = Row(where=where)
    for ours, theirs in names.items():
        value = _plain(where, record.get(theirs))
        if ours == "label" and isinstance(value, str):
            value = value.strip()
        if value is None or (ours == "label" and (value == "" or value != value)):  # "" or NaN
            if ours in optional:
                continue
            raise ValueError(f"{where}: `{theirs}` must not be empty (fill it in or drop the row).")
        kinds = KINDS.get(ours)
        if kinds and not isinstance(value, tuple(kinds)):
            wanted = " or ".join(dict.fromkeys(kinds.values()))
            raise ValueError(f"{where}: `{theirs}` must be {wanted}. Received: {_short(value)}.")
        row[ours] = value
    return row


def _plain(where, value):
    """Turn what `tf.data` and NumPy hand out into plain Python values."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, bytes):
        return _decode(where, value)
    if isinstance(value, (list, tuple)):
        return [_plain(where, each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(where, each) for name, each in value.items()}
    return value


def _check_columns(where, needed, present):
    for name in needed:
        if name not in present:
            raise ValueError(
                f"{where}: there must be a column `{name}`. Received: {_listing(present)} (say "
                f"which one it is by `rename`, or name all columns by `header` if the first line "
                f"does not)."
            )


def _records(source, needed, extra, split, header):
    """Yield `(where, {name in the source: value})` for each row of the source."""
    if not isinstance(source, (str, os.PathLike)):
        _reject(split, "split", "a name or a folder")
        _reject(header, "header", "a .csv, .tsv or .txt file")
        return _python_records(source, needed, extra)
    kind, _, name = str(source).partition(":")
    if kind in NAMED:
        _reject(header, "header", "a .csv, .tsv or .txt file")
        name, _, named_split = name.partition(":")
        return NAMED[kind](name, split or named_split or "train")
    path = Path(source)
    if path.is_dir():
        _reject(header, "header", "a .csv, .tsv or .txt file")
        return _folder_records(path / split if split else path)
    _reject(split, "split", "a name or a folder")
    if not path.exists():
        raise FileNotFoundError(
            f"`source` must be a file or folder that exists, or a name that starts with "
            f"{_listing(f'{kind}:' for kind in NAMED)}. Received: '{source}'."
        )
    return _file_records(path, needed, header)


def _reject(value, argument, place):
    if value is not None:
        raise ValueError(f"`{argument}` must be None unless `source` is {place}. Received: {value}")


def _file_records(path, needed, header):
    suffix = path.suffix.lower()
    known = (".json", ".jsonl", *TABLES, *ENDINGS)
    if suffix not in known:
        raise ValueError(
            f"`source` must be a folder or a file that ends in {_listing(known)}. Received: "
            f"'{path}'."
        )
    text = _decode(path.name, path.read_bytes())
    if not text.strip():
        raise ValueError(f"`source` must hold rows. Received: '{path}', an empty file.")
    if suffix in TABLES:
        if suffix == ".txt" and header is not None and "\t" in text.partition("\n")[0]:
            suffix = ".tsv"
        if header is None and suffix == ".txt":
            header = ("label", "text") if "label" in needed else ("text",)
        lines = _table_lines(path.name, suffix, text, header)
        return _table_records(path.name, lines, needed, header)
    _reject(header, "header", "a .csv, .tsv or .txt file")
    if suffix in ENDINGS:
        return read_conll(path.name, text)
    if suffix == ".json" and is_squad(whole := _whole(text)):
        return read_squad(path.name, whole)
    return _json_records(path.name, text)


def _decode(where, data):
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}:{line}: the text must be UTF-8. Received: byte 0x{data[error.start]:02x} "
            f"(convert it, e.g. with iconv)."
        ) from None


def _table_records(file, lines, needed, header):
    if header is None:
        line, fields = next(lines)
        header = [field.strip() for field in fields]
        if len(set(header)) < len(header):
            raise ValueError(
                f"{file}:{line}: the columns must have names of their own. Received: "
                f"{_listing(header)}."
            )
        _check_columns(f"{file}:{line}", needed, header)
    for line, fields in lines:
        if len(fields) != len(header):
            raise ValueError(
                f"{file}:{line}: the row must have {len(header)} fields ({_listing(header)}). "
                f"Received: {len(fields)} (a field that holds the separator needs quotes in CSV)."
            )
        yield f"{file}:{line}", dict(zip(header, fields, strict=True))


def _table_lines(file, suffix, text, header):
    if suffix == ".csv":
        return _csv_lines(file, text)
    separator, most = ("\t", -1) if suffix == ".tsv" else (" ", len(header) - 1)
    return ((line, content.split(separator, most)) for line, content in _lines(text))


def _csv_lines(file, text):
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    limit = csv.field_size_limit()  # by default, texts of over 131072 characters are refused
    csv.field_size_limit(max(limit, len(text)))
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1  # line_num is where a row *ends*
    except csv.Error as error:
        raise ValueError(
            f"{file}:{line}: the row must be valid CSV. Received: {error} (is a quote not closed, "
            f"or not doubled inside quotes?)."
        ) from None
    finally:
        csv.field_size_limit(limit)


def _lines(text):
    """Yield `(line number, line)`; unlike `str.splitlines`, no other character ends a line."""
    for line, content in enumerate(text.split("\n"), start=1):
        content = content.removesuffix("\r")
        if content.strip():
            yield line, content


def _json_records(file, text):
    if text.lstrip().startswith("["):
        items = ((f"{file}[{index}]", item) for index, item in enumerate(_json(file, 1, text)))
    else:
        items = ((f"{file}:{line}", _json(file, line, content)) for line, content in _lines(text))
    for where, item in items:
        if type(item) is not dict:
            raise ValueError(f"{where}: the row must be a JSON object. Received: {_short(item)}.")
        yield where, item


def _whole(text):
    """What a JSON file holds that is one object; None where it is something else."""
    try:
        return json.loads(text) if text.lstrip().startswith("{") else None
    except (json.JSONDecodeError, RecursionError):
        return None


def _json(file, first_line, text):
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        problem = getattr(error, "msg", error)
        raise ValueError(
            f"{file}:{line}: the row must be valid JSON. Received: {problem}."
        ) from None


def _folder_records(folder):
    if not folder.is_dir():
        raise FileNotFoundError(f"`split` must be a subfolder. Received: '{folder}'.")
    labels = [path for path in _visible(folder) if path.is_dir()]
    if not labels:
        raise ValueError(
            f"`source` must be a folder with one subfolder a label. Received: '{folder}', which "
            f"has no subfolder (pass one of its files, if it holds tables)."
        )
    for label in labels:
        for path in _visible(label):
            where = f"{label.name}/{path.name}"
            if path.is_dir():
                raise ValueError(
                    f"`source` must be a folder with one subfolder a label, and files in each. "
                    f"Received: '{folder}', where {where} is a folder (is one of its subfolders "
                    f"meant?)."
                )
            text = _decode(where, path.read_bytes())
            yield where, {"text": text.strip(), "label": label.name}


def _visible(folder):
    """List a folder by name: file systems have no order of their own."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _python_records(source, needed, extra):
    if isinstance(source, (bytes, Mapping)) or not isinstance(source, Iterable):
        raise TypeError(
            f"`source` must be a path, a name, an iterable of rows or a tuple of lists. Received: "
            f"{_short(source)} of type {type(source).__name__}."
        )
    if isinstance(source, tuple) and len(source) >= len(needed) and all(map(_is_list, source)):
        if len({len(column) for column in source}) > 1:
            raise ValueError(
                f"`source` must be lists of one length. Received: lengths "
                f"{_listing(len(column) for column in source)}."
            )
        source = zip(*source, strict=True)
    elif hasattr(source, "as_numpy_iterator"):  # a tf.data.Dataset, without importing TensorFlow
        source = source.as_numpy_iterator()
    for index, item in enumerate(source):
        yield f"rows[{index}]", _python_record(f"rows[{index}]", item, needed, extra)


def _is_list(value):
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes, tuple, Mapping))


def _python_record(where, item, needed, extra):
    if isinstance(item, Mapping):
        return item
    fields = item if isinstance(item, (list, tuple)) else (item,)
    if not len(needed) <= len(fields) <= len(needed) + len(extra):
        raise ValueError(
            f"{where}: the row must be a dict or have {len(needed)} fields ({_listing(needed)}). "
            f"Received: {_short(item)}."
        )
    return dict(zip(needed + extra, fields, strict=False))


def _sample_records(name, split):
    folder = Path(__file__).parent / "samples"
    path = folder / f"{name}_{split}.csv"
    if name not in SAMPLES or not path.exists():
        raise ValueError(
            f"`source` must name a sample among {_listing(SAMPLES)} and a split among train, "
            f"test. Received: 'sample:{name}:{split}'."
        )
    return _file_records(path, ["text", "label"], header=None)


def _hf_records(name, split):
    data = _package("datasets", f"hf:{name}").load_dataset(name, split=split)
    return _named_classes(f"hf:{name}:{split}", data, data.features)


def _tfds_records(name, split):
    data, info = _package("tensorflow_datasets", f"tfds:{name}").load(
        name, split=split, with_info=True
    )
    return _named_classes(f"tfds:{name}:{split}", data.as_numpy_iterator(), info.features)


def _package(module, source):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(
            f"`source` '{source}' needs the package `{module}`, which is not installed "
            f"(pip install {module})."
        ) from None


def _named_classes(source, data, features):
    """Yield the records of a dataset with class names for class ids; -1 is 'no label' there."""
    # A list of classes, such as tags of words, has its kind in `feature`.
    kinds = {key: getattr(kind, "feature", kind) for key, kind in features.items()}
    classes = {key: getattr(kind, "names", None) for key, kind in kinds.items()}
    for index, record in enumerate(data):
        record = dict(record)
        for key, names in classes.items():
            if names and record[key] is not None:
                record[key] = _named(record[key], names)
        yield f"{source}[{index}]", record


def _named(value, names):
    if np.ndim(value):
        return [_named(each, names) for each in value]
    return names[value] if value >= 0 else None


def _is_number(name):
    return re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", name) is not None


def _listing(names, most=20):
    names = [_short(name) if not isinstance(name, str) else name for name in names]
    shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in names[:most]]
    return ", ".join(shown + ["…"] * (len(names) > most))


def _short(value):
    text = repr(str(value) if isinstance(value, os.PathLike) else value)
    return text if len(text) <= 80 else f"{text[:79]}…"


# What stands before the colon of a named source.
NAMED = {"sample": _sample_records, "hf": _hf_records, "tfds": _tfds_records}
