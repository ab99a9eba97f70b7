"""Run a .tflite file in LiteRT's interpreter: `run_tflite.py question.json answer.json`.

The question holds `file`, `signature`, and `calls`: a list of `{name: rows of int}`, one call of
the signature each. The answer holds `inputs` and `outputs`, `{name: [shape, dtype]}` of the
signature, and `calls`: a list of `{"outputs": {name: rows of float}, "seconds": float}`.
"""

import json
import sys
import time

import numpy as np

# An artefact must not need them. `None` makes Python refuse the import.
for name in ("kerasllm", "keras_nlp", "keras_hub", "tensorflow"):
    sys.modules[name] = None


def main(question, answer):
    """Answer a question, both given as paths."""
    from ai_edge_litert.interpreter import Interpreter  # only now that the others are refused

    with open(question, encoding="utf-8") as file:
        question = json.load(file)
    signature = Interpreter(question["file"]).get_signature_runner(question["signature"])
    answers = {
        "inputs": _describe(signature.get_input_details()),
        "outputs": _describe(signature.get_output_details()),
        "calls": [_run(signature, call) for call in question["calls"]],
    }
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(answers, file)


def _describe(tensors):
    return {
        name: [tensor["shape"].tolist(), np.dtype(tensor["dtype"]).name]
        for name, tensor in tensors.items()
    }


def _run(signature, inputs):
    types = {name: tensor["dtype"] for name, tensor in signature.get_input_details().items()}
    inputs = {name: np.array(rows, types[name]) for name, rows in inputs.items()}
    start = time.perf_counter()
    outputs = signature(**inputs)
    seconds = time.perf_counter() - start
    return {"outputs": {name: v.tolist() for name, v in outputs.items()}, "seconds": seconds}


if __name__ == "__main__":
    main(*sys.argv[1:])
