"""How does training scale over workers, and what will a cluster do?

`measure` trains a BERT of MiniLM's size under `multi_worker_mirrored` with 1 to 4 workers on this
machine, one thread each, and beside it as many processes that don't talk to each other, which have
the same share of the machine: what is slower together is communication. Bytes are those that went
over the loopback interface (Linux).

`predict` puts the time of a step together from what each worker computes and what it sends: in a
ring, each worker sends `2 (n - 1) / n` times the gradients' bytes, in `2 (n - 1)` messages.

    python benchmarks/scaling.py [--workers 1 2 3 4] [--steps 12] [--teraflops 100]
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

BATCH_SIZE, LENGTH, VOCAB_SIZE = 16, 64, 8000
SIZES = dict(num_layers=6, num_heads=12, embed_dim=384, ff_dim=1536)
WARM_UP = 4
MODELS = {  # parameters, tokens that a worker computes in a step
    "BERT-base, 32 × 128 tokens": (110e6, 32 * 128),
    "BERT-base, 256 × 128 tokens": (110e6, 256 * 128),
    "GPT of 1.3 B, 4 × 2048 tokens": (1.3e9, 4 * 2048),
    "GPT of 1.3 B, 64 × 2048 tokens": (1.3e9, 64 * 2048),
}
NETWORKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}
LATENCY = 50e-6  # seconds a message, within a data centre


def sent_bytes():
    """Bytes that went over the loopback interface since the machine started."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.strip().partition(":")
        if name == "lo":
            return int(counts.split()[8])
    raise OSError("There must be a loopback interface `lo` in /proc/net/dev.")


def train(name, steps, output):
    """Train in this process; write the median time of a step, and the bytes of one."""
    import keras
    import tensorflow as tf

    from kerasllm import BertClassifier
    from kerasllm.config import TransformerConfig
    from kerasllm.training import AdamW, strategy
    from kerasllm.training.strategies import is_chief

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    place = strategy(name)
    workers = place.num_replicas_in_sync
    config = TransformerConfig(VOCAB_SIZE, max_length=LENGTH, **SIZES)
    with place.scope():
        model = BertClassifier(2, config)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(AdamW(1e-4), loss, jit_compile=False)
    ids = np.random.default_rng(0).integers(5, VOCAB_SIZE, (BATCH_SIZE * workers, LENGTH))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": 0 * ids}
    rows = tf.data.Dataset.from_tensors(
        ({n: x.astype("int32") for n, x in inputs.items()}, ids[:, 0] % 2)
    )
    ends, counts = [], []

    def keep(batch, logs):
        ends.append(time.perf_counter())
        counts.append(sent_bytes())

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=keep)
    model.fit(rows.repeat(WARM_UP + steps), verbose=0, shuffle=False, callbacks=[watch])
    if is_chief(place):
        found = {
            "seconds": statistics.median(np.diff(ends)[WARM_UP:]),
            "bytes": (counts[-1] - counts[WARM_UP]) / (len(counts) - 1 - WARM_UP),
            "parameters": model.count_params(),
        }
        pathlib.Path(output).write_text(json.dumps(found))


def run(name, workers, steps, folder):
    """The median time and bytes of a step of so many processes."""
    from kerasllm.launch import launch

    output = pathlib.Path(folder) / f"{name}-{workers}.json"
    command = [sys.executable, __file__, "--one", name, str(steps), str(output)]
    if launch(command, workers):
        raise RuntimeError(f"{name} with {workers} workers failed.")
    return json.loads(output.read_text())


def measure(counts, steps):
    """Print how this machine scales."""
    print("| workers | tokens/s | of that alone | communication | sent by a worker | × the model |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            apart = run("default", count, steps, folder)
            together = run("multi_worker_mirrored", count, steps, folder)
            tokens = count * BATCH_SIZE * LENGTH / together["seconds"]
            share = 1 - apart["seconds"] / together["seconds"]
            model_bytes, sent = 4 * together["parameters"], together["bytes"] / count
            print(
                f"| {count} | {tokens:.0f} | {apart['seconds'] / together['seconds']:.2f} "
                f"| {max(share, 0):.0%} | {sent / 1e6:.1f} MB | {sent / model_bytes:.2f} |",
                flush=True,
            )


def seconds(parameters, tokens, workers, bandwidth, flops):
    """The pair of seconds of a step that go into computing and into communication."""
    computing = 6 * parameters * tokens / flops
    ring = 2 * (workers - 1)
    return computing, ring / workers * 4 * parameters / bandwidth + ring * LATENCY


def predict(teraflops):
    """Print what clusters would do."""
    print(
        f"\nEach worker computes {teraflops:g} TFLOP/s; gradients are float32, in any precision.\n"
    )
    print("| model, of each worker | network | workers | efficiency | with 8 × accumulation |")
    print("| --- | --- | --- | --- | --- |")
    for model, (parameters, tokens) in MODELS.items():
        for network, bandwidth in NETWORKS.items():
            for workers in (8, 64, 512):
                one, sending = seconds(parameters, tokens, workers, bandwidth, teraflops * 1e12)
                plain, gathered = one / (one + sending), 8 * one / (8 * one + sending)
                print(f"| {model} | {network} | {workers} | {plain:.0%} | {gathered:.0%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--teraflops", type=float, default=100.0, help="What a worker computes.")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        train(arguments.one[0], int(arguments.one[1]), arguments.one[2])
    else:
        measure(arguments.workers, arguments.steps)
        predict(arguments.teraflops)
