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
# Leaves out what the assistant thought, and tells what a tool said from what a user did.
TEMPLATES["qwen3"] = """{%- for m in messages %}
{%- if m.content.startswith('<tool>') and m.content.endswith('</tool>') %}
    {%- set name = 'tool' %}
{%- else %}
    {%- set name = m.role %}
{%- endif %}
{%- if m.role == 'assistant' and '</think>' in m.content %}
    {%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- else %}
    {%- set said = m.content %}
{%- endif %}
{{- '<|im_start|>' + name + '\\n' + said + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""
TOKENS = {"bos": "<s>", "eos": "</s>"}
CONTENTS = ("Hi!", " a", "two\nlines \n", "好 🌻", "{{ x }}", "\n\n- one", "\u00a0e\u0301\u2003")


def conversation(rng):
    """Messages in an order that all templates take."""
    roles = ["system"] * rng.randrange(2) + ["user", "assistant"] * rng.randrange(3) + ["user"]
    return [{"role": role, "content": rng.choice(CONTENTS)} for role in roles]


def test_a_conversation_as_text():
    said = [{"role": "system", "content": "Be."}, {"role": "user", "content": " Hi "}]
    names = ("qwen", "llama", "zephyr")
    texts = {name: render(TEMPLATES[name], said, TOKENS) for name in names}
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


def test_what_a_template_looks_for_in_a_content_is_refused(family):  # noqa: F811
    strings = ChatStrings(TEMPLATES["qwen3"], TOKENS)
    assert strings.sought == ("</think>", "<tool>")
    assert [ChatStrings(TEMPLATES[name], TOKENS).sought for name in ("qwen", "llama")] == [(), ()]
    roles, thought = ["user", "assistant", "user"], "Hm.\n</think>\n\nNo."
    with pytest.raises(ValueError, match="must not hold '</think>', which the chat template"):
        strings.parts(roles, ["Why?", thought, "Oh."])
    tokenizer = family("qwen2").tokenizer
    tokenizer.chat_template = TEMPLATES["qwen3"]
    graph = tokenizer.in_graph()
    said = ["Why?", "No.", "Oh."]
    messages = [{"role": role, "content": content} for role, content in zip(roles, said)]
    assert graph.chat(roles, said).to_list() == [tokenizer.encode_chat(messages)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must not hold '</think>'"):
        graph.chat(roles, ["Why?", thought, "Oh."])


def test_a_graph_keeps_the_day(family, caplog):  # noqa: F811
    tokenizer = family("qwen2").tokenizer
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + TEMPLATES["zephyr"]
    with caplog.at_level("WARNING"):
        tokenizer.in_graph().chat(["user"], ["Hi!"])
    assert "it stays the day on which it is made" in caplog.text


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
