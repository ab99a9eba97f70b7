"""How fast are texts written, against transformers on PyTorch, and against keras-nlp?

GPT-2's shape at 27 and at 124 million parameters, random weights, the same for all. Each goes on
from prompts of 64 tokens by 64 more, the likeliest ones, with a cache: kerasllm's `generate` in
Keras, its SavedModel, its .tflite files with the loop of export/generation, its .litertlm files
where LiteRT-LM is installed, and both peers. A workload is size, batch and threads: `27m-8-2`. The
files for devices take one text at a time, so they are in batches of one. `tiny-1-1` is a try.
"""

import importlib.util
import json
import pathlib
import time

import contest
import numpy as np

SIZES = {
    "tiny": dict(num_layers=2, num_heads=2, embed_dim=32, ff_dim=128, vocab_size=500),
    "27m": dict(num_layers=6, num_heads=8, embed_dim=512, ff_dim=2048, vocab_size=16000),
    "124m": dict(num_layers=12, num_heads=12, embed_dim=768, ff_dim=3072, vocab_size=50257),
}
WORKLOADS = (
    "27m-1-1", "27m-1-2", "27m-8-1", "27m-8-2", "124m-1-1", "124m-1-2", "124m-8-1", "124m-8-2",
)  # fmt: skip
TRIES = ("tiny-1-1", "tiny-8-1", "tiny-8-2")
PROMPT, NEW = 64, 64  # tokens
LOOP = pathlib.Path(__file__).resolve().parents[1] / "export" / "generation" / "generate.py"
ENGINE = all(map(importlib.util.find_spec, ("litert_lm", "litert_lm_builder")))
FILES = {"float32": None, "int8": "int8"}  # for devices, and how they are quantised


def prompts(batch):
    """Texts of 64 letters, each of which is a token: list of str."""
    letters = np.random.default_rng(0).integers(ord("a"), ord("z") + 1, (batch, PROMPT))
    return ["".join(map(chr, row)) for row in letters]


# ------------------------------------------------------------------------- the same for all


def prepare(folder, size):
    """Write a model and all that is exported of it, below a folder."""
    import keras

    from kerasllm import CausalLM
    from kerasllm.export import to_litert_lm, to_saved_model, to_tflite
    from kerasllm.families import size_config

    keras.utils.set_random_seed(0)
    config = size_config("gpt2_small", **SIZES[size])
    folder.mkdir()
    model = CausalLM(config, family="gpt2", tokenizer=_tokenizer(folder, config.vocab_size))
    model.special_ids = {"eos": config.vocab_size - 1}  # which none of the texts has
    model.save_pretrained(folder / "model")
    texts = prompts(2)
    to_saved_model(model, folder / "saved_model", texts=texts)
    for name, quantize in FILES.items():
        options = {"quantize": quantize, "texts": texts, "max_length": PROMPT + NEW}
        to_tflite(model, folder / f"{name}.tflite", **options)
        options["prompts"], options["max_tokens"] = options.pop("texts"), options.pop("max_length")
        if ENGINE:
            to_litert_lm(model, folder / f"{name}.litertlm", **options)


def _tokenizer(folder, vocab_size):
    """A tokenizer with a token for each letter, and more that no text has."""
    from kerasllm.tokenizers import ByteLevelBPETokenizer, load_tokenizer

    ByteLevelBPETokenizer.train(["a"], vocab_size=257).save_pretrained(folder)
    file = folder / "tokenizer.json"
    pipeline = json.loads(file.read_text(encoding="utf-8"))
    more = range(len(pipeline["model"]["vocab"]), vocab_size)
    pipeline["model"]["vocab"] |= {f"[{i}]": i for i in more}
    file.write_text(json.dumps(pipeline), encoding="utf-8")
    return load_tokenizer(folder)


def cache_bytes(size, batch):
    """The bytes that keys and values of all tokens take, by their shapes."""
    shape = SIZES[size]
    return 2 * shape["num_layers"] * batch * (PROMPT + NEW) * shape["embed_dim"] * 4


def _work(write):
    """Work for `contest` from a function that writes so many new tokens, and returns texts."""

    def work():
        times = []
        for count in (1, NEW):
            start = time.perf_counter()
            texts = write(count)
            times.append(time.perf_counter() - start)
        return {"first": times[0], "whole": times[1], "texts": texts}

    return work


