"""Several classifications on one backbone, each with a head of its own.

Each is trained alone first, from the same checkpoint and in as many steps on as many rows of its
own, and then all together (Caruana 1997, "Multitask Learning"), which gives one backbone for all.

    for part in train test; do sed 1s/category/label/ banking77/$part.csv > intents_$part.csv; done
    python examples/multi_task.py MODEL --rows 1500 \
        --task sentiment sst2/train.txt sst2/test.txt \
        --task intent intents_train.csv intents_test.csv

With MiniLM and seed 0 this gives, in under four minutes of CPU time, 0.813 for the sentiment alone
and 0.823 together; for the 77 intents, of which 1500 rows are few, 0.424 and 0.349.
"""

import argparse
import random

import keras

from kerasllm import TextClassifier, evaluate, fit, read_rows
from kerasllm.data.rows import label_names
from kerasllm.training import MultiTask, mixing_weights


def new_models(options, train):
    """A classifier for each task, all on the same backbone."""
    keras.utils.set_random_seed(options.seed)
    models = {}
    for name, rows in train.items():
        labels = label_names(rows)
        if not models:
            first = TextClassifier.from_pretrained(options.model, labels=labels, fresh_head=True)
            shared = {"family": first.family, "tokenizer": first.tokenizer}
            models[name] = first
        else:
            models[name] = TextClassifier(len(labels), first.backbone, labels=labels, **shared)
    return models


def main(options):
    """Train each alone and all together, and print their accuracy."""
    train = {name: read_rows(path) for name, path, _ in options.task}
    test = {name: read_rows(path) for name, _, path in options.task}
    if options.rows:
        draw = random.Random(options.seed).sample
        train = {name: draw(rows, min(len(rows), options.rows)) for name, rows in train.items()}
    recipe = dict(epochs=options.epochs, learning_rate=options.learning_rate, seed=options.seed)

    weights = mixing_weights({name: len(rows) for name, rows in train.items()})
    together = MultiTask(new_models(options, train), weights)
    sizes = together.rows(options.batch_size)
    alone = {}
    for name in train:
        model = new_models(options, train)[name]
        fit(model, train[name], batch_size=sizes[name], **recipe)
        alone[name] = evaluate(model, test[name]).accuracy
    fit(together, train, batch_size=options.batch_size, **recipe)
    for name, model in together.models.items():
        found = evaluate(model, test[name]).accuracy
        print(f"{name}: accuracy alone {alone[name]:.4f}, together {found:.4f}", flush=True)
        if options.output:
            model.save_pretrained(f"{options.output}/{name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="Folder in Hugging Face's layout, or a name on its hub.")
    parser.add_argument(
        "--task",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "TRAIN", "TEST"),
        help="Rows, for `kerasllm.read_rows`; twice at least.",
    )
    parser.add_argument("--rows", type=int, help="Train on so many of each alone, at random.")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32, help="Rows of all together.")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--output", help="Folder for the models.")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
