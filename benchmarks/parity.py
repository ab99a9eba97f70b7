"""How far is each family from its reference, in both directions?

For every family and head: a checkpoint of `transformers` (the tiny random ones of tests/fixtures,
with awkward settings) read by kerasllm, and the same model with other weights written by kerasllm
and read by `transformers`; each time the largest difference of the outputs at real tokens, in
float32. The reference of recurrent families is PyTorch. Run it where all are installed:

    python benchmarks/parity.py

It prints the rows of the README's table, and keeps their figures in kerasllm/families/parity.json,
from which `kerasllm list` has them too.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIGURES = ROOT / "kerasllm" / "families" / "parity.json"
sys.path += [str(ROOT), str(ROOT / "tests" / "fixtures")]


def compare(folder):
    """Largest differences of one fixture: read by us, and written by us."""
    from kerasllm import families
    from kerasllm.models import MODELS

    heads = families.FAMILIES[folder.parent.name].HEADS
    bare = folder.name not in heads
    model = MODELS[next(iter(heads)) if bare else folder.name].from_pretrained(folder)
    with np.load(folder / "expected.npz") as arrays:
        batch = dict(arrays)
    read = difference(model.backbone if bare else model, batch, batch.pop("output"))
    for weight in model.weights:
        weight.assign(weight.numpy() * 0.9)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        return read, difference(model, batch, reference(model, place, batch))


def reference(model, place, batch):
    """What the other library answers with the weights in a folder."""
    import make_family_fixtures
    import make_recurrent_fixtures
    import safetensors.torch
    import transformers

    from kerasllm import families

    if model.family not in make_recurrent_fixtures.CELLS:
        name = families.head(model.family, model.HEAD).architecture
        theirs = getattr(transformers, name).from_pretrained(place).eval()
        return make_family_fixtures.answer(theirs, batch, model.HEAD != "sentence_encoder")
    _, cell = make_recurrent_fixtures.CELLS[model.family]
    layer = make_recurrent_fixtures.HEADS[model.HEAD][2]
    if layer is not None:
        layer = layer[0], model.output.shape[-1], layer[2]
    network = make_recurrent_fixtures.Network(cell, model.config.to_dict(), layer).eval()
    network.load_state_dict(safetensors.torch.load_file(pathlib.Path(place) / "model.safetensors"))
    return make_recurrent_fixtures.answer(network, model.HEAD, batch)


def difference(model, batch, expected):
    """The largest difference of a model's outputs, at real tokens."""
    output = model(batch)
    if isinstance(output, dict):  # of two heads: that of pairs beside each token
        pair = np.repeat(np.array(output["pair"])[:, None], output["tokens"].shape[1], axis=1)
        output = np.concatenate([output["tokens"], pair], axis=-1)
    output = np.array(output)
    if output.shape[:2] == batch.get("decoder_token_ids", batch["token_ids"]).shape:
        real = batch.get("decoder_padding_mask", batch["padding_mask"]) == 1
        output, expected = output[real], expected[real]
    return float(np.abs(output - expected).max())


def row(name):
    """A family's row of the README's table."""
    from kerasllm import families

    summary = families.summary(name)
    title, paper = summary["title"].rstrip(".").split(": ", 1)
    heads = ", ".join(f"`{head}`" for head in summary["heads"])
    sizes = " ".join(f"`{size}`" for size in summary["sizes"])
    read, written = (said.split()[1] for said in summary["parity"])
    return f"| {title} ({paper.split(',')[0]}) | {heads} | {read} | {written} | {sizes} |"


def main():
    """Measure, keep the figures, and print the table."""
    from kerasllm import families

    measured = {}
    for name in families.FAMILIES:
        folders = sorted((ROOT / "tests" / "fixtures" / "families" / name).iterdir())
        found = np.max([compare(folder) for folder in folders], axis=0)
        measured[name] = [f"{value:.1e}" for value in found]
        print(name, *measured[name], file=sys.stderr, flush=True)
    FIGURES.write_text(json.dumps(measured, indent=2) + "\n")
    print("| family | heads | read | written | sizes |", "|---|---|---|---|---|", sep="\n")
    print(*map(row, families.FAMILIES), sep="\n")


if __name__ == "__main__":
    main()
