"""What models that write texts share: `generate` and `stream`."""

import logging
import numbers
from typing import NamedTuple

import keras
import numpy as np

from kerasllm.families import generation_config as theirs
from kerasllm.layers import quick_steps
from kerasllm.models.pretrained import SPECIAL, Pretrained
from kerasllm.weights import read_json

logger = logging.getLogger("kerasllm")

CONFIG = "generation_config.json"

# What `generate` does where neither its caller nor the checkpoint says otherwise.
DEFAULTS = {
    "max_new_tokens": 64,
    "min_new_tokens": 0,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
}
EARLY_STOPPING = (False, True, "never")

# What an option must be: a test of its values, and the words for it.
RULES = {
    "max_new_tokens": (lambda x: x >= 1, "at least 1"),
    "min_new_tokens": (lambda x: x >= 0, "at least 0"),
    "temperature": (lambda x: x >= 0, "at least 0 (0 takes the likeliest token)"),
    "top_k": (lambda x: x >= 0, "at least 0 (0 is all tokens)"),
    "top_p": (lambda x: (x > 0) & (x <= 1), "more than 0 and at most 1 (1 is all tokens)"),
    "min_p": (lambda x: (x >= 0) & (x <= 1), "from 0 to 1 (0 is all tokens)"),
    "repetition_penalty": (lambda x: x > 0, "more than 0 (1 is no penalty)"),
    "no_repeat_ngram_size": (lambda x: x >= 0, "at least 0 (0 lets all come again)"),
    "num_beams": (lambda x: x >= 1, "at least 1 (1 is no search)"),
    "early_stopping": (lambda x: x.tolist() in EARLY_STOPPING, 'False, True or "never"'),
    "num_sequences": (lambda x: x >= 1, "at least 1"),
}
WHOLE = (  # numbers without a fraction
    "max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size", "num_beams",
    "num_sequences", "seed",
)  # fmt: skip
MOST = np.iinfo("int32").max  # of those but the seed
OF_ALL = ("num_beams", "num_sequences")  # numbers that are the same for all prompts
BROKEN = "\ufffd"  # what bytes decode to that are no character, or not yet
CONTEXT = 64  # tokens of a prompt from which it is clear how the new ones are written: bytes too
EVERY = 16  # new tokens after which `generate` looks for stop strings


class Generated(NamedTuple):
    """A text that a model has written.

    Args:
        text: str, what is new, up to a stop string; None where there is no tokenizer.
        token_ids: list of int, its tokens, without one that ended it.
        finish_reason: str, `"stop"` where a token or string ended it, `"length"` where it has all
            the tokens that it may have.
    """

    text: str
    token_ids: list
    finish_reason: str


