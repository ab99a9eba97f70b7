"""Run a SavedModel with TensorFlow alone: `run_saved_model.py question.json answer.json`.

The question holds `folder`, and `calls`: a list of `{"signature": name, "inputs": {name: values}}`.
`"tensorflow_text": false` in it says that TensorFlow Text must not be needed.
The answer holds a list of `{"outputs": {name: values}, "seconds": float}`. JSON knows no bytes, so
strings travel as Latin-1, one character for one byte.
"""

import json
import sys
import time

# An artefact must not need them. `None` makes Python refuse the import.
for name in ("kerasllm", "keras_nlp", "keras_hub"):
    sys.modules[name] = None


def main(question, answer):
    """Answer a question, both given as paths."""
    with open(question, encoding="utf-8") as file:
        question = json.load(file)
    import tensorflow as tf  # only now that the others are refused

    if question.get("tensorflow_text", True):
        import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)
    loaded = tf.saved_model.load(question["folder"])  # it must outlive its signatures
    answers = []
    for call in question["calls"]:
        signature = loaded.signatures[call["signature"]]
        dtypes = {key: spec.dtype for key, spec in signature.structured_input_signature[1].items()}
        inputs = {
            key: tf.constant(_to_bytes(values) if dtypes[key] == tf.string else values, dtypes[key])
            for key, values in call["inputs"].items()
        }
        start = time.perf_counter()
        outputs = {key: tensor.numpy() for key, tensor in signature(**inputs).items()}
        seconds = time.perf_counter() - start
        outputs = {key: _to_list(value.tolist()) for key, value in outputs.items()}
        answers.append({"outputs": outputs, "seconds": seconds})
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(answers, file)


def _to_bytes(strings):
    if isinstance(strings, list):
        return [_to_bytes(item) for item in strings]
    return strings.encode("latin-1")


def _to_list(value):
    if isinstance(value, list):
        return [_to_list(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


if __name__ == "__main__":
    main(*sys.argv[1:])
