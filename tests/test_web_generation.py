"""The loop for browsers, `export/generation/web/generate.js`, run by node: as the one in Python.

Both run a model that is none: its cache holds tokens and places, from which it reckons scores of
which many are equal. `fixtures/run_generate.mjs` has it in JavaScript, without a module of npm's.
"""

import importlib.util
import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

KIT = pathlib.Path(__file__).parents[1] / "export" / "generation"
RUNNER = pathlib.Path(__file__).parent / "fixtures" / "run_generate.mjs"
ROWS, LENGTHS, VOCABULARY = 24, (1, 8, 4), 11
SHAPE = (1, 1, ROWS, 1)


class Interpreter:
    """Stands for LiteRT's."""

    def __init__(self, pieces):
        self.pieces = pieces

    def get_signature_list(self):
        return [*(f"prefill_{length}" for length in LENGTHS), "decode"]

    def get_signature_runner(self, name):
        return Signature(name, self.pieces)


class Signature:
    """One signature of the model; what it is asked is noted in `pieces`."""

    def __init__(self, name, pieces):
        self.name, self.pieces = name, pieces

    def get_input_details(self):
        row = {"shape": np.array(SHAPE), "dtype": np.float32}
        return {"tokens": {}, "kv_cache_k_0": row, "kv_cache_v_0": row}

    def __call__(self, tokens, input_pos, kv_cache_k_0, kv_cache_v_0):
        self.pieces.append([self.name, *input_pos.tolist()])
        k, v = kv_cache_k_0.copy(), kv_cache_v_0.copy()
        k[0, 0, input_pos, 0], v[0, 0, input_pos, 0] = tokens[0], input_pos + 1
        outputs = {"kv_cache_k_0": k, "kv_cache_v_0": v}
        if self.name == "decode":
            scores = np.arange(VOCABULARY) * (1 + int((k * v).sum())) % 7
            outputs["logits"] = scores.astype("float32")[np.newaxis, np.newaxis]
        return outputs


def in_python(turns, monkeypatch):
    """What `generate.py` makes of each turn: list of dict."""
    spec = importlib.util.spec_from_file_location("generate", KIT / "generate.py")
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    pieces, found = [], []
    monkeypatch.setattr(loop, "Interpreter", lambda file, num_threads: Interpreter(pieces))
    model = loop.Model("any.tflite")
    for turn in turns:
        if turn["reset"]:
            model.reset()
        pieces.clear()
        tokens, refused = [], False
        try:
            tokens.extend(loop.generate(model, turn["ids"], turn["stop_ids"], turn["most"]))
        except ValueError:
            refused = True
        found.append(
            {
                "tokens": tokens,
                "pieces": [*pieces],
                "position": model.position,
                "refused": refused,
            }
        )
    return found


def in_javascript(turns):
    """What `generate.js` makes of each turn: list of dict."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    question = {"rows": ROWS, "lengths": LENGTHS, "vocabulary": VOCABULARY, "turns": turns}
    done = subprocess.run(
        [node, RUNNER], input=json.dumps(question), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def turn(ids, most=5, stop_ids=(), reset=True):
    ids, stop_ids = ([int(token) for token in some] for some in (ids, stop_ids))
    return {"ids": ids, "stop_ids": stop_ids, "most": most, "reset": reset}


def both(turns, monkeypatch):
    """What both loops make of the turns, which has to be the same."""
    found = in_javascript(turns)
    # The cache, and no other tensor: WebAssembly's memory is not collected.
    assert {each.pop("alive") for each in found} == {2}
    errors = [each.pop("error") for each in found]
    assert found == in_python(turns, monkeypatch)
    return found, errors


def test_the_same_tokens_as_in_python(monkeypatch):
    random = np.random.default_rng(0)
    turns = [
        turn(
            random.integers(0, VOCABULARY, random.integers(1, ROWS + 1)),
            int(random.integers(0, ROWS)),
            random.integers(0, VOCABULARY, random.integers(0, 3)),
            reset=random.random() < 0.7,
        )
        for _ in range(60)
    ]
    found, _ = both(turns, monkeypatch)
    full = [each["position"] == ROWS for each in found]
    most = [len(each["tokens"]) == turn["most"] for each, turn in zip(found, turns)]
    refused = [each["refused"] for each in found]
    stopped = ~np.any([full, most, refused], axis=0)
    assert min(map(sum, (full, most, refused, stopped))) > 3
    assert len({token for each in found for token in each["tokens"]}) > 4


def test_a_prompt_is_read_in_the_longest_pieces(monkeypatch):
    (found,), _ = both([turn(range(15), most=1)], monkeypatch)
    first = [(name, places[0]) for name, *places in found["pieces"]]
    assert first == [
        ("prefill_8", 0),
        ("prefill_4", 8),
        ("prefill_1", 12),
        ("prefill_1", 13),
        ("decode", 14),
    ]


def test_what_has_no_room_is_refused(monkeypatch):
    turns = [
        turn([1] * ROWS),  # one token, and the cache is full
        turn([2], reset=False),
        turn([1] * (ROWS + 2)),
        turn([]),
        turn([3, 4]),
    ]
    found, errors = both(turns, monkeypatch)
    assert len(found[0]["tokens"]) == 1 and found[0]["position"] == ROWS
    assert errors == [
        None,
        f"There is room for {ROWS} tokens.",
        f"There is room for {ROWS} tokens, not {ROWS + 1}.",
        "There must be at least one token to write on from.",
        None,
    ]
    assert found[2]["pieces"] == []  # nothing of it was read
