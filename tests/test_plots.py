"""`kerasllm.evaluation.plots`: what the figures hold, and that any label can be drawn."""

import itertools
import subprocess
import sys
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from kerasllm.evaluation.metrics import evaluate_classes
from kerasllm.evaluation.plots import (
    BLUE,
    ORANGE,
    plot_classes,
    plot_confidence,
    plot_confusion,
    plot_history,
    to_svg,
)

HISTORY = {
    "loss": [0.7, 0.4, 0.2],
    "accuracy": [0.5, 0.8, 0.9],
    "val_loss": [0.6, 0.5, 0.55],
    "val_accuracy": [0.6, 0.7, 0.75],
}
PLOTS = [plot_confusion, plot_classes, plot_confidence]


def made_result(classes, rows=400, strength=2.0, labels=None):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), targets] += strength
    scores = np.exp(logits)
    labels = labels or [f"label_{i}" for i in range(classes)]
    return evaluate_classes(targets, scores / scores.sum(axis=1, keepdims=True), labels)


def svg_text(figure):
    root = xml.etree.ElementTree.fromstring(to_svg(figure).encode("utf-8"))
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def tick_texts(ticks):
    return [tick.get_text() for tick in ticks]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_history_draws_training_against_validation():
    figure = plot_history(HISTORY)
    assert titles(figure) == ["loss", "accuracy"]
    train, validation = figure.axes[0].get_lines()
    assert train.get_xdata().tolist() == [1, 2, 3]
    assert train.get_ydata().tolist() == [0.7, 0.4, 0.2]
    assert validation.get_ydata().tolist() == [0.6, 0.5, 0.55]
    assert [line.get_label() for line in (train, validation)] == ["train", "validation"]
    # Told apart by colour, by line style and by marker.
    assert (to_hex(train.get_color()), to_hex(validation.get_color())) == (
        BLUE.lower(),
        ORANGE.lower(),
    )
    assert train.get_linestyle() != validation.get_linestyle()
    assert train.get_marker() != validation.get_marker()
    assert tick_texts(figure.axes[0].get_legend().get_texts()) == ["train", "validation"]


def test_history_puts_loss_first_and_learning_rate_last_and_by_step():
    rates = np.linspace(5e-5, 0, 90)
    figure = plot_history({"learning_rate": rates, **HISTORY})
    assert titles(figure) == ["loss", "accuracy", "learning rate"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch", "step"]
    (line,) = figure.axes[2].get_lines()
    assert line.get_ydata().tolist() == rates.tolist()
    assert line.get_xdata().tolist() == list(range(1, 91))


def test_history_knows_a_learning_rate_of_each_epoch():
    figure = plot_history({"loss": [0.7, 0.4], "learning_rate": [1e-3, 1e-4]})
    assert figure.axes[1].get_xlabel() == "epoch"


def test_history_of_one_epoch_shows_a_point_at_a_whole_epoch():
    (axes,) = plot_history({"loss": [0.7]}).axes
    assert axes.get_lines()[0].get_marker() == "o"
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_history_without_training_values_draws_the_validation():
    (axes,) = plot_history({"val_f1": [0.1, 0.2]}).axes
    assert axes.get_title(loc="left") == "f1"
    assert [line.get_label() for line in axes.get_lines()] == ["validation"]


@pytest.mark.parametrize("history", [{}, {"loss": []}])
def test_history_without_values_is_told(history):
    with pytest.raises(ValueError, match="`history` must hold values"):
        plot_history(history)


def test_confusion_of_few_classes_has_counts_and_shares_in_its_cells():
    scores = np.eye(2)[[0, 0, 0, 1, 1, 0]]
    result = evaluate_classes([0, 0, 0, 0, 1, 1], scores, ["bad", "good"])
    axes = plot_confusion(result).axes[0]
    assert tick_texts(axes.texts) == ["3\n75.0%", "1\n25.0%", "1\n50.0%", "1\n50.0%"]
    places = [text.get_position() for text in axes.texts]
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1)]  # (predicted, true)
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted label", "true label")
    assert tick_texts(axes.get_xticklabels()) == ["bad", "good"]
    assert tick_texts(axes.get_yticklabels()) == ["bad", "good"]


def test_numbers_in_cells_can_be_read():
    axes = plot_confusion(made_result(3)).axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, line = text.get_position()
        cell = _luminance(image.cmap(image.norm(image.get_array()[line, column])))
        ink = _luminance(matplotlib.colors.to_rgb(text.get_color()))
        contrast = (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05)
        assert contrast >= 3, text.get_text()


