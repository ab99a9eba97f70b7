"""Every source gives the same rows, and every bad row is named in one line."""

import itertools
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from kerasllm.data import Row, label_ids, label_names, read_rows, split_rows

ROWS = [{"text": "a good one", "label": "pos"}, {"text": "bad", "label": "neg"}]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fails(message, source, error=ValueError, **options):
    """Reading the source must fail with one line that holds `message`."""
    with pytest.raises(error, match=re.escape(message)) as info:
        read_rows(source, **options)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("x.csv", "text,label\na good one,pos\nbad,neg\n", [2, 3]),
        ("x.csv", '\ufefflabel,"text"\r\npos,"a good one"\r\n\r\nneg,bad', [2, 4]),
        ("x.tsv", "label\ttext\npos\ta good one\nneg\tbad\n", [2, 3]),
        ("x.txt", "pos a good one\n\nneg bad\n", [1, 3]),
        (
            "X.JSONL",
            '{"text": "a good one", "label": "pos"}\n\n{"text":"bad","label":"neg"}',
            [1, 3],
        ),
    ],
)
def test_files_of_each_format_give_the_same_rows(tmp_path, name, content, lines):
    rows = read_rows(write(tmp_path, name, content))
    assert rows == ROWS
    assert [row.where for row in rows] == [f"{name}:{line}" for line in lines]


def test_a_json_list_gives_the_same_rows(tmp_path):
    content = '[{"text": "a good one", "label": "pos"},\n {"text": "bad", "label": "neg"}]'
    rows = read_rows(str(write(tmp_path, "x.json", content)))
    assert rows == ROWS
    assert [row.where for row in rows] == ["x.json[0]", "x.json[1]"]


def test_a_folder_gives_a_row_for_each_file(tmp_path):
    for split, label, name, text in [
        ("train", "neg", "1.txt", "bad\n"),
        ("train", "pos", "10.txt", "a good one"),
        ("test", "pos", "1.txt", "nice"),
    ]:
        (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
        write(tmp_path / split / label, name, text)
    write(tmp_path / "train", "README", "not a label")
    write(tmp_path / "train" / "pos", ".hidden", "not a text")
    rows = read_rows(tmp_path / "train")
    assert rows == ROWS[::-1]
    assert [row.where for row in rows] == ["neg/1.txt", "pos/10.txt"]
    assert read_rows(tmp_path, split="test") == [{"text": "nice", "label": "pos"}]


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        [("a good one", "pos"), ["bad", "neg"]],
        (("a good one", "pos"), ("bad", "neg")),
        (["a good one", "bad"], ["pos", "neg"]),
        (np.array(["a good one", "bad"]), np.array(["pos", "neg"])),
        (row for row in ROWS),
    ],
)
def test_python_sources_give_the_same_rows(source):
    rows = read_rows(source)
    assert rows == ROWS
    assert [row.where for row in rows] == ["rows[0]", "rows[1]"]
    assert all(type(value) is str for row in rows for value in row.values())


def test_a_tf_data_dataset_gives_the_same_rows():
    import tensorflow as tf

    columns = {"text": ["a good one", "中文"], "label": [1, 0], "other": [0.5, 1.5]}
    rows = read_rows(tf.data.Dataset.from_tensor_slices(columns))
    assert rows == [{"text": "a good one", "label": 1}, {"text": "中文", "label": 0}]
    assert type(rows[0]["label"]) is int
    pairs = tf.data.Dataset.from_tensor_slices((columns["text"], columns["label"]))
    assert read_rows(pairs) == rows
    fails("rows[0]: the row must be a dict or have 2 fields", pairs.map(lambda text, _: text))
    fails("rows[0]: `text` must be a string", pairs.batch(2))


def test_texts_alone_can_be_read(tmp_path):
    assert read_rows(["a", "b"], columns=["text"]) == [{"text": "a"}, {"text": "b"}]
    path = write(tmp_path, "x.txt", "0 is a number\nso is 1\n")
    assert read_rows(path, columns=["text"]) == [{"text": "0 is a number"}, {"text": "so is 1"}]


def test_optional_columns_are_read_where_they_are(tmp_path):
    path = write(tmp_path, "x.csv", "text,label\na,pos\nb,\n")
    rows = [{"text": "a", "label": "pos"}, {"text": "b"}]
    assert read_rows(path, columns=["text"], optional=["label", "id"]) == rows
    assert read_rows([("a", "pos"), ("b",)], columns=["text"], optional=["label"]) == rows


