"""Models: a backbone and a head, a `keras.Model`."""

from kerasllm.models.text_classifier import BertClassifier

__all__ = ["BertClassifier"]
