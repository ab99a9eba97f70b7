"""Every family learns: it overfits 32 examples, with all of its weights."""

import keras
import numpy as np
import pytest

from kerasllm import families
from kerasllm.models import MODELS

VOCAB, LENGTH, COUNT = 40, 8, 32
SMALL = dict(
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    num_decoder_layers=1,
    embed_dim=32,
    embedding_dim=16,
    projection_dim=16,
    units=32,
    ff_dim=64,
    vocab_size=VOCAB,
    max_length=16,
    rate=0.0,
    attention_rate=0.0,
    initializer_range=0.1,
    pad_id=0,
)


def small_config(family):
    """The first size of a family, made small in all its fields that are above 0."""
    size = next(iter(families.FAMILIES[family].SIZES))
    fields = families.size_config(size).to_dict()
    changes = {name: value for name, value in SMALL.items() if fields.get(name) not in (None, 0)}
    changes |= {name: SMALL[name] for name in ("initializer_range", "pad_id") if name in fields}
    return families.size_config(size, **changes)


def examples(head):
    """Random token ids and targets; the first token of a row is its own, so it can be told."""
    random = np.random.default_rng(0)
    ids = random.integers(1, VOCAB, (COUNT, LENGTH), dtype="int32")
    ids[:, 0] = 1 + np.arange(COUNT)
    if head == "causal_lm":
        return {"token_ids": ids[:, :-1]}, ids[:, 1:]
    if head == "seq2seq_lm":
        answers = np.concatenate([np.ones((COUNT, 1), "int32"), ids[:, ::-1]], axis=1)
        return {"token_ids": ids, "decoder_token_ids": answers[:, :-1]}, answers[:, 1:]
    return {"token_ids": ids}, random.integers(0, 3, COUNT)


def first_head(family):
    """The head to train a family with."""
    heads = families.FAMILIES[family].HEADS
    return next(name for name in ("causal_lm", "seq2seq_lm", "text_classifier") if name in heads)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        *((family, first_head(family)) for family in families.FAMILIES),
        *((family, "text_classifier") for family in ("bart", "t5")),
    ],
)
def test_overfits(family, head):
    keras.utils.set_random_seed(0)
    options = dict(num_classes=3, rate=0.0) if head == "text_classifier" else {}
    model = MODELS[head](backbone=small_config(family), family=family, **options)
    inputs, targets = examples(head)
    for name in model.input:
        if name.endswith("padding_mask"):
            inputs[name] = np.ones_like(inputs[name.replace("padding_mask", "token_ids")])
        elif name.endswith("segment_ids"):
            inputs[name] = np.zeros_like(inputs["token_ids"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-2, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)  # or the first step would be traced twice
    model.compile(optimizer, loss)
    fresh = [weight.numpy() for weight in model.trainable_weights]
    before = now = model.train_on_batch(inputs, targets)
    still = [
        weight.path
        for weight, old in zip(model.trainable_weights, fresh, strict=True)
        if np.array_equal(weight.numpy(), old)
    ]
    assert not still, "no gradient reaches them"
    steps = 1
    while now > 0.05 and steps < 300:
        model.reset_metrics()  # of the mean over all steps
        now, steps = model.train_on_batch(inputs, targets), steps + 1
    after = model.evaluate(inputs, targets, batch_size=COUNT, verbose=0)
    assert after < 0.1 < 0.5 < before, (before, after)
