"""One HTML page that holds what a run gave: it opens from disk and asks no network for anything."""

import base64
import datetime
import importlib.metadata
import importlib.resources
import json
import pathlib
import platform
import re
from collections.abc import Mapping

import jinja2
import markupsafe

from kerasllm.atomic import whole
from kerasllm.evaluation import plots
from kerasllm.evaluation.result import Picture

PACKAGES = (
    "kerasllm",
    "tensorflow",
    "tensorflow-text",
    "keras",
    "ai-edge-litert",
    "numpy",
    "scikit-learn",
)
SHORT_TEXT = 280  # characters; a longer text of an example is folded
LONGEST_TEXT = 5000  # characters; the rest of an example is left out
SHOWN_ROWS = 20  # of a table; the others are folded

# What HTML has no place for, escaped or not: control characters, halves of surrogate pairs, and
# noncharacters.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def write_report(
    path,
    *,
    title,
    settings,
    history=None,
    result=None,
    examples=(),
    exports=(),
    notes=(),
    seconds=None,
) -> pathlib.Path:
    """Write the report of a run as one HTML page, pictures and all.

    Args:
        path: str or path-like, the file to write; it appears whole or not at all.
        title: str, the heading of the page.
        settings: dict from a name to a value, what the run was started with.
        history: dict as for `plot_history`, for the learning curves.
        result: what an evaluation found (`kerasllm.evaluation.result`), for its figures, tables,
            pictures and worst examples.
        examples: list of `Picture` (`kerasllm.evaluation.result`), what the model looks at in
            single rows.
        exports: list of dicts, one an exported file, from a name (`target`, `path`,
            `largest_difference`, `label_flips`, `megabytes`, …) to a value; each name is a column.
        notes: list of str, shown above all else.
        seconds: float, how long the run took.

    Returns:
        `pathlib.Path`, the file.

    Raises:
        OSError: the file can't be written; the message names it.
        TypeError: `settings`, `exports` or `notes` are not as above.

    Example:
        >>> from kerasllm.evaluation import evaluate_classes
        >>> result = evaluate_classes([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["bad", "good"])
        >>> settings = {"epochs": 3}
        >>> path = write_report("report.html", title="Reviews", settings=settings, result=result)
        >>> path.name
        'report.html'
    """
    notes = [notes] if isinstance(notes, str) else notes
    _check("settings", [settings], Mapping, "a dict")
    _check("exports", exports, Mapping, "a list of dicts")
    _check("notes", notes, str, "a list of strings")
    page = _template().render(
        title=title,
        written=datetime.datetime.now().astimezone(),
        tiles=_tiles(result, seconds),
        notes=[*notes, *(result.notes if result else ())],
        history=_source(plots.plot_history(history)) if history else None,
        curves=_curves(history) if history else [],
        tables=result.tables() if result else [],
        pictures=_sources(result.pictures() if result else ()),
        examples=_sources(examples),
        worst=result.worst if result else [],
        columns=list(dict.fromkeys(name for export in exports for name in export)),
        exports=exports,
        settings=settings,
        versions=_versions(),
    )
    with whole(path) as aside:
        aside.write_text(page, encoding="utf-8", newline="\n")
    return pathlib.Path(path)


def _check(argument, items, kind, rule):
    if not all(isinstance(item, kind) for item in items):
        raise TypeError(f"`{argument}` must be {rule}. Received: {items!r:.200}.")


def _template():
    """The page with autoescape on: nothing in it is marked safe, so no text can become markup."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    environment.filters["value"] = _value
    environment.globals.update(
        SHORT_TEXT=SHORT_TEXT, LONGEST_TEXT=LONGEST_TEXT, SHOWN_ROWS=SHOWN_ROWS, zip=zip
    )
    file = importlib.resources.files("kerasllm.evaluation") / "report.html.jinja"
    return environment.from_string(file.read_text(encoding="utf-8"))


def _finalize(value):
    """Replace what HTML can't hold; jinja2 calls this on each value, then escapes it."""
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):  # Markup: a macro's
        return FORBIDDEN.sub("\ufffd", value)
    return value


def _value(value):
    """Show one value of a table: numbers short, structures as JSON, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _tiles(result, seconds):
    tiles = [(name, _figure(value)) for name, value in (result.figures() if result else {}).items()]
    return tiles if seconds is None else [*tiles, ("time", _duration(seconds))]


def _figure(value):
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _sources(pictures):
    """Pictures, each with what the page shows of it."""
    pictures = [Picture(*picture) for picture in pictures]
    return [(picture, _source(picture.figure)) for picture in pictures]


def _duration(seconds):
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _curves(history):
    """The last value of each curve, `(name, value)`: the learning curves for those who hear."""
    return [
        (name.replace("_", " "), _value(values[-1]))
        for name, values in history.items()
        if len(values)
    ]


def _source(figure):
    svg = plots.to_svg(figure).encode("utf-8")
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _versions():
    versions = {"Python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # not every run needs every package
    return versions
