"""Whole, or not at all."""

import os

import pytest

from kerasllm.atomic import whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file(tmp_path):
    with whole(tmp_path / "report.html") as aside:
        assert not aside.exists()
        assert aside.suffix == ".html"
        aside.write_text("new")
        assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "report.html").read_text() == "new"
    assert names(tmp_path) == ["report.html"]


def test_file_is_replaced(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    reader = path.open()
    with whole(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    # Another file took its name; who was reading the old one reads on.
    assert reader.read() == "old"
    reader.close()


def test_folder(tmp_path):
    with whole(str(tmp_path / "model")) as aside:
        aside.mkdir()
        (aside / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["config.json"]


def test_folder_is_merged(tmp_path):
    goal = tmp_path / "model"
    for name in ("1", "2", "kept"):
        (goal / name).mkdir(parents=True)
        (goal / name / "old").write_text("old")
    (goal / "file").write_text("old")
    (goal / "becomes_folder").write_text("old")
    with whole(goal) as aside:
        (aside / "2").mkdir(parents=True)
        (aside / "2" / "new").write_text("new")
        (aside / "becomes_folder").mkdir()
        (aside / "file").write_text("new")
        (aside / "1").write_text("a file now")
    assert names(goal) == ["1", "2", "becomes_folder", "file", "kept"]
    # An entry is replaced as a whole.
    assert names(goal / "2") == ["new"]
    assert names(goal / "kept") == ["old"]
    assert (goal / "1").read_text() == "a file now"
    assert (goal / "file").read_text() == "new"
    assert (goal / "becomes_folder").is_dir()


def test_links_in_a_folder_are_replaced_and_not_followed(tmp_path):
    goal, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    goal.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (goal / "1").symlink_to(elsewhere)
    with whole(goal) as aside:
        (aside / "1").mkdir(parents=True)
        (aside / "1" / "new").write_text("new")
    assert names(elsewhere) == ["mine"]
    assert not (goal / "1").is_symlink()
    assert names(goal / "1") == ["new"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("there", [False, True])
def test_an_error_leaves_nothing(tmp_path, error, there):
    path = tmp_path / "model"
    if there:
        path.mkdir()
        (path / "old").write_text("old")

    def write():
        with whole(path) as aside:
            aside.mkdir()
            (aside / "old").write_text("half")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write()
    assert names(tmp_path) == (["model"] if there else [])
    if there:
        assert (path / "old").read_text() == "old"


def test_missing_parents_are_made(tmp_path):
    with whole(tmp_path / "a" / "b" / "c.txt") as aside:
        aside.write_text("x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_parents_made_for_nothing_are_removed(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "there" / "a" / "b.txt"):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == []


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole("out.txt") as aside:
        aside.write_text("x")
    assert names(tmp_path) == ["out.txt"]


def test_parent_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    goal = tmp_path / "file" / "model"
    with pytest.raises(OSError, match=r"file/model` can't be written: .*Choose another output"):  # noqa: SIM117
        with whole(goal):
            pytest.fail("the block must not be entered")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_parent_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="can't be written: Permission denied"):  # noqa: SIM117
        with whole(tmp_path / "model"):
            pytest.fail("the block must not be entered")
    tmp_path.chmod(0o700)


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(IsADirectoryError, match="model` can't be written: Is a directory"):  # noqa: SIM117
        with whole(tmp_path / "model") as aside:
            aside.write_text("x")
    assert names(tmp_path) == ["model"]


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NotADirectoryError, match="model` can't be written: Not a directory"):  # noqa: SIM117
        with whole(tmp_path / "model") as aside:
            aside.mkdir()
    assert (tmp_path / "model").read_text() == "mine"
    assert names(tmp_path) == ["model"]
