import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_task import classifier, tiny_config
from tiny_tasks import on_one_backbone, rows, several

from kerasllm import evaluate, to_saved_model
from kerasllm.data.batches import batches
from kerasllm.models import PairMaskedLM, Seq2SeqLM, TextClassifier
from kerasllm.tasks import masked_lm_pairs, task_of, text_classification, text_regression
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.training import MultiTask, Privacy, fit, layer_rates, mixing_weights

QUICK = {"batch_size": 16, "learning_rate": 0.01, "progress": False}
WEIGHTS = {"sentiment": 3, "stars": 1}
TRAIN, VALIDATION = rows(48), rows(20, seed=1)


def for_each(value, names=("sentiment", "stars")):
    return dict.fromkeys(names, value)


def values_of(variables):
    return [variable.numpy() for variable in variables]


class Spy(keras.callbacks.Callback):
    """The weights at the ends of epochs, which may fail then."""

    def __init__(self, fails_in=None):
        super().__init__()
        self.weights, self.fails_in = [], fails_in

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.fails_in:
            raise RuntimeError("the machine went down")

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(values_of(self.model.weights))


@pytest.fixture(scope="module")
def trained():
    """Three models trained together, the history, and what a spy saw."""
    model, spy = several({**WEIGHTS, "masked": 1}), Spy()
    names = tuple(model.models)
    data = for_each(TRAIN * 3, names), for_each(VALIDATION, names)
    options = {**QUICK, "batch_size": 20, "epochs": 4}
    return model, fit(model, *data, callbacks=[spy], **options), spy


# ------------------------------------------------------------------------------------ one step


def gradient(tape, loss, variables):
    """All of it as one vector."""
    zero = tf.UnconnectedGradients.ZERO
    variables = [variable.value for variable in variables]
    parts = tape.gradient(loss, variables, unconnected_gradients=zero)
    return np.concatenate([np.ravel(tf.convert_to_tensor(part)) for part in parts])


def test_the_gradient_is_the_weighted_sum_of_the_tasks_own():
    model = several({"sentiment": 2.0, "stars": 1.0, "masked": 0.5}, rate=0.0)
    model.compile("sgd")
    sentiment, stars, masked = model.models.values()
    inputs, targets, weights = {}, {}, {}
    inputs["sentiment"], targets["sentiment"] = text_classification.encode(sentiment, TRAIN[:9])
    inputs["stars"], targets["stars"] = text_regression.encode(stars, TRAIN[9:13])
    inputs["masked"] = masked.tokenizer([row["text"] for row in TRAIN[:5]], max_length=16)
    targets["masked"] = inputs["masked"]["token_ids"]
    weights = {"sentiment": np.ones(9), "stars": np.ones(4)}
    weights["masked"] = inputs["masked"]["padding_mask"]
    variables = model.trainable_variables
    wanted, wanted_loss = 0, 0
    for (name, each), share in zip(model.models.items(), (4 / 7, 2 / 7, 1 / 7)):
        with tf.GradientTape() as tape:
            loss = each.loss(targets[name], each(inputs[name], training=True), weights[name])
        wanted += share * gradient(tape, loss, variables)
        wanted_loss += share * float(loss)
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = model.compute_loss(inputs, targets, outputs, weights)
    assert float(loss) == pytest.approx(wanted_loss, rel=1e-6)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(gradient(tape, loss, variables), wanted, rtol=0, atol=1e-6)


def test_variables_are_trained_once_each():
    model = several(WEIGHTS)
    heads = [2 * 2, 2 * 2]  # pooler and classifier, kernel and bias
    assert len(model.trainable_variables) == len(model.backbone.trainable_variables) + sum(heads)


