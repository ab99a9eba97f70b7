"""How fast is BERT fine-tuned here, with keras-nlp, and with transformers on PyTorch?

Every contestant starts from the same weights and trains on the same sentences, batches of 32, with
AdamW and gradients clipped to norm 1. In the workload `text` each does what its users do: kerasllm
groups sentences of like length; keras-nlp pads to a fixed length; PyTorch pads to the longest of a
batch, and, as `Trainer` can be told to, groups by length. In the workloads `32x128`, `32x64` and
`32x32` all get identical token ids of that shape.
"""

import statistics

import contest
import material

WORKLOADS = ("text", "32x128", "32x64", "32x32")
BATCH_SIZE = 32
TOKENS = 2**15  # of a round at equal shapes
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 5e-5, 0.01, 1.0


def kerasllm(folder, length):
    """BertClassifier under `model.fit`, with this package's optimizer and batches."""
    from kerasllm import BertClassifier
    from kerasllm.data.batches import batches
    from kerasllm.training import AdamW

    model = BertClassifier.from_pretrained(folder)
    optimizer = AdamW(LEARNING_RATE, WEIGHT_DECAY, global_clipnorm=CLIP_NORM)
    if length is not None:
        return _keras_work(model, optimizer, _packed(folder, length))
    sentences = material.read(folder)
    features = model.tokenizer(sentences["texts"], max_length=model.config.max_length)
    data = batches(features, sentences["labels"], BATCH_SIZE, shuffle=True)
    return _keras_work(model, optimizer, data)


def keras_nlp(folder, length, sequence_length=None):
    """BertTextClassifier under `model.fit`; text through its own preprocessor."""
    import keras
    import keras_nlp
    import tensorflow as tf

    sentences = material.read(folder)
    preprocessor = None
    if length is None:
        preprocessor = keras_nlp.models.BertTextClassifierPreprocessor.from_preset(
            str(folder), sequence_length=sequence_length
        )
    model = keras_nlp.models.BertTextClassifier(
        keras_nlp.models.BertBackbone.from_preset(str(folder)),
        sentences["num_classes"],
        preprocessor=preprocessor,
    )
    optimizer = keras.optimizers.AdamW(
        LEARNING_RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM
    )
    if length is not None:
        return _keras_work(model, optimizer, _packed(folder, length))
    rows = (sentences["texts"], sentences["labels"])
    data = tf.data.Dataset.from_tensor_slices(rows).shuffle(len(rows[0])).batch(BATCH_SIZE)
    return _keras_work(model, optimizer, data)


def _packed(folder, length):
    import tensorflow as tf

    rows = material.packed(folder, TOKENS // length, length)
    return tf.data.Dataset.from_tensor_slices(rows).batch(BATCH_SIZE).prefetch(2)


def _keras_work(model, optimizer, data):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return lambda: model.fit(data, shuffle=False, verbose=0).history["loss"][-1]


def pytorch(folder, length, grouped=False):
    """BertForSequenceClassification in the loop that `transformers.Trainer` runs."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    data = _loader(folder, grouped) if length is None else _tensors(folder, length)

    def work():
        losses = []
        for batch in data:
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return work


def _loader(folder, grouped):
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, DataCollatorWithPadding
    from transformers.trainer_pt_utils import LengthGroupedSampler

    tokenizer = AutoTokenizer.from_pretrained(folder)
    sentences = material.read(folder)
    rows = [
        {**tokenizer(text), "labels": label}
        for text, label in zip(sentences["texts"], sentences["labels"], strict=True)
    ]
    lengths = [len(row["input_ids"]) for row in rows]
    return DataLoader(
        rows,
        BATCH_SIZE,
        shuffle=None if grouped else True,
        sampler=LengthGroupedSampler(BATCH_SIZE, lengths=lengths) if grouped else None,
        collate_fn=DataCollatorWithPadding(tokenizer),
    )


def _tensors(folder, length):
    import torch

    features, labels = material.packed(folder, TOKENS // length, length)
    theirs = {
        "input_ids": features["token_ids"],
        "attention_mask": features["padding_mask"],
        "token_type_ids": features["segment_ids"],
        "labels": labels,
    }
    split = {name: torch.tensor(rows).long().split(BATCH_SIZE) for name, rows in theirs.items()}
    return [dict(zip(split, batch)) for batch in zip(*split.values(), strict=True)]


def matrix_product():
    """The most operations a second that TensorFlow's float32 matrix product reaches here."""
    import time

    import tensorflow as tf

    size, best = 2048, 0.0
    matrix = tf.random.stateless_uniform((size, size), [0, 0])
    multiply = tf.function(lambda: tf.matmul(matrix, matrix))

    def work():
        nonlocal best
        for _ in range(5):
            start = time.perf_counter()
            multiply().numpy()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
        return best

    return work


def measure(workload, folder, arguments):
    """Measure one workload; see `contest.run`."""
    if not (folder / "sentences.json").exists():
        contest.alone(material.write, folder, arguments.model, arguments.data, arguments.sentences)
    if workload == "text":
        length, lengths = None, [len(ids) + 2 for ids in material.read(folder)["token_ids"]]
        contestants = {
            "kerasllm": (kerasllm, folder, None),
            "keras-nlp, padded to 128": (keras_nlp, folder, None, 128),
            "keras-nlp, padded to 64": (keras_nlp, folder, None, 64),
            "PyTorch": (pytorch, folder, None),
            "PyTorch, grouped by length": (pytorch, folder, None, True),
        }
    else:
        length = int(workload.removeprefix("32x"))
        lengths = [length] * (TOKENS // length)
        contestants = {
            name: (function, folder, length)
            for name, function in [
                ("kerasllm", kerasllm),
                ("keras-nlp", keras_nlp),
                ("PyTorch", pytorch),
            ]
        }
    everyone = {**contestants, "matrix product": (matrix_product,)}
    results = contest.compare(everyone, arguments.rounds)
    peak = results.pop("matrix product").answer
    flops = 3 * material.forward_flops(folder, lengths)  # backward is twice forward
    rows = [
        {
            "": name,
            "examples/s": contest.spread([len(lengths) / t for t in result.wall], ".1f"),
            "kerasllm is × as fast": contest.spread(contest.ratios(results, name)),
            "by CPU time": contest.spread(contest.ratios(results, name, "cpu")),
            "of the peak": f"{flops / statistics.median(result.wall) / peak:.0%}",
            "peak memory": f"{result.peak_bytes / 1e6:.0f} MB",
            "last loss": f"{result.answer:.3f}",
        }
        for name, result in results.items()
    ]
    title = (
        f"Fine-tuning, {workload}: {len(lengths)} rows of {statistics.mean(lengths):.1f} tokens, "
        f"{arguments.rounds} rounds; the matrix product's peak is {peak / 1e9:.0f} GFLOP/s"
    )
    numbers = {name: vars(result) for name, result in results.items()}
    return contest.markdown(title, rows), {
        "examples": len(lengths),
        "flops": flops,
        "peak_flops_a_second": peak,
        "contestants": numbers,
    }


if __name__ == "__main__":
    contest.run(__doc__, WORKLOADS, measure, sentences=1600)
