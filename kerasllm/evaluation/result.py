"""What results of all tasks are made of: figures, tables and pictures."""

import dataclasses
import math
import unicodedata
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of a result.

    Args:
        title: str.
        columns: tuple of str, their heads; the first one names the rows.
        rows: tuple of tuples of str, int or float.
        about: str, how to read it.
        totals: tuple of rows that stand below the others.
        bar: str or None, the column of fractions that is drawn as bars too.
    """

    title: str
    columns: tuple
    rows: tuple
    about: str = ""
    totals: tuple = ()
    bar: str | None = None

    def __str__(self):
        cells = [[_cell(value) for value in row] for row in (*self.rows, *self.totals)]
        widths = [max(map(width, column)) for column in zip(self.columns, *cells)]
        return "\n".join(_line(row, widths) for row in (("", *self.columns[1:]), *cells))


class Picture(NamedTuple):
    """A picture of a result.

    Args:
        title: str.
        figure: `matplotlib.figure.Figure`.
        about: str, how to read it.
        alt: str, what it shows, for those who don't see it.
    """

    title: str
    figure: Any
    about: str = ""
    alt: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluation found; print it for a terminal.

    A subclass is a frozen dataclass with `figures`, and with `worst`, a tuple of dicts, examples
    that the model got most wrong. It names in `PARTS` its fields that are dataclasses themselves,
    or tuples of them.
    """

    PARTS = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what makes the figures doubtful."""
        return ()

    def figures(self) -> dict:
        """Return the figures that sum it up, by name, the most important first."""
        raise NotImplementedError

    def tables(self) -> list[Table]:
        """Return tables of more figures."""
        return []

    def pictures(self) -> list[Picture]:
        """Return pictures of them."""
        return []

    def to_dict(self) -> dict:
        """Return all of it as values of JSON; see `plain`."""
        return {**plain(dataclasses.asdict(self)), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values):
        """Make a result again from what `to_dict` gave, or from more than that.

        Args:
            values: dict; None for a float is NaN.

        Returns:
            A result of this class.
        """
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        made = {name: _made(values[name], cls.PARTS.get(name)) for name in fields}
        missing = [name for name in fields if made[name] is None and fields[name] is float]
        return cls(**{**made, **dict.fromkeys(missing, math.nan)})

    def __str__(self):
        parts = [lines(self.figures()), *map(str, self.tables()), "\n".join(self.notes)]
        return "\n\n".join(filter(None, parts))


def plain(value):
    """Return a value as JSON has it, which knows lists alone, and neither NaN nor infinity.

    Args:
        value: dict, list, tuple, number, str, None, or anything else, which stays as it is.

    Returns:
        The same of dicts and lists, with None for each float that is not finite.

    Example:
        >>> plain({"loss": (0.5, float("nan"))})
        {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _made(value, part):
    if isinstance(value, (list, tuple)):
        return tuple(_made(each, part) for each in value)
    return part(**value) if part and value is not None else value


def lines(figures) -> str:
    """Write figures under one another, for a terminal.

    Args:
        figures: dict, name: number.

    Returns:
        str.

    Example:
        >>> print(lines({"entity F1": 0.51234, "rows": 20}))
        entity F1  0.5123
        rows           20
    """
    longest = max(map(width, figures), default=0)
    cells = {name: _cell(value) for name, value in figures.items()}
    numbers = max(map(width, cells.values()), default=0)
    return "\n".join(_line((name, cell), (longest, numbers)) for name, cell in cells.items())


def width(text) -> int:
    """Columns of a terminal that a text takes: a Chinese character takes two.

    Args:
        text: str.

    Returns:
        int.
    """
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _cell(value):
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _line(row, widths):
    first, *others = (" " * (size - width(cell)) for cell, size in zip(row, widths))
    return row[0] + first + "".join(f"  {gap}{cell}" for gap, cell in zip(others, row[1:]))
