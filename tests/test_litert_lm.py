"""Language models on devices: their signatures, the loop over them, and LiteRT-LM's bundle."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import jinja2
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from test_generation_export import fuzzed_prompts
from tiny_classifier import tiny_classifier

from kerasllm.config import LlamaConfig, TransformerConfig
from kerasllm.export import litert_lm, tflite, to_litert_lm, to_tflite, verify
from kerasllm.export.decoder import PROMPTS, Decoder, compare
from kerasllm.export.tflite import convert_decoder
from kerasllm.models import CausalLM
from kerasllm.models.generative import Generated
from kerasllm.tokenizers import ByteLevelBPETokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
KIT = pathlib.Path(__file__).parents[1] / "export" / "generation"
FAMILIES = ("gpt2", "opt", "bloom", "llama", "mistral", "qwen2", "qwen3")
TEMPLATE = """\
{% for message in messages %}
{{ bos_token + '<|' + message['role'] + '|>' + message['content'] + eos_token }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}
"""


def fixture(family):
    return CausalLM.from_pretrained(FIXTURES / "families" / family / "causal_lm")


def tiny(template=None, **options):
    """A model with a tokenizer, whose answers differ from prompt to prompt."""
    texts = [*PROMPTS, *verify.SENTENCES]
    tokenizer = ByteLevelBPETokenizer.train(texts, vocab_size=400)
    if template is not None:
        tokenizer.chat_template = template
    options = {"num_layers": 2, "num_heads": 2, "embed_dim": 16, "ff_dim": 32, **options}
    config = TransformerConfig(
        tokenizer.vocab_size,
        max_length=64,
        num_segments=0,
        norm_first=True,
        embedding_norm=False,
        positions="counted",
        causal=True,
        tie_embedding=True,
        **options,
    )
    keras.utils.set_random_seed(3)
    model = CausalLM(config, family="gpt2", tokenizer=tokenizer)
    for weight in model.weights:
        if len(weight.shape) == 2:
            weight.assign(keras.random.normal(weight.shape, stddev=0.4))
    return model


@pytest.fixture(scope="module")
def model():
    return tiny(TEMPLATE)


@pytest.fixture(scope="module")
def loop():
    """The module `export/generation/generate.py`."""
    spec = importlib.util.spec_from_file_location("generate", KIT / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Path and report of a bare .tflite file."""
    path = tmp_path_factory.mktemp("phone") / "tiny.tflite"
    return path, to_tflite(model, path, max_length=48, texts=PROMPTS[:8])


# ---------------------------------------------------------------- the signatures


def call(signature, ids, position, cache, length):
    """Run a signature as LiteRT-LM does: padded with zeros, the positions too."""
    tokens, positions = np.zeros((1, length), "int32"), np.zeros(length, "int32")
    tokens[0, : len(ids)] = ids
    positions[: len(ids)] = np.arange(position, position + len(ids))
    return signature(tokens=tokens, input_pos=positions, **cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_the_whole_pass(family):
    model = fixture(family)
    decoder = Decoder(model, 16, (1, 4))
    content, checks = convert_decoder(decoder)
    assert "builtin operations, no other" in checks[0]
    interpreter = Interpreter(model_content=content)
    runners = {n: interpreter.get_signature_runner(n) for n in interpreter.get_signature_list()}
    assert set(runners) == {"prefill_1", "prefill_4", "decode"}
    inputs, outputs = (
        getattr(runners["decode"], f"get_{k}_details")() for k in ("input", "output")
    )
    rows = {name: inputs[name] for name in inputs if name.startswith("kv_cache")}
    assert set(inputs) == {"tokens", "input_pos", *rows}
    assert set(outputs) == {"logits", *rows}
    assert set(runners["prefill_4"].get_output_details()) == set(rows)
    config = model.config
    heads = getattr(config, "num_kv_heads", config.num_heads)
    names = {f"kv_cache_{kind}_{i}" for kind in "kv" for i in range(config.num_layers)}
    assert set(rows) == names
    assert {tuple(row["shape"]) for row in rows.values()} == {(1, heads, 16, config.projection_dim)}
    assert outputs["logits"]["shape"].tolist() == [1, 1, config.vocab_size]

    ids = np.random.default_rng(0).integers(0, config.vocab_size, 16)
    expected = np.array(model(ids[np.newaxis]))[0]
    cache = {name: np.zeros(row["shape"], "float32") for name, row in rows.items()}
    cache = call(runners["prefill_4"], ids[:4], 0, cache, 4)
    cache = call(runners["prefill_4"], ids[4:6], 4, cache, 4)  # half of it is padding
    cache = call(runners["prefill_1"], ids[6:7], 6, cache, 1)
    for position in range(7, 16):
        cache = call(runners["decode"], ids[position : position + 1], position, cache, 1)
        logits = cache.pop("logits")[0, 0]
        np.testing.assert_allclose(logits, expected[position], atol=1e-4)


def test_every_family_that_can_is_here():
    folders = FIXTURES.glob("families/*/causal_lm")
    assert {folder.parent.name for folder in folders} == {*FAMILIES, "rnn", "lstm", "gru"}


def test_recurrent_models_and_others_are_refused():
    with pytest.raises(ValueError, match=r"must have a cache of keys.* family 'lstm'"):
        Decoder(fixture("lstm"))
    with pytest.raises(TypeError, match=r"must be a `CausalLM`. Received: BertClassifier"):
        Decoder(tiny_classifier())


def test_lengths_are_checked(model):
    assert Decoder(model).max_tokens == 64
    assert Decoder(model, 32).prefill_lengths == (1, 8)
    with pytest.raises(ValueError, match=r"`max_tokens` .* must be from 2 to 64.* Received: 65"):
        Decoder(model, 65)
    with pytest.raises(ValueError, match=r"`max_tokens` .* must be from 2 to 64.* Received: '9'"):
        Decoder(model, "9")
    for lengths in [(8, 64), (0, 1), (1, 2.5), 8]:
        with pytest.raises(ValueError, match=r"`prefill_lengths` must .* 1 among them"):
            Decoder(model, 32, lengths)


def test_answers_are_the_likeliest_tokens(model, monkeypatch):
    """Whatever the checkpoint asks for."""
    greedy = model.generate(["To be"], 20, temperature=0.0, details=True)[0]
    asked = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0}
    asked |= {"no_repeat_ngram_size": 1, "min_length": 30}
    monkeypatch.setattr(model, "generation_config", asked)
    (answer,), _ = Decoder(model, 32).answers(["To be"])
    count = min(20, len(answer.token_ids))
    assert count > 5
    assert answer.token_ids[:count] == greedy.token_ids[:count]
    assert model.generate(["To be"], 20, details=True)[0].token_ids != greedy.token_ids


