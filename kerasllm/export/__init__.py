"""Exports: a trained model as an artefact that runs without this package, verified on the spot."""

from kerasllm.export.artefact import load_artefact
from kerasllm.export.litert_lm import to_litert_lm
from kerasllm.export.saved_model import to_saved_model
from kerasllm.export.tflite import to_tflite
from kerasllm.export.verify import Report

TARGETS = {"saved_model": to_saved_model, "tflite": to_tflite, "litert_lm": to_litert_lm}

__all__ = ["load_artefact", "TARGETS", "Report", "to_litert_lm", "to_saved_model", "to_tflite"]
