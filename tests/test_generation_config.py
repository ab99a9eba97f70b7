"""What a checkpoint says of how texts are generated: read, obeyed, told, and written back."""

import json
import pathlib
import shutil

import pytest
from keras_file import round_trip

from kerasllm.families import generation_config
from kerasllm.models import CausalLM, Seq2SeqLM, TextClassifier
from kerasllm.models.generative import DEFAULTS

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "families"
BEAMS = {"num_beams": 3, "length_penalty": 2.0, "max_length": 9}
RULED = {"min_length": 6, "no_repeat_ngram_size": 2, "num_beams": 2, "early_stopping": True}
SAMPLED = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 5}
PROMPTS = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture
def copied(tmp_path):
    """A function that copies a fixture, and adds to its config and its generation config."""

    def copy(name, fields=None, generation=None):
        folder = shutil.copytree(FIXTURES / name, tmp_path / name)
        config = {**read_json(folder / "config.json"), **(fields or {})}
        write_json(folder / "config.json", config)
        if generation is not None:
            write_json(folder / "generation_config.json", generation)
        return folder

    return copy


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path, fields):
    path.write_text(json.dumps(fields), encoding="utf-8")


def asked_for(model, **options):
    return model.generate(PROMPTS, **options)


def test_without_a_word_of_it(copied):
    model = Seq2SeqLM.from_pretrained(copied("bart/seq2seq_lm"))
    assert (model.generation_config, model.defaults) == ({}, DEFAULTS)
    assert asked_for(model) == asked_for(model, **DEFAULTS)


def test_the_file_of_its_own_comes_before_the_config(copied, caplog):
    folder = copied("bart/seq2seq_lm", {"num_beams": 2, "min_length": 7}, BEAMS)
    assert Seq2SeqLM.from_pretrained(folder).generation_config == BEAMS
    assert "`generate` does not do" not in caplog.text


def test_beams_of_an_encoder_decoder(copied):
    model = Seq2SeqLM.from_pretrained(copied("bart/seq2seq_lm", BEAMS))
    assert model.generation_config == BEAMS
    wanted = {"num_beams": 3, "length_penalty": 2.0, "max_new_tokens": 8}
    assert model.defaults == {**DEFAULTS, **wanted}
    beams = asked_for(model, **wanted)
    assert asked_for(model) == beams != asked_for(model, num_beams=1)
    # What is asked for rules out a default that contradicts it.
    drawn = asked_for(model, temperature=1.0, seed=1)
    assert drawn == asked_for(model, temperature=1.0, seed=1, num_beams=1) != beams


def test_sampling_by_a_decoder(copied):
    model = CausalLM.from_pretrained(copied("gpt2/causal_lm", generation=SAMPLED))
    wanted = {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "max_new_tokens": 5}
    assert model.defaults == {**DEFAULTS, **wanted}
    assert asked_for(model, seed=2) == asked_for(model, seed=2, **wanted)
    assert asked_for(model, seed=2) != asked_for(model, temperature=0.0)
    assert asked_for(model, num_beams=2) == asked_for(model, num_beams=2, temperature=0.0)
    assert all(len(ids) <= 5 for ids in asked_for(model))
    # The length of a decoder's text counts its prompt: that is left to the caller.
    model.generation_config = {"max_length": 9, "top_k": 7}
    assert model.defaults == {**DEFAULTS, "top_k": 7}


@pytest.mark.parametrize("name", ["bart/seq2seq_lm", "gpt2/causal_lm"])
def test_rules_for_single_tokens(copied, caplog, name):
    kind = Seq2SeqLM if "seq2seq" in name else CausalLM
    fields = {**RULED, "eos_token_id": [*range(20)]}
    model = kind.from_pretrained(copied(name, generation=fields))
    assert "`generate` does not do" not in caplog.text
    assert model.defaults == {**DEFAULTS, **RULED}
    rest = {name: RULED[name] for name in ("no_repeat_ngram_size", "num_beams", "early_stopping")}
    # The length counts the prompt, or the token that an answer begins with.
    least = [5, 5] if kind is Seq2SeqLM else [2, 4]
    found = asked_for(model, max_new_tokens=9)
    assert found == asked_for(model, max_new_tokens=9, min_new_tokens=least, **rest)
    assert all(len(ids) >= n for ids, n in zip(found, least))
    # What a caller says takes the place of both.
    free = asked_for(model, max_new_tokens=9, min_new_tokens=0)
    assert any(len(ids) < n for ids, n in zip(free, least))
    model.generation_config["min_new_tokens"] = 0
    assert "min_length" not in model.defaults
    assert asked_for(model, max_new_tokens=9) == free


