import keras
import numpy as np
import pytest

from kerasllm.training import LinearWarmup


def rates(schedule, steps):
    return keras.ops.convert_to_numpy(schedule(np.array(steps)))


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5, 1.0), (10, 2.0), (55, 1.0), (100, 0.0), (101, 0.0), (10_000, 0.0)],
)
def test_rises_to_the_peak_and_falls_to_zero(step, rate):
    found = LinearWarmup(2.0, total_steps=100, warmup_steps=10)(step)
    assert float(found) == pytest.approx(rate, abs=1e-6)


def test_without_warmup_the_first_step_is_the_peak():
    np.testing.assert_allclose(
        rates(LinearWarmup(1.0, 4), [0, 1, 2, 3, 4]), [1, 0.75, 0.5, 0.25, 0]
    )


def test_with_nothing_but_warmup_the_last_step_is_the_highest():
    np.testing.assert_allclose(
        rates(LinearWarmup(1.0, 4, 4), [0, 1, 2, 3, 4]), [0, 0.25, 0.5, 0.75, 0]
    )


def test_vectors_are_mapped_step_by_step():
    schedule = LinearWarmup(3e-4, 50, 7)
    steps = np.arange(60)
    found = rates(schedule, steps)
    assert found.shape == (60,)
    assert found.argmax() == 7
    np.testing.assert_allclose(found, [float(schedule(step)) for step in steps], rtol=1e-6)


def test_serialised_it_comes_back_the_same():
    schedule = LinearWarmup(3e-4, 50, 7)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert type(again) is LinearWarmup
    assert again.get_config() == schedule.get_config()
    assert again.get_config() == {"peak": 3e-4, "total_steps": 50, "warmup_steps": 7}
    assert float(again(20)) == float(schedule(20))


def test_an_optimizer_of_keras_follows_it():
    optimizer = keras.optimizers.SGD(LinearWarmup(1.0, 4, 2))
    variable = keras.Variable(0.0)
    found = []
    for _ in range(5):
        before = float(variable.numpy())
        optimizer.apply([keras.ops.ones(())], [variable])
        found.append(before - float(variable.numpy()))
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(("total", "warmup"), [(10, 11), (10, -1)])
def test_warmup_must_lie_within_the_run(total, warmup):
    with pytest.raises(ValueError, match=f"`warmup_steps` must be.*warmup_steps={warmup}"):
        LinearWarmup(1.0, total, warmup)
