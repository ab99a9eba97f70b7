"""The rules of the house that no other test sees: who imports whom, names, docstrings."""

import ast
import doctest
import importlib
import inspect
import io
import pathlib
import re
import subprocess
import sys

import numpy
import pytest

import kerasllm

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "kerasllm").rglob("*.py") if path.name != "make_samples.py")

# Imports run one way: a part may import those of the rows above its own.
ROWS = (
    ("atomic", "config", "launch", "layers", "quiet", "tokenizers", "generation", "weights"),
    ("backbones", "data"),
    ("families",),
    ("models", "evaluation"),
    ("tasks",),
    ("training", "export", "interpretation"),
    ("runs",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}
# These may import less than that.
ONLY = {"data": {"tokenizers", "atomic"}}
# The mathematics speaks `keras.ops` alone; TensorFlow's place is elsewhere.
WITHOUT_TENSORFLOW = (
    *("atomic", "config", "layers", "backbones", "families", "weights", "models"),
    *("tasks", "evaluation", "runs", "cli"),
)


def part_of(path):
    """The part of the package that a file belongs to; "" for the package's own `__init__`."""
    name = path.relative_to(ROOT / "kerasllm").parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def imported(path):
    """Full names of all that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    names = (name.split(".") for name in imported(path))
    return {name[1] if len(name) > 1 else "" for name in names if name[0] == "kerasllm"}


def test_every_part_has_its_row():
    assert {part_of(path) for path in FILES} - {""} <= set(ROW_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part, wanted = part_of(path), parts_imported(path)
    if part == "":
        assert not wanted, "the package itself imports its parts when a name is used"
        return
    if part != "cli":
        assert "" not in wanted, f"{part} must import the part that it needs"
    allowed = ONLY.get(part) or {other for other, row in ROW_OF.items() if row < ROW_OF[part]}
    assert wanted - {part, ""} <= allowed


def test_programs_of_the_verification_import_nothing_of_ours():
    runners = [path for path in FILES if path.parent.name == "runners"]
    assert len(runners) > 2
    assert not {part for path in runners for part in parts_imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tensorflow_has_its_places(path):
    if part_of(path) in ("", *WITHOUT_TENSORFLOW):
        modules = {name.split(".")[0] for name in imported(path)}
        assert not modules & {"tensorflow", "tensorflow_text", "torch", "jax"}


def test_the_backbone_needs_no_name_of_a_family():
    for path in FILES:
        if part_of(path) in ("layers", "config", "backbones"):
            names = re.findall(r"family|[\"']bert", path.read_text(encoding="utf-8"))
            assert not names, path


def test_a_helper_lives_with_its_user():
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & {"utils", "util", "base", "common", "helpers", "misc"}


def modules_after(code):
    """The top-level modules that are loaded in a fresh Python once it has run some code."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(result.stdout.splitlines()[-1].split())


HEAVY = {
    *("tensorflow", "keras", "numpy", "matplotlib", "sklearn", "jinja2", "tokenizers"),
    *("safetensors", "huggingface_hub", "ai_edge_litert"),
}


def test_import_is_light():
    modules = modules_after("import kerasllm; kerasllm.__version__; dir(kerasllm)")
    assert "kerasllm" in modules
    assert not modules & HEAVY


def test_help_is_light():
    call = "from kerasllm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    modules = modules_after(call)
    assert "click" in modules
    assert not modules & HEAVY


def test_data_and_figures_need_no_tensorflow():
    modules = modules_after("from kerasllm import TransformerConfig, read_rows, write_report")
    assert "numpy" in modules
    assert not modules & {"tensorflow", "keras"}


def test_public_names():
    assert sorted(kerasllm.__all__) == sorted(dir(kerasllm))
    for name in kerasllm.__all__:
        assert getattr(kerasllm, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", kerasllm.__version__)
    with pytest.raises(AttributeError, match="module 'kerasllm' has no attribute 'Bert'"):
        kerasllm.Bert  # noqa: B018


PACKAGES = sorted({path.parent.name for path in FILES if path.parent.parent.name == "kerasllm"})


@pytest.mark.parametrize("package", PACKAGES)
def test_names_of_the_packages(package):
    module = importlib.import_module(f"kerasllm.{package}")
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            assert text, f"{node.name} has no docstring"
            first = text.splitlines()[0]
            assert first.endswith("."), f"{node.name} begins with no sentence: {first}"


@pytest.mark.parametrize("name", [name for name in kerasllm.__all__ if name != "__version__"])
def test_public_docstrings_have_their_sections(name):
    thing = getattr(kerasllm, name)
    text = inspect.getdoc(thing)
    layer = inspect.isclass(thing) and hasattr(thing, "call")
    wanted = {"Args:", "Raises:", "Example:"}
    if layer:
        wanted |= {"Call arguments:", "Returns:"}
    elif not inspect.isclass(thing):
        wanted |= {"Returns:"}
    lines = {line.strip() for line in text.splitlines()}
    assert wanted <= lines, f"{name} lacks {sorted(wanted - lines)}"
    parameters = [
        parameter.name
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    for parameter in parameters:
        assert re.search(rf"^\s*`?{parameter}\b", text, re.MULTILINE), f"{name}: {parameter}"


# Their examples begin with a model or a file that a reader has, and the tests don't.
EXAMPLES_OF_USE = {
    *("evaluation.evaluate", "training.callbacks", "training.fit", "training.optimizer"),
    "training.strategies",
}
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "kerasllm").with_suffix("").parts)
    for path in FILES
    if path.name != "__init__.py" and "    >>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in EXAMPLES_OF_USE])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"kerasllm.{name}")
    public = {name: getattr(kerasllm, name) for name in kerasllm.__all__}
    known = {"np": numpy, **public, **vars(module)}
    report = io.StringIO()
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(module, globs=known):
        runner.run(example, out=report.write)
    assert not runner.failures, report.getvalue()


# Written in two pieces, or this file would hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~])/" + r"(work|home|root|Users|tmp)/\w")


def test_no_file_names_a_place_on_one_machine():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if listed.returncode:
        pytest.skip("no git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", "ignore")
        found += [f"{name}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
    assert not found
