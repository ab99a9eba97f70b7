import keras
import numpy as np
import pytest
from tiny_task import tiny_config

from kerasllm.data.rows import Row, read_rows
from kerasllm.models import CausalLM
from kerasllm.tasks import chat
from kerasllm.tokenizers import ByteLevelBPETokenizer, WordPieceTokenizer
from kerasllm.training import fit

# As Qwen's checkpoints have it.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = {
    "What is 1 + 1?": "It is 2.",
    "Who are you?": "A small model.",
    "Say hello!": "Hello there, you.",
}
ROWS = [
    Row({"prompt": question, "response": answer}, f"x.jsonl:{i}")
    for i, (question, answer) in enumerate(QUESTIONS.items(), start=1)
]
DIALOGUE = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": "Say hello!"},
        {"role": "assistant", "content": "Hello."},
    ]
}


@pytest.fixture(scope="module")
def tokenizer():
    special = {"eos": "<|im_end|>", "bos": "<|im_start|>"}
    texts = [*chat.texts([*ROWS, DIALOGUE]), "system", "<|im_"] * 2
    tokenizer = ByteLevelBPETokenizer.train(texts, vocab_size=320, special_tokens=special)
    tokenizer.chat_template = CHATML
    return tokenizer


def language_model(tokenizer, max_length=64):
    keras.utils.set_random_seed(0)
    config = tiny_config(
        tokenizer.vocab_size,
        max_length=max_length,
        num_segments=0,
        causal=True,
        norm_first=True,
        positions="counted",
        embedding_norm=False,
    )
    return CausalLM(config, family="gpt2", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    return language_model(tokenizer)


def learnt(tokenizer, inputs, targets, weights, row=0):
    """The text that the loss of a row is about."""
    ids = targets[row][weights[row] > 0]
    return "".join(_text(tokenizer, i) for i in ids)


def _text(tokenizer, token_id):
    specials = {index: token for token, index in tokenizer.special_vocab.items()}
    return specials.get(token_id) or tokenizer.decode([token_id])


def test_messages_of_a_prompt_and_its_response():
    assert chat.messages_of(ROWS[0]) == [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "It is 2."},
    ]
    assert chat.texts(ROWS[:1]) == ["user", "What is 1 + 1?", "assistant", "It is 2."]
    assert chat.head(ROWS) == {}


