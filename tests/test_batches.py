"""Batches hold each row once, padded little, in an order that the seed settles."""

import gc
import os
import subprocess
import sys
from itertools import chain

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm.data.batches import batches, text_batches
from kerasllm.data.rows import read_rows
from kerasllm.tokenizers import WordPieceTokenizer


def make_rows(count, longest=50, seed=0):
    """Rows that name themselves: row `i` holds only the number `i + 1`."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, count)
    return [[index + 1] * length for index, length in enumerate(lengths)]


def order(dataset):
    return [y.numpy().tolist() for _, y in dataset]


def test_without_shuffle_rows_keep_their_order():
    rows = [[1, 2, 3], [4], [5] * 9, [], [6]]
    features = {"token_ids": rows, "padding_mask": [[1] * len(row) for row in rows]}
    data = batches(features, np.arange(5.0), 2, length_multiple=4)
    assert len(data) == 3
    found = [(x["token_ids"].numpy().tolist(), y.numpy().tolist()) for x, y in data]
    assert found == [
        ([[1, 2, 3, 0], [4, 0, 0, 0]], [0, 1]),
        ([[5] * 9 + [0] * 3, [0] * 12], [2, 3]),
        ([[6, 0, 0, 0]], [4]),
    ]
    for (x, _), (other, _) in zip(data, data, strict=True):
        assert np.array_equal(x["padding_mask"], x["token_ids"].numpy() > 0)
        assert np.array_equal(x["token_ids"], other["token_ids"])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_each_row_comes_once_with_its_target_and_weight(shuffle, drop_remainder):
    rows = make_rows(107)
    data = batches(
        {"token_ids": rows},
        np.arange(107),
        8,
        sample_weight=np.arange(107) / 2,
        shuffle=shuffle,
        window=4,
        drop_remainder=drop_remainder,
    )
    assert len(data) == int(data.cardinality()) == (13 if drop_remainder else 14)
    static = 8 if drop_remainder else None
    assert data.element_spec[0] == {"token_ids": tf.TensorSpec((static, None), tf.int32)}
    seen = []
    for x, targets, weights in data:
        length = x["token_ids"].shape[1]
        assert length % 8 == 0 and length - max(len(rows[i]) for i in targets.numpy()) < 8
        for ids, target, weight in zip(
            x["token_ids"].numpy(), targets.numpy(), weights.numpy(), strict=True
        ):
            assert ids.tolist() == rows[target] + [0] * (length - len(rows[target]))
            assert weight == target / 2
            seen.append(target)
    assert len(set(seen)) == len(seen) == (104 if drop_remainder else 107)
    assert (seen == sorted(seen)) is not shuffle


def test_the_seed_and_the_iteration_settle_the_order():
    def make(seed):
        return batches({"x": make_rows(100)}, np.arange(100), 8, shuffle=True, seed=seed, window=3)

    first, again, other = make(1), make(1), make(2)
    epochs = [order(first), order(first), order(first)]
    assert [order(again), order(again), order(again)] == epochs
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert order(other) != epochs[0]


def test_rows_of_like_length_share_a_batch_but_not_always_the_same_one():
    rows = make_rows(640)
    data = batches({"x": rows}, np.arange(640), 16, shuffle=True, window=20, length_multiple=1)
    real = sum(map(len, rows))
    assert real / sum(x["x"].shape[0] * x["x"].shape[1] for x, _ in data) > 0.93
    plain = batches({"x": rows}, np.arange(640), 16, length_multiple=1)
    assert real / sum(x["x"].shape[0] * x["x"].shape[1] for x, _ in plain) < 0.6
    mates = [{mate for batch in order(data) if 0 in batch for mate in batch} for _ in range(2)]
    assert mates[0] != mates[1]
    lengths = [x["x"].shape[1] for x, _ in data]
    assert lengths != sorted(lengths)


def test_a_dropped_remainder_is_not_the_longest_rows():
    rows = [[1] * length for length in range(1, 12)]
    data = batches({"x": rows}, np.arange(11), 4, shuffle=True, drop_remainder=True)
    dropped = {frozenset(range(11)) - frozenset(chain(*order(data))) for _ in range(5)}
    assert len(dropped) > 1


def test_no_batch_is_padded_beyond_max_length():
    data = batches({"x": [[1] * 10, [1]]}, batch_size=1, max_length=10)
    assert [x["x"].shape[1] for x in data] == [10, 8]


def test_arrays_with_a_padding_mask_lose_their_padding():
    mask = np.array([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    features = {"token_ids": np.array([[7, 0, 9, 9, 9], [8, 9, 9, 9, 9]]), "padding_mask": mask}
    (x,) = batches(features, length_multiple=2)
    assert x["token_ids"].numpy().tolist() == [[7, 0], [8, 0]]
    assert x["padding_mask"].numpy().tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: 0"),
        ({"length_multiple": 0}, "`length_multiple` must be an integer of at least 1"),
        ({"window": 0}, "`window` must be an integer of at least 1"),
        ({"targets": [1]}, "`targets` must have 2 rows"),
        ({"targets": [1, 0], "sample_weight": 1.0}, "`sample_weight` must have 2 rows"),
        ({"sample_weight": [1, 1]}, "`sample_weight` must come with `targets`"),
        ({"max_length": 2}, "`max_length` must be at least the length of each row. Received: 2"),
        ({"features": {"x": []}}, "`features` must hold rows"),
        ({"features": {}}, "`features` must hold rows"),
        ({"features": {"x": [[1]], "y": [[1, 2]]}}, "other ones in `y` than in `x`"),
        ({"features": {"x": [[1]], "padding_mask": np.ones((1, 1))}}, None),
        ({"features": {"x": [[1, 2]], "padding_mask": np.ones((1, 1))}}, "arrays of one shape"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    arguments = {"features": {"x": [[1, 2, 3], [4]]}, **arguments}
    if message is None:
        assert len(batches(**arguments)) == 1
        return
    with pytest.raises(ValueError, match=message):
        batches(**arguments)


def test_keras_fits_and_predicts_in_order():
    rows = make_rows(50)
    ids = keras.Input((None,), dtype="int32", name="x")
    model = keras.Model({"x": ids}, keras.ops.max(ids, axis=1, keepdims=True))
    data = batches({"x": rows}, batch_size=8)
    assert model.predict(data, verbose=0).ravel().tolist() == list(range(1, 51))

    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(51, 2)(ids))
    model = keras.Model({"x": ids}, keras.layers.Dense(1)(hidden))
    model.compile("adam", "mse")
    train = batches({"x": rows}, np.ones(50), 8, shuffle=True)
    history = model.fit(train, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert history[2] < history[0]


def test_a_strategy_takes_its_share_of_each_batch():
    """In a process of its own: the number of devices is fixed when TensorFlow starts."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


