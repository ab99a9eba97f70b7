"""Pictures of a training run and of its result, each a `matplotlib.figure.Figure`.

They use no `pyplot`, so they open no window and leave nothing behind. The colours are told apart by
colour-blind eyes (Okabe and Ito), and what a colour says, a marker, a line style or a number says
too.
"""

import contextlib
import io
import math
import unicodedata
import warnings

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8A8A8A", "#222222"
FEW_CLASSES = 12  # up to here a confusion matrix has room for numbers in its cells
CONFUSIONS = 15  # listed beside a matrix that has no numbers
COLUMN = 40  # classes in one column of bars

# Matplotlib looks a character up in one font after the other. Which Chinese fonts there are depends
# on the system: Linux, macOS and Windows in this order.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "STHeiti",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)


class _Picture(Figure):
    """A `Figure` that draws a character no font has as a box, without a warning."""

    def draw(self, renderer):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from", UserWarning)
            super().draw(renderer)

    def _repr_png_(self):
        # A notebook shows a plain `Figure` as a picture only once `pyplot` was imported.
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


@contextlib.contextmanager
def picture(width, height):
    """Give a fresh figure, to be drawn on in the style of all pictures.

    Args:
        width: float, inches.
        height: float, inches.

    Yields:
        `matplotlib.figure.Figure`.

    Example:
        >>> with picture(4, 3) as figure:
        ...     axes = figure.add_subplot()
    """
    with _style():
        yield _Picture(figsize=(width, height), layout="constrained")


def plot_history(history) -> Figure:
    """Draw the loss and each metric over the epochs, training against validation.

    Args:
        history: dict from a name to its values, one an epoch, as `model.fit(…).history`; `val_x`
            is drawn with `x`. `learning_rate` may have a value an epoch or a value a step. None
            leaves a gap, as NaN does.

    Returns:
        A `Figure` with one axes a metric, the loss first.

    Raises:
        ValueError: `history` holds no values.

    Example:
        >>> figure = plot_history({"loss": [0.7, 0.4], "val_loss": [0.6, 0.5]})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss']
    """
    history = {name: values for name, values in dict(history).items() if len(values)}
    history = {name: np.asarray(values, float).ravel() for name, values in history.items()}
    if not history:
        raise ValueError("`history` must hold values. Received: none (train one epoch or more).")
    names = dict.fromkeys(name.removeprefix("val_") for name in history)
    names = sorted(names, key=lambda name: (name != "loss", name == "learning_rate"))
    epochs = max((len(v) for name, v in history.items() if name != "learning_rate"), default=0)
    columns = min(len(names), 3)
    lines = math.ceil(len(names) / columns)
    with _style():
        figure = _Picture(figsize=(3.6 * columns + 0.4, 3 * lines), layout="constrained")
        for place, name in enumerate(names, start=1):
            axes = figure.add_subplot(lines, columns, place)
            axes.set_title(shown(name.replace("_", " ")), loc="left")
            _draw_curves(axes, history, name, epochs)
    return figure