def test_columns_can_be_renamed_and_named(tmp_path):
    renamed = write(tmp_path, "x.csv", "category,review,id\npos,a good one,1\nneg,bad,2\n")
    assert read_rows(renamed, rename={"text": "review", "label": "category"}) == ROWS
    headless = write(tmp_path, "x.tsv", 'pos\ta "good one\nneg\t"bad"\n')
    rows = read_rows(headless, header=("label", "text"))
    assert [row["text"] for row in rows] == ['a "good one', '"bad"']  # TSV has no quotes
    assert rows[0].where == "x.tsv:1"


def test_quoted_line_breaks_keep_the_line_numbers_right(tmp_path):
    path = write(tmp_path, "x.csv", 'text,label\n"two\nlines, and ""more""",pos\nb,neg\nc\n')
    fails("x.csv:5: the row must have 2 fields (text, label). Received: 1", path)
    rows = read_rows(write(tmp_path, "y.csv", path.read_text().removesuffix("c\n")))
    assert rows[0]["text"] == 'two\nlines, and "more"'
    assert [row.where for row in rows] == ["y.csv:2", "y.csv:4"]


def test_only_line_feeds_end_a_line(tmp_path):
    text = "next\u0085line\u2028separator\x0bform"
    assert read_rows(write(tmp_path, "x.txt", f"pos {text}\n"))[0]["text"] == text
    assert read_rows(write(tmp_path, "x.csv", f"text,label\n{text},pos\n"))[0]["text"] == text


def test_a_long_text_is_no_bad_row(tmp_path):
    path = write(tmp_path, "x.csv", f"text,label\n{'word ' * 40_000},pos\n")
    assert len(read_rows(path)[0]["text"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", "an empty file"),
        ("x.jsonl", "\ufeff \n", "an empty file"),
        ("x.csv", "text,label\n", "which has none"),
        ("x.json", "[]", "which has none"),
        (
            "x.csv",
            "id,review\n1,a\n",
            "x.csv:1: there must be a column `text`. Received: id, review",
        ),
        (
            "x.jsonl",
            '{"text": "a", "label": 1}\n{"label": 0}',
            "x.jsonl:2: there must be a column `text`",
        ),
        (
            "x.csv",
            "text,label\na,b,pos\n",
            "x.csv:2: the row must have 2 fields (text, label). Received: 3",
        ),
        ("x.tsv", "text\tlabel\na\tpos\nb\n", "x.tsv:3: the row must have 2 fields"),
        ("x.txt", "pos a\nneg\n", "x.txt:2: the row must have 2 fields (label, text)"),
        ("x.csv", 'text,label\na,pos\n"b,neg\n', "x.csv:3: the row must be valid CSV"),
        (
            "x.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b\n',
            "x.jsonl:2: the row must be valid JSON",
        ),
        ("x.json", '[{"text": "a",\n "label" 1}]', "x.json:2: the row must be valid JSON"),
        ("x.jsonl", '["a", 1]\n"b"', "x.jsonl:2: the row must be valid JSON"),
        ("x.jsonl", '{"text": "a", "label": 1}\n7', "x.jsonl:2: the row must be a JSON object"),
        (
            "x.csv",
            b"text,label\na,pos\ncaf\xe9,neg\n",
            "x.csv:3: the text must be UTF-8. Received: byte 0xe9",
        ),
        ("x.csv", "text,label\n中,pos\n".encode("utf-16"), "x.csv:1: the text must be UTF-8"),
        ("x.csv", "text,label\na,pos\nb,  \n", "x.csv:3: `label` must not be empty"),
        ("x.jsonl", '{"text": "a", "label": null}', "x.jsonl:1: `label` must not be empty"),
        ("x.jsonl", '{"text": null, "label": 0}', "x.jsonl:1: `text` must not be empty"),
        ("x.jsonl", '{"text": ["a"], "label": 0}', "x.jsonl:1: `text` must be a string"),
        ("x.jsonl", '{"text": "a", "label": NaN}', "x.jsonl:1: `label` must not be empty"),
        (
            "x.jsonl",
            '{"text": "a", "label": ["b"]}',
            "x.jsonl:1: `label` must be a string or a number. Received: ['b']",
        ),
        ("x.csv", "text,text,label\n", "x.csv:1: the columns must have names of their own"),
        ("x.xlsx", "PK", "ends in .json, .jsonl, .csv, .tsv, .txt"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, message):
    fails(message, write(tmp_path, name, content))


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("text_pair", 5, "a string"),
        ("question", None, "not be empty"),
        ("source", 5, "a string or a list"),
        ("labels", 5, "a string or a list"),
        ("labels", {"a": 1}, "a string or a list"),
        ("tags", "OO", "a list"),
        ("messages", "Hi!", "a list"),
    ],
)
def test_a_value_of_another_kind_is_named(column, value, kind):
    with pytest.raises(ValueError, match=rf"rows\[0\]: `theirs` must .*{kind}"):
        read_rows([{"theirs": value}], [column], rename={column: "theirs"})


