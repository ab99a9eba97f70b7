"""Does every strategy train the same model, and does keras-nlp's?

A small BERT classifier, random token ids, 50 steps of 16 rows (the last of 7), dropout off. Each
strategy runs with 1, 2 and 4 replicas or workers in processes of its own, and is compared with one
device: the largest difference of any step's loss, and of any weight after the last step. Under
keras-nlp's classifier and plain Keras the same data show where those fail today.

    python benchmarks/strategies.py [--strategies mirrored …] [--libraries kerasllm keras-nlp]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

STEPS, BATCH_SIZE, LENGTH, VOCAB_SIZE = 50, 16, 32, 1000
SIZES = dict(num_layers=2, num_heads=2, embed_dim=64, ff_dim=128)
COUNTS = {
    "one_device": (1,),
    "mirrored": (1, 2, 4),
    "central_storage": (2, 4),
    "multi_worker_mirrored": (1, 2, 4),
    "parameter_server": (1, 2, 4),
}
CLUSTERS = ("multi_worker_mirrored", "parameter_server")


def data():
    """Inputs and labels of all rows."""
    random = np.random.default_rng(0)
    count = STEPS * BATCH_SIZE - 9
    ids = random.integers(5, VOCAB_SIZE, (count, LENGTH), dtype="int32")
    mask = (np.arange(LENGTH) < random.integers(8, LENGTH + 1, (count, 1))).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": mask, "segment_ids": 0 * ids}
    return inputs, (ids[:, 0] % 2).astype("int32")


def kerasllm_model():
    """The classifier here."""
    from kerasllm import BertClassifier
    from kerasllm.config import TransformerConfig
    from kerasllm.training import AdamW

    config = TransformerConfig(VOCAB_SIZE, max_length=LENGTH, rate=0.0, attention_rate=0.0, **SIZES)
    return BertClassifier(2, config, rate=0.0), AdamW(1e-3, global_clipnorm=1.0)


def keras_nlp_model():
    """The same in keras-nlp."""
    import keras
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=VOCAB_SIZE,
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["embed_dim"],
        intermediate_dim=SIZES["ff_dim"],
        dropout=0.0,
        max_sequence_length=LENGTH,
    )
    model = keras_nlp.models.BertTextClassifier(backbone, 2, preprocessor=None, dropout=0.0)
    return model, keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)


LIBRARIES = {"kerasllm": kerasllm_model, "keras-nlp": keras_nlp_model}


def train(library, name, count, output):
    """Train in this process, which is one of its strategy's; write losses and weights."""
    import keras
    import tensorflow as tf

    from kerasllm.training.strategies import STRATEGIES, is_chief, strategy

    devices = count if name in ("mirrored", "central_storage") else None
    if library == "kerasllm":
        place = strategy(name, devices=devices)
    else:
        place = STRATEGIES[name](devices, None)  # without what is mended in Keras
    keras.utils.set_random_seed(0)
    with place.scope():
        model, optimizer = LIBRARIES[library]()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    rows = data()
    kept = []

    def keep(batch, logs):
        kept.append(float(logs["loss"]))
        model.reset_metrics()  # else it is the mean of all steps so far

    batches = tf.data.Dataset.from_tensor_slices(rows).batch(BATCH_SIZE)
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=keep)
    model.fit(batches, verbose=0, shuffle=False, callbacks=[watch])
    if is_chief(place):
        weights = {f"weight {i}": w.numpy() for i, w in enumerate(model.trainable_weights)}
        np.savez(output, losses=kept, **weights)


def run(library, name, count, folder):
    """Train in processes of its own; return arrays, or the error's last line."""
    output = pathlib.Path(folder) / f"{library}-{name}-{count}.npz"
    command = [sys.executable, __file__, "--one", library, name, str(count), str(output)]
    if name in CLUSTERS:
        servers = 2 if name == "parameter_server" else 0
        code = (
            "from kerasllm.launch import launch\n"
            f"raise SystemExit(launch({json.dumps(command)}, {count}, {servers}))"
        )
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if output.exists():
        return dict(np.load(output))
    errors = [line for line in done.stderr.splitlines() if "Error: " in line]
    return errors[0].strip() if errors else done.stderr.splitlines()[-1]


def differences(found, reference):
    """The largest of losses, and of weights."""
    weights = [name for name in reference if name.startswith("weight")]
    return (
        np.abs(found["losses"] - reference["losses"]).max(),
        max(np.abs(found[name] - reference[name]).max() for name in weights),
    )


def main(libraries, strategies):
    """Print the table."""
    print(
        "| model of | strategy | replicas | largest loss difference | largest weight difference |"
    )
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for library in libraries:
            reference = run(library, "default", 1, folder)
            for name in strategies:
                for count in COUNTS[name]:
                    found = run(library, name, count, folder)
                    if isinstance(found, str):
                        cells = f"fails: `{found[:100]}` | |"
                    else:
                        cells = " | ".join(f"{x:.1e}" for x in differences(found, reference)) + " |"
                    print(f"| {library} | {name} | {count} | {cells}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--strategies", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        train(arguments.one[0], arguments.one[1], int(arguments.one[2]), arguments.one[3])
    else:
        main(arguments.libraries, arguments.strategies)
