"""Does every exporter write what Keras writes, in every family that writes texts?

For each family a tiny random model (the settings of tests/fixtures, with a vocabulary for real
text) goes on from 30 prompts, or answers them, greedily and in float32. The table has the shares
of new tokens that are equal:

- Keras: `generate`, which has a cache, against the likeliest tokens of one pass over whole texts;
- SavedModel: text to text in fresh processes, against `generate`, half of the texts drawn by seeds;
- .tflite: the signatures `prefill_…` and `decode` in LiteRT, fed with what `generate` wrote;
- .litertlm: the same; before, LiteRT-LM has to write `generate`'s texts letter for letter.

    python benchmarks/generation_parity.py [FAMILY ...]
"""

import argparse
import dataclasses
import importlib.util
import math
import pathlib
import sys
import tempfile

import contest
import keras
import numpy as np

from kerasllm import families
from kerasllm.export import decoder, litert_lm, to_litert_lm, to_saved_model, to_tflite
from kerasllm.models import MODELS, Seq2SeqLM
from kerasllm.models.generative import padded
from kerasllm.tokenizers import ByteLevelBPETokenizer

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "families"
PROMPTS = list(decoder.PROMPTS[:30])
HEADS = ("causal_lm", "seq2seq_lm")
MAX_LENGTH = 64
NEW_TOKENS = 24


def tiny(name, head, tokenizer):
    """A random model of a family, whose answers differ from prompt to prompt."""
    kind = MODELS[head]
    config = kind.from_pretrained(FIXTURES / name / head).config
    changes = {"vocab_size": tokenizer.vocab_size, "max_length": MAX_LENGTH}
    if getattr(config, "positions", None) == "learned":
        changes["positions"] = "counted"  # the same, for prompts of several lengths at once
    keras.utils.set_random_seed(3)
    model = kind(dataclasses.replace(config, **changes), family=name, tokenizer=tokenizer)
    for weight in model.weights:
        if len(weight.shape) == 2:
            weight.assign(keras.random.normal(weight.shape, stddev=0.4))
    return model


def equal_to_whole_pass(model):
    """The share of tokens of `generate` that are likeliest in a pass over the whole text."""
    answers = model.generate(PROMPTS, NEW_TOKENS, details=True)
    rows = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    new = [text.token_ids for text in answers]
    inputs = {}
    if isinstance(model, Seq2SeqLM):
        inputs = padded(rows, MAX_LENGTH, left=False)
        rows = [[model.begin]] * len(rows)
    whole = padded([row + ids for row, ids in zip(rows, new)], MAX_LENGTH, left=False)
    prefix = "decoder_" if inputs else ""
    inputs |= {f"{prefix}{name}": ids for name, ids in whole.items()}
    likeliest = np.argmax(model(inputs), axis=-1)
    starts = [len(row) - 1 for row in rows]
    found = [best[n : n + len(ids)] == ids for best, n, ids in zip(likeliest, starts, new)]
    return np.concatenate(found).mean()


def refusal(model):
    """Why engines on devices don't take a model, str; None where they do."""
    try:
        decoder.Decoder(model)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def not_installed():
    """Why there is no engine, str; None where there is one."""
    missing = [name for name in litert_lm.PACKAGES if importlib.util.find_spec(name) is None]
    return f"Not installed: {', '.join(missing)}." if missing else None


def row(name, tokenizer, folder):
    """The shares of a family by exporter, or why there is none: dict of float and str."""
    heads = families.FAMILIES[name].HEADS
    model = tiny(name, next(head for head in HEADS if head in heads), tokenizer)
    whole = to_saved_model(model, folder / name, texts=PROMPTS, tolerance=1.0)
    found = {"Keras": equal_to_whole_pass(model), "SavedModel": whole.equal_tokens}
    refused = refusal(model)
    found[".tflite"] = refused or _share(
        to_tflite(model, folder / "model.tflite", texts=PROMPTS, tolerance=math.inf)
    )
    found[".litertlm"] = (
        refused
        or not_installed()
        or _share(to_litert_lm(model, folder / "model.litertlm", prompts=PROMPTS))
    )
    return found


def _share(report):
    return report.equal_tokens


def table(shares):
    """The table of shares, with a footnote for each reason why there is none."""
    reasons = [value for row in shares.values() for value in row.values() if isinstance(value, str)]
    notes = {reason: f"[{i}]" for i, reason in enumerate(dict.fromkeys(reasons), 1)}

    def cell(value):
        return f"— {notes[value]}" if isinstance(value, str) else f"{value:.2%}"

    rows = [
        {"family": name, **{exporter: cell(value) for exporter, value in row.items()}}
        for name, row in shares.items()
    ]
    title = f"Equal greedy tokens in float32, {len(PROMPTS)} prompts"
    lines = [contest.markdown(title, rows), "", *(f"{n} {reason}" for reason, n in notes.items())]
    return "\n".join(lines)


def main():
    """Export every family with every exporter, and print the table."""
    every = [name for name, of in families.FAMILIES.items() if {*HEADS} & {*of.HEADS}]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(every)}")
    names = parser.parse_args().families or every
    tokenizer = ByteLevelBPETokenizer.train(PROMPTS, vocab_size=400)
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            shares[name] = row(name, tokenizer, pathlib.Path(folder))
            print(name, *shares[name].values(), file=sys.stderr, flush=True)
    print(table(shares))


if __name__ == "__main__":
    main()