def test_rotations_that_grow_with_the_text_stay_where_they_do_not():
    scaling = {"kind": "dynamic", "factor": 2.0, "original_max_length": 24}
    config = LlamaConfig(50, 1, 2, 1, 16, 32, max_length=48, rope_scaling=scaling)
    model = CausalLM(config, family="llama")
    assert Decoder(model).max_tokens == 24
    with pytest.raises(ValueError, match=r"from 2 to 24"):
        Decoder(model, 25)


# ---------------------------------------------------------------- the bare file


def test_report_of_the_bare_file(exported):
    path, report = exported
    assert report.equal_tokens == 1.0
    assert report.largest_difference < 1e-5
    assert report.perplexity == pytest.approx(report.keras_perplexity, rel=1e-4)
    assert report.sentences == 8
    assert "perplexity" in str(report)
    written = json.loads((path.parent / f"{path.name}.report.json").read_text(encoding="utf-8"))
    assert written["perplexity"] == report.perplexity
    assert sorted(os.listdir(path.parent)) == ["tiny.tflite", "tiny.tflite.report.json"]


def test_the_file_carries_its_tokenizer(exported, model, loop):
    path, _ = exported
    with zipfile.ZipFile(path) as archive:
        assert "labels.txt" not in archive.namelist()
    tokenizer, config = loop.load_tokenizer(path)
    assert tokenizer.encode("To be").ids == model.tokenizer.encode("To be")
    assert config == {"bos_token_id": [], "eos_token_id": [model.tokenizer.eos_id]}


def test_the_loop_writes_what_keras_writes(exported, model, loop):
    runner = loop.Model(exported[0])
    for prompt in PROMPTS[:6]:
        ids = model.tokenizer.encode(prompt)
        (answer,) = model.generate([prompt], min(12, 48 - len(ids)), details=True)
        runner.reset()
        found = list(loop.generate(runner, ids, [model.tokenizer.eos_id], 12))
        assert found == answer.token_ids
    assert runner.position > 8


def test_the_loop_fills_the_cache_and_no_more(exported, model, loop):
    runner = loop.Model(exported[0])
    ids = np.random.default_rng(1).integers(1, 300, 49).tolist()
    with pytest.raises(ValueError, match=r"must be at most 48 tokens.* Received: 49"):
        runner.read(ids)
    assert runner.position == 0
    runner.read(ids[:47])
    expected = np.array(model(np.array([ids[:48]])))[0, 47]
    np.testing.assert_allclose(runner.next(ids[47]), expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"one of the first 48"):
        runner.next(1)
    with pytest.raises(ValueError, match=r"at most 0 tokens"):
        runner.read([1])
    runner.reset()
    assert len(list(loop.generate(runner, ids[:46], (), 12))) == 3