class Generative(Pretrained):
    """A model that writes texts, token by token.

    A subclass says in `_fit` which prompts fit, in `_prepare` how the loop of
    `kerasllm.generation` begins, and in `_step` how it goes on.

    Args:
        *args, **kwargs: of `Pretrained`.
        generation_config: dict or None, the attribute of this name.

    Attributes:
        generation_config: dict, what a checkpoint's `generation_config.json` holds, in Hugging
            Face's words, without the tokens, which stand in `special_ids`. `generate` takes its
            `defaults` from it, and `save_pretrained` writes it back.
    """

    _loop = None

    def _connect(self, tokenizer, generation_config=None, **kwargs):
        self.generation_config = dict(generation_config or {})
        super()._connect(tokenizer, **kwargs)

    def get_config(self):
        return {**super().get_config(), "generation_config": dict(self.generation_config)}

    @classmethod
    def _read(cls, folder, fresh_head, dtype, options_of):
        model = super()._read(folder, fresh_head, dtype, options_of)
        path = folder / CONFIG
        if path.is_file():
            stated = read_json(path)
        else:
            stated = theirs.from_config(read_json(folder / "config.json"))
        ids = {name: stated.get(f"{name}_token_id") for name in SPECIAL}
        model.special_ids |= {name: value for name, value in ids.items() if value is not None}
        model.generation_config = {
            name: value for name, value in stated.items() if name not in theirs.TOKEN_FIELDS
        }
        undone = theirs.undone(model.generation_config)
        if undone:
            logger.warning(
                "`generate` does not do what the checkpoint asks for with %s: texts may be others "
                "than those of `transformers`.",
                ", ".join(f"{name}={value!r:.40}" for name, value in undone.items()),
            )
        return model

    def _configs(self):
        configs = super()._configs()
        fields = configs["config.json"]
        tokens = {name: fields[name] for name in theirs.TOKEN_FIELDS if name in fields}
        return {**configs, CONFIG: {**self.generation_config, **tokens}}

    @property
    def defaults(self):
        """What options of `generate` are where its caller doesn't say: dict, value by name.

        A checkpoint may add `min_length`: as `min_new_tokens`, with the tokens of the prompt, or
        with the one that an answer begins with.
        """
        of_answer = "decoder_token_ids" in self.input
        return {**DEFAULTS, **theirs.options(self.generation_config, of_answer)}

    def _chosen(self, **given):
        """Options as they are given, and by default where they are None."""
        given = {name: value for name, value in given.items() if value is not None}
        check_options(given)
        defaults = self.defaults
        # Draw texts, or search for the likeliest: what is asked for rules out the other's default.
        if np.any(np.asarray(given.get("temperature", 0)) > 0):
            defaults["num_beams"] = 1
        if "min_new_tokens" in given:
            defaults.pop("min_length", None)
        if given.get("num_beams", 1) > 1:
            defaults["temperature"] = 0.0
        return {name: given.get(name, default) for name, default in defaults.items()}

    def generate(
        self,
        prompts,
        max_new_tokens=None,
        *,
        temperature=None,
        top_k=None,
        top_p=None,
        min_p=None,
        repetition_penalty=None,
        no_repeat_ngram_size=None,
        min_new_tokens=None,
        num_beams=None,
        length_penalty=None,
        early_stopping=None,
        num_sequences=1,
        stop=(),
        seed=0,
        truncate=False,
        details=False,
    ):
        r"""Write on from prompts, or the answers to texts.

        Options of a text may be lists, with a value for each prompt. What is written to a prompt
        doesn't depend on the prompts beside it. An option that is None is as `defaults` has it: as
        the checkpoint says, else as said here.

        Args:
            prompts: str, or list of str, or of lists of token ids.
            max_new_tokens: int, the most tokens that are written, by default 64; fewer where the
                model's positions end.
            temperature: float, by default 0: 0 takes the likeliest token each time, 1 draws tokens
                as likely as the model says they are; in between, the likely ones are drawn more
                often.
            top_k: int, by default 0: draw from so many of the likeliest tokens; 0 for all.
            top_p: float, by default 1: draw from the likeliest that together have this probability;
                1 for all.
            min_p: float, by default 0: draw from those that are at least so likely, as a part of
                the likeliest.
            repetition_penalty: float, by default 1: more than 1 makes what was there before less
                likely.
            no_repeat_ngram_size: int, by default 0: no run of so many tokens comes twice, of the
                prompt (not of a text that is answered) and what is new; 0 is no such rule.
            min_new_tokens: int, by default 0: before so many, no token ends a text.
            num_beams: int, how many texts are followed at once to find a likelier one as a whole;
                1, the default, for none. Needs `temperature` 0.
            length_penalty: float, by default 1: with beams, more than 0 favours longer texts, less
                shorter ones.
            early_stopping: bool or `"never"`, by default False: when a search with beams ends that
                has found as many texts as it has beams: True, at once; False, where none of those
                that go on is better by now; `"never"`, where none can get better.
            num_sequences: int, texts for each prompt: with beams the best ones, else drawn with
                `seed`, `seed + 1`, ….
            stop: sequence of str and int: strings and tokens that end a text, beside the model's
                own; they are no part of it.
            seed: int: the same one gives the same texts.
            truncate: bool, whether a prompt that is too long is shortened: a decoder keeps its end,
                with room for `max_new_tokens`, or half of its positions; an encoder keeps its
                beginning.
            details: bool, whether to return `Generated`, with the reasons why texts ended.

        Returns:
            list with, for each prompt, what is new: str, for token ids a list of int, or with
            `details` a `Generated`; with `num_sequences` above 1 a list of them. For a prompt that
            is a str, its one item.

        Raises:
            RuntimeError: Keras runs on another backend than TensorFlow.
            TypeError: a prompt is neither text nor token ids, or an option is no number.
            ValueError: an option is out of its range, a prompt doesn't fit, or texts were given to
                a model without a tokenizer.

        Example:
            >>> model = CausalLM.from_pretrained("my_gpt")  # doctest: +SKIP
            >>> text = model.generate("To be, or", stop=["\n"])  # doctest: +SKIP
        """
        if isinstance(prompts, (str, bytes)):
            prompts, unpack = [prompts], lambda texts: texts[0]
        else:
            prompts, unpack = list(prompts), lambda texts: texts
        if not prompts:
            return []
        settings = self._chosen(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            min_new_tokens=min_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        settings["seed"] = seed
        check_options(dict(settings, num_sequences=num_sequences))
        max_new_tokens, num_beams = settings.pop("max_new_tokens"), settings.pop("num_beams")
        search = dict(num_beams=num_beams, num_sequences=num_sequences)
        _check_search(settings["temperature"], **search)
        strings = self._strings(stop)
        if strings and num_beams == 1:
            search["every"] = EVERY
        rows, states = self._run(prompts, max_new_tokens, settings, stop, truncate, search)
        for found in states:
            texts = self._texts(rows, found, strings)
            stopped = [[text.finish_reason == "stop" for text in of_row] for of_row in texts]
            if np.all(found["done"] | stopped):
                break
        if not details:
            texts = [
                [
                    text.text if isinstance(prompt, (str, bytes)) else text.token_ids
                    for text in those
                ]
                for prompt, those in zip(prompts, texts)
            ]
        return unpack(texts if num_sequences > 1 else [those[0] for those in texts])

    def stream(
        self,
        prompt,
        max_new_tokens=None,
        *,
        temperature=None,
        top_k=None,
        top_p=None,
        min_p=None,
        repetition_penalty=None,
        no_repeat_ngram_size=None,
        min_new_tokens=None,
        stop=(),
        seed=0,
        truncate=False,
    ):
        """Write on from a prompt, or the answer to a text, and hand out each piece as it comes.

        Args:
            prompt: str, or list of token ids.
            max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty: of `generate`.
            no_repeat_ngram_size, min_new_tokens, stop, seed, truncate: of `generate`.

        Yields:
            str, never empty, whole characters: together the text that `generate` gives without
            beams. What may be the beginning of a stop string is kept back until it is clear. The
            value of `yield from`, at the end, is the `Generated`. (SentencePiece with bytes as
            tokens reads a run of them as a whole, so where it ends within a character, a
            character before it may have been handed out that `generate` gives as U+FFFD.)

        Raises:
            RuntimeError: Keras runs on another backend than TensorFlow.
            TypeError: of `generate`.
            ValueError: of `generate`, or the model has no tokenizer.

        Example:
            >>> for piece in model.stream("To be, or"):  # doctest: +SKIP
            ...     print(piece, end="", flush=True)
        """
        settings = self._chosen(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            min_new_tokens=min_new_tokens,
        )
        settings["seed"] = seed
        check_options(settings)
        max_new_tokens, _ = settings.pop("max_new_tokens"), settings.pop("num_beams")
        self._check_tokenizer()
        strings = self._strings(stop)
        rows, states = self._run([prompt], max_new_tokens, settings, stop, truncate, {"every": 1})
        return self._pieces(rows, states, strings)

    def _pieces(self, rows, states, strings):
        sent = 0
        for found in states:
            ((text,),) = self._texts(rows, found, strings)
            over = found["done"].all() or text.finish_reason == "stop"
            settled = text.text if over else _settled(text.text, strings)
            if len(settled) > sent:
                yield settled[sent:]
                sent = len(settled)
            if over:
                return text

    # ---------------------------------------------------------------- what subclasses say

    def _encode(self, prompt):
        """The token ids of a text that shall be continued or answered, as a list; maybe none."""
        batch = self.tokenizer([prompt], max_length=2**30)  # whatever its length
        return batch["token_ids"][0][batch["padding_mask"][0] == 1].tolist()

    def _fit(self, row, max_new_tokens, truncate):
        """The pair of a prompt that fits, and how many new tokens fit with it."""
        raise NotImplementedError

    def _prepare(self, inputs, room):
        """See `kerasllm.generation.Compiled`."""
        raise NotImplementedError

    def _step(self, token_ids, position, cache):
        """See `kerasllm.generation.generate`."""
        raise NotImplementedError

    def _forced(self):
        """The settings `forced_bos` and `forced_eos`, where a model may have such tokens."""
        return {}

    def _width(self, lengths):
        """The length to which prompts of these lengths are padded."""
        return min(_rounded(max(lengths)), self.config.max_length)

    def _prompts(self, rows, width):
        """The inputs of `_prepare`: here the prompts, which all end at the same place."""
        return padded(rows, width, left=True)

    def _context(self, row, token_ids):
        """Tokens up to the place from which on text is new, and the same with what is new."""
        row = row[-CONTEXT:]
        return row, [*row, *token_ids]

    # ---------------------------------------------------------------- the way there and back

    def _run(self, prompts, max_new_tokens, settings, stop, truncate, search):
        """The prompts' token ids, and the states of the loop over them."""
        count, settings = len(prompts), as_numbers(settings)
        settings = {name: _for_each(name, value, count) for name, value in settings.items()}
        most = _for_each("max_new_tokens", max_new_tokens, count)
        rows = [self._row(prompt) for prompt in prompts]
        rows, rooms = zip(*(self._fit(row, int(n), truncate) for row, n in zip(rows, most)))
        width = self._width([len(row) for row in rows])
        settings["max_new_tokens"] = np.array(rooms)
        settings["stop_ids"] = np.array(self._stop_ids(stop), "int32")
        settings |= self._forced()
        inputs = self._prompts(rows, width)
        room = min(_rounded(max(rooms)), self.config.max_length - 1)
        return rows, self._compiled().states(inputs, settings, room=room, **search)

    def _compiled(self):
        """The loop, made anew where the model has other variables than before (adapters)."""
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "Texts are generated in a graph of TensorFlow, so Keras' backend must be it. "
                f"Received: {keras.backend.backend()!r} (set KERAS_BACKEND=tensorflow)."
            )
        from kerasllm import generation  # TensorFlow is imported where it is needed

        variables = self.variables
        made_for = [] if self._loop is None else self._loop.variables
        if list(map(id, made_for)) != list(map(id, variables)):
            self._loop = generation.Compiled(self._prepare, self.step, variables)
        return self._loop

    def step(self, token_ids, position, cache):
        """Go on by some tokens, as the loop of `kerasllm.generation` does.

        Args:
            token_ids, position, cache: of `step` in `kerasllm.generation.generate`.

        Returns:
            The pair of float32 `(batch, vocab_size)`, the logits of what comes next, and the new
            cache, which on TensorFlow is the old one, written in place, where nothing else holds
            it.
        """
        from kerasllm import generation  # TensorFlow is imported where it is needed

        with quick_steps(generation.write_rows):
            return self._step(token_ids, position, cache)

    def _row(self, prompt):
        if isinstance(prompt, (str, bytes)):
            self._check_tokenizer()
            row = self._encode(prompt)
            if not row:
                raise ValueError(
                    "`prompts` must not be empty where no token begins a text. Received: "
                    f"{prompt!r} (the tokenizer has none)."
                )
            return row
        row = np.asarray(prompt)
        if row.ndim != 1 or row.size and row.dtype.kind not in "iu":
            raise TypeError(
                "`prompts` must be texts, or lists of token ids. Received: "
                f"{prompt!r:.80} among them."
            )
        size = self.config.vocab_size
        if not row.size or row.min() < 0 or row.max() >= size:
            raise ValueError(
                f"`prompts` must have token ids from 0 to {size - 1}, at least one. Received: "
                f"{prompt!r:.80}."
            )
        return row.tolist()

    def _check_tokenizer(self):
        if self.tokenizer is None:
            raise ValueError(
                "`tokenizer` must be given to a model that reads or writes text. Received: None "
                "(set `model.tokenizer`, or pass token ids to `generate`)."
            )

    def _special_id(self, name):
        """The id of a special token, as the checkpoint says, or the tokenizer; or None."""
        return self.special_ids.get(name, getattr(self.tokenizer, f"{name}_id", None))

    def _stop_ids(self, stop):
        own = self._special_id("eos")
        if own is None:
            own = self._special_id("sep")  # how WordPiece's rows end
        own = [] if own is None else np.ravel(own).tolist()
        return list(dict.fromkeys([*own, *(int(end) for end in stop if not isinstance(end, str))]))

    def _strings(self, stop):
        if isinstance(stop, (str, bytes)) or not np.iterable(stop) or not all(map(_can_end, stop)):
            raise ValueError(
                "`stop` must be a list of strings, not empty ones, and of token ids. Received: "
                f"{stop!r}."
            )
        strings = [end for end in stop if isinstance(end, str)]
        if strings:
            self._check_tokenizer()
        return strings

    def _texts(self, rows, found, strings):
        """For each prompt the list of its `Generated`, as far as they are."""
        texts = []
        for row, *of_row in zip(rows, found["token_ids"], found["lengths"], found["stopped"]):
            sequences = ((ids[:length].tolist(), stopped) for ids, length, stopped in zip(*of_row))
            texts.append([self._text(row, *sequence, strings) for sequence in sequences])
        return texts

    def _text(self, row, token_ids, stopped, strings):
        if self.tokenizer is None:
            return Generated(None, token_ids, "stop" if stopped else "length")
        text = self._decode(row, token_ids)
        if not any(string in text for string in strings):
            return Generated(text, token_ids, "stop" if stopped else "length")
        count = 1  # tokens up to the one that completed a string
        while not any(string in self._decode(row, token_ids[:count]) for string in strings):
            count += 1
        text = self._decode(row, token_ids[:count])
        end = min(text.find(string) for string in strings if string in text)
        return Generated(text[:end], token_ids[:count], "stop")

    def _decode(self, row, token_ids):
        """The text of new tokens, with the space between it and the prompt."""
        # A table of tokens may have more rows than there are tokens.
        known = [i for i in token_ids if i < self.tokenizer.vocab_size]
        before, whole = map(self.tokenizer.decode, self._context(row, known))
        if not whole.startswith(before):  # the first new tokens complete a character
            before = before.rstrip(BROKEN)
        return whole[len(before) :]


