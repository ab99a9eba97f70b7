"""The same weights and the same sentences for every contestant."""

import itertools
import json
import random

import numpy as np


def write(folder, model, data, count):
    """Write a classifier as a Hugging Face folder, and the sentences it is run on beside it.

    Args:
        folder: `pathlib.Path`.
        model: path or None: a Hugging Face folder to start from, or random weights.
        data: source of labelled sentences, for `kerasllm.read_rows`.
        count: int, sentences to draw.
    """
    import keras

    from kerasllm import BertClassifier, WordPieceTokenizer, read_rows
    from kerasllm.data import label_ids, label_names
    from kerasllm.families import size_config

    keras.utils.set_random_seed(0)
    rows = read_rows(data)
    labels = label_names(rows)
    if model:
        classifier = BertClassifier.from_pretrained(model, labels=labels, fresh_head=True)
    else:
        tokenizer = WordPieceTokenizer.train([row["text"] for row in rows], vocab_size=30522)
        config = size_config("bert_minilm", vocab_size=tokenizer.vocab_size)
        classifier = BertClassifier(len(labels), config, labels=labels, tokenizer=tokenizer)
    classifier.save_pretrained(folder)
    rows = random.Random(0).sample(rows, min(count, len(rows)))
    texts = [row["text"] for row in rows]
    tokenizer = classifier.tokenizer
    sentences = {
        "texts": texts,
        "labels": label_ids(rows, labels).tolist(),
        "num_classes": len(labels),
        "token_ids": [tokenizer.encode(text) for text in texts],
        "around": [tokenizer.cls_id, tokenizer.sep_id],
    }
    (folder / "sentences.json").write_text(json.dumps(sentences), encoding="utf-8")


def read(folder):
    """Read back the dict of `texts`, `labels` and `token_ids` that `write` wrote."""
    return json.loads((folder / "sentences.json").read_text(encoding="utf-8"))


def packed(folder, rows, length):
    """Cut the sentences' tokens, one sentence after another, into rows of one length.

    Every second row ends with a token of padding, so that no contestant can do without its mask.

    Args:
        folder: `pathlib.Path` that `write` filled.
        rows: int.
        length: int.

    Returns:
        The pair of a dict of `token_ids`, `padding_mask`, `segment_ids`, int32 `(rows, length)`,
        and labels, int32 `(rows,)`.
    """
    sentences = read(folder)
    tokens = itertools.cycle(itertools.chain.from_iterable(sentences["token_ids"]))
    bodies = [list(itertools.islice(tokens, length - 2 - i % 2)) for i in range(rows)]
    return _arrays(sentences, bodies, length), np.resize(np.int32(sentences["labels"]), rows)


def padded(folder, length):
    """Pad or cut each sentence to one length.

    Args:
        folder: `pathlib.Path` that `write` filled.
        length: int.

    Returns:
        dict of `token_ids`, `padding_mask`, `segment_ids`, int32 `(sentences, length)`.
    """
    sentences = read(folder)
    return _arrays(sentences, [ids[: length - 2] for ids in sentences["token_ids"]], length)


def _arrays(sentences, bodies, length):
    cls_id, sep_id = sentences["around"]
    ids, mask = np.zeros((2, len(bodies), length), np.int32)
    for row, body in enumerate(bodies):
        ids[row, : len(body) + 2] = [cls_id, *body, sep_id]
        mask[row, : len(body) + 2] = 1
    return {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}


def forward_flops(folder, lengths):
    """Count the floating-point operations of the matrix products of a forward pass.

    Looking up an embedding is none; norms, softmax and activations are not counted.

    Args:
        folder: `pathlib.Path` that `write` filled.
        lengths: iterable of int, tokens of each row.

    Returns:
        int; a multiplication and an addition are two.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    width, inner = config["hidden_size"], config["intermediate_size"]
    of_token = 2 * (4 * width * width + 2 * width * inner)  # query, key, value, output; ffn
    of_head = 2 * width * (width + read(folder)["num_classes"])  # pooler, classifier
    of_pair = 2 * 2 * width  # a query's product with a key, and a weight's with a value
    return sum(
        config["num_hidden_layers"] * (length * of_token + length**2 * of_pair) + of_head
        for length in lengths
    )
