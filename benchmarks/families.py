"""How fast is each class of family, against keras-nlp, and against transformers on PyTorch?

An encoder (RoBERTa with a text classifier), a decoder (GPT-2 with its language model) and an
encoder–decoder (BART with its language model), 6 layers, 384 wide, random weights, on identical
random token ids: `forward` answers, `train` takes steps with AdamW. `load` reads a GPT-2 of 500 MB
from one Hugging Face folder, each time in a fresh process.
"""

import resource
import statistics
import time

import contest
import numpy as np

SIZES = dict(num_layers=6, num_heads=6, embed_dim=384, ff_dim=1536, vocab_size=8000)
BATCHES, BATCH_SIZE, LENGTH, MAX_LENGTH = 6, 16, 64, 128
LEARNING_RATE = 1e-4
CLASSES = {"encoder": "roberta", "decoder": "gpt2", "encoder_decoder": "bart"}
WORKLOADS = (*(f"{kind}-{work}" for kind in CLASSES for work in ("forward", "train")), "load")


def batches(kind):
    """Token ids and targets, the same for all: list of pairs of dict and array."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(BATCHES):
        ids = random.integers(5, SIZES["vocab_size"], (BATCH_SIZE, LENGTH + 1), dtype="int32")
        mask = np.ones((BATCH_SIZE, LENGTH), "int32")
        mask[::2, -1] = 0  # so that no contestant can do without its mask
        inputs, targets = {"token_ids": ids[:, :-1], "padding_mask": mask}, ids[:, 1:]
        if kind == "encoder":
            targets = ids[:, 0] % 2
        if kind == "encoder_decoder":
            inputs |= {f"decoder_{name}": value for name, value in inputs.items()}
        found.append((inputs, targets))
    return found


def kerasllm(kind, work):
    """The family's model here, with the loss and optimizer of its task."""
    from kerasllm import CausalLM, Seq2SeqLM, TextClassifier
    from kerasllm.families import SIZES as NAMES
    from kerasllm.families import size_config
    from kerasllm.tasks import causal_lm, text_classification
    from kerasllm.training import AdamW

    family = CLASSES[kind]
    size = next(name for name, (of, _) in NAMES.items() if of == family)
    decoder = {"num_decoder_layers": SIZES["num_layers"]} if kind == "encoder_decoder" else {}
    config = size_config(
        size, max_length=MAX_LENGTH, rate=0.1, attention_rate=0.1, pad_id=1, **SIZES, **decoder
    )
    if kind == "encoder":
        model = TextClassifier(2, config, family=family)
    else:
        model = (CausalLM if kind == "decoder" else Seq2SeqLM)(config, family=family)
    loss = text_classification.loss if kind == "encoder" else causal_lm.loss
    return _keras_work(model, AdamW(LEARNING_RATE), loss(), batches(kind), work)


def keras_nlp(kind, work):
    """The same model in keras-nlp."""
    import keras
    import keras_nlp

    name = {"encoder": "Roberta", "decoder": "GPT2", "encoder_decoder": "Bart"}[kind]
    backbone = getattr(keras_nlp.models, f"{name}Backbone")(
        vocabulary_size=SIZES["vocab_size"],
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["embed_dim"],
        intermediate_dim=SIZES["ff_dim"],
        dropout=0.1,
        max_sequence_length=MAX_LENGTH,
    )
    if kind == "encoder":
        model = keras_nlp.models.RobertaTextClassifier(backbone, 2)
    else:
        end = "CausalLM" if kind == "decoder" else "Seq2SeqLM"
        model = getattr(keras_nlp.models, name + end)(backbone)
    data = batches(kind)
    if kind == "encoder_decoder":
        data = [({_sided(name): value for name, value in x.items()}, y) for x, y in data]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return _keras_work(model, keras.optimizers.AdamW(LEARNING_RATE), loss, data, work)


def _sided(name):
    return name if name.startswith("decoder_") else f"encoder_{name}"


def _keras_work(model, optimizer, loss, data, work):
    import tensorflow as tf

    def dataset(rows):
        return tf.data.Dataset.from_tensor_slices(rows).batch(BATCH_SIZE).cache()

    inputs = {name: np.concatenate([x[name] for x, _ in data]) for name in data[0][0]}
    targets = np.concatenate([y for _, y in data])
    model.compile(optimizer, loss, metrics=[])
    if work == "train":
        rows = dataset((inputs, targets))
        return lambda: model.fit(rows, shuffle=False, verbose=0).history["loss"][-1]
    call = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    ready = [{name: tf.constant(value) for name, value in x.items()} for x, _ in data]

    def forward():
        for x in ready:
            answer = call(x)
        return float(tf.reduce_mean(answer).numpy())

    return forward


