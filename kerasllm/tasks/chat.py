"""Dialogue and instructions: what an assistant answers; the loss is on its words alone.

A row holds `messages`, a list of dicts with `role` (`"system"`, `"user"` or `"assistant"`) and
`content`; or a `prompt` and its `response`, which are a dialogue of two messages.
"""

import re

from kerasllm.data.rows import place_of
from kerasllm.evaluation.texts import TextsResult, evaluate_replies
from kerasllm.models.causal_lm import CausalLM
from kerasllm.models.generative import padded
from kerasllm.tasks.language_modeling import token_loss, token_metrics
from kerasllm.tasks.text_classification import longest_row
from kerasllm.tasks.translation import written_on
from kerasllm.tokenizers import chat

MODEL = CausalLM
COLUMNS = ()
OPTIONAL_COLUMNS = ("messages", "prompt", "response")
INPUTS = ("prompt",)
MONITOR = "val_loss"
RESULT = TextsResult

# For tokenizers without one: a message is its role, its text on the next line, and the token that
# ends a text.
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}\n{{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)
PLAIN = "\ue000"  # within a special token that somebody has typed, so that it is none

loss, metrics = token_loss, token_metrics


def head(rows):
    """What a model's head must be for these rows: nothing of its own."""
    return {}


def texts(rows):
    """The texts of rows, for a vocabulary, and the names of the roles."""
    return [
        text
        for row in rows
        for message in messages_of(row)
        for text in (message["role"], message["content"])
    ]


def messages_of(row):
    """Return the messages of a row.

    Args:
        row: dict with `messages`, or with `prompt` and perhaps `response`.

    Returns:
        list of dicts with `role` and `content`, str.

    Raises:
        ValueError: the row is of another form.

    Example:
        >>> messages_of({"prompt": "Hello!"})
        [{'role': 'user', 'content': 'Hello!'}]
    """
    messages = row.get("messages")
    if messages is None:
        turns = (("user", "prompt"), ("assistant", "response"))
        messages = [{"role": role, "content": row[name]} for role, name in turns if name in row]
    if not messages or not all(map(_is_message, messages)):
        raise ValueError(
            f"{place_of(row)}: `messages` must be a list of dicts with `role` and `content`, or "
            f"there must be a `prompt`. Received: {dict(row)!r:.120}."
        )
    return messages


def render(tokenizer, messages, ask=False):
    r"""Write messages as the one text that a model reads.

    Args:
        tokenizer: of `kerasllm.tokenizers`, with its `chat_template`; without one it is `TEMPLATE`.
        messages: list of dicts with `role` and `content`.
        ask: bool, whether the text ends where the assistant shall go on.

    Returns:
        str.

    Raises:
        ValueError: the template refuses the messages.

    Example:
        >>> from kerasllm.tokenizers import ByteLevelBPETokenizer
        >>> tokenizer = ByteLevelBPETokenizer.train(["a a"], special_tokens={"eos": "</s>"})
        >>> render(tokenizer, [{"role": "user", "content": "Hi!"}], ask=True)
        'user\nHi!</s>\nassistant\n'
    """
    template = getattr(tokenizer, "chat_template", None) or TEMPLATE
    # WordPiece, which has no roles of tokens, ends a text with this one.
    special_tokens = getattr(tokenizer, "special_tokens", {"eos": "[SEP]"})
    return chat.render(template, messages, special_tokens, add_generation_prompt=ask)


def prompt_ids(tokenizer, messages):
    """Return the tokens from which a model goes on as the assistant.

    Args:
        tokenizer: of `kerasllm.tokenizers`.
        messages: list of dicts with `role` and `content`; a last one of the assistant is left out.

    Returns:
        list of int.

    Raises:
        ValueError: the template refuses the messages.
    """
    messages = [_typed(tokenizer, message) for message in messages]
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return _ids(tokenizer, render(tokenizer, messages, ask=True), begins=True)


def encode(model, rows, max_length=None):
    """Turn rows into what the model trains on.

    Args:
        model: `CausalLM` with a tokenizer.
        rows: list of dicts with `messages`, or with `prompt` and `response`.
        max_length: int or None: of longer dialogues the last tokens are kept; None for all the
            model can take.

    Returns:
        The triple (inputs, targets, weights): dict of int32 `(rows, length)`; int32 `(rows,
        length)`, the token that follows each; float32 `(rows, length)`, 1 where it is an answer's,
        0 elsewhere.

    Raises:
        ValueError: a row has no message of an assistant or is of another form, there are no rows,
            or `max_length` is beyond the model's.
    """
    longest = longest_row(model, max_length)
    if not rows:
        raise ValueError("`rows` must hold at least one row. Received: none.")
    if getattr(model.tokenizer, "chat_template", "") is None:
        model.tokenizer.chat_template = TEMPLATE  # which is saved with the model
    found = [_tokens(model.tokenizer, row) for row in rows]
    ids = [tokens[-longest - 1 :] for tokens, _ in found]
    own = [answers[-longest - 1 :] for _, answers in found]
    width = max(map(len, ids)) - 1
    inputs = padded([row[:-1] for row in ids], width, left=False)
    targets = padded([row[1:] for row in ids], width, left=False)["token_ids"]
    weights = padded([row[1:] for row in own], width, left=False)["token_ids"]
    return inputs, targets, weights.astype("float32")


def _tokens(tokenizer, row):
    """The ids of a dialogue, and for each 1 where the assistant has written it, else 0."""
    messages = [_typed(tokenizer, message) for message in messages_of(row)]
    ids, own, before = [], [], ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:i], ask=True)
        whole = render(tokenizer, messages[: i + 1])
        if not (prompt.startswith(before) and whole.startswith(prompt)):
            raise ValueError(
                "`chat_template` must only add to the text as messages are added, so that answers "
                f"can be found in it. Received: {prompt[:80]!r} and {whole[:80]!r}."
            )
        # Apart, as when the model will go on from the prompt.
        for piece, answer in ((prompt[len(before) :], 0), (whole[len(prompt) :], 1)):
            new = _ids(tokenizer, piece, begins=not ids)
            ids += new
            own += [answer] * len(new)
        before = whole
    if not any(own):
        raise ValueError(
            f"{place_of(row)}: `messages` must hold one of an `assistant`, or there must be a "
            f"`response`. Received: {dict(row)!r:.120}."
        )
    return ids, own


