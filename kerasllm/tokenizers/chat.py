"""Chat templates: a conversation as the one text that a model goes on from."""

import functools
import itertools
import json
import random
from datetime import datetime
from typing import NamedTuple

from jinja2 import TemplateError, ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kerasllm.tokenizers.files import read, read_object

FILE = "chat_template.jinja"
ROLES = ("system", "user", "assistant")
EDGE = "\v"  # white space that no template writes
LISTS = 200  # random conversations that the strings of a template are tried on


def read_template(folder):
    """Reads the chat template of a model folder.

    Args:
        folder: `pathlib.Path`. As in `transformers`, `chat_template.jinja` goes before
            `tokenizer_config.json`; of several templates there, it is the one called "default".

    Returns:
        str, or None where there is none.
    """
    if (folder / FILE).exists():
        return read(folder / FILE)
    found = read_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}
    return found.get("default") if isinstance(found, dict) else found


def render(template, messages, special_tokens, add_generation_prompt=True):
    """Writes a conversation as one text, as `transformers` does.

    Args:
        template: str, Jinja's source. It comes with a checkpoint, so it runs in a sandbox.
        messages: list of dict with `role` and `content`, str.
        special_tokens: dict from role (`"bos"`, `"eos"`, …) to token.
        add_generation_prompt: bool, whether the text ends where the assistant's answer begins.

    Returns:
        str.

    Raises:
        ValueError: the template is broken, or refuses the messages.

    Example:
        >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        >>> render(source, [{"role": "user", "content": "Hi!"}], {})
        '<user>Hi!'
    """
    tokens = {f"{role}_token": token for role, token in special_tokens.items()}
    try:
        return _compiled(template).render(
            messages=messages, add_generation_prompt=add_generation_prompt, **tokens
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            "`messages` must be such as the chat template takes. Received: "
            f"{[message.get('role') for message in messages]} ({error})"
        ) from error


@functools.lru_cache(maxsize=8)
def _compiled(template):
    return _environment().from_string(template)


def _environment():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols]
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _sought(template):
    """The strings that a template may look for in a content: those of comparisons and calls."""
    places = _environment().parse(template).find_all((nodes.Compare, nodes.Call, nodes.Filter))
    found = (const.value for place in places for const in place.find_all(nodes.Const))
    return list(dict.fromkeys(value for value in found if isinstance(value, str) and value))


def _refuse(message):
    raise TemplateError(message)


class Between(NamedTuple):
    """What a template writes between two messages.

    Args:
        text: str.
        strips_before: bool, whether white space at the end of the first one is left out.
        strips_after: bool, whether white space at the beginning of the second one is.
    """

    text: str
    strips_before: bool
    strips_after: bool


