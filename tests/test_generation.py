"""The loop, its strategies, and `generate` and `stream` of the models.

What Hugging Face's `generate` gives is in fixtures/generation: see make_generation_fixtures.py.
"""

import functools
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_file import round_trip

from kerasllm import generation
from kerasllm.config import TransformerConfig
from kerasllm.models import MODELS, CausalLM, Seq2SeqLM
from kerasllm.models.generative import _rounded, _settled, padded
from kerasllm.models.lora import add_lora
from kerasllm.tokenizers import ByteLevelBPETokenizer, WordPieceTokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
THEIRS = json.loads((FIXTURES / "generation" / "families.json").read_text(encoding="utf-8"))
OURS = {"num_return_sequences": "num_sequences"}


@functools.cache
def loaded(name):
    """The model of a fixture, traced but once."""
    head = THEIRS[name]["head"]
    return MODELS[head].from_pretrained(FIXTURES / "families" / name / head)


def ids_of(found):
    """Token ids of `generate`'s answer with `details`, a list of lists for each prompt."""
    return [[text.token_ids for text in (f if isinstance(f, list) else [f])] for f in found]


# ---------------------------------------------------------------- against Hugging Face


@pytest.mark.parametrize("name", THEIRS)
def test_equals_theirs(name, monkeypatch):
    model, theirs = loaded(name), THEIRS[name]
    lengths = set()
    for case in theirs["cases"]:
        options = {OURS.get(key, key): value for key, value in case["options"].items()}
        forced = {
            name: options.pop(f"{name}_token_id", -1) for name in ("forced_bos", "forced_eos")
        }
        model.special_ids = {**model.special_ids, "eos": theirs["eos"], **forced}
        stated = {name: options.pop(name) for name in {"min_length"} & options.keys()}
        # What only a checkpoint can ask for.
        monkeypatch.setattr(model, "generation_config", stated)
        found = model.generate(theirs["prompts"], 11, details=True, **options)
        assert ids_of(found) == case["expected"], case["options"]
        lengths |= {len(ids) for texts in ids_of(found) for ids in texts}
    assert len(lengths) > 3  # they ended here and there


@pytest.mark.parametrize("name", THEIRS)
def test_a_text_does_not_depend_on_those_beside_it(name):
    """Neither on the padding that they bring, nor on their seeds."""
    model, prompts, seeds = loaded(name), THEIRS[name]["prompts"], np.arange(4)
    model.special_ids = {**model.special_ids, "eos": [0, 1]}
    options = dict(temperature=2.0, top_p=0.95)
    together = model.generate(prompts, 9, seed=seeds, **options)
    for prompt, seed, text in zip(prompts, seeds, together):
        assert model.generate([prompt] * 4, 9, seed=(seeds + seed) % 4, **options)[0] == text
    assert len({str(text) for text in together}) > 1


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_text_is_the_same_alone(name):
    model, prompts = loaded(name), THEIRS[name]["prompts"]
    model.special_ids = {**model.special_ids, "eos": [0, 1]}
    options = dict(temperature=1.5, seed=5)
    together = model.generate(prompts, 9, **options)
    assert [model.generate([prompt], 9, **options)[0] for prompt in prompts] == together


def test_every_generative_family_is_here():
    folders = {path.parent for path in FIXTURES.glob("families/*/*_lm/config.json")}
    there = {f.parent.name for f in folders if f.name in ("causal_lm", "seq2seq_lm")}
    assert there == set(THEIRS)


@pytest.fixture(scope="module")
def sampler():
    with np.load(FIXTURES / "generation" / "sampler.npz") as arrays:
        return dict(arrays)