@pytest.mark.parametrize(
    ("weights", "batch_size", "rows"),
    [
        ({"sentiment": 3, "stars": 1}, 32, {"sentiment": 24, "stars": 8}),
        ({"sentiment": 0.2, "stars": 0.1}, 8, {"sentiment": 5, "stars": 3}),
        ({"sentiment": 1000, "stars": 1}, 8, {"sentiment": 8, "stars": 1}),
    ],
)
def test_rows_are_dealt_out_by_weight(weights, batch_size, rows):
    model = several(weights)
    assert model.rows(batch_size) == rows
    assert sum(model.shares.values()) == pytest.approx(1)
    assert model.shares["sentiment"] == pytest.approx(weights["sentiment"] / sum(weights.values()))


def test_without_weights_all_are_alike():
    assert MultiTask(on_one_backbone("sentiment", "stars")).shares == for_each(0.5)


def test_weights_by_sizes_are_those_of_the_paper():
    sizes = {"a": 3_000, "b": 90_000, "c": 100}
    assert mixing_weights(sizes) == sizes
    assert mixing_weights(sizes, limit=3_000) == {"a": 3_000, "b": 3_000, "c": 100}
    found = mixing_weights(sizes, temperature=2, limit=10_000)
    rates = np.array([3_000, 10_000, 100]) / 13_100
    wanted = rates**0.5 / sum(rates**0.5)  # "raise each task's mixing rate to 1/T, renormalize"
    np.testing.assert_allclose(np.array([*found.values()]) / sum(found.values()), wanted)


# ------------------------------------------------------------------------------------ the data


def numbered(count, batch_size, first=0):
    """Batches of texts of one token, which is the number of the row, and the target too."""
    ids = np.arange(first, first + count)
    return batches({"token_ids": ids[:, None]}, ids, batch_size, length_multiple=1)


def test_an_epoch_is_as_long_as_the_longest_and_the_others_begin_anew():
    mixed = several(WEIGHTS).mixed({"sentiment": numbered(10, 3), "stars": numbered(5, 2, 100)})
    assert int(mixed.cardinality()) == 4
    steps = [{name: y.numpy().tolist() for name, y in targets.items()} for _, targets, _ in mixed]
    assert [step["sentiment"] for step in steps] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert [step["stars"] for step in steps] == [[100, 101], [102, 103], [104], [100, 101]]
    inputs, _, weights = next(iter(mixed))
    assert inputs["stars"]["token_ids"].numpy().tolist() == [[100], [101]]
    assert weights["stars"].numpy().tolist() == [1, 1]


def test_an_epoch_may_be_of_so_many_steps():
    model = several(WEIGHTS, steps=7)
    data = {"sentiment": numbered(10, 3).repeat(), "stars": numbered(5, 2)}
    assert int(model.mixed(data).cardinality()) == len(list(model.mixed(data))) == 7


def test_data_must_end_or_the_epoch_and_must_not_be_empty():
    model = several(WEIGHTS)
    endless = for_each(numbered(6, 2).repeat())
    with pytest.raises(ValueError, match="`train` must have a known number of batches"):
        fit(model, endless, **QUICK)
    with pytest.raises(ValueError, match="must not be empty.*'stars': 0"):
        model.mixed({"sentiment": numbered(6, 2), "stars": numbered(6, 2).take(0)})


# ------------------------------------------------------------------------------------ training


def test_all_tasks_are_learnt(trained):
    model, history, _ = trained
    assert max(history["val_sentiment_accuracy"]) == 1.0
    assert min(history["val_stars_error"]) < 0.25
    assert history["masked_perplexity"][-1] < 0.9 * history["masked_perplexity"][0]
    assert evaluate(model.models["sentiment"], VALIDATION).accuracy == 1.0
    assert evaluate(model.models["stars"], VALIDATION).pearson > 0.9


def test_history_has_the_figures_of_each_task(trained):
    model, history, _ = trained
    figures = {
        *("sentiment_loss", "sentiment_accuracy", "stars_loss", "stars_error"),
        *("masked_loss", "masked_perplexity", "masked_accuracy"),
    }
    validation = {f"val_{name}" for name in figures}
    assert set(history) == {"loss", "val_loss", "learning_rate", *figures, *validation}
    for kind in ("", "val_"):
        losses = [np.array(history[f"{kind}{name}_loss"]) for name in model.shares]
        wanted = np.dot([*model.shares.values()], losses)
        np.testing.assert_allclose(history[f"{kind}loss"], wanted, rtol=0.02 if not kind else 1e-6)