TWO_REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kerasllm.data.batches import batches

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rows = [[i + 1] * (i % 9 + 1) for i in range(22)]
data = batches({"x": rows}, list(range(22)), 4, shuffle=True, drop_remainder=True)
seen = []
for x, y in strategy.experimental_distribute_dataset(data):
    for ids, targets in zip(strategy.experimental_local_results(x["x"]),
                            strategy.experimental_local_results(y)):
        assert ids.shape[0] == 2 and ids.shape[1] % 8 == 0, ids.shape
        assert (ids.numpy()[:, 0] - 1 == targets.numpy()).all()
        seen += targets.numpy().tolist()
assert len(seen) == len(set(seen)) == 20, seen
"""


@pytest.fixture(scope="module")
def tokenizer():
    texts = [row["text"] for row in read_rows("sample:reviews_en:test")]
    return WordPieceTokenizer.train(texts, vocab_size=300)


def test_texts_in_order_are_what_the_tokenizer_says(tokenizer):
    texts = [row["text"] for row in read_rows("sample:reviews_en:test")][:50]
    stream = tf.data.Dataset.from_tensor_slices((texts, np.arange(50)))
    data = text_batches(stream, tokenizer, max_length=30, batch_size=8)
    gc.collect()  # the dataset itself must keep the in-graph tokenizer alive
    assert len(data) == 7
    for x, targets in data:
        expected = tokenizer([texts[i] for i in targets.numpy()], max_length=30)
        length = min(-(-expected["token_ids"].shape[1] // 8) * 8, 30)
        assert set(x) == set(expected)
        for name, ids in expected.items():
            padded = np.pad(ids, [(0, 0), (0, length - ids.shape[1])])
            assert np.array_equal(x[name], padded), name
    (x,) = text_batches(stream.map(lambda text, _: text), tokenizer, max_length=30, batch_size=50)
    assert x["token_ids"].shape == (50, 30)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_shuffled_texts_come_once_and_padded_little(tokenizer, drop_remainder):
    texts = [row["text"] for row in read_rows("sample:reviews_en:test")]
    stream = tf.data.Dataset.from_tensor_slices((texts, np.arange(400), np.ones(400)))

    def make(stream=stream):
        return text_batches(
            stream,
            tokenizer,
            max_length=128,
            batch_size=12,
            shuffle=True,
            window=10,
            length_multiple=1,
            drop_remainder=drop_remainder,
        )

    data, again = make(), make()
    assert len(data) == (33 if drop_remainder else 34)
    assert int(make(stream.filter(lambda *_: True)).cardinality()) == tf.data.UNKNOWN_CARDINALITY
    epochs = [[y.numpy().tolist() for _, y, _ in data] for _ in range(2)]
    assert [[y.numpy().tolist() for _, y, _ in again] for _ in range(2)] == epochs
    assert epochs[0] != epochs[1]
    seen = list(chain(*epochs[0]))
    assert len(seen) == len(set(seen)) == (396 if drop_remainder else 400)
    assert seen != sorted(seen)
    masks = [x["padding_mask"].numpy() for x, _, _ in data]
    assert sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks) > 0.9


@pytest.mark.parametrize("elements", [["a", "b"], ([1, 2], ["a", "b"]), {"text": ["a"]}])
def test_a_stream_of_something_else_is_named(tokenizer, elements):
    stream = tf.data.Dataset.from_tensor_slices(elements)
    if elements == ["a", "b"]:
        stream = stream.batch(2)
    with pytest.raises(ValueError, match="`dataset` must be unbatched"):
        text_batches(stream, tokenizer, max_length=8)


def test_padding_is_small_on_real_sentences(data_dir):
    rows = [[1] * (len(row["text"].split()) + 2) for row in read_rows(data_dir / "sst2/train.txt")]
    data = batches({"x": rows}, np.zeros(len(rows)), 32, shuffle=True)
    shapes = [x["x"].shape for x, _ in data]
    assert sum(map(len, rows)) / sum(batch * length for batch, length in shapes) > 0.8
    assert len({length for _, length in shapes}) <= 8


def test_values_of_tokens_are_cut_and_padded_with_them():
    ids = np.array([[5, 6, 7, 0], [8, 0, 0, 0]])
    inputs = {"token_ids": ids, "padding_mask": (ids > 0).astype(int)}
    weight = np.array([[1, 0, 1, 9], [1, 9, 9, 9]], "float32")
    (batch,) = batches(inputs, ids * 10, 2, sample_weight=weight, length_multiple=3)
    features, targets, weights = tf.nest.map_structure(lambda x: x.numpy().tolist(), batch)
    assert features["token_ids"] == [[5, 6, 7], [8, 0, 0]]
    assert targets == [[50, 60, 70], [80, 0, 0]]
    assert weights == [[1, 0, 1], [1, 0, 0]]


def test_encoder_and_decoder_have_their_own_lengths():
    features = {
        "token_ids": [[5, 6, 7], [8]],
        "padding_mask": [[1, 1, 1], [1]],
        "decoder_token_ids": [[1], [2, 3]],
        "decoder_padding_mask": [[1], [1, 1]],
    }
    targets = [[3, 0, 0], [4, 5, 0]]
    weight = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    data = batches(features, targets, 2, sample_weight=weight, length_multiple=1)
    (batch,) = data
    features, targets, weights = tf.nest.map_structure(lambda x: x.numpy().tolist(), batch)
    assert features["token_ids"] == [[5, 6, 7], [8, 0, 0]]
    assert features["decoder_token_ids"] == [[1, 0], [2, 3]]
    assert (targets, weights) == ([[3, 0], [4, 5]], [[1, 0], [1, 1]])


def test_values_of_tokens_must_be_as_many():
    inputs = {"token_ids": [[5, 6, 7]]}
    with pytest.raises(ValueError, match=r"`targets` must have a value for each token.*\(1,\)"):
        batches(inputs, [1], sample_weight=[[1.0, 1.0, 1.0]])
