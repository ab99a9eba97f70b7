"""Models that write texts as SavedModels: text in, text out, the same as in Keras."""

import functools
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from test_generation import THEIRS, gpt, loaded

from kerasllm.config import TransformerConfig
from kerasllm.export import load_artefact, saved_model, to_saved_model, verify
from kerasllm.export.text_generator import DRAWING, GENERATORS, SEARCHING
from kerasllm.models import Seq2SeqLM
from kerasllm.models.generative import Generated
from kerasllm.tokenizers import ByteLevelBPETokenizer, WordPieceTokenizer

WORDS = "sun moon star sky sea land wind rain snow fire".split()
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@functools.cache
def words_tokenizer():
    """As many entries as the models of the fixtures have, its graph made but once."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(f"##{word}" for word in WORDS)]
    tokenizer = WordPieceTokenizer([*vocab, *".,!?'", *"abcdefghijk"])
    tokenizer.in_graph = functools.cache(tokenizer.in_graph)
    return tokenizer


def written(outputs):
    """`(text, token count, reason)` of each row of a signature's outputs."""
    names = ("text", "token_count", "finish_reason")
    rows = zip(*(outputs[name].numpy().tolist() for name in names))
    return [(text.decode(), count, reason.decode()) for text, count, reason in rows]


def expected(model, texts, **options):
    found = model.generate(texts, truncate=True, details=True, **options)
    return [(text.text, len(text.token_ids), text.finish_reason) for text in found]


def as_tensors(options):
    dtypes = {"max_new_tokens": "int32", "top_k": "int32", "seed": "int64"}
    return {
        name: tf.constant(np.ravel(value), dtypes.get(name, "float32"))
        for name, value in options.items()
    }


def operations(graph):
    """The names of all operations of a concrete function, and of those that it calls."""
    graph = graph.graph.as_graph_def()
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    return {node.op for some in nodes for node in some}


@functools.cache
def letters_tokenizer():
    """One letter for each of the 40 tokens that the models of the fixtures know."""
    pipeline = json.loads(ByteLevelBPETokenizer.train(["a"], vocab_size=257)._to_json())
    pipeline["model"] |= {"vocab": {chr(65 + i): i for i in range(40)}, "merges": []}
    tokenizer = ByteLevelBPETokenizer({**pipeline, "added_tokens": []})
    tokenizer.in_graph = functools.cache(tokenizer.in_graph)
    return tokenizer


