"""`kerasllm generate`, `chat`, `train --task` and `predict` of tasks that need more than a text."""

import json

import keras
import pytest
from click.testing import CliRunner

from kerasllm import ByteLevelBPETokenizer, CausalLM, SpanLabeler, TransformerConfig
from kerasllm.cli import main

TEXTS = ["To be, or not to be, that is the question.", "user assistant"] * 4
SIZES = dict(num_layers=1, num_heads=2, embed_dim=8, ff_dim=16, max_length=64, num_segments=0)


def call(*arguments, stdin=""):
    found = CliRunner().invoke(main, [str(each) for each in arguments], input=stdin)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    keras.utils.set_random_seed(0)
    tokenizer = ByteLevelBPETokenizer.train(TEXTS, vocab_size=280)
    config = TransformerConfig(
        tokenizer.vocab_size,
        causal=True,
        norm_first=True,
        embedding_norm=False,
        positions="counted",
        **SIZES,
    )
    model = CausalLM(config, family="gpt2", tokenizer=tokenizer)
    folder = tmp_path_factory.mktemp("models") / "gpt"
    model.save_pretrained(folder)
    return folder, model


def test_generate_streams_what_the_model_writes(gpt):
    folder, model = gpt
    options = ("--max-new-tokens", 6, "--temperature", 0.9, "--seed", 3)
    wanted = model.generate("To be", 6, temperature=0.9, seed=3)
    assert call("generate", folder, "To be", *options) == f"{wanted}\n"
    assert call("generate", folder, *options, stdin="To be\n") == f"{wanted}\n"
    found = json.loads(call("generate", folder, "To be", "or", *options, "--json"))
    assert found[0] == {"prompt": "To be", "text": wanted}
    assert len(found) == 2
    several = call("generate", folder, "To be", *options, "--num-sequences", 2, "--json")
    assert json.loads(several)[0]["texts"][0] == wanted


def test_generate_shortens_a_prompt_where_it_is_told(gpt):
    folder, model = gpt
    prompt, options = "To be, or not to be. " * 30, ("--max-new-tokens", 4)
    found = CliRunner().invoke(main, ["generate", str(folder), prompt, *map(str, options)])
    assert found.exit_code == 1
    assert "truncate" in found.output
    wanted = model.generate(prompt, 4, truncate=True)
    assert call("generate", folder, prompt, *options, "--truncate") == f"{wanted}\n"


def test_generate_ends_a_search_as_it_is_told(gpt, monkeypatch):
    folder, _ = gpt
    asked = []

    def generate(self, prompts, **options):
        asked.append(options)
        return prompts

    monkeypatch.setattr(CausalLM, "generate", generate)
    for value in ("true", "false", "never"):
        call("generate", folder, "To be", "--early-stopping", value)
    call("generate", folder, "To be", "--num-beams", 2, "--length-penalty", 0.5)
    wanted = [{"early_stopping": value} for value in (True, False, "never")]
    assert asked == [*wanted, {"num_beams": 2, "length_penalty": 0.5}]
    found = CliRunner().invoke(main, ["generate", str(folder), "a", "--early-stopping", "soon"])
    assert found.exit_code == 2 and "'soon' is not one of" in found.stderr


def test_generate_says_what_is_wrong(gpt):
    found = CliRunner().invoke(main, ["generate", str(gpt[0]), "a", "--top-p", "2"])
    assert found.exit_code == 1
    assert "`top_p` must be more than 0" in found.stderr
    found = CliRunner().invoke(main, ["generate", str(gpt[0])], input="")
    assert found.exit_code == 2 and "There are no prompts" in found.stderr


def test_chat_remembers_what_was_said(gpt):
    folder, model = gpt
    from kerasllm.tasks import chat

    said = call("chat", folder, "--system", "Be kind.", "--max-new-tokens", 4, stdin="Hi!\nBye!\n")
    messages, wanted = [{"role": "system", "content": "Be kind."}], []
    for line in ("Hi!", "Bye!"):
        messages.append({"role": "user", "content": line})
        ids = chat.prompt_ids(model.tokenizer, messages)
        text = model.generate([ids], 4, truncate=True, details=True)[0].text
        messages.append({"role": "assistant", "content": text})
        wanted.append(text)
    assert said == "".join(f"{text}\n" for text in wanted)


def test_pretraining_from_a_text_file(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXTS * 8), encoding="utf-8")
    call(
        *("train", "llama_tiny", text, tmp_path / "run", "--task", "causal_lm", "--epochs", 1),
        *("--vocab-size", 270, "--max-length", 16, "--batch-size", 16, "--validation", text),
    )
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["rows"] == {"train": None, "validation": None, "test": 0}
    assert run["evaluation"]["perplexity"] > 1
    assert "val_perplexity" in run["history"]
    assert CausalLM.from_pretrained(tmp_path / "run").task == "causal_lm"


def test_questions_are_answered_from_rows(tmp_path):
    from tiny_task import classifier

    small = classifier()
    model = SpanLabeler(small.config, family="bert", tokenizer=small.tokenizer)
    model.save_pretrained(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "what?", "context": "the soup was cold"}) + "\n")
    (answer,) = json.loads(call("predict", tmp_path / "model", "--data", rows, "--json"))
    assert answer["answer"] in answer["context"]
    found = CliRunner().invoke(main, ["predict", str(tmp_path / "model"), "what?"])
    assert "`data` must be given for question_answering" in found.stderr