def as_numbers(options):
    """Turn options of `generate` into settings of the loop.

    Args:
        options: dict, value by name.

    Returns:
        dict, `early_stopping` as its place in `EARLY_STOPPING`, and the others as they are.
    """
    early = EARLY_STOPPING.index(options["early_stopping"])
    return {**options, "early_stopping": early}


def check_options(options):
    """Check that options of `generate` are numbers in their ranges.

    Args:
        options: dict, value by name.

    Raises:
        TypeError: a value is no number, or has a fraction where it must be whole.
        ValueError: a value is out of its range.
    """
    for name, value in options.items():
        values = np.asarray(value)
        kind, rule = ("int64", "a whole number") if name in WHOLE else ("float64", "a number")
        is_one = np.can_cast(values.dtype, kind) and not (name in OF_ALL and values.ndim)
        if name != "early_stopping" and not is_one:
            raise TypeError(f"`{name}` must be {rule} ({kind}). Received: {value!r}.")
        fits, rule = RULES.get(name, (np.isfinite, "finite"))
        if not np.all(fits(values)):
            raise ValueError(f"`{name}` must be {rule}. Received: {value!r}.")
        if name in WHOLE and name != "seed" and np.any(values > MOST):
            raise ValueError(f"`{name}` must be at most {MOST}. Received: {value!r}.")


