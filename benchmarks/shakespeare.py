"""Does a trained GPT write the same texts wherever it is taken?

    python benchmarks/shakespeare.py [RUN]

A small language model is trained on tinyshakespeare (two minutes on two cores), unless the folder
RUN holds one. It goes on from the same prompts, of 1 to 96 tokens, with the likeliest tokens and
with drawn ones, in Keras; in the exported SavedModel, in a process that has TensorFlow but
not kerasllm, and through TensorFlow's C API; in the .tflite file, by the loops of export/generation
in Python and in headless Chromium; and in the .litertlm file, by LiteRT-LM in both. The table says
how many texts and tokens are those of Keras. Drawn ones are compared where Keras' own
loop was exported; elsewhere the sampler is another one.

Environment variables: KERASLLM_DATA, a folder with `tinyshakespeare/input.txt`; CHROMIUM, the
browser, where it has another name. The page needs `npm install` in export/generation/web.
"""

import argparse
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import chromium
import contest

from kerasllm import CausalLM, runs
from kerasllm.export import litert_lm, saved_model, to_litert_lm, to_saved_model, to_tflite, verify

KIT = pathlib.Path(__file__).resolve().parents[1] / "export" / "generation"
SIZE = "llama_tiny"
RECIPE = {"epochs": 12, "learning_rate": 4e-3, "vocab_size": 1000, "max_length": 128}
VALIDATION = 0.1  # the share of speeches, the last ones
NEW_TOKENS = 64  # as the page has it
PROMPTS = [
    "O",
    "The king",
    "ROMEO:\n",
    "PROSPERO:\nWe are such stuff",
    "Shall I compare thee to a summer's day?\n",
    "KING RICHARD III:\nNow is the winter of our discontent\n",
    "QUEEN MARGARET:\nEnough, sweet Suffolk; thou torment'st thyself;\nAnd these dread curses,",
    "MENENIUS:\nEither you must\nConfess yourselves wondrous malicious,\nOr be accused of folly. I "
    "shall tell you\nA pretty tale: it may be you have heard it;\nBut, since it serves my purpose, "
    "I will venture\nTo stale't a little more.\nWhat say",
]
PICTURED = "ROMEO:\n"
# All other options of the signature.
LIKELIEST = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "seed": 0,
}
DRAWN = {**LIKELIEST, "temperature": 0.8, "top_k": 40}
READY = """async () => {
  const soon = () => new Promise((done) => setTimeout(done, 50));
  while (document.readyState !== "complete") await soon();
  const status = document.querySelector("#status");
  while (status.textContent.startsWith("Loading")) await soon();
  if (status.textContent !== "Ready.") throw Error(status.textContent);
}"""
WRITE = """async (prompt) => {
  const form = document.querySelector("form");
  form.elements.prompt.value = prompt;
  form.requestSubmit();
  while (form.querySelector("button").disabled) await new Promise((done) => setTimeout(done, 50));
  return document.querySelector("output").value;
}"""


def ways(model):
    """How texts are written: dict by name of options, with a list of values for the prompts."""
    # To the end of the cache, where the page ends.
    room = [model.config.max_length - len(model.tokenizer.encode(prompt)) for prompt in PROMPTS]
    most = {"max_new_tokens": [min(NEW_TOKENS, left) for left in room]}
    found = {
        way: {name: [value] * len(PROMPTS) for name, value in options.items()} | most
        for way, options in {"likeliest": LIKELIEST, "drawn": DRAWN}.items()
    }
    found["drawn"]["seed"] = [*range(len(PROMPTS))]
    return found


def train(run, text):
    """Train a model on all but the last speeches of a text, and write its run.

    Args:
        run: path of the folder to write.
        text: str.
    """
    speeches = text.split("\n\n")
    cut = round(len(speeches) * (1 - VALIDATION))
    with tempfile.TemporaryDirectory() as folder:
        files = {"train": speeches[:cut], "validation": speeches[cut:]}
        for name, part in files.items():
            files[name] = pathlib.Path(folder) / f"{name}.txt"
            files[name].write_text("\n\n".join(part) + "\n", encoding="utf-8")
        runs.train(SIZE, output=run, task="causal_lm", **files, **RECIPE)


# ------------------------------------------------------------------------- where texts are written


def keras_one_by_one(model, folder, options):
    """Keras, one prompt at a time: list of str."""
    options = [dict(zip(options, values)) for values in zip(*options.values())]
    return [model.generate(prompt, **of_one) for prompt, of_one in zip(PROMPTS, options)]


def saved_model_alone(model, folder, options):
    """The SavedModel in a process without kerasllm: list of str."""
    return _saved_model("run_saved_model.py", folder, options)


def saved_model_in_c(model, folder, options):
    """The SavedModel through TensorFlow's C API: list of str."""
    return _saved_model("run_c_api.py", folder, options)


def _saved_model(runner, folder, options):
    folder = folder / "saved_model" / "1"
    question = {
        "folder": os.fspath(folder),
        "calls": [{"signature": "generate", "inputs": {"prompt": PROMPTS, **options}}],
        "signatures": saved_model.signature_tensors(folder),
        "tensorflow_text": False,
    }
    (answer,) = verify.run(runner, question)
    return [text.encode("latin-1").decode() for text in answer["outputs"]["text"]]