def _tensorflow(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _ids(folder, batch):
    """The tokenizer, and the prompts' token ids, int32 `(batch, PROMPT)`."""
    from kerasllm.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return tokenizer, np.array([tokenizer.encode(text) for text in prompts(batch)], "int32")


# ------------------------------------------------------------------------- contestants


def kerasllm(folder, batch, threads):
    """`generate` in Keras."""
    _tensorflow(threads)
    from kerasllm import CausalLM

    model = CausalLM.from_pretrained(folder / "model")

    def write(count):
        found = model.generate(prompts(batch), count, details=True)
        if {text.finish_reason for text in found} != {"length"}:
            raise RuntimeError(f"All texts must have {count} tokens. Received: {found}.")
        return [text.text for text in found]

    return _work(write)


def saved_model(folder, batch, threads):
    """The SavedModel."""
    _tensorflow(threads)
    from kerasllm.export import load_artefact

    artefact = load_artefact(folder / "saved_model")
    return _work(lambda count: artefact.generate(prompts(batch), max_new_tokens=count))


def keras_nlp(folder, batch, threads):
    """`generate` of keras-nlp."""
    _tensorflow(threads)
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone.from_preset(str(folder / "model"))
    model = keras_nlp.models.GPT2CausalLM(backbone)
    model.compile(sampler="greedy")
    tokenizer, ids = _ids(folder, batch)

    def write(count):
        inputs = {
            "token_ids": np.pad(ids, ((0, 0), (0, count))),
            "padding_mask": np.pad(np.ones_like(ids), ((0, 0), (0, count))),
        }
        found = np.array(model.generate(inputs, stop_token_ids=None)["token_ids"])
        return [tokenizer.decode(row) for row in found[:, PROMPT:].tolist()]

    return _work(write)


def pytorch(folder, batch, threads):
    """`generate` of transformers."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder / "model").eval()
    tokenizer, ids = _ids(folder, batch)
    ids = torch.tensor(ids).long()

    def write(count):
        model.generation_config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=count, eos_token_id=None, pad_token_id=0
        )
        with torch.no_grad():
            found = model.generate(ids, attention_mask=torch.ones_like(ids))
        return [tokenizer.decode(row) for row in found[:, PROMPT:].tolist()]

    return _work(write)


def tflite(folder, file, threads):
    """A .tflite file, and the loop that goes with it."""
    spec = importlib.util.spec_from_file_location("generate", LOOP)
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    model = loop.Model(folder / file, threads)
    tokenizer, ids = _ids(folder, 1)

    def write(count):
        model.reset()
        return [tokenizer.decode([*loop.generate(model, ids[0].tolist(), (), count)])]

    return _work(write)


def engine(folder, file, threads):
    """A .litertlm file in LiteRT-LM."""
    import litert_lm

    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    backend = litert_lm.Backend.CPU(thread_count=threads)
    loaded = litert_lm.Engine(str(folder / file), backend=backend, cache_dir=":nocache")
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    options = {"apply_prompt_template": False, "sampler_config": greedy}

    def write(count):
        with loaded.create_session(max_output_tokens=count, **options) as session:
            session.run_prefill(prompts(1))
            return session.run_decode().texts

    return _work(write)


def contestants(folder, batch, threads):
    """Who takes part: dict for `contest.compare`."""
    found = {
        "kerasllm": (kerasllm, folder, batch, threads),
        "SavedModel": (saved_model, folder, batch, threads),
        "PyTorch": (pytorch, folder, batch, threads),
        "keras-nlp": (keras_nlp, folder, batch, threads),
    }
    if batch == 1:
        files = {"tflite": tflite, **({"litertlm": engine} if ENGINE else {})}
        for ending, function in files.items():
            for name in FILES:
                found[f".{ending}, {name}"] = (function, folder, f"{name}.{ending}", threads)
    return found


# ------------------------------------------------------------------------- tables


def speeds(result, batch):
    """Tokens a second after the first one, by round."""
    return [batch * (NEW - 1) / (round["whole"] - round["first"]) for round in result.answers]


def measure(workload, folder, arguments):
    """Measure one workload; see `contest.run`."""
    size, batch, threads = workload.split("-")
    batch, threads, folder = int(batch), int(threads), folder / size
    if not folder.exists():
        contest.alone(prepare, folder, size)
    results = contest.compare(contestants(folder, batch, threads), arguments.rounds)
    ours = results["kerasllm"]
    rows, numbers = [], {}
    for name, result in results.items():
        found = speeds(result, batch)
        equal = sum(a == b for a, b in zip(result.answer["texts"], ours.answer["texts"]))
        ratios = [a / b for a, b in zip(speeds(ours, batch), found)]
        first = [1000 * round["first"] for round in result.answers]
        rows.append(
            {
                "": name,
                "tokens/s": contest.spread(found, ".0f"),
                "kerasllm is × as fast": contest.spread(ratios),
                "ms to the first": contest.spread(first, ".0f"),
                "peak memory": f"{result.peak_bytes / 1e6:.0f} MB",
                "texts as kerasllm's": f"{equal} of {batch}",
            }
        )
        numbers[name] = {"tokens_a_second": found, "first": first, "peak": result.peak_bytes}
    title = (
        f"{size} parameters, batch of {batch}, {threads} thread(s), {arguments.rounds} rounds; "
        f"keys and values take {cache_bytes(size, batch) / 1e6:.1f} MB"
    )
    return contest.markdown(title, rows), numbers


if __name__ == "__main__":
    contest.run(__doc__, WORKLOADS, measure, sentences=0, tries=TRIES)