def predict(model, rows, *, max_length=None, batch_size=32, max_new_tokens=128, **options):
    """Write the assistant's next message of each row; where it is there, what stands before it.

    Args:
        model: `CausalLM` with a tokenizer.
        rows: list of dicts with `messages`, or with `prompt`.
        max_length: int or None: of longer dialogues the last tokens are kept.
        batch_size: int.
        max_new_tokens: int, the most tokens that are written.
        **options: of `model.generate`.

    Returns:
        list of str.
    """
    tokenizer = model.tokenizer
    prompts = [
        prompt_ids(tokenizer, messages_of(row))[-longest_row(model, max_length) :] for row in rows
    ]
    options = dict(options, max_new_tokens=max_new_tokens, truncate=True)
    return [text.strip() for text in written_on(model, prompts, batch_size, **options)]


def answers(model, rows, outputs):
    """Put what was written into words.

    Args:
        model: `CausalLM`.
        rows: list of dicts.
        outputs: list of str.

    Returns:
        list of dicts with `role` and `content`, messages that can be added to the dialogue.
    """
    return [{"role": "assistant", "content": output} for output in outputs]


def evaluate(model, rows, outputs):
    """Compare answers with those that the rows end with.

    Args:
        model: `CausalLM`.
        rows: list of rows with `messages`, or with `prompt` and `response`.
        outputs: list of str.

    Returns:
        `evaluation.texts.TextsResult`.

    Raises:
        ValueError: a row ends with no message of an assistant.
    """
    return evaluate_replies([_with_target(row) for row in rows], outputs)


def _with_target(row):
    *before, last = messages_of(row)
    if last["role"] != "assistant":
        raise ValueError(
            f"{place_of(row)}: `messages` must end with one of an `assistant`, to compare with. "
            f"Received: {last!r:.120}."
        )
    source = "\n".join(message["content"] for message in before)
    found = type(row)({"source": source, "target": last["content"]})
    if hasattr(row, "where"):
        found.where = row.where
    return found


def _ids(tokenizer, text, begins):
    """Ids of a text, or of a part that doesn't begin it; special tokens stand for themselves."""
    special = tokenizer.special_vocab
    tokens = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    inner = getattr(tokenizer, "encode_inner", tokenizer.encode)
    ids = []
    for piece in re.split(f"({tokens})", text) if special else [text]:
        if piece in special:
            ids.append(special[piece])
        elif piece:
            encode = inner if ids or not begins else tokenizer.encode
            ids += encode(piece.replace(PLAIN, ""))
    return ids


def _typed(tokenizer, message):
    """A message whose text holds no special token, though somebody has typed one."""
    content = message["content"].replace(PLAIN, "")
    for token in tokenizer.special_vocab:
        content = content.replace(token, token[:1] + PLAIN + token[1:])
    return {**message, "content": content}


def _is_message(message):
    return isinstance(message, dict) and all(
        isinstance(message.get(name), str) for name in ("role", "content")
    )
