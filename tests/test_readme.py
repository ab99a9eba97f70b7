"""What the README says of families is what there is."""

import importlib.util
import pathlib

from kerasllm import families

ROOT = pathlib.Path(__file__).parents[1]


def test_the_table_of_families():
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    parity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parity)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Families\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows == [parity.row(name) for name in families.FAMILIES]
    for name in families.FAMILIES:
        assert all(float(said.split()[1]) <= 1e-5 for said in families.summary(name)["parity"])