def test_what_generate_does_not_do_is_told(copied, caplog):
    asked = {"num_beams": 4, "num_beam_groups": 2, "encoder_no_repeat_ngram_size": 3}
    folder = copied("bart/seq2seq_lm", {**asked, "typical_p": 1.0, "bad_words_ids": [[3]]})
    Seq2SeqLM.from_pretrained(folder)
    assert (
        "`generate` does not do what the checkpoint asks for with encoder_no_repeat_ngram_size=3, "
        "bad_words_ids=[[3]], num_beam_groups=2: texts may be others"
    ) in caplog.text
    caplog.clear()
    folder = copied("bart/text_classifier", asked)
    TextClassifier.from_pretrained(folder).save_pretrained(folder / "saved")
    assert "`generate`" not in caplog.text
    assert not (folder / "saved" / "generation_config.json").exists()


def test_written_back(copied, tmp_path):
    undone = {"no_repeat_ngram_size": 3, "transformers_version": "4.40.0"}
    generation = {**BEAMS, **undone, "eos_token_id": [4, 7], "pad_token_id": 1}
    model = Seq2SeqLM.from_pretrained(copied("bart/seq2seq_lm", generation=generation))
    assert model.generation_config == {**BEAMS, **undone}
    assert model.special_ids["eos"] == [4, 7]
    model.save_pretrained(tmp_path / "saved")
    written = read_json(tmp_path / "saved" / "generation_config.json")
    fields = read_json(tmp_path / "saved" / "config.json")
    tokens = {name: fields[name] for name in generation_config.TOKEN_FIELDS if name in fields}
    assert written == {**BEAMS, **undone, **tokens}
    assert (written["eos_token_id"], written["pad_token_id"]) == ([4, 7], 1)
    assert "num_beams" not in fields
    again = Seq2SeqLM.from_pretrained(tmp_path / "saved")
    assert again.generation_config == model.generation_config
    assert again.special_ids == model.special_ids


def test_a_keras_file_keeps_it(copied, tmp_path):
    model = CausalLM.from_pretrained(copied("gpt2/causal_lm", generation=SAMPLED))
    assert round_trip(model, tmp_path).generation_config == SAMPLED


def test_the_token_that_older_configs_ask_to_begin_with():
    fields = {"force_bos_token_to_be_generated": True, "bos_token_id": 3, "vocab_size": 9}
    assert generation_config.from_config(fields) == {"bos_token_id": 3, "forced_bos_token_id": 3}
    fields["forced_bos_token_id"] = 4
    assert generation_config.from_config(fields)["forced_bos_token_id"] == 4


@pytest.mark.parametrize(
    ("name", "eos"), [("bart/seq2seq_lm", 30), ("t5/seq2seq_lm", 30), ("gpt2/causal_lm", 2)]
)
def test_transformers_generates_by_what_we_write(copied, tmp_path, name, eos):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind = Seq2SeqLM if "seq2seq" in name else CausalLM
    generation = {"num_beams": 3, "length_penalty": 0.5, "max_new_tokens": 6}
    generation |= {"no_repeat_ngram_size": 2, "min_length": 5, "early_stopping": "never"}
    generation |= {"repetition_penalty": 1.3, "decoder_start_token_id": 3, "eos_token_id": eos}
    model = kind.from_pretrained(copied(name, generation=generation))
    model.save_pretrained(tmp_path / "saved")
    architecture = read_json(tmp_path / "saved" / "config.json")["architectures"][0]
    theirs = getattr(transformers, architecture).from_pretrained(tmp_path / "saved").eval()
    assert theirs.generation_config.num_beams == 3
    ids = torch.tensor([PROMPTS[0]])
    found = theirs.generate(ids, attention_mask=torch.ones_like(ids))[0].tolist()
    new = found[1:] if kind is Seq2SeqLM else found[len(PROMPTS[0]) :]
    ours = model.generate(PROMPTS[:1])[0]
    assert [*ours, eos][: len(new)] == new  # the token that ends it is no part of ours
    assert len(new) > 1