def test_validation_is_on_all_rows_once_and_the_best_epoch_is_kept(trained):
    model, history, spy = trained
    best = int(np.argmin(history["val_loss"]))
    for found, wanted in zip(model.weights, spy.weights[best], strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)
    sentiment = model.models["sentiment"]
    data = batches(*text_classification.encode(sentiment, VALIDATION), batch_size=7)
    found = sentiment.evaluate(data, return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(history["val_sentiment_loss"][best], rel=1e-5)
    assert found["accuracy"] == pytest.approx(history["val_sentiment_accuracy"][best])


def test_each_model_is_its_own_afterwards(trained, tmp_path):
    model, _, _ = trained
    for name, each in model.models.items():
        each.save_pretrained(tmp_path / name)
        again = type(each).from_pretrained(tmp_path / name)
        assert task_of(again) is model.tasks[name]
        inputs = each.tokenizer(["the film was good"], max_length=16)
        np.testing.assert_array_equal(again(inputs), each(inputs))
    report = to_saved_model(model.models["sentiment"], tmp_path / "serving", max_length=16)
    assert report.largest_difference <= 1e-5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15
def test_backup_goes_on_where_a_crash_came(tmp_path):
    options = {**QUICK, "epochs": 2}
    undisturbed = several(WEIGHTS, rate=0.0)
    wanted = fit(undisturbed, for_each(TRAIN), for_each(VALIDATION), **options)
    options["backup"] = tmp_path / "backup"
    broken, crash = several(WEIGHTS, rate=0.0), Spy(fails_in=1)
    with pytest.raises(RuntimeError, match="went down"):
        fit(broken, for_each(TRAIN), for_each(VALIDATION), callbacks=[crash], **options)
    model = several(WEIGHTS, rate=0.0, seed=99)
    found = fit(model, for_each(TRAIN), for_each(VALIDATION), **options)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5, err_msg=name)
    assert not (tmp_path / "backup").exists()


def test_frozen_blocks_layer_rates_and_mixed_precision():
    model = several(WEIGHTS, num_layers=2, dtype="mixed_float16")
    before = {id(weight): weight.numpy() for weight in model.weights}
    fit(model, for_each(TRAIN), epochs=1, freeze_blocks=1, layer_decay=0.5, **QUICK)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.inner_optimizer.rate_factors == layer_rates(model.backbone, 0.5)
    frozen = [*model.backbone.embedding.weights, *model.backbone.blocks[0].weights]
    for weight in model.weights:
        same = np.array_equal(weight.numpy(), before[id(weight)])
        assert same == any(weight is each for each in frozen), weight.path


# ------------------------------------------------------------------------------------ other models


def test_one_model_for_two_tasks():
    tokenizer = WordPieceTokenizer.train(["the film was good"] * 9, vocab_size=60)
    changes = dict(num_decoder_layers=1, num_segments=0, max_length=16)
    config = tiny_config(tokenizer.vocab_size, positions="sinusoidal", **changes)
    model = Seq2SeqLM(config, family="transformer", tokenizer=tokenizer)
    names = ("translation", "denoising")
    both = MultiTask(for_each(model, names), tasks={name: name for name in names})
    texts = ["the film was good", "good was the film"] * 4
    data = {
        "translation": [{"source": text, "target": text} for text in texts],
        "denoising": [{"text": text} for text in texts],
    }
    history = fit(both, data, epochs=1, **QUICK)
    assert {"translation_loss", "denoising_loss"} <= history.keys()
    assert len(both.trainable_variables) == len(model.trainable_variables)


