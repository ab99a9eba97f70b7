"""Chat templates in Python and in graphs: texts, ids, files."""

import json
import random

import pytest
import tensorflow as tf
from test_pipeline_tokenizers import family, with_special_tokens  # noqa: F401  (a fixture)

from kerasllm.tokenizers import ByteLevelBPETokenizer, load_tokenizer
from kerasllm.tokenizers.chat import FILE, ChatStrings, read_template, render

# The ways in which published templates put messages together.
TEMPLATES = {
    "qwen": """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}""",
    "llama": """{% if messages[0]['role'] == 'system' %}
{% set rest, said = messages[1:], '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}
{%- else %}
{% set rest, said = messages, '' %}
{%- endif %}
{%- for message in rest %}
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate') }}
{% endif %}
{% if message.role == 'user' %}
{{- bos_token + '[INST] ' + (said * loop.first + message.content).strip() + ' [/INST]' }}
{%- else %}
{{- ' ' + message.content | trim + ' ' + eos_token }}
{%- endif %}
{% endfor %}""",
    "zephyr": """{% for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
}
TOKENS = {"bos": "<s>", "eos": "</s>"}
CONTENTS = ("Hi!", " a", "two\nlines \n", "好 🌻", "{{ x }}", "\n\n- one", "\u00a0e\u0301\u2003")


def conversation(rng):
    """Messages in an order that all templates take."""
    roles = ["system"] * rng.randrange(2) + ["user", "assistant"] * rng.randrange(3) + ["user"]
    return [{"role": role, "content": rng.choice(CONTENTS)} for role in roles]


def test_a_conversation_as_text():
    said = [{"role": "system", "content": "Be."}, {"role": "user", "content": " Hi "}]
    texts = {name: render(template, said, TOKENS) for name, template in TEMPLATES.items()}
    assert texts == {
        "qwen": "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
        "<|im_start|>assistant\n",
        "llama": "<s>[INST] <<SYS>>\nBe.\n<</SYS>>\n\n Hi [/INST]",
        "zephyr": "<|system|>\nBe.</s>\n<|user|>\n Hi </s>\n<|assistant|>\n",
    }
    assert render(TEMPLATES["zephyr"], said[1:], TOKENS, add_generation_prompt=False) == (
        "<|user|>\n Hi </s>\n"
    )
    with pytest.raises(ValueError, match=r"Received: \['user', 'user'\] \(Roles must alternate\)"):
        render(TEMPLATES["llama"], [said[1]] * 2, TOKENS)
    with pytest.raises(ValueError, match="such as the chat template takes"):
        render("{% if %}", said, TOKENS)


def test_a_template_runs_in_a_sandbox():
    for attack in ("''.__class__.__mro__", "messages.append(1)", "range(10**9)", "1 / 0"):
        with pytest.raises(ValueError, match="such as the chat template takes"):
            render("{{ " + attack + " }}", [{"role": "user", "content": "x"}], {})


@pytest.mark.parametrize("name", TEMPLATES)
def test_strings_write_what_the_template_writes(name):
    strings, rng = ChatStrings(TEMPLATES[name], TOKENS), random.Random(1)
    for _ in range(50):
        said = conversation(rng)
        roles, contents = zip(*(message.values() for message in said))
        assert "".join(strings.parts(roles, contents)) == render(TEMPLATES[name], said, TOKENS)
    for roles in ([], ["system"], ["user", "assistant"], ["user", "system", "user"]):
        with pytest.raises(ValueError, match="`messages` must be in an order"):
            strings.parts(roles, ["x"] * len(roles))


@pytest.mark.parametrize(
    "template, why",
    [
        (
            "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
            "it writes both|and",
        ),
        (
            "{% for m in messages | reverse %}{{ m.content }} {% endfor %}",
            "change their places|and",
        ),
        ("{{ messages | length }}", "no message of the user"),
        ("{% for m in messages %}[{{ m.content | upper }}]{% endfor %}", "no message of the user"),
        (
            "{% for m in messages %}{{ '-' if 'Hi' in m.content }}{{ m.content }}{% endfor %}",
            "something else",
        ),
    ],
)
def test_templates_of_another_form(template, why):
    with pytest.raises(ValueError, match=f"between two messages.*({why})"):
        ChatStrings(template, TOKENS)


@pytest.mark.parametrize(
    "name, template", [("qwen2", "qwen"), ("tinyllama", "llama"), ("spiece_mistral", "zephyr")]
)
def test_ids_of_a_conversation(family, name, template):  # noqa: F811
    tokenizer = family(name).tokenizer
    tokenizer.chat_template, rng = TEMPLATES[template], random.Random(2)
    allowed = with_special_tokens(tokenizer)
    strings = tf.TensorSpec([None], tf.string)
    graph = tf.function(tokenizer.in_graph().chat.__call__, input_signature=[strings] * 2)
    special = list(tokenizer.special_vocab)
    typed = 0
    for i in range(30):
        said = conversation(rng)
        if i % 2:
            said[-1]["content"] += f" {rng.choice(special)}x"
        ids = tokenizer.encode_chat(said)
        roles, contents = zip(*(message.values() for message in said))
        assert graph(tf.constant(roles), tf.constant(contents)).to_list() == [ids]
        whole = allowed.encode(render(tokenizer.chat_template, said, tokenizer.special_tokens))
        assert (ids == whole) is (i % 2 == 0)
        typed += i % 2
    assert typed == 15
    for roles, contents in (([], []), (["user", "system"], ["a"] * 2), (["tool"], ["a"])):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`roles` must be"):
            graph(tf.constant(roles, tf.string), tf.constant(contents, tf.string))
    with pytest.raises(tf.errors.InvalidArgumentError, match="`contents` must be as many as"):
        graph(tf.constant(["user"]), tf.constant(["a", "b"]))
    tokenizer.chat_template = None


def test_files(tmp_path):
    tokenizer = ByteLevelBPETokenizer.train(["low lower lowest"] * 2, vocab_size=262)
    with pytest.raises(ValueError, match="`chat_template` must be set"):
        tokenizer.encode_chat([{"role": "user", "content": "low"}])
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).chat_template is None
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for stated in (
        "old",
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "old"}],
    ):
        path.write_text(json.dumps({**config, "chat_template": stated}), encoding="utf-8")
        assert load_tokenizer(tmp_path).chat_template == "old"
    tokenizer.chat_template = "{# new\n #}"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).chat_template == (tmp_path / FILE).read_bytes().decode()
    assert read_template(tmp_path).startswith("{# new")