def _luminance(color):
    """Relative luminance as WCAG 2 defines it."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return float(np.dot(channels, (0.2126, 0.7152, 0.0722)))


def test_confusion_with_an_absent_class_has_an_empty_line():
    result = evaluate_classes([0, 1], np.eye(3)[[0, 2]], ["a", "b", "c"])
    axes = plot_confusion(result).axes[0]
    assert axes.images[0].get_array().tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_confusion_of_77_classes_lists_mistakes_instead_of_numbers():
    result = made_result(77, rows=3000, strength=3.0)
    figure = plot_confusion(result)
    matrix, listed = figure.axes[:2]
    assert matrix.images[0].get_array().shape == (77, 77)
    assert not matrix.texts
    assert len(matrix.get_xticks()) <= 11
    assert titles(figure)[1] == "Most frequent mistakes"
    expected = result.confusions(15)
    assert [bar.get_width() for bar in listed.patches] == [count for *_, count in expected]
    true, predicted, _ = expected[0]
    number = true.removeprefix("label_"), predicted.removeprefix("label_")
    first = listed.get_yticklabels()[0].get_text()
    assert first == f"{true} ({number[0]})\n→ {predicted} ({number[1]})"
    top, bottom = listed.get_ylim()[1], listed.get_ylim()[0]
    assert top < bottom  # the most frequent is on top


def test_confusion_of_many_classes_without_mistakes():
    result = evaluate_classes(np.arange(20), np.eye(20), [str(i) for i in range(20)])
    figure = plot_confusion(result)
    assert titles(figure)[1] == "No mistakes"
    assert "No mistakes" in svg_text(figure)


def test_classes_are_sorted_weakest_first():
    scores = np.eye(2)[[0, 0, 1, 1, 1, 0]]
    result = evaluate_classes([0, 0, 0, 1, 1, 1], scores, ["a", "b"])
    weak = evaluate_classes([0, 1, 1], np.eye(3)[[0, 1, 0]], ["a", "b", "c"])
    (axes,) = plot_classes(weak).axes
    assert tick_texts(axes.get_yticklabels()) == ["c (0 rows)", "a (1 row)", "b (2 rows)"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0, 2 / 3, 2 / 3])
    assert tick_texts(axes.texts) == ["0.00", "0.67", "0.67"]
    (average,) = axes.get_lines()
    assert average.get_xdata()[0] == pytest.approx(weak.macro.f1)
    assert plot_classes(result).axes[0].get_xlim() == (0, 1)


def test_77_classes_are_all_named_in_two_columns():
    labels = [f"a_rather_long_label_with_number_{i}" for i in range(77)]
    figure = plot_classes(made_result(77, labels=labels))
    names = [text for axes in figure.axes for text in tick_texts(axes.get_yticklabels())]
    assert len(figure.axes) == 2
    assert len(names) == len(set(names)) == 77  # long labels stay distinct
    values = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    assert values == sorted(values) and len(values) == 77


@pytest.mark.parametrize("classes", [3, 77])
def test_no_two_names_of_classes_overlap(classes):
    figure = plot_classes(made_result(classes))
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
        for above, below in itertools.pairwise(boxes):
            assert below.y1 <= above.y0
            assert above.x0 >= 0  # nor is one cut off


def test_confidence_shows_each_bin():
    scores = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0, 1]]
    figure = plot_confidence(evaluate_classes([0, 0, 1, 1], scores, ["a", "b"]))
    top, bottom = figure.axes
    diagonal, curve = top.get_lines()
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert curve.get_xdata().tolist() == pytest.approx([0.6, 0.7, 0.95])
    assert curve.get_ydata().tolist() == [0, 1, 1]
    assert [bar.get_height() for bar in bottom.patches] == [1, 1, 2]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in top.patches]
    assert middles == pytest.approx([0.65, 0.75, 0.95])
    assert titles(figure)[0] == "calibration error 0.250"


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("classes", [1, 2, 3, 12, 13, 77])
def test_each_number_of_classes_can_be_drawn(plot, classes, tmp_path):
    file = tmp_path / "picture.png"
    plot(made_result(classes)).savefig(file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_notebook_shows_the_picture():
    assert plot_history(HISTORY)._repr_png_().startswith(b"\x89PNG")


HOSTILE = [
    "好评",
    "$x^2$ and $",
    "<b>&\"'",
    "nul \0 bell \a",
    "line\nbreak",
    "\U00010380 no font has it",
    "مرحبا",
    "\U0001f600",
    "",
    "x" * 1000,
    r"\frac{",
    "_\u202ereversed",
    "\ud800 half",
]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.filterwarnings("error")
def test_any_label_can_be_drawn_without_a_warning(plot, tmp_path):
    result = made_result(len(HOSTILE), labels=HOSTILE)
    few = made_result(12, labels=HOSTILE[:12])
    for figure in (plot(result), plot(few)):
        figure.savefig(tmp_path / "picture.png")
        figure.savefig(tmp_path / "tight.png", bbox_inches="tight")
        xml.etree.ElementTree.fromstring(to_svg(figure).encode("utf-8"))


def test_labels_are_text_in_the_picture_as_they_are():
    texts = svg_text(plot_confusion(made_result(12, labels=HOSTILE[:12])))
    for label in ("好评", "$x^2$ and $", "<b>&\"'", "nul bell", "line break", "مرحبا"):
        assert label in texts, label
    assert f"{'x' * 14}…{'x' * 15}" in texts


def test_picture_is_the_same_each_time_and_points_nowhere():
    first, second = (to_svg(plot_history(HISTORY)) for _ in range(2))
    assert first == second
    root = xml.etree.ElementTree.fromstring(first.encode("utf-8"))
    links = [
        value
        for node in root.iter()
        for name, value in node.attrib.items()
        if name.endswith(("href", "src"))
    ]
    assert links and all(link.startswith("#") for link in links)


def test_plots_leave_settings_alone_and_do_not_import_pyplot():
    code = """
import matplotlib, sys
def settings():  # to look at "backend" would import pyplot
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
from kerasllm.evaluation.plots import plot_history, to_svg
to_svg(plot_history({"loss": [1, 2]}))
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
