import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_file import round_trip
from tiny_task import classifier, rows

from kerasllm.models import MaskedLM, SentenceEncoder
from kerasllm.tasks import text_classification
from kerasllm.training import AdamW, LinearWarmup, freeze, freeze_all_but_last, layer_rates

STEPS = 20
SHAPES = {"kernel": (4, 3), "bias": (3,), "gamma": (5,), "beta": (5,), "embeddings": (6, 4)}
REPEATED = [1, 4, 1, 0, 1]  # rows of the embedding that a batch asks for


def variables():
    random = np.random.default_rng(0)
    return [keras.Variable(random.normal(size=SHAPES[name]), name=name) for name in SHAPES]


def gradients(step, scale=1.0):
    """Of each variable; that of the embedding as TensorFlow gives it, with rows repeated."""
    random = np.random.default_rng(100 + step)
    found = {
        name: tf.constant(scale * random.normal(size=shape), tf.float32)
        for name, shape in SHAPES.items()
    }
    values = scale * random.normal(size=(len(REPEATED), 4))
    found["embeddings"] = tf.IndexedSlices(
        tf.constant(values, tf.float32), tf.constant(REPEATED), tf.constant([6, 4])
    )
    return found


def dense(gradient):
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient.numpy().astype(np.float64)
    found = np.zeros(gradient.dense_shape.numpy())
    np.add.at(found, gradient.indices.numpy(), gradient.values.numpy().astype(np.float64))
    return found


def numpy_adamw(
    values, rates, decay, factors=None, clip=None, beta_1=0.9, beta_2=0.999, epsilon=1e-6
):
    """Adam in the order of computation of its paper's section 2, and decoupled decay."""
    values = {name: value.astype(np.float64) for name, value in values.items()}
    mean = dict.fromkeys(values, 0.0)
    square = dict.fromkeys(values, 0.0)
    for t, rate in enumerate(rates, start=1):
        slopes = {name: dense(slope) for name, slope in gradients(t - 1).items()}
        norm = np.sqrt(sum((slope**2).sum() for slope in slopes.values()))
        for name, slope in slopes.items():
            slope = slope * (min(1, clip / norm) if clip else 1)
            own = rate * (factors or {}).get(name, 1)
            decayed = decay if name in ("kernel", "embeddings") else 0
            mean[name] = beta_1 * mean[name] + (1 - beta_1) * slope
            square[name] = beta_2 * square[name] + (1 - beta_2) * slope**2
            step = own * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
            values[name] = values[name] * (1 - own * decayed)
            values[name] -= step * mean[name] / (np.sqrt(square[name]) + epsilon)
    return values


def trained(optimizer, steps=STEPS, scale=1.0):
    places = variables()
    for step in range(steps):
        optimizer.apply(list(gradients(step, scale).values()), places)
    return {variable.name: variable.numpy() for variable in places}


def initial():
    return {variable.name: variable.numpy() for variable in variables()}


def check_close(found, wanted, tolerance=1e-6):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
@pytest.mark.parametrize("factors", [None, {"embeddings": 0.25, "bias": 0.5}])
def test_equals_numpy(clip, factors):
    optimizer = AdamW(0.01, weight_decay=0.1, rate_factors=factors, global_clipnorm=clip)
    check_close(trained(optimizer), numpy_adamw(initial(), [0.01] * STEPS, 0.1, factors, clip))


def test_equals_numpy_under_a_schedule_and_other_betas():
    schedule = LinearWarmup(0.02, STEPS, 5)
    optimizer = AdamW(schedule, weight_decay=0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-4)
    rates = [float(schedule(step)) for step in range(STEPS)]
    wanted = numpy_adamw(initial(), rates, 0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-4)
    check_close(trained(optimizer), wanted)


def test_equals_numpy_inside_a_graph():
    optimizer = AdamW(0.01, weight_decay=0.1, global_clipnorm=0.5)
    places = variables()
    optimizer.build(places)
    step = tf.function(lambda slopes: optimizer.apply(slopes, places))
    for number in range(STEPS):
        step(list(gradients(number).values()))
    found = {variable.name: variable.numpy() for variable in places}
    check_close(found, numpy_adamw(initial(), [0.01] * STEPS, 0.1, clip=0.5))


def test_equals_numpy_under_a_loss_scale():
    inner = AdamW(0.01, weight_decay=0.1, global_clipnorm=0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
    found = trained(optimizer, scale=1024.0)
    check_close(found, numpy_adamw(initial(), [0.01] * STEPS, 0.1, clip=0.5))
    assert inner.global_clipnorm == 0.5


def test_norms_and_biases_do_not_decay():
    optimizer = AdamW(0.1, weight_decay=0.2, rate_factors={"kernel": 0.5})
    places = variables()
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in places], places)
    before = initial()
    shares = {"kernel": 1 - 0.1 * 0.5 * 0.2, "embeddings": 1 - 0.1 * 0.2}
    found = {variable.name: variable.numpy() for variable in places}
    check_close(found, {name: shares.get(name, 1) * before[name] for name in before})


def test_amsgrad_is_keras_own():
    found = []
    for kind in (AdamW, keras.optimizers.Adam):
        optimizer, places = kind(0.01, weight_decay=0, epsilon=1e-6, amsgrad=True), variables()
        for step in range(5):  # dense, because Keras' own doesn't sum repeated rows
            slopes = [tf.constant(dense(slope), tf.float32) for slope in gradients(step).values()]
            optimizer.apply(slopes, places)
        found.append({variable.name: variable.numpy() for variable in places})
    check_close(*found)