def test_a_model_of_several_outputs():
    sentiment = classifier()
    pairs = PairMaskedLM(sentiment.backbone, family="bert", tokenizer=sentiment.tokenizer)
    model = MultiTask({"sentiment": sentiment, "pairs": pairs}, {"sentiment": 3, "pairs": 1})
    texts = ["the film was good", "a dull room today", "", "the soup was bad", "really great"] * 9
    source = masked_lm_pairs.dataset(pairs, texts, batch_size=model.rows(16)["pairs"])
    history = fit(model, {"sentiment": TRAIN, "pairs": source}, epochs=1, **QUICK)
    assert {"sentiment_accuracy", "pairs_tokens_loss", "pairs_pair_accuracy"} <= history.keys()
    losses = (history[f"{name}_loss"][0] for name in ("sentiment", "pairs_tokens", "pairs_pair"))
    assert history["loss"][0] == pytest.approx(np.dot([0.75, 0.25, 0.25], [*losses]), rel=0.02)


# ------------------------------------------------------------------------------------ errors


def like(model, **changes):
    """A classifier with a model's backbone and tokenizer, but for the changes."""
    parts = {"backbone": model.backbone, "tokenizer": model.tokenizer, **changes}
    return TextClassifier(2, family="bert", **parts)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda model: classifier(), "share one backbone.*that of 'b' is another.*that of 'a'"),
        (lambda model: like(model, tokenizer=None), "`models` must share one tokenizer.*'b'"),
        (lambda model: keras.Sequential(), "share one backbone"),
    ],
)
def test_models_must_share(other, message):
    model = classifier()
    with pytest.raises(ValueError, match=message):
        MultiTask({"a": model, "b": other(model)})


@pytest.mark.parametrize("models", [[], {}, {"a": 1}], ids=str)
def test_there_must_be_several_models(models):
    with pytest.raises(ValueError, match="`models` must be a dict of at least two models"):
        MultiTask(models)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": {"a": 1}}, ValueError, "`weights` must.*names a, b. Received: ..a..."),
        ({"weights": {"a": 1, "b": 1, "c": 1}}, ValueError, "names a, b. Received.*'c'"),
        ({"weights": [1, 1]}, ValueError, "`weights` must be a dict.*a list"),
        ({"weights": {"a": 1, "b": 0}}, ValueError, "`weights` must be above 0. Received"),
        ({"weights": {"a": 1, "b": float("nan")}}, ValueError, "`weights` must be above 0"),
        ({"tasks": {"c": "denoising"}}, ValueError, "`tasks` must have names of the models, a, b"),
        ({"tasks": {"a": "nothing"}}, ValueError, "`task` must be one of"),
        ({"tasks": {"a": "masked_lm"}}, TypeError, "must be a MaskedLM for the task 'masked_lm'"),
        ({"steps": 0}, ValueError, "`steps` must be an integer of at least 1. Received: 0"),
    ],
)
def test_arguments_are_checked(options, error, message):
    model = classifier()
    with pytest.raises(error, match=message):
        MultiTask({"a": model, "b": like(model)}, **options)


def test_a_task_must_train_the_model():
    model = classifier()
    own = type("Own", (keras.Model,), {"backbone": model.backbone, "tokenizer": model.tokenizer})
    with pytest.raises(TypeError, match="`models` must each be.*Received: a Own as 'b'"):
        MultiTask({"a": model, "b": own()})


@pytest.mark.parametrize(
    "data", [TRAIN, {"sentiment": TRAIN}, for_each(TRAIN, "ab")], ids=["rows", "one", "others"]
)
def test_data_must_have_the_names_of_the_models(data):
    model = several(WEIGHTS)
    with pytest.raises(ValueError, match="`train` must be a dict with the names sentiment, stars"):
        fit(model, data, **QUICK)
    with pytest.raises(ValueError, match="`validation` must be a dict with the names sentiment"):
        fit(model, for_each(TRAIN), data, **QUICK)


def test_privacy_is_for_one_task():
    with pytest.raises(TypeError, match="`train` must be rows of a task.*Received: a dict"):
        fit(several(WEIGHTS), for_each(TRAIN), privacy=Privacy(3.0), **QUICK)
