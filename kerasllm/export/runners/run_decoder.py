"""Run a language model's .tflite file in LiteRT: `run_decoder.py question.json answer.json`.

The question holds `file`, and `rows`: lists of token ids. Of each, the first half is read with the
`prefill` signatures, and the rest token by token. The answer holds `first`, the positions from
which on tokens are scored, `best`, the likeliest tokens to follow each of the others, `scores`, the
logarithms of the probabilities of those that do, all lists for each row, and `seconds`.
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
    interpreter = Interpreter(question["file"])
    signatures = {name: interpreter.get_signature_runner(name) for name in _names(interpreter)}
    start = time.perf_counter()
    first, best, scores = zip(*(_score(signatures, row) for row in question["rows"]))
    seconds = time.perf_counter() - start
    answers = {"first": first, "best": best, "scores": scores, "seconds": seconds}
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(answers, file)


def _names(interpreter):
    return [*interpreter.get_signature_list()]


def _score(signatures, row):
    inputs = signatures["decode"].get_input_details()
    cache = {
        name: np.zeros(tensor["shape"], tensor["dtype"])
        for name, tensor in inputs.items()
        if name.startswith("kv_cache")
    }
    first, best, scores = len(row) // 2, [], []
    for signature, start, tokens in _pieces(signatures, row[:first]):
        cache = _call(signature, tokens, start, cache)
    for position in range(first, len(row) - 1):
        cache = _call(signatures["decode"], row[position : position + 1], position, cache)
        logits = cache.pop("logits")[0, 0].astype("float64")
        best.append(int(logits.argmax()))
        logits -= logits.max()
        scores.append(float(logits[row[position + 1]] - np.log(np.exp(logits).sum())))
    return first, best, scores


def _pieces(signatures, row):
    """The pieces in which a text is read, the longest first: signature, position and tokens."""
    lengths = sorted(int(name.split("_")[1]) for name in signatures if name != "decode")
    start = 0
    while start < len(row):
        length = max(n for n in lengths if n <= len(row) - start)
        yield signatures[f"prefill_{length}"], start, row[start : start + length]
        start += length


def _call(signature, tokens, start, cache):
    positions = np.arange(start, start + len(tokens), dtype="int32")
    return signature(tokens=np.array([tokens], "int32"), input_pos=positions, **cache)


if __name__ == "__main__":
    main(*sys.argv[1:])