def test_a_bad_source_is_named(tmp_path):
    fails("sample:, hf:, tfds:. Received: 'nowhere.csv'", "nowhere.csv", FileNotFoundError)
    fails("one subfolder a label", tmp_path)
    fails("`split` must be a subfolder", tmp_path, FileNotFoundError, split="train")
    (tmp_path / "pos").mkdir()
    fails("which has none", tmp_path)
    write(tmp_path / "pos", "1.txt", b"fine\n\xff")
    fails("pos/1.txt:2: the text must be UTF-8", tmp_path)
    (tmp_path / "pos" / "1.txt").unlink()
    (tmp_path / "pos" / "deeper").mkdir()
    fails("where pos/deeper is a folder", tmp_path)
    fails("`split` must be None", write(tmp_path, "x.txt", "pos a"), split="train")
    fails("`header` must be None", ROWS, header=("text", "label"))
    fails("`rename` must be keyed by", ROWS, rename={"review": "text"})
    fails("of type dict", {"text": ["a"], "label": ["pos"]}, TypeError)
    fails("of type int", 3, TypeError)
    fails("lists of one length", (["a", "b"], ["pos"]))
    fails("rows[1]: the row must be a dict or have 2 fields", [("a", "pos"), ("b",)])
    fails("rows[0]: `text` must be a string", [(1, "pos")])
    fails("which has none", [])
    fails("reviews_en, reviews_zh and a split among train, test", "sample:reviews_fr:train")
    fails("'sample:reviews_en:dev'", "sample:reviews_en:dev")


def test_arrays_become_lists_of_plain_values():
    item = {
        "tokens": np.array([b"Ann", "北".encode()]),
        "tags": np.array([1, 0]),
        "answers": {"text": np.array([b"Ann"], object), "answer_start": (np.int32(0),)},
    }
    (row,) = read_rows([item], ["tokens", "tags", "answers"])
    assert row["tokens"] == ["Ann", "北"] and row["tags"] == [1, 0]
    assert row["answers"] == {"text": ["Ann"], "answer_start": [0]}


@pytest.mark.parametrize("name", ["datasets", "tensorflow_datasets"])
def test_a_named_dataset_needs_its_package(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    source = {"datasets": "hf:imdb:test", "tensorflow_datasets": "tfds:imdb_reviews"}[name]
    fails(f"needs the package `{name}`", source, ImportError)


class ClassLabel:
    names = ("neg", "pos")


def test_hugging_face_datasets_are_read_by_name(monkeypatch):
    class Dataset(list):
        @property
        def features(self):
            return {"text": object(), "label": ClassLabel()}

    def load_dataset(name, split):
        assert (name, split) == ("owner/imdb", "train[:2]")
        return Dataset([{"text": "a good one", "label": 1}, {"text": "b", "label": -1}])

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    rows = read_rows("hf:owner/imdb:train[:2]", columns=["text"], optional=["label"])
    assert rows == [{"text": "a good one", "label": "pos"}, {"text": "b"}]
    assert rows[1].where == "hf:owner/imdb:train[:2][1]"
    fails("[1]: `label` must not be empty", "hf:owner/imdb", split="train[:2]")


def test_the_classes_of_a_list_have_names_too(monkeypatch):
    class Dataset(list):
        features = {"tokens": object(), "tags": types.SimpleNamespace(feature=ClassLabel())}

    data = Dataset([{"tokens": ["a", "b"], "tags": [1, 0]}, {"tokens": [], "tags": np.array([])}])
    module = types.SimpleNamespace(load_dataset=lambda name, split: data)
    monkeypatch.setitem(sys.modules, "datasets", module)
    rows = read_rows("hf:owner/words", ["tokens", "tags"])
    assert [row["tags"] for row in rows] == [["pos", "neg"], []]


def test_tfds_datasets_are_read_by_name(monkeypatch):
    import tensorflow as tf

    def load(name, split, with_info):
        assert (name, split, with_info) == ("imdb_reviews", "train", True)
        data = tf.data.Dataset.from_tensor_slices({"text": ["a good one", "bad"], "label": [1, 0]})
        features = {"text": object(), "label": ClassLabel()}
        return data, types.SimpleNamespace(features=features)

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.SimpleNamespace(load=load))
    assert read_rows("tfds:imdb_reviews") == ROWS