def pytorch(kind, work):
    """The same model in transformers."""
    import torch
    import transformers

    shape = dict(vocab_size=SIZES["vocab_size"])
    layers, heads, width, inner = (
        SIZES[name] for name in ("num_layers", "num_heads", "embed_dim", "ff_dim")
    )
    if kind == "encoder":
        config = transformers.RobertaConfig(
            num_hidden_layers=layers, num_attention_heads=heads, hidden_size=width,
            intermediate_size=inner, max_position_embeddings=MAX_LENGTH + 2, type_vocab_size=1,
            **shape,
        )  # fmt: skip
        model = transformers.RobertaForSequenceClassification(config)
    elif kind == "decoder":
        config = transformers.GPT2Config(
            n_layer=layers, n_head=heads, n_embd=width, n_positions=MAX_LENGTH, use_cache=False,
            **shape,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.BartConfig(
            encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
            decoder_attention_heads=heads, d_model=width, encoder_ffn_dim=inner,
            decoder_ffn_dim=inner, max_position_embeddings=MAX_LENGTH, attention_dropout=0.1,
            use_cache=False, **shape,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
    names = {"token_ids": "input_ids", "padding_mask": "attention_mask"}
    names |= {f"decoder_{ours}": f"decoder_{theirs}" for ours, theirs in names.items()}
    data = [
        ({names[n]: torch.tensor(v).long() for n, v in x.items()}, torch.tensor(y).long())
        for x, y in batches(kind)
    ]
    if work == "forward":
        model.eval()

        def forward():
            with torch.no_grad():
                for x, _ in data:
                    answer = model(**x).logits
            return float(answer.mean())

        return forward
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)

    def train():
        for x, y in data:
            logits = model(**x).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    return train


# ------------------------------------------------------------------------------------ loading


def write_checkpoint(folder):
    """A GPT-2 of 125 million random float32 weights, as transformers writes it."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)


def load(library, folder):
    """Load the checkpoint; return seconds, and the most memory beyond that before loading."""
    load_model = _load_function(library)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * contest.RSS_UNIT
    start = time.perf_counter()
    model = load_model(folder)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * contest.RSS_UNIT
    del model
    return {"seconds": seconds, "bytes": peak - base}


def _load_function(library):
    if library == "kerasllm":
        from kerasllm import CausalLM

        return CausalLM.from_pretrained
    if library == "keras-nlp":
        import keras_nlp

        return lambda folder: keras_nlp.models.GPT2Backbone.from_preset(str(folder))
    import transformers

    return transformers.GPT2LMHeadModel.from_pretrained


def measure_load(folder, rounds):
    """Load in turns, each time in a fresh process."""
    contest.alone(write_checkpoint, folder)
    libraries = ("kerasllm", "keras-nlp", "PyTorch")
    found = {name: [] for name in libraries}
    for _ in range(rounds):
        for name in libraries:
            found[name].append(contest.alone(load, name, folder))
    size = (folder / "model.safetensors").stat().st_size
    rows = [
        {
            "": name,
            "seconds": contest.spread([each["seconds"] for each in each_of]),
            "memory × the checkpoint": contest.spread([each["bytes"] / size for each in each_of]),
        }
        for name, each_of in found.items()
    ]
    title = f"Loading a GPT-2 of {size / 1e6:.0f} MB, {rounds} rounds"
    return contest.markdown(title, rows), found


def measure(workload, folder, arguments):
    """Measure one workload; see `contest.run`."""
    if workload == "load":
        return measure_load(folder, arguments.rounds)
    kind, work = workload.rsplit("-", 1)
    contestants = {
        "kerasllm": (kerasllm, kind, work),
        "keras-nlp": (keras_nlp, kind, work),
        "PyTorch": (pytorch, kind, work),
    }
    results = contest.compare(contestants, arguments.rounds)
    tokens = BATCHES * BATCH_SIZE * LENGTH
    rows = [
        {
            "": name,
            "tokens/s": contest.spread([tokens / t for t in result.wall], ".0f"),
            "kerasllm is × as fast": contest.spread(contest.ratios(results, name)),
            "by CPU time": contest.spread(contest.ratios(results, name, "cpu")),
            "peak memory": f"{result.peak_bytes / 1e6:.0f} MB",
            "answer": f"{result.answer:.3f}",
        }
        for name, result in results.items()
    ]
    title = f"{kind}, {work}: batches of {BATCH_SIZE} × {LENGTH}, {arguments.rounds} rounds"
    numbers = {
        name: {"wall": result.wall, "cpu": result.cpu, "median": statistics.median(result.wall)}
        for name, result in results.items()
    }
    return contest.markdown(title, rows), numbers


if __name__ == "__main__":
    contest.run(__doc__, WORKLOADS, measure, sentences=0)