def test_config_comes_back():
    optimizer = AdamW(
        LinearWarmup(3e-4, 50, 7),
        weight_decay=0.03,
        epsilon=1e-7,
        rate_factors={"kernel": 0.5},
        global_clipnorm=1.5,
        beta_2=0.98,
    )
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdamW
    assert again.get_config() == optimizer.get_config()
    assert (again.decay, again.rate_factors) == (0.03, {"kernel": 0.5})
    check_close(trained(again, 3), trained(optimizer, 3), tolerance=0)


def test_unknown_paths_in_rate_factors_are_named():
    optimizer = AdamW(rate_factors={"kernel": 1.0, "no/such": 0.5})
    with pytest.raises(ValueError, match=r"`rate_factors` must name .*\['no/such'\]"):
        optimizer.build(variables())


def batch(model):
    return text_classification.encode(model, rows(8))


def compiled(dtype=None, rate=0.0, **options):
    model = classifier(rate=rate, dtype=dtype)
    options = {"rate_factors": layer_rates(model.bert, 0.5), "global_clipnorm": 1.0, **options}
    model.compile(AdamW(LinearWarmup(0.01, 20, 2), **options), text_classification.loss())
    return model


def test_keras_file_goes_on_where_it_stopped(tmp_path):
    model = compiled()
    for _ in range(5):
        model.train_on_batch(*batch(model))
    again = round_trip(model, tmp_path)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert int(again.optimizer.iterations) == 5
    pairs = list(zip(model.optimizer.variables, again.optimizer.variables, strict=True))
    assert len(pairs) > 2 * len(model.trainable_variables)
    for old, new in pairs:
        np.testing.assert_array_equal(old.numpy(), new.numpy(), err_msg=old.path)
    model.reset_metrics()  # older versions of Keras give the mean loss since the last reset
    losses = [float(m.train_on_batch(*batch(model))) for m in (model, again) for _ in range(3)]
    assert losses[:3] == losses[3:]
    assert losses[2] < losses[0]


def test_float16_gets_a_loss_scale_and_keeps_float32_weights():
    model = compiled("mixed_float16")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(model.optimizer.inner_optimizer, AdamW)
    losses = [float(model.train_on_batch(*batch(model))) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


def test_float16_passes_over_a_step_that_overflows():
    model = compiled("mixed_float16", rate_factors=None)
    model.train_on_batch(*batch(model))
    before = [variable.numpy() for variable in model.trainable_variables]
    scale = float(model.optimizer.dynamic_scale)
    slopes = [tf.fill(variable.shape, np.inf) for variable in model.trainable_variables]
    model.optimizer.apply(slopes, model.trainable_variables)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert float(model.optimizer.dynamic_scale) == scale / 2


def test_layer_rates_fall_from_top_to_bottom():
    model = classifier(num_layers=2)
    found = layer_rates(model.bert, 0.5)
    wanted = {variable.path: 0.125 for variable in model.bert.embedding.trainable_variables}
    for block, factor in zip(model.bert.blocks, (0.25, 0.5), strict=True):
        wanted |= {variable.path: factor for variable in block.trainable_variables}
    assert found == wanted
    paths = [variable.path for variable in model.trainable_variables]
    assert len(set(paths)) == len(paths)
    assert set(paths) - set(found) == {
        f"{layer}/{name}" for layer in ("pooler", "classifier") for name in ("kernel", "bias")
    }


@pytest.mark.parametrize("decay", [0, -0.5, 1.1])
def test_layer_rates_checks_decay(decay):
    with pytest.raises(ValueError, match=f"`decay` must be above 0.*{decay}"):
        layer_rates(classifier().bert, decay)


def test_frozen_layers_keep_their_weights():
    model = classifier(num_layers=2)
    freeze(model.bert, 1)
    model.compile(AdamW(0.01), text_classification.loss())
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.train_on_batch(*batch(model))
    changed = {w.path for w in model.weights if (w.numpy() != before[w.path]).any()}
    assert not any(path.startswith(("embedding/", "block_0/")) for path in changed)
    assert {path.split("/")[0] for path in changed} >= {"block_1", "pooler", "classifier"}
    assert {path.split("/")[0] for path in layer_rates(model.bert, 0.5)} == {"block_1"}


@pytest.mark.parametrize("blocks", [-1, 3])
def test_freeze_checks_blocks(blocks):
    with pytest.raises(ValueError, match=f"`blocks` must be between 0 and 2.*{blocks}"):
        freeze(classifier(num_layers=2).bert, blocks)


def test_but_for_the_last_layer_all_stays():
    model = classifier()
    freeze_all_but_last(model)
    model.compile(AdamW(0.01), text_classification.loss())
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.train_on_batch(*batch(model))
    changed = {w.path for w in model.weights if (w.numpy() != before[w.path]).any()}
    assert changed == {"classifier/kernel", "classifier/bias"}


@pytest.mark.parametrize("kind", [MaskedLM, SentenceEncoder])
def test_a_head_without_a_dense_layer_at_its_end_is_refused(kind):
    model = kind(classifier().bert, family="bert")
    with pytest.raises(ValueError, match=f"`model` must have a head.*{kind.__name__}"):
        freeze_all_but_last(model)
    assert model.trainable_weights  # none is frozen by then
