"""How far is each family from `transformers`, in both directions?

For every family and head: a checkpoint of `transformers` (the tiny random ones of tests/fixtures,
with awkward settings) read by kerasllm, and the same model with other weights written by kerasllm
and read by `transformers`; each time the largest difference of the outputs at real tokens, in
float32. Run it where both are installed:

    python benchmarks/parity.py

It rewrites kerasllm/families/parity.json, from which `kerasllm list` and the README's table have
their figures.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "fixtures")]


def compare(folder):
    """Largest differences of one fixture: read by us, and written by us."""
    import make_family_fixtures
    import transformers

    from kerasllm import families
    from kerasllm.models import MODELS

    heads = families.FAMILIES[folder.parent.name].HEADS
    bare = folder.name not in heads
    model = MODELS[next(iter(heads)) if bare else folder.name].from_pretrained(folder)
    with np.load(folder / "expected.npz") as arrays:
        batch = dict(arrays)
    expected = batch.pop("output")
    read = _difference(model.backbone if bare else model, batch, expected)
    for weight in model.weights:
        weight.assign(weight.numpy() * 0.9)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        name = families.head(model.family, model.HEAD).architecture
        theirs = getattr(transformers, name).from_pretrained(place).eval()
        expected = make_family_fixtures.answer(theirs, batch)
    return read, _difference(model, batch, expected)


def _difference(model, batch, expected):
    output = np.array(model(batch))
    if output.shape[:2] == batch.get("decoder_token_ids", batch["token_ids"]).shape:
        real = batch.get("decoder_padding_mask", batch["padding_mask"]) == 1
        output, expected = output[real], expected[real]
    return float(np.abs(output - expected).max())


def main():
    """Print the table, and keep its figures."""
    import make_family_fixtures

    measured = {}
    print("| family | heads | read from transformers | written for transformers |")
    print("|---|---|---|---|")
    for name in sorted(make_family_fixtures.FAMILIES):
        place = ROOT / "tests" / "fixtures" / "families" / name
        folders = sorted(place.iterdir())
        read, written = np.max([compare(folder) for folder in folders], axis=0)
        heads = ", ".join(folder.name for folder in folders if folder.name != "backbone")
        measured[place.name] = [f"{read:.1e}", f"{written:.1e}"]
        print(f"| {place.name} | {heads} | {read:.1e} | {written:.1e} |", flush=True)
    figures = json.dumps(measured, indent=2) + "\n"
    (ROOT / "kerasllm" / "families" / "parity.json").write_text(figures)


if __name__ == "__main__":
    main()
