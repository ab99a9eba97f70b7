"""How fast is BERT pretrained on masked tokens here, with keras-nlp, and with PyTorch?

A BERT of MiniLM's shape (6 layers, 384 wide, 30522 tokens) with random weights, AdamW, dropout on,
on identical random token ids of which 15% are masked. kerasllm and keras-nlp (`BertMaskedLM`) score
the masked positions alone; transformers' `BertForMaskedLM` scores all positions, as its users have
it.
"""

import statistics

import contest
import numpy as np

SIZES = dict(num_layers=6, num_heads=12, embed_dim=384, ff_dim=1536, vocab_size=30522)
WORKLOADS = ("32x128", "64x64")  # rows and tokens of a batch
STEPS, RATE, MASK_ID = 4, 0.15, 103
LEARNING_RATE = 1e-4


def batches(shape):
    """Masked token ids, the same for all, one array each of all steps."""
    rows, length = shape
    random = np.random.default_rng(0)
    ids = random.integers(999, SIZES["vocab_size"], (STEPS * rows, length), dtype="int32")
    mask = np.ones_like(ids)
    mask[::2, -1] = 0  # so that no contestant can do without its mask
    count = round(RATE * length)
    order = random.random((STEPS * rows, length - 1)).argsort(axis=1)
    positions = np.sort(order[:, :count], axis=1).astype("int32")
    targets = np.take_along_axis(ids, positions, axis=1)
    masked = ids.copy()
    np.put_along_axis(masked, positions, MASK_ID, axis=1)
    return {
        "token_ids": masked,
        "padding_mask": mask,
        "segment_ids": np.zeros_like(ids),
        "positions": positions,
        "targets": targets,
        "weights": np.ones(targets.shape, "float32"),
    }


def kerasllm(shape):
    """MaskedLM with the loss and optimizer of its task, metrics left out."""
    from kerasllm import MaskedLM
    from kerasllm.families import size_config
    from kerasllm.tasks import masked_lm
    from kerasllm.training import AdamW

    model = MaskedLM(size_config("bert_minilm", **SIZES), family="bert")
    model.compile(AdamW(LEARNING_RATE), masked_lm.loss())
    return _keras_work(model, shape, "masked_positions")


def keras_nlp(shape):
    """BertMaskedLM."""
    import keras
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=SIZES["vocab_size"],
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["embed_dim"],
        intermediate_dim=SIZES["ff_dim"],
        dropout=0.1,
        max_sequence_length=512,
    )
    model = keras_nlp.models.BertMaskedLM(backbone)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(LEARNING_RATE), loss, weighted_metrics=[])
    return _keras_work(model, shape, "mask_positions")


def _keras_work(model, shape, positions):
    import tensorflow as tf

    data = batches(shape)
    inputs = {name: data[name] for name in ("token_ids", "padding_mask", "segment_ids")}
    rows = ({**inputs, positions: data["positions"]}, data["targets"], data["weights"])
    data = tf.data.Dataset.from_tensor_slices(rows).batch(shape[0]).cache().prefetch(2)
    return lambda: model.fit(data, shuffle=False, verbose=0).history["loss"][-1]


def pytorch(shape):
    """BertForMaskedLM in the loop that `transformers.Trainer` runs."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=SIZES["vocab_size"],
        num_hidden_layers=SIZES["num_layers"],
        num_attention_heads=SIZES["num_heads"],
        hidden_size=SIZES["embed_dim"],
        intermediate_size=SIZES["ff_dim"],
    )
    model = transformers.BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    data = batches(shape)
    labels = np.full_like(data["token_ids"], -100)  # those that are not scored
    np.put_along_axis(labels, data["positions"], data["targets"], axis=1)
    theirs = {
        "input_ids": data["token_ids"],
        "attention_mask": data["padding_mask"],
        "token_type_ids": data["segment_ids"],
        "labels": labels,
    }
    split = {name: torch.tensor(rows).long().split(shape[0]) for name, rows in theirs.items()}
    steps = [dict(zip(split, batch)) for batch in zip(*split.values(), strict=True)]

    def work():
        losses = []
        for batch in steps:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return work


def measure(workload, folder, arguments):
    """Measure one workload; see `contest.run`."""
    shape = tuple(map(int, workload.split("x")))
    contestants = {
        "kerasllm": (kerasllm, shape),
        "keras-nlp": (keras_nlp, shape),
        "PyTorch": (pytorch, shape),
    }
    results = contest.compare(contestants, arguments.rounds)
    tokens = STEPS * shape[0] * shape[1]
    rows = [
        {
            "": name,
            "tokens/s": contest.spread([tokens / t for t in result.wall], ".0f"),
            "kerasllm is × as fast": contest.spread(contest.ratios(results, name)),
            "by CPU time": contest.spread(contest.ratios(results, name, "cpu")),
            "peak memory": f"{result.peak_bytes / 1e6:.0f} MB",
            "last loss": f"{result.answer:.3f}",
        }
        for name, result in results.items()
    ]
    title = f"Pretraining on masked tokens: batches of {workload}, {arguments.rounds} rounds"
    numbers = {
        name: {"wall": result.wall, "cpu": result.cpu, "median": statistics.median(result.wall)}
        for name, result in results.items()
    }
    return contest.markdown(title, rows), numbers


if __name__ == "__main__":
    contest.run(__doc__, WORKLOADS, measure, sentences=0)