def loop(model, folder, options):
    """The .tflite file and the loop in Python: list of str."""
    found = []
    for prompt, most in zip(PROMPTS, options["max_new_tokens"]):
        command = [KIT / "generate.py", folder / "model.tflite", prompt, f"--max-new-tokens={most}"]
        found.append(subprocess.check_output([sys.executable, *command], stderr=subprocess.DEVNULL))
    return [text.decode().removesuffix("\n") for text in found]


def engine(model, folder, options):
    """The .litertlm file and LiteRT-LM in Python: list of str."""
    question = {
        "file": os.fspath(folder / "model.litertlm"),
        "message": PROMPTS[0],
        "prompts": PROMPTS,
        "most": options["max_new_tokens"],
    }
    return [answer["text"] for answer in verify.run("run_litert_lm.py", question)["answers"]]


def page(model, folder, options, query="", picture="page.png"):
    """The page, which is pictured: list of str."""
    found = []
    with chromium.served(folder) as address, chromium.opened(address + query) as opened:
        opened.run(READY)
        for prompt in PROMPTS:
            found.append(opened.run(WRITE, prompt).removeprefix(prompt))
            if prompt == PICTURED:
                (folder / picture).write_bytes(opened.picture())
    return found


def engine_page(model, folder, options):
    """The page with LiteRT-LM: list of str."""
    return page(model, folder, options, "?engine", "page_engine.png")


def no_engine():
    """Why there is no LiteRT-LM, str; None where it is."""
    missing = [name for name in litert_lm.PACKAGES if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def no_page():
    """Why there is no page, str; None where there is one."""
    if chromium.find() is None:
        return "no Chromium (the environment variable CHROMIUM names it)"
    if not (KIT / "web" / "node_modules").is_dir():
        return "no node_modules (run `npm install` in export/generation/web)"
    return None


KERAS, OWN = ("likeliest", "drawn"), ("likeliest",)  # whose sampler it is
# Name: function from model, folder and options to texts, what is compared, and what is needed.
PLACES = {
    "Keras, one prompt at a time": (keras_one_by_one, KERAS, ()),
    "SavedModel, without kerasllm": (saved_model_alone, KERAS, ()),
    "SavedModel, TensorFlow's C API": (saved_model_in_c, KERAS, ()),
    ".tflite, Python": (loop, OWN, ()),
    ".tflite, LiteRT.js in Chromium": (page, OWN, (no_page,)),
    ".litertlm, LiteRT-LM in Python": (engine, OWN, (no_engine,)),
    ".litertlm, LiteRT-LM in Chromium": (engine_page, OWN, (no_engine, no_page)),
}


# ------------------------------------------------------------------------- the comparison


def export(model, folder):
    """Write all that is exported of a model, and the page, into a folder.

    Args:
        model: `CausalLM`.
        folder: path of a folder that is there.
    """
    to_saved_model(model, folder / "saved_model", texts=PROMPTS)
    to_tflite(model, folder / "model.tflite", texts=PROMPTS)
    if no_engine() is None:
        to_litert_lm(model, folder / "model.litertlm", prompts=PROMPTS)
    with zipfile.ZipFile(folder / "model.tflite") as archive:
        archive.extractall(folder)
    for file in ("index.html", "page.js", "litert.js", "generate.js", "engine.js"):
        shutil.copy(KIT / "web" / file, folder)
    (folder / "node_modules").symlink_to(KIT / "web" / "node_modules")


def equal(model, wanted, found):
    """How much of what was written is what Keras writes.

    Args:
        model: `CausalLM`.
        wanted: list of `Generated`, of Keras.
        found: list of str.

    Returns:
        str, how many texts, and how many tokens up to the first difference.
    """
    pairs = [(text.token_ids, model.tokenizer.encode(other)) for text, other in zip(wanted, found)]
    texts = sum(text.text == other for text, other in zip(wanted, found))
    tokens = sum(len(os.path.commonprefix(pair)) for pair in pairs)
    every = sum(len(text.token_ids) for text in wanted)
    return f"{texts} of {len(wanted)} texts, {tokens} of {every} tokens"


def rows(model, folder):
    """The rows of the table: list of dict of str."""
    asked, found = ways(model), []
    wanted = {way: model.generate(PROMPTS, details=True, **asked[way]) for way in asked}
    for name, (write, compared, needs) in PLACES.items():
        reasons = [f"skipped: {reason}" for reason in (need() for need in needs) if reason]
        cells = dict.fromkeys(asked, reasons[0] if reasons else "—")
        for way in () if reasons else compared:
            cells[way] = equal(model, wanted[way], write(model, folder, asked[way]))
        found.append({"": name, **cells})
    return found


def main():
    """Train where there is no model, write in all places, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/shakespeare", help="(default: %(default)s)")
    run = pathlib.Path(parser.parse_args().run)
    if not run.exists():
        if "KERASLLM_DATA" not in os.environ:
            parser.error(f"there is no {run}, and KERASLLM_DATA names no folder to train from")
        data = pathlib.Path(os.environ["KERASLLM_DATA"])
        train(run, (data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8"))
    model = CausalLM.from_pretrained(run)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        export(model, folder)
        title = f"Texts as Keras writes them, {len(PROMPTS)} prompts, {NEW_TOKENS} tokens at most"
        print(contest.markdown(title, rows(model, folder)))
        for picture in folder.glob("*.png"):
            print(shutil.copy(picture, run))


if __name__ == "__main__":
    main()