class ChatStrings:
    """A chat template as what it writes between two messages, for where Jinja can't run.

    Most templates are of this form: what stands between two contents depends on the roles of the
    two messages alone, as long as no content is blank. A system message can only come first, and a
    conversation ends with a message of the user, to be answered.

    Args:
        template, special_tokens: of `render`.

    Attributes:
        between: dict from a pair of roles, `None` for the beginning and the end of the
            conversation, to `Between`. A pair that the template refuses is not there.
        sought: tuple of str, what no content may hold, because the template looks for it and does
            something else then: `</think>`, before which many leave out all.

    Raises:
        ValueError: the template is of another form.

    Example:
        >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}|{% endfor %}ai>"
        >>> strings = ChatStrings(source, {})
        >>> strings.between["user", None]
        Between(text='|ai>', strips_before=True, strips_after=False)
        >>> strings.parts(["user"], [" Hi! "])
        ['<user>', 'Hi!', '|ai>']
    """

    def __init__(self, template, special_tokens):
        self.between = {}
        text_of = functools.partial(_rendered, template, special_tokens)
        for length in range(1, 5):
            for roles in itertools.product(ROLES, repeat=length):
                if roles[-1] == "user" and "system" not in roles[1:]:
                    self._learn(roles, text_of)
        if (None, "user") not in self.between:
            _unlike("it takes no message of the user alone")
        self._check(text_of)
        self.sought = tuple(self._changing(_sought(template), text_of))

    def _learn(self, roles, text_of):
        contents = [f"<{i}:content>" for i in range(len(roles))]
        rest = text_of(roles, [EDGE + content + EDGE for content in contents])
        if rest is None or any(content not in rest for content in contents):
            return  # the template refuses such a conversation, or leaves out a part of it
        before, places = None, [*zip(roles, contents), (None, None)]
        for role, content in places:
            text, found, rest = (rest, "", "") if role is None else rest.partition(content)
            if role is not None and not found:
                _unlike("messages change their places")
            between = Between(
                text.removeprefix(EDGE).removesuffix(EDGE),
                before is not None and not text.startswith(EDGE),
                role is not None and not text.endswith(EDGE),
            )
            if self.between.setdefault((before, role), between) != between:
                _unlike(f"{between} and {self.between[before, role]} for {before} and {role}")
            before = role

    def _check(self, text_of):
        rng = random.Random(0)
        words = ("Hi!", " a", "two\nlines \n", "好 🌻", "{{ x }}", "a" * 99, "\n\n- one\n- two")
        for _ in range(LISTS):
            roles = ["system"] * rng.randrange(2)
            roles += [*rng.choices(ROLES[1:], k=rng.randrange(6)), "user"]
            contents = rng.choices(words, k=len(roles))
            if not self._takes(roles):
                continue  # an error, whatever the template does
            found = "".join(self._parts(roles, contents))
            if found != text_of(roles, contents):
                _unlike(f"of {roles} and {contents} it makes something else than {found!r:.200}")

    def _changing(self, strings, text_of):
        """Those strings that change what is written around a content, or of it."""
        found = []
        for first, last in itertools.product(["", *strings], repeat=2):
            if {first, last} & {*found}:
                continue
            content = f"{first}x{last}"
            for roles in (("user", "assistant", "user"), ("system", "user")):
                contents = [content] * len(roles)
                told = self._takes(roles) and "".join(self._parts(roles, contents))
                if told and told != text_of(roles, contents):
                    found.append(first or last)
                    break
        return found

    def parts(self, roles, contents):
        """What the template makes of a conversation: strings of its own and contents, in turn.

        Args:
            roles: sequence of str in `ROLES`.
            contents: sequence of str, as many.

        Returns:
            list of str, the first and the last of them the template's.

        Raises:
            ValueError: the template doesn't take messages in this order, or a content holds what is
                `sought`.
        """
        if not self._takes(roles):
            raise ValueError(
                "`messages` must be in an order that the chat template takes, the last one the "
                f"user's. Received: {list(roles)}."
            )
        for string in self.sought:
            if any(string in content for content in contents):
                raise ValueError(
                    f"`messages` must not hold {string!r}, which the chat template looks for."
                )
        return self._parts(roles, contents)

    def _takes(self, roles):
        return bool(roles) and all(pair in self.between for pair in _pairs(roles))

    def _parts(self, roles, contents):
        between, parts = [self.between[pair] for pair in _pairs(roles)], []
        for before, content, after in zip(between, contents, between[1:]):
            content = content.lstrip() if before.strips_after else content
            parts += [before.text, content.rstrip() if after.strips_before else content]
        return [*parts, between[-1].text]


def _pairs(roles):
    """The roles before and after each place where a template writes."""
    return list(zip([None, *roles], [*roles, None]))


def _rendered(template, special_tokens, roles, contents):
    """The text of a conversation; None where the template refuses it."""
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents)]
    try:
        return render(template, messages, special_tokens)
    except ValueError:
        return None


def _unlike(why):
    raise ValueError(
        "the chat template must write, between two messages, what depends on their roles alone. "
        f"Received: one that does not ({why})."
    )