def _check_search(temperature, num_beams, num_sequences):
    if num_beams > 1 and np.any(np.asarray(temperature) > 0):
        raise ValueError(
            f"`temperature` must be 0 with beams. Received: {temperature!r} and "
            f"num_beams={num_beams} (draw texts, or search for the likeliest)."
        )
    if num_beams > 1 and num_sequences > num_beams:
        raise ValueError(
            f"`num_sequences` must be at most `num_beams`. Received: {num_sequences} and "
            f"{num_beams}."
        )
    if num_beams == 1 and num_sequences > 1 and not np.all(np.asarray(temperature) > 0):
        raise ValueError(
            "`num_sequences` must be 1 without beams and with `temperature` 0, which gives one "
            f"text. Received: {num_sequences} (set one of them)."
        )


def _for_each(name, value, count):
    """An option as an array with a value for each prompt."""
    value = np.asarray(value)
    if value.ndim and value.shape != (count,):
        raise ValueError(
            f"`{name}` must be one number, or one for each of the {count} prompts. Received: "
            f"{value.tolist()}."
        )
    return np.broadcast_to(value, (count,))


def _can_end(end):
    """Whether it is a string or token that may end a text."""
    if isinstance(end, str):
        return end != ""
    return isinstance(end, numbers.Integral) and 0 <= end <= np.iinfo("int32").max


def _rounded(length):
    """A length from so few that a graph is seldom traced anew: powers of 2, multiples of 64."""
    return max(16, min(1 << (length - 1).bit_length(), -(-length // 64) * 64))


def padded(rows, width, left):
    """Make a batch of token ids.

    Args:
        rows: sequence of lists of int.
        width: int, the length of the batch.
        left: bool, whether padding stands before the tokens, and not behind them.

    Returns:
        dict of NumPy int32 `(batch, width)`: `token_ids` and `padding_mask`.
    """
    token_ids, mask = np.zeros((2, len(rows), width), "int32")
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        token_ids[i, place], mask[i, place] = row, 1
    return {"token_ids": token_ids, "padding_mask": mask}


def _settled(text, strings):
    """What of a text is sure to stay, whatever follows: whole characters, no part of a string."""
    text = text.rstrip(BROKEN)
    for start in range(max(0, len(text) - max(map(len, strings), default=1) + 1), len(text)):
        if any(string.startswith(text[start:]) for string in strings):
            return text[:start]
    return text