def test_the_loop_draws_by_its_seed(exported, loop):
    runner = loop.Model(exported[0])
    found = []
    for seed in (1, 1, 2):
        runner.reset()
        found.append(list(loop.generate(runner, [5, 7], (), 12, temperature=1.5, seed=seed)))
    assert found[0] == found[1] != found[2]


def test_int8_keeps_most_tokens(model, tmp_path):
    path = tmp_path / "tiny.tflite"
    report = to_tflite(model, path, quantize="int8", max_length=7, texts=["a", "No"])
    assert report.equal_tokens > 0.5
    assert 0 < report.mean_difference < 0.05
    assert report.perplexity == pytest.approx(report.keras_perplexity, rel=0.1)


def test_wrong_probabilities_are_an_error_and_leave_nothing(exported, model, tmp_path, monkeypatch):
    score = Decoder.score

    def shifted(self, rows):
        return [(best, scores - 0.1) for best, scores in score(self, rows)]

    monkeypatch.setattr(Decoder, "score", shifted)
    monkeypatch.setattr(tflite, "convert_decoder", lambda *_: (exported[0].read_bytes(), ()))
    monkeypatch.setattr(tflite.metadata, "attach_files", lambda content, *_: content)
    with pytest.raises(ValueError, match=r"must give the probabilities of the Keras model within"):
        to_tflite(model, tmp_path / "tiny.tflite", max_length=48, texts=["To be"])
    assert os.listdir(tmp_path) == []


def test_a_number_that_is_none_is_the_largest_difference():
    found = compare(([1, 2], np.log([0.5, 0.5])), ([1, 2], np.array([np.nan, -0.7])))
    assert found["largest_difference"] == np.inf


def fuzzed():
    """300 prompts, up to as many tokens as fit into the files here, one more, and many more."""
    long = ["q" * length for length in range(44, 52)]
    return [*long, *(prompt.decode("utf-8", "replace") for prompt in fuzzed_prompts(292))]


def test_no_prompt_is_too_much_for_the_loop(exported, loop):
    runner, (tokenizer, config) = loop.Model(exported[0]), loop.load_tokenizer(exported[0])
    counts = set()
    for prompt in fuzzed():
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        counts.add(len(ids))
        runner.reset()
        if 0 < len(ids) <= 48:
            found = [*loop.generate(runner, ids, config["eos_token_id"], 4)]
            assert len(found) <= min(4, 49 - len(ids))
            assert isinstance(tokenizer.decode(found), str)
        else:
            with pytest.raises(
                ValueError, match=r"must (hold at least one|be at most 48|be one of)"
            ):
                next(loop.generate(runner, ids))
    assert {0, 1, 47, 48, 49} <= counts
    with pytest.raises(TypeError, match="must be str"):  # half of a character is no text
        tokenizer.encode("\udcff")


# ---------------------------------------------------------------- the bundle


@pytest.fixture(scope="module")
def engine():
    pytest.importorskip("litert_lm_builder", reason="litert-lm-builder packs the bundle")
    return pytest.importorskip("litert_lm", reason="litert-lm-api runs the bundle")


@pytest.fixture(scope="module")
def bundle(engine, model, tmp_path_factory):
    """Path and report of a .litertlm file."""
    path = tmp_path_factory.mktemp("engine") / "tiny.litertlm"
    return path, to_litert_lm(model, path, max_tokens=48)


def test_the_engine_writes_what_keras_writes(bundle):
    path, report = bundle
    assert report.sentences == len(PROMPTS) >= 30
    assert report.checks[0].endswith(f": {len(PROMPTS)} of {len(PROMPTS)} texts equal")
    assert (report.target, report.variant, report.bytes) == (
        "litert_lm", "float32", path.stat().st_size,
    )  # fmt: skip
    assert report.equal_tokens == 1.0
    assert sorted(os.listdir(path.parent)) == ["tiny.litertlm", "tiny.litertlm.report.json"]


# A process of its own, as the engine is no Python: it may crash, or never end.
ENGINE = """
import json, sys
import litert_lm
greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
options = dict(max_output_tokens=4, apply_prompt_template=False, sampler_config=greedy)
backend = litert_lm.Backend.CPU(thread_count=1)
with litert_lm.Engine(sys.argv[1], backend=backend, cache_dir=":nocache") as engine:
    def ask(prompt):
        with engine.create_session(**options) as session:
            try:
                session.run_prefill([prompt])
            except RuntimeError as error:
                return str(error)
            return session.run_decode().texts
    json.dump([ask(prompt) for prompt in json.load(sys.stdin)], sys.stdout)
"""