def test_label_names_are_sorted():
    def names(*labels):
        return label_names([{"label": label} for label in labels])

    assert names("b", "a", "b") == ("a", "b")
    assert names(10, "9", 9) == ("9", "10")
    assert names("-1", "1.5", "0") == ("-1", "0", "1.5")
    assert names("10", "9", "x") == ("10", "9", "x")


def test_label_ids_are_positions_of_names():
    rows = [{"label": label} for label in ("pos", "neg", "pos")]
    ids = label_ids(rows, ("neg", "pos"))
    assert ids.tolist() == [1, 0, 1] and ids.dtype == np.int32
    assert label_ids([{"label": 1}, {"label": "0"}], ("neg", "pos")).tolist() == [1, 0]
    assert label_ids([{"label": 5}, {"label": "1"}], ("1", "5")).tolist() == [1, 0]


def test_an_unknown_label_is_named_with_its_line():
    row = Row({"label": "fine"}, where="test.csv:9")
    message = "test.csv:9: `label` must be one of the 2 known labels: neg, pos. Received: 'fine'"
    with pytest.raises(ValueError, match=re.escape(message)):
        label_ids([row], ("neg", "pos"))
    with pytest.raises(ValueError, match=r"rows\[0\]: .* labels: 0, 1, .*, 19, …\. Received: 77"):
        label_ids([{"label": 77}], range(77))
    with pytest.raises(ValueError, match="known labels: 1, 5"):  # here a number is a name, no id
        label_ids([{"label": "0"}], ("1", "5"))


def test_rows_with_one_value_stay_together():
    rows = [{"source": [f"Number {i % 7}."], "target": str(i)} for i in range(30)]
    train, test = split_rows(rows, (0.7, 0.3), by="source")
    assert len(train) + len(test) == 30
    assert not {row["source"][0] for row in train} & {row["source"][0] for row in test}
    with pytest.raises(ValueError, match=r"rows\[0\]: there must be a column `id`"):
        split_rows(rows, (0.7, 0.3), by="id")


def test_split_rows_is_a_seeded_partition():
    parts = split_rows(list("abcdefghij"), seed=1)
    assert [len(part) for part in parts] == [8, 1, 1]
    assert sorted(itertools.chain(*parts)) == list("abcdefghij")
    # As literals: another release of Python or NumPy must give the same split.
    assert ["".join(part) for part in split_rows("abcdefghij", (0.5, 0.5))] == ["dcbig", "ahefj"]
    assert split_rows("abcdefghij", seed=1) != split_rows("abcdefghij", seed=0)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (1.5, -0.5), (0.99, 0.01)])
def test_split_rows_checks_its_fractions(fractions):
    with pytest.raises(ValueError, match="`fractions` must"):
        split_rows(range(10), fractions)


def test_reading_rows_imports_no_tensorflow():
    code = (
        "import sys; from kerasllm.data import read_rows; read_rows('sample:reviews_en');"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("file", "options", "rows", "labels"),
    [
        ("sst2/train.txt", {}, 6920, 2),
        ("waimai_10k/waimai_10k.csv", {"rename": {"text": "review"}}, 11987, 2),
        ("banking77/train.csv", {"rename": {"label": "category"}}, 10003, 77),
        ("sms_spam/sms.tsv", {"header": ("label", "text")}, 5574, 2),
        ("csl/cls_ctg/train.tsv", {"header": ("task", "text", "label")}, 8000, 13),
    ],
)
def test_public_data_sets_are_read_whole(data_dir, file, options, rows, labels):
    read = read_rows(data_dir / file, **options)
    assert len(read) == rows
    assert len(label_names(read)) == labels
