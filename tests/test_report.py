"""`kerasllm.evaluation.report`: one whole, valid, accessible page that asks no network."""

import base64
import dataclasses
import html.parser
import json
import os
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from kerasllm.evaluation import evaluate_classes, worst_examples, write_report
from kerasllm.evaluation.plots import plot_history
from kerasllm.evaluation.result import Picture

HISTORY = {"loss": [0.7, 0.41], "val_loss": [0.6, 0.5], "learning_rate": [1e-4] * 9}
EXPORTS = [
    {"target": "saved_model", "path": "out/1", "largest_difference": 2.5e-7, "label_flips": 0},
    {"target": "tflite", "path": "out/m.tflite", "largest_difference": 1e-6, "quantize": "int8"},
]
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end": "</p></li></html><img src=x onerror=alert(1)>",
    "quotes": '" onmouseover="alert(1)" \'',
    "template": "{{ 7 * 7 }} {% raw %} {#",
    "entity": "&lt;b&gt; &amp;",
    "rtl": "\u202eevil مرحبا",
    "emoji": "👩‍🚀😀",
    "chinese": "这家外卖太难吃了",
}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Elements, text by section and mistakes of nesting of a page."""

    def __init__(self, file):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.elements, self.open, self.wrong, self.texts = [], [], [], []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        if len(dict(attrs)) < len(attrs):
            self.wrong.append(f"an attribute twice in {tag}")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, *tags):
        return [text for tag, text in self.texts if not tags or tag in tags]

    def pictures(self):
        prefix = "data:image/svg+xml;base64,"
        return [
            xml.etree.ElementTree.fromstring(base64.b64decode(img["src"].removeprefix(prefix)))
            for img in self.all("img")
        ]


def made_result(classes=3, labels=None):
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.ones(classes), 200)
    labels = labels or [f"label_{i}" for i in range(classes)]
    targets = generator.integers(0, classes, 200)
    return evaluate_classes(targets, scores, labels), targets, scores, labels


def with_worst(result, worst):
    return dataclasses.replace(result, worst=tuple(worst))


@pytest.fixture
def page(tmp_path):
    result, targets, scores, labels = made_result()
    rows = [{"text": f"text {i}"} for i in range(200)]
    file = write_report(
        tmp_path / "report.html",
        title="Reviews",
        settings={"epochs": 3, "learning_rate": 5e-5, "resume": None, "sizes": {"layers": [2, 3]}},
        history=HISTORY,
        result=with_worst(result, worst_examples(rows, targets, scores, labels, count=4)),
        exports=EXPORTS,
        notes=["Stopped early."],
        seconds=754,
    )
    return Page(file)


def check_whole(page):
    assert page.source.startswith("<!DOCTYPE html>\n")
    assert page.wrong == [] and page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in ids
    for _, attrs in page.elements:
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in ids


def check_asks_no_network(page):
    for tag, attrs in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"src", "href", "srcset", "action", "data", "poster"}:
                assert value.startswith(("#", "data:image/svg+xml;base64,"))
        assert "url(" not in attrs.get("style", "")
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert "url(" not in style and "@import" not in style


def test_page_is_whole_and_asks_no_network(page):
    check_whole(page)
    check_asks_no_network(page)
    policies = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert [policy["content"] for policy in policies] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ]


def test_page_is_accessible(page):
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert page.text("title") == page.text("h1") == ["Reviews"]
    for image in page.all("img"):
        assert len(image["alt"]) > 20
    for header in page.all("th"):
        assert header["scope"] in {"col", "row"}
    assert len(page.all("table")) == len(page.all("caption")) == 4
    # What scrolls can be reached by keyboard.
    for _, attrs in page.elements:
        if attrs.get("class") == "scroll":
            assert attrs["tabindex"] == "0" and attrs["role"] == "region" and attrs["aria-label"]


def test_page_has_all_sections_and_figures(page):
    result = made_result()[0]
    assert page.text("h2") == [
        "Learning curves",
        "Classes",
        "Confusion matrix",
        "Confidence",
        "Worst examples",
        "Exports",
        "Settings",
        "Versions",
    ]
    tiles = dict(zip(page.text("dt"), page.text("dd")))
    assert tiles == {
        "accuracy": f"{result.accuracy:.4f}",
        "macro F1": f"{result.macro.f1:.4f}",
        "log loss": f"{result.log_loss:.4f}",
        "calibration error": f"{result.calibration_error:.4f}",
        "rows": "200",
        "classes": "3",
        "time": "12.6 min",
    }
    assert "Stopped early." in page.text("p")


def test_table_of_classes(page):
    result = made_result()[0]
    cells = page.text("td", "th")
    for scores in (*result.classes, result.macro, result.weighted):
        place = cells.index(scores.name)
        assert cells[place + 1 : place + 5] == [
            f"{scores.precision:.3f}",
            f"{scores.recall:.3f}",
            f"{scores.f1:.3f}",
            str(scores.support),
        ]
    names = [cell for cell in cells if cell.startswith("label_")]
    assert names == [s.name for s in sorted(result.classes, key=lambda s: s.f1)]


def test_tables_of_settings_and_exports(page):
    cells = page.text("td", "th")
    for name, value in [
        ("epochs", "3"),
        ("learning_rate", "5e-05"),
        ("resume", "–"),
        ("sizes", '{"layers": [2, 3]}'),
    ]:
        assert cells[cells.index(name) + 1] == value
    place = cells.index("target")
    assert cells[place : place + 15] == [
        *("target", "path", "largest difference", "label flips", "quantize"),
        *("saved_model", "out/1", "2.5e-07", "0", "–"),
        *("tflite", "out/m.tflite", "1e-06", "–", "int8"),
    ]
    assert "numpy" in cells and np.__version__ in cells


def test_pictures_are_drawings_with_text(page):
    texts = [" ".join("".join(node.itertext()).split()) for node in page.pictures()]
    assert len(texts) == 3
    for text, words in zip(texts, ["learning rate", "predicted label", "calibration error"]):
        assert words in text
    alt = page.all("img")[0]["alt"]
    assert "loss 0.41, val loss 0.5, learning rate 0.0001." in alt


def test_page_of_a_run_without_anything(tmp_path):
    page = Page(write_report(tmp_path / "r.html", title="Nothing yet", settings={}))
    check_whole(page)
    assert page.text("h2") == ["Versions"]
    assert page.all("img") == [] and page.all("dl") == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_stays_text(text, tmp_path):
    result, targets, scores, _ = made_result()
    labels = [text, f"{text}1", f"{text}2"]
    result = evaluate_classes(targets, scores, labels)
    worst = [
        {"where": text, "text": text, "label": text, "predicted": text, "score": 0.1, "loss": 2.3},
        {"where": "", "text": text * 99, "label": "a", "predicted": "b", "score": 0.1, "loss": 2.3},
    ]
    file = write_report(
        tmp_path / "report.html",
        title=text,
        settings={text: text, "list": [text]},
        history={text: [1.0, 2.0]},
        result=with_worst(result, worst),
        exports=[{text: text}],
        notes=[text],
    )
    page = Page(file)
    check_whole(page)
    check_asks_no_network(page)
    assert page.text("h1") == [text]
    assert page.text("title") == [text]
    assert page.text("bdi").count(text) == 3  # label, predicted, where
    assert page.text("p").count(text) == 2  # note, text
    assert page.text("td").count(text) == 2  # setting, export
    assert json.dumps([text], ensure_ascii=False) in page.text("td")
    assert len(page.pictures()) == 3


@pytest.mark.parametrize("text", ["nul \0 \x1b[31m \x85", "half \ud800", "not \uffff"])
def test_characters_that_html_forbids_are_replaced(text, tmp_path):
    file = write_report(tmp_path / "r.html", title=text, settings={"x": [text]}, notes=[text])
    page = Page(file)
    assert not re.search("[\0\x1b\x80-\x9f\ud800-\udfff\uffff]", page.source)
    assert "\ufffd" in page.text("h1")[0]
    assert page.text("h1")[0].split()[0] == text.split()[0]


def test_long_text_is_folded_and_a_huge_one_is_cut(tmp_path):
    texts = ["short", "long " * 100, "huge " * 100_000]
    worst = [
        {"where": "", "text": text, "label": "a", "predicted": "b", "score": 0.1, "loss": 2.3}
        for text in texts
    ]
    page = Page(
        write_report(
            tmp_path / "r.html", title="t", settings={}, result=with_worst(made_result()[0], worst)
        )
    )
    check_whole(page)
    assert len(page.all("details")) == len(page.all("summary")) == 2
    assert "short" in page.text("p")
    joined = "".join(page.text("bdi", "p"))
    assert joined.count("long") == 100  # folded, not lost
    assert joined.count("huge") == 1000
    assert "(500,000 characters)" in joined


def test_right_and_wrong_predictions_look_different(tmp_path):
    worst = [
        {"where": "", "text": "x", "label": "a", "predicted": name, "score": 0.5, "loss": 0.7}
        for name in ("a", "b")
    ]
    page = Page(
        write_report(
            tmp_path / "r.html", title="t", settings={}, result=with_worst(made_result()[0], worst)
        )
    )
    assert [b.get("class") for b in page.all("b")].count("bad") == 1


def test_many_classes_are_folded_and_all_there(tmp_path):
    result = made_result(77)[0]
    page = Page(write_report(tmp_path / "r.html", title="t", settings={}, result=result))
    check_whole(page)
    assert "The other 57 lines" in page.text("summary")
    names = [text for text in page.text("th") if text.startswith("label_")]
    assert sorted(names) == sorted(result.labels)
    assert all(note in page.text("p") for note in result.notes)


def test_notes_of_the_result_are_on_the_page(tmp_path):
    result = evaluate_classes([0], [[1.0, 0.0]], ["a", "b"])
    page = Page(write_report(tmp_path / "r.html", title="t", settings={}, result=result, notes="n"))
    assert page.text("p")[1:3] == ["n", *result.notes]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.9, "59.9 s"), (90, "1.5 min"), (9000, "2.5 h")]
)
def test_time_is_readable(seconds, text, tmp_path):
    page = Page(write_report(tmp_path / "r.html", title="t", settings={}, seconds=seconds))
    assert page.text("dd") == [text]


@pytest.mark.parametrize("argument", [{"settings": [1]}, {"exports": EXPORTS[0]}, {"notes": [1]}])
def test_arguments_of_a_wrong_type_are_told(argument, tmp_path):
    (name,) = argument
    with pytest.raises(TypeError, match=rf"`{name}` must be .* Received: "):
        write_report(tmp_path / "r.html", **{"title": "t", "settings": {}, **argument})
    assert os.listdir(tmp_path) == []


def test_failure_leaves_the_old_page(tmp_path):
    file = tmp_path / "r.html"
    file.write_text("old")
    with pytest.raises(ValueError, match="`history` must hold values"):
        write_report(file, title="t", settings={}, history={"loss": []})
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.html"]


def test_path_is_given_back_and_folders_are_made(tmp_path):
    goal = tmp_path / "runs" / "报告" / "report.html"
    assert write_report(str(goal), title="t", settings={}) == goal
    assert goal.read_text(encoding="utf-8").endswith("</html>\n")


def test_path_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="can't be written"):
        write_report(tmp_path / "file" / "report.html", title="t", settings={})


def test_examples_stand_in_a_part_of_their_own(tmp_path):
    figures = [plot_history({"loss": [0.7, 0.4]}) for _ in range(2)]
    examples = [
        Picture(HOSTILE["script"], figures[0], HOSTILE["chinese"], "A curve that goes down."),
        ("A second one, without a word about it", figures[1]),
    ]
    file = write_report(tmp_path / "r.html", title="R", settings={}, examples=examples)
    page = Page(file)
    check_whole(page)
    check_asks_no_network(page)
    assert page.text("h3") == [HOSTILE["script"], examples[1][0]]
    assert "What the model looks at" in page.text("h2") and HOSTILE["chinese"] in page.text("p")
    alts = [image["alt"] for image in page.all("img")]
    assert alts == ["A curve that goes down.", examples[1][0]] and len(page.pictures()) == 2


def test_what_no_number_is_leaves_a_gap(tmp_path):
    history = {"loss": [0.7, None], "val_loss": [float("nan"), 0.5]}
    page = Page(write_report(tmp_path / "r.html", title="R", settings={}, history=history))
    (image,) = page.all("img")
    assert image["alt"].endswith("loss –, val loss 0.5.")