def test_narrowing_equals_theirs(sampler):
    assert len(sampler["settings"]) == len(sampler["expected"]) > 5
    for (temperature, top_k, top_p, min_p), expected in zip(
        sampler["settings"], sampler["expected"]
    ):
        four = np.ones(4, "float32")
        found = generation.narrow(
            sampler["logits"],
            four * np.float32(temperature),
            four.astype("int32") * int(top_k),
            four * np.float32(top_p),
            four * np.float32(min_p),
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rows_are_narrowed_each_by_its_own_settings(sampler):
    picked = [0, 2, 3, 6]
    columns = [sampler["settings"][picked, column] for column in range(4)]
    columns = [c.astype("int32" if i == 1 else "float32") for i, c in enumerate(columns)]
    found = generation.narrow(np.tile(sampler["logits"][:1], (4, 1)), *columns)
    np.testing.assert_allclose(found, sampler["expected"][picked, 0], rtol=1e-6)


def test_penalty_equals_theirs(sampler):
    seen = sampler["seen"].astype("int32")
    found = generation.penalize(sampler["logits"], seen, np.full(4, 1.7, "float32"))
    np.testing.assert_allclose(found, sampler["penalized"], rtol=1e-6)


# ---------------------------------------------------------------- the loop


def markov(table):
    """A step by a table of logits: what comes next depends on the last token alone."""
    table = tf.constant(table, "float32")
    return lambda token_ids, position, cache: (tf.gather(table, token_ids[:, -1]), cache)


def run(step, prompts, room, **settings):
    """Answers of the loop to prompts of one length: token ids up to the end, and `stopped`."""
    search = {n: settings.pop(n) for n in ("num_beams", "num_sequences") if n in settings}
    settings = {name: np.atleast_1d(value) for name, value in settings.items()}
    prompts = tf.constant(prompts)

    @tf.function(autograph=False)
    def graph():
        mask = tf.ones_like(prompts)
        return generation.generate(step, prompts, mask, (), settings, room=room, **search)

    found = graph()
    ids, lengths = found["token_ids"].numpy(), found["lengths"].numpy()
    texts = [[i[:n].tolist() for i, n in zip(*row)] for row in zip(ids, lengths)]
    return texts, found["stopped"].numpy().tolist()


def test_no_run_of_tokens_comes_twice():
    rng = np.random.default_rng(4)
    prompts = rng.integers(0, 4, (40, 9)).astype("int32")
    begins, size = rng.integers(0, [[6], [5]], (2, 40)).astype("int32")
    for position in (7, 9):  # behind it is what counts for nothing
        found = generation.exclude_repeats(
            tf.zeros((40, 4)), tf.constant(prompts), begins, position, size
        )
        for row, begin, n, scores in zip(prompts, begins, size, found.numpy()):
            said = row[begin:position].tolist()
            runs = [said[i : i + n] for i in range(len(said) - n + 1)] if n else []
            barred = [[*said[len(said) - n + 1 :], token] in runs for token in range(4)]
            assert (scores == generation.EXCLUDED).tolist() == barred
        assert np.isin([0, generation.EXCLUDED], found).all()


def test_rules_are_those_of_each_row():
    step = markov(np.log([[0.6, 0.3, 0.1]] * 3))
    settings = dict(min_new_tokens=[0, 0, 3], no_repeat_ngram_size=[0, 2, 0], stop_ids=[0])
    for search in ({}, {"num_beams": 2, "early_stopping": 1}):
        texts, _ = run(step, [[1]] * 3, 4, max_new_tokens=4, **settings, **search)
        assert texts[0] == [[]]
        assert texts[2][0][:3] == [1, 1, 1]
    texts, stopped = run(
        step, [[0, 1, 0]] * 2, 4, max_new_tokens=4, no_repeat_ngram_size=[3, 1], stop_ids=[9]
    )
    assert texts == [[[0, 0, 1, 1]], [[2, 0, 0, 0]]]  # where all are barred, the first is as good


def test_ties_go_to_the_lowest_id():
    texts, _ = run(markov([[0.0, 1.0, 1.0]] * 3), [[0]], 2, max_new_tokens=2)
    assert texts == [[[1, 1]]]


def test_samples_are_as_likely_as_the_model_says():
    """Pearson's statistic over 20 000 draws: with 3 degrees of freedom, 1 in 1000 is above 16.3."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    for temperature, top_k, expected in (
        (1.0, 0, p),
        (2.0, 0, p**0.5 / (p**0.5).sum()),
        (1.0, 3, np.array([*p[:3] / p[:3].sum(), 0])),
    ):
        texts, _ = run(
            markov(np.log([p] * 4)),
            [[0]] * 1000,
            20,
            max_new_tokens=20,
            temperature=temperature,
            top_k=top_k,
            seed=np.arange(1000),
        )
        counts = np.bincount(np.ravel(texts), minlength=4)
        there = expected > 0
        assert counts[~there].sum() == 0
        expected = expected[there] * counts.sum()
        assert ((counts[there] - expected) ** 2 / expected).sum() < 16.3
        # And one token says nothing about the next, nor one seed about its neighbour.
        first, second = np.array(texts)[:, 0, :-1], np.array(texts)[:, 0, 1:]
        assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.03
        rows = np.array(texts)[:, 0]
        assert abs(np.corrcoef(np.ravel(rows[:-1]), np.ravel(rows[1:]))[0, 1]) < 0.03


def test_settings_are_those_of_each_row():
    step = markov(np.log([[0.4, 0.3, 0.2, 0.1]] * 4))
    settings = dict(
        max_new_tokens=[8, 3, 8], temperature=[0.0, 1.0, 1.0], top_k=[0, 0, 1], seed=[1, 2, 3]
    )
    texts, _ = run(step, [[0]] * 3, 8, **settings)
    assert texts[0] == texts[2] == [[0] * 8]
    alone, _ = run(step, [[0]], 3, max_new_tokens=3, temperature=1.0, seed=2)
    assert texts[1] == alone[0]
    assert set(alone[0][0]) - {0}


def test_a_text_without_room_stays_empty():
    step = markov(np.eye(3))
    for search in ({}, {"num_beams": 2}):
        texts, stopped = run(step, [[1], [2]], 2, max_new_tokens=[0, 2], **search)
        assert texts == [[[]], [[2, 2]]]
        assert stopped == [[False], [False]]


def test_beams_find_the_likeliest_of_all_texts():
    rng = np.random.default_rng(3)
    table = rng.normal(0, 1.5, (5, 5)).astype("float32")
    log_p = table - np.log(np.exp(table).sum(1, keepdims=True))
    for start in range(4):  # token 4 ends a text
        scores = {}

        def follow(path, score, start=start, scores=scores):
            if path and (path[-1] == 4 or len(path) == 4):
                scores[tuple(path)] = score / len(path) ** 0.7
                return
            for token in range(5):
                follow([*path, token], score + log_p[[start, *path][-1], token])

        follow([], 0.0)
        best = sorted(scores.values())[::-1][:3]
        settings = dict(max_new_tokens=4, stop_ids=[4], length_penalty=0.7)
        texts, stopped = run(
            markov(table), [[start]], 4, num_beams=300, num_sequences=3, **settings
        )
        found = [(*text, *[4] * ended) for text, ended in zip(texts[0], stopped[0])]
        assert len(set(found)) == 3
        np.testing.assert_allclose([scores[path] for path in found], best, rtol=1e-5)


def test_a_graph_of_unknown_sizes():
    """As in a SavedModel, where neither batch nor length is known."""
    rng = np.random.default_rng(0)
    step = markov(rng.normal(0, 1, (9, 9)))
    settings = {
        "max_new_tokens": tf.TensorSpec((None,), "int32"),
        "temperature": tf.TensorSpec((None,), "float32"),
        "stop_ids": tf.TensorSpec((1,), "int32"),
    }

    for search in ({"num_beams": 3, "num_sequences": 2}, {"num_sequences": 2}):

        @tf.function(input_signature=[tf.TensorSpec((None, None), "int32"), settings])
        def graph(token_ids, settings, search=search):
            room = tf.reduce_max(settings["max_new_tokens"])
            mask = tf.ones_like(token_ids)
            # A cache that is read: the sum of all that went before.
            cache = {"sum": tf.cast(token_ids[:, :1], "float32")}
            return generation.generate(
                counting(step), token_ids, mask, cache, settings, room=room, **search
            )

        graph.get_concrete_function()
        for prompts, n in (([[1, 2], [3, 4], [5, 6]], [5, 2, 4]), ([[7]], [3])):
            warm = 0.0 if "num_beams" in search else 1.0
            values = dict(max_new_tokens=n, temperature=[warm], stop_ids=[8])
            found = graph(prompts, {k: tf.constant(v) for k, v in values.items()})
            assert found["token_ids"].shape == (len(prompts), 2, max(n))
            assert (found["lengths"].numpy() <= np.array(n)[:, None]).all()
            assert found["done"].numpy().all()


def counting(step):
    def counted(token_ids, position, cache):
        logits, _ = step(token_ids, position, ())
        total = cache["sum"] + tf.cast(token_ids[:, -1:], "float32")
        return logits + tf.sin(total), {"sum": total}

    return counted


# ---------------------------------------------------------------- models and texts

TEXTS = ["Wie schön 🌻 ist’s im Grünen!", "low lower lowest", "and so on 好好 and so on"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return ByteLevelBPETokenizer.train(TEXTS, vocab_size=300)


@pytest.fixture(scope="module")
def model(tokenizer):
    return gpt(tokenizer)


def gpt(tokenizer, **options):
    keras.utils.set_random_seed(1)
    options = {"max_length": 40, "positions": "counted", **options}
    config = TransformerConfig(
        tokenizer.vocab_size,
        num_layers=1,
        num_heads=2,
        embed_dim=16,
        ff_dim=32,
        num_segments=0,
        causal=True,
        norm_first=True,
        embedding_norm=False,
        tie_embedding=True,
        initializer_range=0.5,
        **options,
    )
    return CausalLM(config, family="gpt2", tokenizer=tokenizer)


def slow(model, ids, count):
    """Greedy tokens by the whole forward pass, one after another."""
    ids = list(ids)
    for _ in range(count):
        width = model.config.max_length
        inputs = padded([ids], width, left=False)
        ids.append(int(np.argmax(model(inputs)[0, len(ids) - 1])))
    return ids[-count:]


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_positions_that_are_not_counted(positions, tokenizer):
    model = gpt(tokenizer, positions=positions)
    prompts = [[5, 6, 7], [50, 60, 70]]
    assert model.generate(prompts, 8) == [slow(model, prompt, 8) for prompt in prompts]
    with pytest.raises(ValueError, match=f"equal lengths where `positions` are '{positions}'"):
        model.generate([[5, 6, 7], [50]], 8)


def test_texts(model, tokenizer):
    found = model.generate(["low", "so on and"], 6, details=True)
    for prompt, text in zip(("low", "so on and"), found):
        assert text.token_ids == slow(model, tokenizer.encode(prompt), 6)
        whole = tokenizer.decode([*tokenizer.encode(prompt), *text.token_ids])
        assert prompt + text.text == whole
        assert text.finish_reason == "length"
    assert model.generate("low", 6) == found[0].text == model.generate(["low"], 6)[0]
    assert model.generate([tokenizer.encode("low")], 6) == [found[0].token_ids]
    assert model.generate([], 6) == []
    assert model.generate("", 3) == model.generate([""], 3)[0]


def test_seeds_and_sequences(model):
    options = dict(max_new_tokens=8, temperature=1.0)
    three = model.generate("low", num_sequences=3, seed=4, **options)
    assert three == [model.generate("low", seed=4 + i, **options) for i in range(3)]
    assert len(set(three)) == 3
    both = model.generate(["low", "so"], seed=[4, 5], **options)
    assert both == [
        model.generate("low", seed=4, **options),
        model.generate("so", seed=5, **options),
    ]
    beams = model.generate(["low", "so"], 4, num_beams=3, num_sequences=2)
    assert [len(set(texts)) for texts in beams] == [2, 2]


def test_stop_tokens(model, tokenizer):
    whole = model.generate([[5, 6]], 9, temperature=1.0)[0]
    last = next(i for i in range(3, 9) if whole[i] not in whole[:i])
    found = model.generate([[5, 6]], 9, temperature=1.0, stop=[whole[last], 299], details=True)[0]
    assert (found.token_ids, found.finish_reason) == (whole[:last], "stop")
    model.special_ids = {"eos": [298, 299, whole[last]]}
    assert model.generate([[5, 6]], 9, temperature=1.0) == [whole[:last]]
    model.special_ids = {}


@pytest.mark.parametrize("seed", range(3))
def test_stop_strings(model, seed):
    options = dict(max_new_tokens=30, temperature=1.0, seed=seed)
    prompts = ["low", "so on"]
    whole = model.generate(prompts, details=True, **options)
    ends = [whole[0].text[5:7], "never to be found", whole[0].text[9:11]]
    found = model.generate(prompts, stop=ends, details=True, **options)
    for text, without in zip(found, whole):
        places = [without.text.find(end) for end in ends if end in without.text]
        if places:
            assert text.text == without.text[: min(places)]
            assert text.finish_reason == "stop"
        else:
            assert text == without
    assert found[0].finish_reason == "stop"
    assert len(found[0].token_ids) < 30
    beams = model.generate("low", 9, num_beams=2)
    assert (
        model.generate("low", 9, num_beams=2, stop=[beams[2:4]]) == beams[: beams.find(beams[2:4])]
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_text(model, seed):
    options = dict(max_new_tokens=25, temperature=1.3, seed=seed, no_repeat_ngram_size=2)
    whole = model.generate("so 好", **options)
    pieces = list(model.stream("so 好", **options))
    assert "".join(pieces) == whole
    assert len(pieces) > 5 and all(pieces)
    end = whole[7:10]
    assert "".join(model.stream("so 好", stop=[end], **options)) == whole[: whole.find(end)]
    pieces, result = said(model.stream("so 好", stop=[end], **options))
    assert (result.text, result.finish_reason) == ("".join(pieces), "stop")


def said(stream):
    """The pieces of a stream, and its value."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


class Says:
    """A model of which only the tokens are known that it will write."""

    def __init__(self, tokenizer, said):
        table = gpt(tokenizer)
        self.model, ids = table, tf.constant(tokenizer.encode(said))

        def step(token_ids, position, cache):
            place = position + tf.shape(token_ids)[1] - 16  # prompts are padded to 16
            return tf.one_hot(tf.repeat(ids[place], tf.shape(token_ids)[0]), 300), cache

        table._step = step
        self.count = len(ids)


def test_no_broken_characters(tokenizer):
    said = "ä🌻🌻好 x🌻"
    says = Says(tokenizer, said)
    assert says.count > len(said)  # characters of several tokens
    pieces = list(says.model.stream("low", says.count))
    assert "".join(pieces) == said
    assert "\ufffd" not in "".join(pieces[:-1])
    # Cut within the last character, there is no way to show it whole.
    assert "".join(says.model.stream("low", says.count - 1)) == says.model.generate(
        "low", says.count - 1
    )


def test_parts_of_stop_strings_are_kept_back():
    assert _settled("Hello E", ["END"]) == "Hello "
    assert _settled("Hello EN", ["END", "N!"]) == "Hello "
    assert _settled("Hello EX", ["END"]) == "Hello EX"
    assert _settled("aab", ["aabc", "bd"]) == ""
    assert _settled("Hell\ufffd\ufffd", []) == "Hell"


def test_words():
    """A tokenizer that puts spaces between its words, and whose rows end in a token."""
    data = ("the sun is up", "the moon is up")
    tokenizer = WordPieceTokenizer.train(data, vocab_size=60, min_frequency=1)
    model = gpt(tokenizer)
    found = model.generate("the sun", 7, temperature=1.0, details=True)
    ids = tokenizer.encode("the sun")
    whole = tokenizer.decode([*ids, *found.token_ids])
    assert "the sun" + found.text == whole
    assert "".join(model.stream("the sun", 7, temperature=1.0)) == found.text
    prompt = [tokenizer.cls_id, *ids]  # without the token at the end
    assert model.generate([prompt], 7, temperature=1.0) == [found.token_ids]


def test_answers_to_texts(tokenizer):
    keras.utils.set_random_seed(2)
    config = TransformerConfig(
        tokenizer.vocab_size,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        embed_dim=16,
        ff_dim=32,
        num_segments=0,
        max_length=24,
        initializer_range=0.5,
    )
    model = Seq2SeqLM(config, family="bart", tokenizer=tokenizer)
    texts = ["low lower", "so"]
    found = model.generate(texts, 6, details=True)
    for text, answer in zip(texts, found):
        ids, answered = tokenizer.encode(text), [0]  # begins with the token of padding
        for _ in range(6):
            inputs = padded([answered], 8, left=False)
            inputs = {f"decoder_{name}": value for name, value in inputs.items()}
            logits = model({**inputs, **padded([ids], 16, left=False)})
            answered.append(int(np.argmax(logits[0, len(answered) - 1])))
        assert answer.token_ids == answered[1:]
        assert answer.text == tokenizer.decode(answered[1:])
    assert "".join(model.stream("so", 6)) == found[1].text
    assert len(model.generate([[5]], 99)[0]) == 23  # and the token it begins with
    with pytest.raises(ValueError, match="at most 24 tokens long.*Received: 25 tokens.*truncate"):
        model.generate([[5] * 25])
    kept = model.generate([[*range(30)]], 5, truncate=True)
    assert kept == model.generate([[*range(23), 29]], 5)


def test_prompts_that_do_not_fit(model):
    with pytest.raises(ValueError, match="at most 39 tokens long.*40 positions.*40 tokens.*trunc"):
        model.generate([[5] * 3, [5] * 40])
    prompt = [int(i) for i in np.random.default_rng(0).integers(5, 200, 60)]
    assert model.generate([prompt], 8, truncate=True) == model.generate([prompt[-32:]], 8)
    assert model.generate([prompt], 39, truncate=True) == model.generate([prompt[-20:]], 39)
    assert model.generate([[5, 6]], 8, truncate=True) == model.generate([[5, 6]], 8)


def test_new_tokens_end_where_positions_do(model):
    prompts = [[*range(5, 38)], [7], [*range(5, 44)]]
    found = model.generate(prompts, 50, details=True)
    assert [len(text.token_ids) for text in found] == [7, 39, 1]
    assert {text.finish_reason for text in found} == {"length"}
    for prompt, text in zip(prompts, found):
        assert text.token_ids == slow(model, prompt, len(text.token_ids))


def test_a_graph_is_traced_once_for_many_lengths(tokenizer):
    model = gpt(tokenizer, max_length=200)
    for length in (1, 5, 16):
        for count, temperature in ((3, 0), (9, 0.5), (16, np.float32(1))):
            model.generate([[5] * length], count, temperature=temperature, stop=[7])
    loop = model._loop
    assert loop._start.experimental_get_tracing_count() == 1
    assert loop._advance.experimental_get_tracing_count() == 1
    lengths = [_rounded(n) for n in range(1, 300)]
    assert sorted(set(lengths)) == [16, 32, 64, 128, 192, 256, 320]
    assert all(n <= rounded for n, rounded in enumerate(lengths, 1))


def test_changed_weights_and_adapters_are_heard(tokenizer):
    model = gpt(tokenizer)
    before = model.generate([[5, 6]], 8)
    model.backbone.embedding.token_emb.embeddings.assign_add(
        np.random.default_rng(0).normal(0, 1, (tokenizer.vocab_size, 16))
    )
    between = model.generate([[5, 6]], 8)
    assert between != before
    add_lora(model, 2)
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(1).normal(0, 1, weight.shape))
    assert model.generate([[5, 6]], 8) != between
    assert model.generate([[5, 6]], 8) == [slow(model, [5, 6], 8)]


