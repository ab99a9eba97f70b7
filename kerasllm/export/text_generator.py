"""A model that writes texts as TensorFlow alone: strings to strings, tokenizer and cache inside."""

import inspect
import time

import tensorflow as tf

from kerasllm import generation
from kerasllm.export.scorer import (
    Scorer,
    at_least_one_row,
    check_tokenizer,
    chunks,
    first_rows,
    float32_copy,
)
from kerasllm.models.generative import CONTEXT, RULES, as_numbers
from kerasllm.tokenizers import WordPieceTokenizer

# What a caller may set, each as `[1]` or `[batch]`, where texts are drawn, and where beams search.
DRAWING = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
SEARCHING = ("max_new_tokens", "repetition_penalty", "length_penalty")
# What the signature of an encoder–decoder is called, by the task that it was trained for.
NAME_OF_TASK = {"translation": "translate", "summarization": "summarize"}
NAMES = ("generate", *NAME_OF_TASK.values())
NEW_TOKENS = 16  # that a text is tried with


class TextGenerator(tf.Module):
    """A float32 copy of a model that writes texts, whose variables TensorFlow finds once.

    A subclass says in `_prompts` what a text is in tokens, in `_fit` how much of it the model
    reads, and in `_inputs` how the loop of `kerasllm.generation` begins: what the model itself
    does in Python.

    Args:
        model: `CausalLM` or `Seq2SeqLM` with a tokenizer. It is not changed.
        texts: list of str, to verify the artefact on.

    Attributes:
        model: the float32 copy, with the tokenizer.
        weights: list of `tf.Variable`, all weights.
        tokenizer: `tf.Module`, see the tokenizers' `in_graph`.
        name_of_signature: str, one of `NAMES`.
        options: tuple of str, what a caller may set.
        needs_text: bool, whether an artefact needs TensorFlow Text.

    Raises:
        ValueError: the model has no tokenizer, one with more entries than the model has rows, or
            one with a step that has no exact form in a graph; or all `texts` are empty, and no
            token begins one.
    """

    def __init__(self, model, texts):
        super().__init__(name="text_generator")
        check_tokenizer(model)
        copy = self._copy(model)
        copy.tokenizer = model.tokenizer
        # The Keras model stays in a closure; see `Scorer`.
        self.weights = [weight.value for weight in copy.weights]
        self._get_model = lambda: copy
        self.tokenizer = model.tokenizer.in_graph()
        self.name_of_signature = NAME_OF_TASK.get(model.task, "generate")
        self._num_beams = copy.defaults["num_beams"]
        self.options = DRAWING if self._num_beams == 1 else SEARCHING
        # What the checkpoint asks for beyond what a caller may set.
        self._fixed = {
            name: [value]
            for name, value in as_numbers(copy.defaults).items()
            if name in generation.SETTINGS and name not in self.options
        }
        self.needs_text = isinstance(model.tokenizer, WordPieceTokenizer)
        # Where no token begins a text, Keras refuses an empty one.
        self._texts = [text for text in texts if copy._encode(text)]
        if not self._texts:
            raise ValueError(
                "`texts` must hold a text that is not empty, where no token begins one. Received: "
                f"{texts!r:.60}."
            )

    parameter_bytes = Scorer.parameter_bytes  # which is a sum over `weights` too

    @property
    def model(self):
        return self._get_model()

    # ---------------------------------------------------------------- signatures

    def signatures(self):
        """The functions that are exported: dict of `tf.function`, by name."""
        write = self._graph(self._from_texts, "prompt")
        found = {"serving_default": write, self.name_of_signature: write}
        if getattr(self.model.tokenizer, "chat_template", None) is not None:
            found["chat"] = self._graph(self._from_messages, "roles", "contents")
        return found

    def _graph(self, function, *texts):
        """A `tf.function` of texts and of all options, which have defaults."""
        one = {name: tf.constant([value], _dtype(name)) for name, value in self._defaults().items()}

        def from_arguments(*values):
            settings = dict(zip(self.options, values[len(texts) :]))
            return function(*values[: len(texts)], settings)

        # TensorFlow reads names and defaults from here.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        from_arguments.__signature__ = inspect.Signature(
            [
                *(inspect.Parameter(name, kind) for name in texts),
                *(inspect.Parameter(name, kind, default=value) for name, value in one.items()),
            ]
        )
        specs = [tf.TensorSpec([None], "string", name) for name in texts]
        specs += [tf.TensorSpec([None], _dtype(name), name) for name in self.options]
        return tf.function(from_arguments, specs, autograph=False)

    def _defaults(self):
        known = {name: default for name, (_, default) in generation.SETTINGS.items()}
        known.update(self.model.defaults)
        return {name: known[name] for name in self.options}

    def _from_texts(self, prompt, settings):
        count = tf.shape(prompt)[0]
        settings = self._checked(settings, count)
        rows = self._prompts(at_least_one_row(prompt))
        return first_rows(count, self.answer(rows, settings))

    def _from_messages(self, roles, contents, settings):
        return self.answer(self.tokenizer.chat(roles, contents), self._checked(settings, 1))

    def _checked(self, settings, count):
        """All options, one for each of `count` texts, or for one where there is none."""
        rows, whole = tf.maximum(count, 1), {}
        for name, value in settings.items():
            fits, rule = RULES.get(name, (lambda x: x == x, "a number"))
            _check(tf.reduce_all(fits(value)), f"`{name}` must be {rule}. Received:", value)
            given = tf.size(value)
            rule = f"`{name}` must be one value, or one for each text. Received values and texts:"
            with tf.control_dependencies(
                [_check((given == 1) | (given == count), rule, given, count)]
            ):
                # Where there are no texts, there may be no values.
                default = tf.constant([generation.SETTINGS[name][1]], value.dtype)
            value = tf.concat([value, default], axis=0)[: tf.maximum(given, 1)]
            whole[name] = tf.broadcast_to(value, [rows])
        return whole

    # ---------------------------------------------------------------- from tokens to texts

    def answer(self, rows, settings):
        """Write on from prompts, or the answers to texts.

        Args:
            rows: int32 `tf.RaggedTensor` `(batch, None)`, the prompts' tokens, at least one row.
            settings: dict by name in `options`, each `[batch]`.

        Returns:
            dict of tensors `(batch,)`: string `text`; int32 `token_count`, without a token that
            ended the text; int32 `prompt_token_count`, what the model has read; and string
            `finish_reason`: `"stop"` where a token ended the text, `"length"` where it has all the
            tokens that it may have, `"empty"` where there was no token to begin with.
        """
        model, lengths = self.model, tf.cast(rows.row_lengths(), "int32")
        read, most_new = self._fit(lengths, settings["max_new_tokens"])
        inputs = self._inputs(rows, lengths, read)
        settings = {
            **self._fixed,
            **settings,
            **model._forced(),
            "max_new_tokens": tf.where(read > 0, most_new, 0),
            "stop_ids": tf.constant(model._stop_ids(()), "int32"),
        }
        room = tf.reduce_max(settings["max_new_tokens"])
        found = self._generated(model._prepare(inputs, room), settings, room)
        count = found["lengths"][:, 0]
        new = tf.RaggedTensor.from_tensor(found["token_ids"][:, 0], lengths=count)
        reason = tf.where(found["stopped"][:, 0], "stop", tf.where(read > 0, "length", "empty"))
        return {
            "text": self._text(inputs, new),
            "token_count": count,
            "prompt_token_count": read,
            "finish_reason": reason,
        }

    def _generated(self, prepared, settings, room):
        """What the loop gives; a single text has one of its own, whose steps can be quicker."""

        def written(prepared):
            options = dict(room=room, num_beams=self._num_beams)
            return generation.generate(self.model.step, *prepared, settings, **options)

        if self._num_beams > 1:
            return written(prepared)
        return tf.cond(
            tf.shape(prepared[0])[0] == 1,
            lambda: written(tf.nest.map_structure(_single, prepared)),
            lambda: written(prepared),
        )

    def _text(self, inputs, new):
        """The texts of ragged tokens, with the space between them and the prompts."""
        known = self.model.tokenizer.vocab_size  # a table of tokens may have more rows
        new = tf.ragged.boolean_mask(new, new < known)
        context = self._context(inputs)
        before = self.tokenizer.decode(context)
        whole = self.tokenizer.decode(tf.concat([context, new], axis=1))
        whole = tf.ensure_shape(whole, before.shape)
        count = _length(before)
        begins = tf.strings.substr(whole, tf.zeros_like(count), count, "UTF8_CHAR") == before
        # If the first new tokens complete a character, it was broken before.
        before = tf.where(begins, before, tf.strings.regex_replace(before, "\ufffd+$", ""))
        start = tf.minimum(_length(before), _length(whole))
        return tf.strings.substr(whole, start, _length(whole), "UTF8_CHAR")

    def _copy(self, model):
        return float32_copy(model)

    # ---------------------------------------------------------------- the verification

    def expected(self):
        """What Keras writes on the texts.

        Returns:
            The pair of a list of `Generated`, for each text in each way of `_ways`; and the
            milliseconds that one took.
        """
        found = []
        # On the CPU, as the fresh processes: a GPU multiplies float32 with fewer digits.
        with tf.device("CPU:0"):
            for _ in range(2):  # the first time traces
                start = time.perf_counter()
                found = [text for some in self._tries() for text in self._written(*some)]
                seconds = time.perf_counter() - start
        return found, 1000 * seconds / len(found)

    def _ways(self):
        """The options that texts are tried with, a list of dict; what is a list is for each."""
        if self._num_beams > 1:
            return [{"max_new_tokens": NEW_TOKENS}]
        drawn = {"temperature": 1.0, "top_k": 50, "top_p": 0.95}
        drawn["seed"] = list(range(len(self._texts)))
        return [{"max_new_tokens": NEW_TOKENS, **way} for way in ({"temperature": 0.0}, drawn)]

    def _tries(self):
        """All texts in all ways, in batches: pairs of a list of str and a dict of options."""
        for way in self._ways():
            for some in chunks(range(len(self._texts))):
                options = {
                    name: [value[i] for i in some] if isinstance(value, list) else value
                    for name, value in way.items()
                }
                yield [self._texts[i] for i in some], options

    def _written(self, texts, options):
        return self.model.generate(texts, truncate=True, details=True, **options)

    def calls(self, signature):
        """No text, the first one alone, and then all texts in all ways, as the runners take them.

        Args:
            signature: str, which to ask; the first text alone asks the one with the name.
        """
        yield self._call(signature, [], {})
        yield self._call(self.name_of_signature, self._texts[:1], self._ways()[0])
        for some in self._tries():
            yield self._call(signature, *some)

    def _call(self, signature, texts, options):
        values = {**self._defaults(), **options}
        values = {name: v if isinstance(v, list) else [v] for name, v in values.items()}
        prompts = [text.encode().decode("latin-1") for text in texts]
        return {"signature": signature, "inputs": {"prompt": prompts, **values}}

    def check(self, expected, answers, tolerance, what):
        """Compare what one process answered to `calls` with what Keras wrote.

        Args:
            expected: list of `Generated`, of `expected`.
            answers: list of dict, of a runner.
            tolerance: float, the share of tokens that may differ.
            what: str, names the artefact in the error.

        Returns:
            dict of fields of the report.

        Raises:
            ValueError: more tokens differ.
        """
        empty, single, *others = (answer["outputs"] for answer in answers)
        if any(empty.values()):
            raise ValueError(f"{what} must give nothing for an empty batch. Received: {empty}.")
        received = [text for outputs in others for text in _texts(outputs)]
        pairs = [*zip(expected, received), (expected[0], _texts(single)[0])]
        same = sum(self._equal_tokens(*pair) for pair in pairs)
        every = sum(1 + len(text.token_ids) for text, _ in pairs)
        if not 1 - same / every <= tolerance:
            wrong = next((a, b) for a, b in pairs if self._equal_tokens(a, b) <= len(a.token_ids))
            raise ValueError(
                f"{what} must write what the Keras model writes. Received: {same / every:.1%} of "
                f"the tokens, e.g. {wrong[1]!r:.200} instead of {wrong[0]!r:.200}, so nothing was "
                "written. A larger `tolerance`, a share of tokens, accepts it."
            )
        seconds = sum(answer["seconds"] for answer in answers[2:])
        return {
            "sentences": len(self._texts),
            "equal_tokens": same / every,
            "milliseconds": 1000 * seconds / len(received),
        }

    def _equal_tokens(self, expected, received):
        """Tokens up to the first difference, and one more where all is equal, with the end."""
        count = len(expected.token_ids)
        if received == (expected.text, count, expected.finish_reason):
            return 1 + count
        pairs = list(zip(*map(self.model.tokenizer.encode, (expected.text, received[0]))))
        different = (i for i, (a, b) in enumerate(pairs) if a != b)
        return min(next(different, len(pairs)), count)


