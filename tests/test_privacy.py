"""Differentially private training: gradients clipped row by row, noise, and what is spent."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_task import classifier, rows

from kerasllm.data.batches import batches
from kerasllm.training import Privacy, fit
from kerasllm.training.privacy import _row, private_step


class Exact(Privacy):
    """No noise, and nothing to count."""

    def noise(self, rate, steps):
        return 0.0

    def spent(self, rate, noise, steps):
        return 0.0


def test_a_step_is_the_mean_of_clipped_gradients():
    model = classifier(rate=0.0)
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(True))
    inputs = model.tokenizer([row["text"] for row in rows(4)], max_length=16)
    targets = np.array([0, 1, 1, 0])
    names, before = list(model.input), [w.numpy() for w in model.trainable_weights]
    inputs = {name: inputs[name] for name in names}
    wanted = [np.zeros_like(w) for w in before]
    for i in range(4):
        with tf.GradientTape() as tape:
            logits = model({name: x[i : i + 1] for name, x in inputs.items()}, training=True)
            loss = keras.losses.SparseCategoricalCrossentropy(True)(targets[i : i + 1], logits)
        found = tape.gradient(loss, [w.value for w in model.trainable_weights])
        found = [tf.convert_to_tensor(g).numpy() for g in found]
        norm = np.sqrt(sum(np.sum(g**2) for g in found))
        assert norm > 0.3  # clipped
        wanted = [total + g * 0.3 / norm / 4 for total, g in zip(wanted, found)]
    step = private_step(model, Exact(1.0, clip_norm=0.3), 0.0, 4, seed=0)
    step((tf.nest.map_structure(tf.constant, inputs), tf.constant(targets)))
    for weight, old, gradient in zip(model.trainable_weights, before, wanted):
        np.testing.assert_allclose(weight.numpy(), old - gradient, atol=1e-5)


def test_a_row_loses_its_padding_alone():
    features = {"token_ids": [[5, 6, 7], [8]], "decoder_token_ids": [[1], [2, 3]]}
    masks = {"padding_mask": [[1, 1, 1], [1, 0, 0]], "decoder_padding_mask": [[1, 0], [1, 1]]}
    features["token_ids"][1] += [0, 0]
    features["decoder_token_ids"][0] += [0]
    x = {name: tf.constant(values) for name, values in {**features, **masks}.items()}
    y, weight = tf.constant([[9, 0], [9, 9]]), tf.constant([[1.0, 0.0], [1.0, 1.0]])
    row, targets, weights = _row((x, y, weight), 1)
    assert {name: values.numpy().tolist() for name, values in row.items()} == {
        "token_ids": [[8]],
        "padding_mask": [[1]],
        "decoder_token_ids": [[2, 3]],
        "decoder_padding_mask": [[1, 1]],
    }
    assert targets.numpy().tolist() == [[9, 9]] and weights.numpy().tolist() == [[1.0, 1.0]]
    row, targets, weights = _row((x, y, weight), 0)
    assert row["token_ids"].shape == (1, 3) and targets.numpy().tolist() == [[9]]
    of_row = {name: x[name] for name in ("token_ids", "padding_mask")}
    row, targets, weights = _row((of_row, tf.constant([[1, 0, 1], [0, 1, 1]])), 1)
    assert targets.numpy().tolist() == [[0, 1, 1]] and weights is None  # labels, not tokens


def test_noise_is_as_large_as_it_should_be():
    model = classifier(rate=0.0)
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(True))
    before = [w.numpy() for w in model.trainable_weights]
    step = private_step(model, Privacy(1.0, clip_norm=1e-6), 2e6, 8, seed=0)
    step(next(iter(batches(*_encoded(model), 4))))
    moved = np.concatenate(
        [(w.numpy() - b).ravel() for w, b in zip(model.trainable_weights, before)]
    )
    assert moved.std() == pytest.approx(2e6 * 1e-6 / 8, rel=0.02)
    assert abs(moved.mean()) < 0.01


def _encoded(model):
    inputs = model.tokenizer([row["text"] for row in rows(4)], max_length=16)
    return inputs, np.zeros(4, int)


def test_batches_are_drawn():
    ids = [[i + 1] for i in range(100)]
    drawn = [
        [batch["token_ids"][:, 0].numpy() - 1 for batch in data]
        for data in [batches({"token_ids": ids}, batch_size=10, sampled=True, seed=3)] * 40
    ]
    assert all(len(epoch) == 10 for epoch in drawn)
    sizes = np.array([len(batch) for epoch in drawn for batch in epoch])
    assert abs(sizes.mean() - 10) < 3 * 3 / np.sqrt(400)
    assert 7 < sizes.var() < 11  # 9 of a binomial distribution
    counts = np.bincount(np.concatenate([b for epoch in drawn for b in epoch]), minlength=100)
    assert counts.min() > 15 and counts.max() < 70  # 40 in the mean, each


def test_training_spends_what_may_be_spent():
    pytest.importorskip("dp_accounting", reason="the package dp-accounting isn't installed")
    model = classifier(rate=0.0)
    privacy = Privacy(8.0, delta=1e-3, clip_norm=1.0)
    history = fit(
        model,
        rows(64),
        epochs=3,
        batch_size=16,
        learning_rate=3e-3,
        privacy=privacy,
        progress=False,
    )
    assert history["epsilon"] == sorted(history["epsilon"])
    assert 7.5 < history["epsilon"][-1] <= 8.0
    assert len(history["loss"]) == 3 and np.isfinite(history["loss"]).all()
    assert "train_step" not in vars(model)


def test_the_accountant_agrees_with_another():
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting isn't installed")
    pld = pytest.importorskip("dp_accounting.pld", reason="dp-accounting isn't installed")
    rate, steps = 256 / 6920, 140
    privacy = Privacy(3.0)
    noise = privacy.noise(rate, steps)
    event = accounting.GaussianDpEvent(noise)
    event = accounting.SelfComposedDpEvent(accounting.PoissonSampledDpEvent(rate, event), steps)
    other = pld.PLDAccountant()  # privacy loss distributions: exact but for rounding
    found = other.compose(event).get_epsilon(privacy.delta)
    assert 0.85 * 3.0 < found <= privacy.spent(rate, noise, steps) <= 3.0


def test_without_noise_it_learns():
    model = classifier(rate=0.0)
    options = dict(batch_size=8, learning_rate=3e-3, progress=False)
    history = fit(model, rows(64), epochs=8, privacy=Exact(1.0), **options)
    assert history["accuracy"][-1] > 0.9


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"delta": 1.0}, {"clip_norm": -1.0}])
def test_wrong_numbers_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Privacy(**{"epsilon": 1.0, **wrong})


def test_it_needs_rows_and_no_backup(tmp_path):
    model = classifier()
    with pytest.raises(TypeError, match="`train` must be rows"):
        fit(model, batches(*_encoded(model), 2), privacy=Privacy(1.0), progress=False)
    with pytest.raises(ValueError, match="`privacy` must come without `backup`"):
        fit(model, rows(8), privacy=Privacy(1.0), backup=tmp_path / "b", progress=False)