def test_saved_after_it_wrote(model, tmp_path):
    model.special_ids = {"eos": [3, 299]}
    again = round_trip(model, tmp_path)
    assert again.special_ids == model.special_ids
    assert again.generate([[5, 6]], 8) == model.generate([[5, 6]], 8)
    model.special_ids = {}


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
def test_in_half_precision(dtype, tokenizer):
    keras.utils.set_random_seed(1)
    model = CausalLM(gpt(tokenizer).config, family="gpt2", tokenizer=tokenizer, dtype=dtype)
    both = model.generate([[5, 6], [7]], 5)
    for prompt, text in zip(([5, 6], [7]), both):
        assert model.generate([prompt, prompt], 5) == [text, text]
    assert len(both[0]) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(max_new_tokens=0), "`max_new_tokens` must be at least 1. Received: 0"),
        (dict(temperature=-1.0), "`temperature` must be at least 0"),
        (dict(temperature=float("nan")), "`temperature` must be at least 0"),
        (dict(top_k=-1), "`top_k` must be at least 0"),
        (dict(top_k=2**31), "`top_k` must be at most 2147483647. Received: 2147483648"),
        (dict(top_p=0.0), "`top_p` must be more than 0 and at most 1"),
        (dict(top_p=[0.5, 1.5]), "`top_p` must be more than 0"),
        (dict(min_p=1.1), "`min_p` must be from 0 to 1"),
        (dict(repetition_penalty=0), "`repetition_penalty` must be more than 0"),
        (dict(length_penalty=float("inf")), "`length_penalty` must be finite"),
        (dict(min_new_tokens=-1), "`min_new_tokens` must be at least 0"),
        (dict(no_repeat_ngram_size=[1, -1]), "`no_repeat_ngram_size` must be at least 0"),
        (dict(early_stopping="maybe"), '`early_stopping` must be False, True or "never"'),
        (dict(early_stopping=[True, True]), "`early_stopping` must be False"),
        (dict(num_beams=0), "`num_beams` must be at least 1"),
        (dict(num_sequences=0), "`num_sequences` must be at least 1"),
        (dict(num_sequences=2), "`num_sequences` must be 1 without beams"),
        (dict(num_beams=2, num_sequences=3), "`num_sequences` must be at most `num_beams`"),
        (dict(num_beams=2, temperature=0.5), "`temperature` must be 0 with beams"),
        (dict(temperature=[0.1, 0.2, 0.3]), "`temperature` must be one number, or one for each"),
        (dict(stop="END"), "`stop` must be a list"),
        (dict(stop=["END", ""]), "`stop` must be a list of strings, not empty ones"),
        (dict(stop=[1.5]), "`stop` must be a list of strings.* Received: .1.5."),
        (dict(stop=[b"END"]), "`stop` must be a list of strings"),
        (dict(stop=[2**31]), "`stop` must be a list of strings"),
        (dict(stop=None), "`stop` must be a list of strings.* Received: None"),
    ],
    ids=str,
)
def test_wrong_options(options, message, model):
    with pytest.raises(ValueError, match=message):
        model.generate([[5], [6]], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(max_new_tokens=1.5), "`max_new_tokens` must be a whole number .* Received: 1.5"),
        (dict(max_new_tokens="5"), "`max_new_tokens` must be a whole number .* Received: '5'"),
        (dict(top_k=[1, 0.5]), "`top_k` must be a whole number"),
        (dict(temperature="hot"), "`temperature` must be a number .float64.. Received: 'hot'"),
        (dict(num_beams=2.0), "`num_beams` must be a whole number"),
        (dict(num_beams=[1, 2]), "`num_beams` must be a whole number .* Received: .1, 2."),
        (dict(num_sequences=[1, 2]), "`num_sequences` must be a whole number"),
        (dict(seed=None), "`seed` must be a whole number .int64.. Received: None"),
        (dict(seed=2**64), "`seed` must be a whole number .int64.. Received: 1844674407370955"),
    ],
    ids=str,
)
def test_options_that_are_no_numbers(options, message, model):
    with pytest.raises(TypeError, match=message):
        model.generate([[5], [6]], **options)


