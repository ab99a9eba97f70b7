"""A model through a `.keras` file and back."""

import warnings

import keras


def round_trip(model, folder):
    """Save the model in `folder`, load it in its place, without naming any of our classes."""
    with warnings.catch_warnings():
        # Keras 3.15 hands its variables to NumPy 2 in a form that NumPy is about to drop.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save(folder / "model.keras")
        return keras.saving.load_model(folder / "model.keras")