def plot_confusion(result) -> Figure:
    """Draw the confusion matrix: for each true label, how its rows were predicted.

    The darker a cell, the larger its share of the row. Up to 12 classes have their counts in the
    cells; more have the most frequent mistakes listed beside the matrix.

    Args:
        result: a `ClassificationResult`.

    Returns:
        A `Figure`.

    Example:
        >>> from kerasllm.evaluation.metrics import evaluate_classes
        >>> result = evaluate_classes([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["bad", "good"])
        >>> figure = plot_confusion(result)
        >>> figure.axes[0].get_xlabel()
        'predicted label'
    """
    counts = np.array(result.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _style():
        if len(counts) <= FEW_CLASSES:
            return _small_matrix(result.labels, counts, shares)
        return _large_matrix(result, shares)


def plot_classes(result) -> Figure:
    """Draw the F1 of each class as a bar, the weakest class on top.

    Args:
        result: a `ClassificationResult`.

    Returns:
        A `Figure`; over 40 classes are set in several columns.

    Example:
        >>> from kerasllm.evaluation.metrics import evaluate_classes
        >>> result = evaluate_classes([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["bad", "good"])
        >>> figure = plot_classes(result)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['bad (1 row)', 'good (1 row)']
    """
    classes = sorted(result.classes, key=lambda scores: scores.f1)
    average = ("macro average", result.macro.f1)
    return plot_f1(classes, average, title="F1 of each class, weakest first")


def plot_f1(parts, average, *, title, noun="row") -> Figure:
    """Draw an F1 for each of several parts as a bar.

    Args:
        parts: sequence of what has a `name` (str), `f1` (float) and `support` (int), the topmost
            first.
        average: tuple of str and float, a line across the bars.
        title: str.
        noun: str, what `support` counts.

    Returns:
        A `Figure`; over 40 bars are set in several columns.

    Example:
        >>> from types import SimpleNamespace
        >>> part = SimpleNamespace(name="who", f1=0.5, support=8)
        >>> figure = plot_f1([part], ("mean", 0.5), title="F1", noun="question")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['who (8 questions)']
    """
    columns = math.ceil(len(parts) / COLUMN) or 1
    lines = math.ceil(len(parts) / columns)
    with _style():
        size = (6.4 if columns == 1 else 5.2 * columns, 0.22 * lines + 1.1)
        figure = _Picture(figsize=size, layout="constrained")
        all_axes = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
        for number, axes in enumerate(all_axes):
            _draw_bars(axes, parts[number * lines : (number + 1) * lines], average, lines, noun)
        all_axes[0].set_title(title, loc="left")
        all_axes[-1].legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


def plot_numbers(result) -> Figure:
    """Draw the numbers that a model gave over the right ones.

    Args:
        result: a `NumbersResult`.

    Returns:
        A `Figure` with one axes.
    """
    right, given = np.array(result.points).T
    with picture(4.8, 4.8) as figure:
        axes = figure.add_subplot(xlabel="right", ylabel="given")
        axes.scatter(right, given, s=9, color=BLUE, alpha=0.4, linewidths=0)
        if result.error is not None:  # else they are of another scale
            ends = [min(right.min(), given.min()), max(right.max(), given.max())]
            axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
    return figure


def plot_confidence(result) -> Figure:
    """Draw how often the model is right when it is so sure: its reliability.

    On the diagonal, scores can be read as probabilities; below it the model is too sure of itself.

    Args:
        result: a `ClassificationResult`.

    Returns:
        A `Figure` with two axes: accuracy by score, and rows by score.

    Example:
        >>> from kerasllm.evaluation.metrics import evaluate_classes
        >>> result = evaluate_classes([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["bad", "good"])
        >>> figure = plot_confidence(result)
        >>> figure.axes[0].get_ylabel()
        'accuracy'

    References:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", figure 1.
    """
    bins = result.bins
    middles, width = [(b.low + b.high) / 2 for b in bins], bins[0].high - bins[0].low
    with _style():
        figure = _Picture(figsize=(4.8, 4.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.bar(middles, [b.accuracy for b in bins], 0.9 * width, color=BLUE, alpha=0.3)
        top.plot([0, 1], [0, 1], "--", color=GREY, label="score = accuracy")
        top.plot(
            [b.confidence for b in bins],
            [b.accuracy for b in bins],
            "o-",
            color=BLUE,
            label="this model",
        )
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        top.set_title(f"calibration error {result.calibration_error:.3f}", loc="left")
        top.legend(loc="upper left")
        bottom.bar(middles, [b.rows for b in bins], 0.9 * width, color=GREY)
        bottom.set(xlabel="score of the predicted label", ylabel="rows")
    return figure


def plot_spread(values, name) -> Figure:
    """Draw how values are spread, with their median.

    Args:
        values: sequence of float, at least one.
        name: str, what they are.

    Returns:
        A `Figure`.

    Example:
        >>> plot_spread([0.1, 0.5, 0.6], "ROUGE-L").axes[0].get_xlabel()
        'ROUGE-L'
    """
    middle = float(np.median(values))
    with _style():
        figure = _Picture(figsize=(5.6, 3), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(values, bins=20, color=BLUE)
        axes.axvline(middle, color=ORANGE, linestyle="--", label=f"median {middle:.3g}")
        axes.set(xlabel=name, ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.legend()
    return figure


def to_svg(figure) -> str:
    """Return a figure as SVG, with its text as text, which the viewer draws in its own fonts.

    Args:
        figure: a `Figure`.

    Returns:
        str, an XML document that holds neither a date nor anything random.

    Example:
        >>> to_svg(plot_history({"loss": [0.7, 0.4]})).startswith("<?xml")
        True
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kerasllm"}):
        # An SVG has no resolution, but the matrices in it are pixels.
        figure.savefig(file, format="svg", dpi=200, transparent=True, metadata={"Date": None})
    return file.getvalue()


@contextlib.contextmanager
def _style():
    known = set(font_manager.fontManager.get_font_names())
    style = {
        "font.family": [font for font in FONTS if font in known] + ["sans-serif"],
        "font.size": 9,
        "text.parse_math": False,  # a `$` in a label is a dollar
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "grid.color": "#DDDDDD",
        "xtick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.color": GREY,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
    }
    with matplotlib.rc_context(style):
        yield


def _draw_curves(axes, history, name, epochs):
    for key, label, color, line in (
        (name, "train", BLUE, "o-"),
        (f"val_{name}", "validation", ORANGE, "s--"),
    ):
        if key in history:
            values = history[key]
            marker = line if len(values) <= 50 else line[1:]
            axes.plot(np.arange(1, len(values) + 1), values, marker, color=color, label=label)
    by_step = name == "learning_rate" and len(history.get(name, ())) > epochs
    axes.set_xlabel("step" if by_step else "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.grid(axis="y")
    if name == "learning_rate":
        axes.yaxis.set_major_formatter("{x:.2g}")
    else:
        axes.legend()


def _small_matrix(labels, counts, shares):
    size = max(3.6, 0.62 * len(labels) + 2)
    figure = _Picture(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.add_subplot()
    _draw_matrix(figure, axes, shares, Normalize(0, 1), ticks=[0, 0.25, 0.5, 0.75, 1])
    names = [shown(label) for label in labels]
    axes.set_xticks(range(len(names)), names, rotation=0 if len(names) <= 3 else 45, ha="center")
    if len(names) > 3:
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for (true, predicted), count in np.ndenumerate(counts):
        share = shares[true, predicted]
        text = f"{count}\n{share:.1%}" if len(labels) <= 6 else str(count)
        color = "white" if share > 0.55 else INK
        axes.text(predicted, true, text, ha="center", va="center", color=color)
    return figure


def _large_matrix(result, shares):
    figure = _Picture(figsize=(10.5, 5), layout="constrained")
    axes, listed = figure.subplots(1, 2, width_ratios=(1.35, 1))
    # The square root shows a mistake of 2% beside a diagonal of 90%.
    _draw_matrix(figure, axes, shares, PowerNorm(0.5, 0, 1), ticks=[0, 0.02, 0.1, 0.25, 0.5, 1])
    step = math.ceil(len(shares) / 10)
    axes.set_xticks(range(0, len(shares), step))
    axes.set_yticks(range(0, len(shares), step))
    axes.set_xlabel("predicted label (its number)")
    axes.set_ylabel("true label (its number)")
    _draw_confusions(listed, result)
    return figure


def _draw_matrix(figure, axes, shares, norm, ticks):
    image = axes.imshow(shares, cmap="Blues", interpolation="nearest", norm=norm)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_ticks(ticks, labels=[f"{tick:.0%}" for tick in ticks])
    bar.set_label("share of the true label")
    bar.outline.set_visible(False)
    axes.set(xlabel="predicted label", ylabel="true label")


def _draw_confusions(axes, result):
    mistakes = result.confusions(CONFUSIONS)
    axes.set_title("Most frequent mistakes" if mistakes else "No mistakes", loc="left")
    if not mistakes:
        axes.set_axis_off()
        return
    numbers = {label: number for number, label in enumerate(result.labels)}
    names = [
        f"{shown(true)} ({numbers[true]})\n→ {shown(predicted)} ({numbers[predicted]})"
        for true, predicted, _ in mistakes
    ]
    bars = axes.barh(range(len(mistakes)), [count for *_, count in mistakes], color=ORANGE)
    axes.bar_label(bars, padding=3)
    axes.set_yticks(range(len(mistakes)), names, fontsize=7.5)
    axes.set_xlabel("rows")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_ylim(CONFUSIONS - 0.4, -0.6)


def _draw_bars(axes, parts, average, lines, noun):
    values = [part.f1 for part in parts]
    axes.barh(range(len(parts)), values, color=BLUE, height=0.75)
    for line, value in enumerate(values):
        axes.text(1.03, line, f"{value:.2f}", va="center", fontsize=8)
    names = [f"{shown(part.name)} ({_count(part.support, noun)})" for part in parts]
    axes.set_yticks(range(len(parts)), names)
    name, value = average
    axes.axvline(value, color=ORANGE, linestyle="--", label=f"{name} {value:.2f}")
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1), ylim=(lines - 0.4, -0.6), xlabel="F1")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])


def _count(count, noun):
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"


def shown(label, most=30):
    r"""Return a label as one short line without control characters, which SVG forbids.

    Args:
        label: str.
        most: int, characters.

    Returns:
        str.

    Example:
        >>> shown("a\tlabel that is far too long", most=12)
        'a lab…o long'
    """
    printable = (" " if unicodedata.category(char)[0] in "CZ" else char for char in label)
    text = " ".join("".join(printable).split())
    # Long names of classes often differ at their ends only: cut them in the middle.
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