def test_numbers_at_their_ends(model):
    options = dict(max_new_tokens=6, temperature=1.0)
    assert model.generate("low", 6, temperature=1e-9) == model.generate("low", 6)
    assert model.generate("low", top_k=10**6, **options) == model.generate("low", **options)
    seeds = [-1, 2**31, 2**63 - 1, -(2**63)]
    assert len({model.generate("low", seed=seed, **options) for seed in seeds}) == len(seeds)
    even = model.generate("low", 6, temperature=1e9)
    assert even == model.generate("low", 6, temperature=1e30) != model.generate("low", 6)
    assert model.generate(b"low", 6) == model.generate("low", 6)


def no_special(model):
    """A model whose tokenizer has no special tokens."""
    pipeline = json.loads(model.tokenizer._to_json())
    again = CausalLM(model.backbone, family="gpt2")
    again.tokenizer = ByteLevelBPETokenizer(pipeline)
    return again


def test_wrong_prompts(model):
    with pytest.raises(ValueError, match="token ids from 0 to 2.., at least one"):
        model.generate([[5, 6000]])
    with pytest.raises(ValueError, match="at least one"):
        model.generate([[]])
    with pytest.raises(TypeError, match="`prompts` must be texts, or lists of token ids"):
        model.generate([5, 6])
    with pytest.raises(TypeError, match="`prompts` must be texts"):
        model.generate([[0.5]])
    bare = loaded("gpt2")
    with pytest.raises(ValueError, match="`prompts` must not be empty where no token begins"):
        no_special(model).generate("")
    for call in (lambda: bare.generate("Hi"), lambda: bare.stream([5]), lambda: bare.generate([[5]], stop=["x"])):  # fmt: skip
        with pytest.raises(ValueError, match="`tokenizer` must be given to a model that reads"):
            call()


def test_other_backends_are_told(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Keras' backend must be it. Received: 'jax'"):
        model.generate([[5]])