@pytest.mark.parametrize("name", THEIRS)
def test_every_family(name):
    """What `transformers` writes; a text that is too long; a seed that means the same anywhere."""
    model, theirs = loaded(name), THEIRS[name]
    model.tokenizer = tokenizer = letters_tokenizer()
    model.special_ids |= {"eos": theirs["eos"], "forced_bos": -1, "forced_eos": -1}
    graph = GENERATORS[model.HEAD](model, ["A"]).signatures()["serving_default"]
    plain, penalized = theirs["cases"][:2]
    assert (plain["options"], penalized["options"]) == ({}, {"repetition_penalty": 1.6})
    texts = [tokenizer.decode(prompt) for prompt in theirs["prompts"] * 2]
    found = graph(
        tf.constant([*texts, "AB" * 40, texts[1], texts[1]]),
        max_new_tokens=tf.constant([11]),
        repetition_penalty=tf.constant([1.0] * 4 + [1.6] * 4 + [1.0] * 3),
        temperature=tf.constant([0.0] * 8 + [2.0] * 3),
        seed=tf.constant([0] * 8 + [1, 5, 5], "int64"),
    )
    *rows, too_long, drawn, again = written(found)
    answers = plain["expected"] + penalized["expected"]
    assert [text for text, _, _ in rows] == [tokenizer.decode(ids) for (ids,) in answers]
    assert [count for _, count, _ in rows] == [len(ids) for (ids,) in answers]
    reasons = ["stop" if len(ids) < 11 else "length" for (ids,) in answers]
    assert [reason for _, _, reason in rows] == reasons
    assert drawn == again
    most = model.config.max_length
    read = max(most - 11, most // 2) if model.HEAD == "causal_lm" else most
    assert found["prompt_token_count"].numpy().tolist()[8:10] == [min(80, read), 9]
    (concrete,) = graph._list_all_concrete_functions()
    assert not {op for op in operations(concrete) if op.startswith("Xla")}


# ---------------------------------------------------------------- one model, exported for good


@pytest.fixture(scope="module")
def model():
    special = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = ByteLevelBPETokenizer.train(list(verify.SENTENCES), vocab_size=400)
    pipeline = json.loads(tokenizer._to_json())
    pipeline["added_tokens"] += [
        {**pipeline["added_tokens"][0], "id": tokenizer.vocab_size + i, "content": token}
        for i, token in enumerate(special[1:])
    ]
    tokenizer = ByteLevelBPETokenizer(pipeline, special_tokens=tokenizer.special_tokens)
    tokenizer.chat_template = TEMPLATE
    tokenizer.in_graph = functools.cache(tokenizer.in_graph)
    return gpt(tokenizer, positions="learned", max_length=40)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    return folder / "1", to_saved_model(model, folder, texts=[*verify.SENTENCES[:9], "long " * 99])


@pytest.fixture(scope="module")
def artefact(exported):
    return load_artefact(exported[0].parent)


def test_report(exported):
    folder, report = exported
    stored = json.loads((folder / "assets.extra" / "report.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert (report.sentences, report.equal_tokens, report.label_flips) == (10, 1.0, None)
    assert "equal tokens        100.00%" in str(report)
    assert any("C API" in check for check in report.checks)


def test_signatures_with_their_defaults(exported):
    saved = saved_model_pb2.SavedModel.FromString((exported[0] / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0]
    assert not any(op.name.startswith("Xla") for op in graph.meta_info_def.stripped_op_list.op)
    given = {"serving_default": ["prompt"], "generate": ["prompt"], "chat": ["contents", "roles"]}
    signatures = {k: v for k, v in graph.signature_def.items() if not k.startswith("__")}
    assert signatures.keys() == given.keys()
    for name, texts in given.items():
        signature = signatures[name]
        assert sorted(signature.inputs) == sorted([*texts, *DRAWING])
        shapes = [[d.size for d in x.tensor_shape.dim] for x in signature.inputs.values()]
        assert shapes == [[-1]] * len(shapes)
        defaults = {key: tf.make_ndarray(value) for key, value in signature.defaults.items()}
        assert {key: value.tolist() for key, value in defaults.items()} == {
            **{"max_new_tokens": [64], "temperature": [0], "top_k": [0], "top_p": [1]},
            **{"min_p": [0], "repetition_penalty": [1], "seed": [0]},
        }
        types = {key: value.dtype.name for key, value in defaults.items()}
        assert types.pop("seed") == "int64"
        assert types.pop("max_new_tokens") == types.pop("top_k") == "int32"
        assert set(types.values()) == {"float32"}
        assert sorted(signature.outputs) == [
            *("finish_reason", "prompt_token_count", "text", "token_count"),
        ]


def test_an_artefact_writes(model, artefact):
    assert artefact.options["max_new_tokens"] == 64
    texts = ["A warm", "great phone 👍🏽", ""]
    options = dict(max_new_tokens=8, temperature=[0.0, 1.0, 1.5], seed=[1, 2, 3])
    # Keras takes positions by index, so it must be asked for one text after another.
    one_by_one = [
        model.generate(text, **{k: v[i] if isinstance(v, list) else v for k, v in options.items()})
        for i, text in enumerate(texts)
    ]
    assert artefact.generate(texts, **options) == one_by_one
    assert artefact.generate("A warm", max_new_tokens=8) == one_by_one[0]
    assert artefact.generate([]) == []
    (found,) = artefact.generate(["A warm"], max_new_tokens=3, details=True)
    assert found["prompt_token_count"] == len(model.tokenizer.encode("A warm"))
    assert (found["token_count"], found["finish_reason"]) == (3, "length")
    with pytest.raises(ValueError, match="`options` must be among max_new_.* Received: num_beams"):
        artefact.generate("A", num_beams=2)


def test_a_text_does_not_depend_on_those_beside_it(artefact):
    texts = ["A warm", "送餐太慢,饭都凉了", "x"]
    together = artefact.generate(texts, temperature=1.0, max_new_tokens=9, seed=[4, 5, 6])
    for text, seed, answer in zip(texts, (4, 5, 6), together):
        assert artefact.generate(text, temperature=1.0, max_new_tokens=9, seed=seed) == answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(temperature=-1.0), "`temperature` must be at least 0 .* Received:? -1"),
        (dict(temperature=float("nan")), "`temperature` must be at least 0 .* Received:? nan"),
        (dict(top_p=[0.5, 0.0]), "`top_p` must be more than 0 .* Received:? .?0.5,? 0"),
        (dict(max_new_tokens=0), "`max_new_tokens` must be at least 1. Received:? 0"),
        (dict(seed=[1, 2, 3]), "`seed` must be one value, or one for each text. Received .* 3 2$"),
    ],
    ids=str,
)
def test_wrong_options(options, message, artefact, monkeypatch):
    with pytest.raises(ValueError, match=message):
        artefact.generate(["A", "B"], **options)
    # A server has the graph alone.
    monkeypatch.setattr("kerasllm.export.artefact.check_options", lambda options: None)
    with pytest.raises(ValueError, match=message.replace(":?", ":")):
        artefact.generate(["A", "B"], **options)


def test_wrong_kinds(artefact):
    for options in (dict(top_k=0.5), dict(temperature=None), dict(temperature="hot")):
        with pytest.raises(TypeError, match="must be a (whole )?number"):
            artefact.generate("A", **options)
    for prompts in ([5], [None]):
        with pytest.raises(TypeError, match="`text` must be a str or bytes. Received: "):
            artefact.generate(prompts)
    broken = artefact.generate(["A\ud800", "A\ufffd", b"A\xff"], max_new_tokens=4)
    assert len({*broken}) == 1
    assert artefact.generate(b"A") == artefact.generate("A")


def fuzzed_prompts(count):
    """Nothing, one character, texts about as long as fit, mixed scripts, special tokens, bytes."""
    rng = random.Random(2)
    alphabets = [
        "abc ,.'",
        "äßéñ ",
        "好味道",
        "👍🏽❤️🎉",
        "\0\t\n\r\u200d\u3000 ",
        "Очень ",
        "فيلم ",
    ]
    special = ["<|endoftext|>", "<|user|>x<|assistant|>", "<|end", "[SEP]", "<|system|>"]
    for i in range(count):
        if i % 4 == 0:
            yield bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        elif i % 4 == 1:
            yield "".join(rng.choices(special + alphabets, k=rng.randrange(1, 4))).encode()
        elif i % 4 == 2:
            yield "".join(rng.choice(rng.choice(alphabets)) for _ in range(60)).encode()
        else:
            letters = rng.choice(alphabets)
            size = rng.choice([0, 1, 34, 35, 36, 37, 39, 40, 300])
            yield "".join(rng.choices(letters, k=size)).encode()


def test_no_prompt_is_too_much(artefact):
    prompts = list(fuzzed_prompts(300))
    assert len(set(prompts)) > 200 and b"" in prompts
    rest = dict(max_new_tokens=4, temperature=1.0, details=True)
    for start in range(0, 300, 50):
        found = artefact.generate(prompts[start : start + 50], **rest)
        assert len(found) == 50
        assert {text["finish_reason"] for text in found} <= {"stop", "length"}
        assert {text["prompt_token_count"] for text in found} <= {*range(1, 37)}
        assert all(isinstance(text["text"], str) for text in found)


def test_no_prompt_is_too_much_for_keras_and_the_c_api(model, exported, artefact):
    """The same texts, whatever the prompts are: in batches, as a server makes them."""
    prompts, options = list(fuzzed_prompts(300)), {"max_new_tokens": 4, "temperature": 0.0}
    ours = [model.generate(prompt, truncate=True, **options) for prompt in prompts]
    values = {name: np.ravel(x).tolist() for name, x in {**artefact.options, **options}.items()}
    raw = [prompt.decode("latin-1") for prompt in prompts]
    calls = [
        {"signature": "serving_default", "inputs": {"prompt": raw[start : start + 50], **values}}
        for start in range(0, 300, 50)
    ]
    folder = exported[0]
    question = {
        "folder": str(folder),
        "calls": calls,
        "signatures": saved_model.signature_tensors(folder),
        "tensorflow_text": False,
    }
    answers = verify.run("run_c_api.py", question)
    found = [text for answer in answers for text in answer["outputs"]["text"]]
    assert [text.encode("latin-1").decode() for text in found] == ours


def test_chat(model, artefact):
    messages = [
        {"role": "system", "content": "Kind."},
        {"role": "user", "content": " Hi <|endoftext|> "},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "<|user|> So?"},
    ]
    for said in (messages[1:2], messages[3:]):
        ids = model.tokenizer.encode_chat(said)
        text = artefact.chat(said, max_new_tokens=6, details=True)
        assert text["prompt_token_count"] == len(ids)
        assert text["text"] == model.tokenizer.decode(model.generate([ids], 6)[0])
    ids = model.tokenizer.encode_chat(messages)
    special = model.tokenizer.special_vocab
    assert [i for i in ids if i in special.values()] == [
        special[token]
        for token in "<|system|> <|endoftext|> <|user|> <|endoftext|> <|assistant|> "
        "<|endoftext|> <|user|> <|endoftext|> <|assistant|>".split()
    ]
    read = artefact.chat(messages, max_new_tokens=2, details=True)["prompt_token_count"]
    assert read == min(len(ids), 38)
    for wrong in ([], messages[:1], [{"role": "tool", "content": "x"}]):
        with pytest.raises(ValueError, match="^`roles` must be"):
            artefact.chat(wrong)