def test_no_prompt_is_too_much_for_the_engine(bundle, model):
    command = [sys.executable, "-c", ENGINE, str(bundle[0])]
    prompts = fuzzed()
    done = subprocess.run(
        command, input=json.dumps(prompts).encode(), capture_output=True, timeout=60, check=True
    )
    answers = json.loads(done.stdout)
    assert len(answers) == len(prompts)
    counts = [len(model.tokenizer.encode(prompt)) for prompt in prompts]
    for count, answer in zip(counts, answers):
        if 0 < count < 48:
            (text,) = answer
            assert isinstance(text, str)
        else:
            assert answer == "litert_lm_session_run_prefill failed"
    assert {0, 1, 46, 47, 48, 49} <= {*counts}
    # Why, it says on its own.
    assert b"Exceeding the maximum number of tokens allowed: 48 >= 48" in done.stderr
    assert b"No token IDs found" in done.stderr


def test_the_engine_in_int8(engine, model, tmp_path):
    path = tmp_path / "tiny.litertlm"
    options = dict(max_tokens=32, prefill_lengths=(1,), prompts=["To be", "No"])
    report = to_litert_lm(model, path, quantize="int8", **options)
    assert report.sentences == 2
    assert report.variant == "int8"
    assert 0.5 < report.equal_tokens <= 1


MESSAGE = "<|user|>Hello<|endoftext|>\n<|assistant|>"


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        ({}, MESSAGE, None),
        ({"text": " end\0, and more"}, MESSAGE, None),
        ({"text": "<|endoftext|>end\ufffd"}, MESSAGE, None),
        ({"text": "else"}, MESSAGE, r"must write what Keras writes. Received: 1 of 1 texts"),
        ({"token_ids": [1]}, MESSAGE, r"must read 'To be' as the token ids"),
        ({}, "", r"chat_template` must be one that the engine understands. It makes '' of"),
    ],
)
def test_answers_of_the_engine_are_checked(
    engine, model, change, message, error, tmp_path, monkeypatch
):
    """Neither weights nor engine: only what is done about an answer."""
    answer = {"token_ids": model.tokenizer.encode("To be"), "text": "end", "seconds": 1.0}
    found = {"message": message, "answers": [{**answer, **change}]}
    generated = Generated(" end", [5], "stop")
    numbers = {"sentences": 1, "milliseconds": 1.0}
    monkeypatch.setattr(litert_lm, "convert_decoder", lambda *_: (b"weights", ()))
    monkeypatch.setattr(litert_lm, "check_decoder", lambda *_: dict(numbers))
    monkeypatch.setattr(Decoder, "answers", lambda *_: ([generated], 1.0))
    monkeypatch.setattr(verify, "run", lambda *_: found)
    path = tmp_path / "tiny.litertlm"
    if error is None:
        assert "1 of 1 texts equal" in to_litert_lm(model, path, prompts=["To be"]).checks[0]
        return
    with pytest.raises(ValueError, match=error):
        to_litert_lm(model, path, prompts=["To be"])
    assert os.listdir(tmp_path) == []


def test_parts_of_messages_become_one_text():
    template = jinja2.Template(litert_lm.ONE_TEXT + "\n{{ messages[1]['role'] }}{{ messages[1:] }}")
    parts = [{"type": "text", "text": "To "}, {"type": "text", "text": "be"}]
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": parts}]
    assert template.render(messages=messages) == "\nuser[{'role': 'user', 'content': 'To be'}]"


def test_arguments_of_the_bundle_are_checked(model, tmp_path, monkeypatch):
    monkeypatch.setattr(litert_lm, "PACKAGES", ())
    path = tmp_path / "tiny.litertlm"
    with pytest.raises(ValueError, match=r"`quantize` must be one of.*Received: 'float16'"):
        to_litert_lm(model, path, quantize="float16")
    with pytest.raises(ValueError, match=r"must have a `ByteLevelBPETokenizer`.* Received: None"):
        to_litert_lm(fixture("gpt2"), path)
    monkeypatch.setattr(model, "special_ids", {"eos": []})
    with pytest.raises(ValueError, match=r"`model` must have a token that ends a text"):
        to_litert_lm(model, path)
    monkeypatch.setattr(model, "special_ids", {})
    with pytest.raises(ValueError, match=r"`prompts` .* must have fewer tokens than .* 16\. Rec"):
        to_litert_lm(model, path, max_tokens=16, prompts=["To be, or not to be, " * 9])
    monkeypatch.setattr(litert_lm, "PACKAGES", ("litert_lm_builder", "no_such_package"))
    with pytest.raises(ImportError, match=r"Missing: .*no_such_package"):
        to_litert_lm(model, path)
    assert os.listdir(tmp_path) == []
