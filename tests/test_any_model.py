"""Models that are no text classifiers train through `fit` and leave through the same exports."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from kerasllm import fit, to_saved_model, to_tflite


def write_images(folder, count=8, size=32):
    """An image folder with a subfolder a class: dark and light squares with noise."""
    random = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            image = random.normal(level, 20, (size, size, 3)).clip(0, 255)
            keras.utils.save_img(folder / label / f"{i}.png", image, scale=False)


def test_resnet50_on_an_image_folder(tmp_path):
    write_images(tmp_path / "images")
    images = keras.utils.image_dataset_from_directory(
        tmp_path / "images", image_size=(32, 32), batch_size=8, seed=0, verbose=False
    )
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=2)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = fit(model, images, epochs=2, progress=False)
    assert len(history["loss"]) == 2
    examples = np.concatenate([batch for batch, _ in images])[:3]
    expected = model.predict(examples, verbose=0)

    report = to_saved_model(model, tmp_path / "serving", inputs=examples)
    assert report.largest_difference <= 1e-5
    served = tf.saved_model.load(str(tmp_path / "serving" / "1")).signatures["serving_default"]
    (name,) = served.structured_input_signature[1]
    np.testing.assert_allclose(
        served(**{name: tf.constant(examples)})["output"], expected, atol=1e-5
    )

    report = to_tflite(model, tmp_path / "resnet.tflite", inputs=examples, quantize="float16")
    assert report.sentences == 3
    signature = Interpreter(str(tmp_path / "resnet.tflite")).get_signature_runner()
    found = [signature(**{name: row[None]})["output"][0] for row in examples]
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.fixture(scope="module")
def two_inputs():
    keras.utils.set_random_seed(0)
    ids = keras.Input((4,), dtype="int32", name="ids")
    scale = keras.Input((3,), name="scale")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 3)(ids)) * scale
    outputs = {"sum": keras.layers.Dense(1)(x), "vector": keras.layers.Dense(5)(x)}
    return keras.Model({"ids": ids, "scale": scale}, outputs)


def examples(count=3):
    random = np.random.default_rng(0)
    return {
        "ids": random.integers(0, 10, (count, 4)),
        "scale": random.normal(size=(count, 3)).astype("float32"),
    }


def test_several_inputs_and_outputs(two_inputs, tmp_path):
    inputs = examples()
    assert to_saved_model(two_inputs, tmp_path / "m", inputs=inputs).largest_difference < 1e-6
    to_tflite(two_inputs, tmp_path / "m.tflite", inputs=inputs)
    signature = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()
    assert set(signature.get_output_details()) == {"sum", "vector"}
    row = {"ids": inputs["ids"][:1].astype("int32"), "scale": inputs["scale"][:1]}
    np.testing.assert_allclose(signature(**row)["vector"], two_inputs(row)["vector"], atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "`model` must be .*text.classifier.* Received: .*Functional.*`inputs`"),
        ({"ids": np.ones((1, 4))}, r"must be examples for \['ids', 'scale'\]. Received: \['ids'\]"),
        ({**examples(), "ids": np.ones((3, 5))}, r"`ids` the shape \(None, 4\).*\(3, 5\)"),
        ({**examples(), "ids": np.ones((2, 4))}, "at least one example"),
        (examples(0), "at least one example"),
    ],
    ids=str,
)
def test_wrong_inputs(two_inputs, inputs, message, tmp_path):
    for export in (to_saved_model, to_tflite):
        with pytest.raises(ValueError, match=message):
            export(two_inputs, tmp_path / "m", inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_refused(tmp_path):
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be a functional `keras.Model`.*Received: Own"):
        to_tflite(Own(), tmp_path / "m", inputs=np.ones((1, 2)))
    mixed = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="mixed_float16")])
    with pytest.raises(ValueError, match="must compute in float32.*float16"):
        to_saved_model(mixed, tmp_path / "m", inputs=np.ones((1, 2)))
    assert list(tmp_path.iterdir()) == []