def test_other_answers_are_an_error(model):
    generator = GENERATORS["causal_lm"](model, ["A", "B"])
    tokens = model.tokenizer.encode("It was dull")
    answers = [Generated("It was dull", tokens, "stop")] * 2

    def check(*texts, tolerance=0.0, nothing=()):
        rows = [{"text": [t], "token_count": [n], "finish_reason": [r]} for t, n, r in texts]
        empty = {"text": list(nothing), "token_count": [], "finish_reason": []}
        outputs = [{"outputs": o, "seconds": 1.0} for o in (empty, rows[0], *rows)]
        return generator.check(answers, outputs, tolerance, "It")

    right, count = ("It was dull", len(tokens), "stop"), len(tokens)
    assert check(right, right)["equal_tokens"] == 1.0
    for wrong in (("It was d", count - 1, "stop"), (*right[:2], "length"), ("", count, "stop")):
        with pytest.raises(
            ValueError, match="It must write what the Keras model writes. Received: "
        ):
            check(right, wrong)
    some = check(right, (*right[:2], "length"), tolerance=0.1)["equal_tokens"]
    assert some == pytest.approx(1 - 1 / (3 * (count + 1)))
    with pytest.raises(ValueError, match="must give nothing for an empty batch"):
        check(right, right, nothing=["x"])