class DecoderGenerator(TextGenerator):
    """A `CausalLM`, which writes on from prompts: see `TextGenerator`."""

    def _copy(self, model):
        # Prompts of a batch are of different lengths: counted from where each begins, positions
        # are the same as without padding.
        learned = getattr(model.config, "positions", None) == "learned"
        return float32_copy(model, **({"positions": "counted"} if learned else {}))

    def _prompts(self, texts):
        ids = self.tokenizer.encode(texts)
        empty = tf.equal(ids.row_lengths(), 0)
        begins = _at_rows(self.model._begins(), empty)
        return tf.concat([begins, _at_rows(self.model.tokenizer.row_ends[0], ~empty), ids], axis=1)

    def _fit(self, lengths, max_new_tokens):
        most = self.model.config.max_length
        read = tf.minimum(lengths, tf.maximum(most - max_new_tokens, most // 2))
        return read, tf.minimum(max_new_tokens, most - read)

    def _inputs(self, rows, lengths, read):
        width = tf.maximum(tf.reduce_max(read), 1)
        place = tf.range(width) - width + _column(read)  # negative in the padding at the left
        if getattr(self.model.config, "positions", None) == "sinusoidal":
            rule = "`prompt` must have texts of one length, for sinusoidal positions. Received:"
            _check(tf.reduce_all(read == width), rule, read)
        return {
            "token_ids": _taken(rows, place + _column(lengths - read), place >= 0),
            "padding_mask": tf.cast(place >= 0, "int32"),
        }

    def _context(self, inputs):
        real = tf.cast(inputs["padding_mask"], "bool")
        return tf.ragged.boolean_mask(inputs["token_ids"][:, -CONTEXT:], real[:, -CONTEXT:])


class EncoderDecoderGenerator(TextGenerator):
    """A `Seq2SeqLM`, which writes answers to texts: see `TextGenerator`."""

    def _prompts(self, texts):
        ids = self.tokenizer.encode(texts)
        every = tf.ones_like(ids.row_lengths(), "bool")
        before, after = (_at_rows(end, every) for end in self.model.tokenizer.row_ends)
        return tf.concat([before, ids, after], axis=1)

    def _fit(self, lengths, max_new_tokens):
        most = self.model.config.max_length
        return tf.minimum(lengths, most), tf.minimum(max_new_tokens, most - 1)

    def _inputs(self, rows, lengths, read):
        place = tf.range(tf.maximum(tf.reduce_max(read), 1))
        inside = place < _column(read)
        # A text that is too long keeps the token that ends it.
        place = tf.where(place == _column(read - 1), _column(lengths - 1), place)
        return {
            "token_ids": _taken(rows, place, inside),
            "padding_mask": tf.cast(inside, "int32"),
            "decoder_token_ids": tf.fill([tf.size(read), 1], self.model.begin),
        }

    def _context(self, inputs):
        return tf.RaggedTensor.from_tensor(inputs["token_ids"][:, :0])


GENERATORS = {"causal_lm": DecoderGenerator, "seq2seq_lm": EncoderDecoderGenerator}


def _dtype(name):
    return generation.SETTINGS[name][0]


def _check(condition, *said):
    """An operation that fails with a message, also where the graph runs without Python."""
    return tf.debugging.Assert(condition, list(said), summarize=16)


def _column(values):
    return tf.expand_dims(values, 1)


def _length(texts):
    # The operation forgets how many there are, where that is known.
    return tf.ensure_shape(tf.strings.length(texts, unit="UTF8_CHAR"), texts.shape)


def _at_rows(ids, rows):
    """The same `ids` in each row where `rows`, bool `(batch,)`, is true: ragged int32."""
    ids = tf.constant(list(ids), "int32", shape=(1, len(ids)))
    ids = tf.tile(ids, [tf.size(rows), 1])
    return tf.ragged.boolean_mask(ids, tf.broadcast_to(_column(rows), tf.shape(ids)))


def _taken(rows, place, inside):
    """The ids at `place`, int32 `(batch, width)`, of ragged rows; 0 where it is not `inside`."""
    ids = tf.concat([rows.values, [0]], axis=0)
    index = _column(tf.cast(rows.row_starts(), "int32")) + place
    return tf.gather(ids, tf.where(inside, index, tf.size(ids) - 1))


def _texts(outputs):
    """`(text, token count, reason)` of each row that a runner answered with."""
    names = ("text", "token_count", "finish_reason")
    rows = zip(*(outputs[name] for name in names))
    return [(text.encode("latin-1").decode(), count, reason) for text, count, reason in rows]


def _single(x):
    """A batch of one text, as which it is known beforehand.

    Taken by its index: of what a reshape or `ensure_shape` asserts here, TensorFlow's optimizer
    makes use outside of this branch too.
    """
    return tf.expand_dims(x[0], 0)