def test_render_takes_the_template_of_the_checkpoint(tokenizer):
    text = chat.render(tokenizer, DIALOGUE["messages"][:2], ask=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_render_without_a_template():
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hi"])
    text = chat.render(tokenizer, [{"role": "user", "content": "Hi"}], ask=True)
    assert text == "user\nHi[SEP]\nassistant\n"


def test_the_form_that_was_trained_with_is_saved(tmp_path):
    special = {"eos": "</s>", "pad": "<pad>"}
    tokenizer = ByteLevelBPETokenizer.train(chat.texts(ROWS) * 2, special_tokens=special)
    model = language_model(tokenizer)
    inputs, targets, weights = chat.encode(model, ROWS[:1])
    assert learnt(tokenizer, inputs, targets, weights) == "It is 2.</s>\n"
    tokenizer.save_pretrained(tmp_path)
    again = ByteLevelBPETokenizer.from_pretrained(tmp_path)
    assert again.chat_template == chat.TEMPLATE
    question = [{"role": "user", "content": "Who are you?"}]
    assert again.encode_chat(question) == chat.prompt_ids(tokenizer, question)


def test_a_template_may_refuse(tokenizer):
    other = ByteLevelBPETokenizer.train(["a a"], special_tokens={"eos": "</s>"})
    other.chat_template = "{{ raise_exception('no system message, please') }}"
    with pytest.raises(ValueError, match="no system message, please"):
        chat.render(other, DIALOGUE["messages"])


def test_the_loss_is_on_the_answers_only(model, tokenizer):
    inputs, targets, weights = chat.encode(model, [DIALOGUE, ROWS[0]])
    assert learnt(tokenizer, inputs, targets, weights) == ("A model.<|im_end|>\nHello.<|im_end|>\n")
    assert learnt(tokenizer, inputs, targets, weights, 1) == "It is 2.<|im_end|>\n"
    # Each target is the token that follows.
    np.testing.assert_array_equal(inputs["token_ids"][0, 1:], targets[0, :-1])
    ids = [*inputs["token_ids"][0], targets[0, -1]]
    assert "".join(_text(tokenizer, i) for i in ids) == chat.render(tokenizer, DIALOGUE["messages"])
    assert weights.dtype == np.float32
    assert inputs["padding_mask"].sum(axis=1).tolist() == (
        [len(ids) - 1, int(np.flatnonzero(weights[1])[-1]) + 1]
    )


def test_special_tokens_are_ids_but_none_that_a_user_types(model, tokenizer):
    typed = [{"prompt": "<|im_end|>", "response": "No <|im_start|>."}]
    inputs, targets, weights = chat.encode(model, typed)
    end, start = (tokenizer.special_vocab[token] for token in ("<|im_end|>", "<|im_start|>"))
    assert (inputs["token_ids"] == start).sum() == 2  # of the template
    assert (targets == end).sum() == 2
    text = "".join(_text(tokenizer, i) for i in targets[0])
    assert text.startswith("user\n<|im_end|><|im_end|>\n")
    assert learnt(tokenizer, inputs, targets, weights) == "No <|im_start|>.<|im_end|>\n"
    # Where there is none, the ids are those of the whole text.
    whole = chat.render(tokenizer, DIALOGUE["messages"])
    assert chat._ids(tokenizer, whole, begins=True).count(start) == 5


def test_a_prompt_has_the_ids_of_the_tokenizer(tokenizer):
    messages = [*DIALOGUE["messages"][:3], {"role": "user", "content": "<|im_end|> you"}]
    assert chat.prompt_ids(tokenizer, messages) == tokenizer.encode_chat(messages)


def test_a_tokenizer_without_special_tokens():
    class Words:
        special_vocab = {}

        def encode(self, text):
            return [len(word) for word in text.split()]

    assert chat.prompt_ids(Words(), [{"role": "user", "content": "Hello you!"}]) == [4, 5, 9, 9]


def test_long_dialogues_keep_their_end(model, tokenizer):
    long = {"prompt": "Who " * 200, "response": "A model."}
    inputs, targets, weights = chat.encode(model, [long])
    assert inputs["token_ids"].shape == (1, 64)
    assert learnt(tokenizer, inputs, targets, weights) == "A model.<|im_end|>\n"
    inputs, _, _ = chat.encode(model, [long], max_length=16)
    assert inputs["token_ids"].shape == (1, 16)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "`messages` must be a list of dicts with `role` and `content`"),
        ({"messages": [{"role": "user"}]}, "`messages` must be a list of dicts"),
        ({"response": None}, "`messages` must be a list of dicts"),
        (
            Row({"prompt": "a"}, "x.jsonl:7"),
            "x.jsonl:7: `messages` must hold one of an `assistant`",
        ),
    ],
)
def test_bad_rows(model, row, message):
    with pytest.raises(ValueError, match=message):
        chat.encode(model, [row])


def test_no_rows_and_lengths_beyond_the_model(model):
    with pytest.raises(ValueError, match="`rows` must hold at least one row"):
        chat.encode(model, [])
    with pytest.raises(ValueError, match="`max_length` must be at most 64"):
        chat.encode(model, ROWS, max_length=65)


def test_a_template_that_rewrites_what_was_before(tokenizer):
    other = ByteLevelBPETokenizer.train(["a a"], special_tokens={"eos": "</s>"})
    other.chat_template = "{{ messages | length }}{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="`chat_template` must only add to the text"):
        chat.encode(language_model(other), ROWS)


def test_training_learns_the_answers(tokenizer):
    model = language_model(tokenizer)
    options = dict(batch_size=12, epochs=2, learning_rate=1e-2, progress=False)
    history = fit(model, ROWS * 100, task="chat", **options)
    assert model.task == "chat"
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    questions = [{"prompt": row["prompt"]} for row in reversed(ROWS)]
    outputs = chat.predict(model, questions, batch_size=2, max_new_tokens=16)
    assert outputs == [row["response"] for row in reversed(ROWS)]
    # Where the answer is there, what stands before it is asked.
    assert chat.predict(model, ROWS[:1], max_new_tokens=16) == outputs[2:]
    assert chat.answers(model, ROWS, outputs)[0] == {"role": "assistant", "content": outputs[0]}
    found = chat.evaluate(model, ROWS, [*outputs[::-1][:2], "Hello"])
    assert found.scores["exact match"] == pytest.approx(2 / 3)
    assert found.scores["ROUGE-1"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found.worst[0]["where"] == "x.jsonl:3"
    assert found.baseline == {}


def test_evaluation_needs_an_answer(model):
    with pytest.raises(ValueError, match="`messages` must end with one of an `assistant`"):
        chat.evaluate(model, [{"prompt": "a"}], ["b"])


def test_rows_of_files(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"prompt": "a", "response": "b"}\n{"messages": [{"role": "user", "content": "c"}]}\n'
    )
    rows = read_rows(path, chat.COLUMNS, optional=chat.OPTIONAL_COLUMNS)
    assert rows[0] == {"prompt": "a", "response": "b"}
    assert chat.messages_of(rows[1]) == [{"role": "user", "content": "c"}]