def test_an_operation_of_xla_is_an_error(tmp_path):
    update = keras.ops.slice_update
    graph = tf.function(lambda x: {"y": update(x, (0,), x[:1])}, autograph=False)
    graph = graph.get_concrete_function(tf.TensorSpec([3], name="x"))
    tf.saved_model.save(tf.Module(), str(tmp_path), {"serving_default": graph})
    with pytest.raises(RuntimeError, match="must not need XLA. Received: XlaDynamicUpdateSlice"):
        saved_model._check_operations(tmp_path)


def test_arguments_are_checked(model, tmp_path):
    with pytest.raises(ValueError, match="`max_length` must be None for a model that writes"):
        to_saved_model(model, tmp_path, max_length=9)
    with pytest.raises(ValueError, match="`model` must have a tokenizer"):
        to_saved_model(loaded("opt").__class__(model.backbone, family="gpt2"), tmp_path)


def test_positions_that_cannot_be_counted(model):
    waves = gpt(words_tokenizer(), positions="sinusoidal")
    graph = GENERATORS["causal_lm"](waves, ["sun"]).signatures()["generate"]
    texts = ["sun moon", "sky sea"]
    found = graph(tf.constant(texts), max_new_tokens=tf.constant([5]))
    assert written(found) == expected(waves, texts, max_new_tokens=5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`prompt` must have texts of one len"):
        graph(tf.constant(["sun", "sky sea"]))


def test_nothing_to_go_on_from(model):
    pipeline = json.loads(model.tokenizer._to_json())
    bare = gpt(ByteLevelBPETokenizer(pipeline))
    generator = GENERATORS["causal_lm"](bare, ["", "A"])
    assert generator._texts == ["A"]
    with pytest.raises(ValueError, match="`texts` must hold a text that is not empty, where no"):
        GENERATORS["causal_lm"](bare, ["", ""])
    graph = generator.signatures()["generate"]
    found = graph(tf.constant(["", "A"]), max_new_tokens=tf.constant([3]))
    assert written(found) == [("", 0, "empty"), *expected(bare, ["A"], max_new_tokens=3)]
    found = graph(tf.constant([""]))
    assert written(found) == [("", 0, "empty")]


def test_answers_with_beams():
    keras.utils.set_random_seed(2)
    tokenizer = words_tokenizer()
    config = TransformerConfig(
        # More rows than the tokenizer has entries, as T5's.
        *(tokenizer.vocab_size + 8,),
        **dict(num_layers=1, num_decoder_layers=1, num_heads=2, embed_dim=16, ff_dim=32),
        **dict(num_segments=0, max_length=24, initializer_range=0.5),
    )
    options = {"num_beams": 3, "length_penalty": 0.8, "early_stopping": "never"}
    options |= {"min_length": 4, "no_repeat_ngram_size": 2}
    model = Seq2SeqLM(config, family="bart", tokenizer=tokenizer, generation_config=options)
    names = {None: "generate", "summarization": "summarize", "translation": "translate"}
    for model.task, name in names.items():
        generator = GENERATORS["seq2seq_lm"](model, ["sun"])
        assert generator.signatures().keys() == {"serving_default", name}
    assert generator.options == SEARCHING
    graph = generator.signatures()["translate"]
    texts = ["sun moon", "sky, sea?", "rain " * 50]
    found = graph(tf.constant(texts), max_new_tokens=tf.constant([6, 4, 99]))
    assert written(found) == expected(model, texts, max_new_tokens=[6, 4, 99])
    free = dict(max_new_tokens=[6, 4, 99], no_repeat_ngram_size=0, min_new_tokens=0)
    assert written(found) != expected(model, texts, **free)
    assert found["prompt_token_count"].numpy().tolist() == [4, 6, 24]
