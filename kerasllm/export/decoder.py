"""What an engine on a device runs of a language model: one step with a cache of a fixed size."""

import time

import numpy as np
import tensorflow as tf

from kerasllm.config import RecurrentConfig
from kerasllm.export import verify
from kerasllm.export.scorer import Scorer, chunks, float32_copy
from kerasllm.models import CausalLM
from kerasllm.models.generative import padded

PREFILL_LENGTHS = (1, 8, 64)
MOST_TOKENS = 1024  # that a cache holds where nobody says how many
NEW_TOKENS = 32  # that an answer has to a prompt that is tried
FEW = 4  # texts that are scored at once: each token of them has a score for all others
# Whatever the checkpoint asks for by default.
GREEDY = {"temperature": 0.0, "num_beams": 1, "repetition_penalty": 1.0}
GREEDY |= {"no_repeat_ngram_size": 0, "min_new_tokens": 0}
# Whose rotations depend on how long the text is, and how long up to there they do not.
GROWING = ("dynamic", "longrope")

# What a language model is tried on where the caller gives no prompts of their own.
PROMPTS = (
    "Once upon a time",
    "The weather today is",
    "My favourite colour is blue, and",
    "Q: What is the capital of France?\nA:",
    "She opened the door and saw",
    "It was the best of times, it was",
    "1, 2, 3, 4,",
    "def add(a, b):\n    return",
    "To be, or not to be,",
    "The quick brown fox",
    "Dear Sir or Madam,\n",
    "In the beginning",
    "I don't know why, but",
    "WHAT IS GOING ON HERE?",
    "A recipe for bread: flour, water,",
    "KING:\nMy lord,",
    "The first thing to say is that",
    "No",
    "Ein schöner Abend, und",
    "Il était une fois",
    "¿Dónde está",
    "Жили-были",
    "Μια φορά κι έναν καιρό",
    "今天天气",
    "むかしむかし",
    "옛날 옛적에",
    "كان يا ما كان",
    "great phone 👍🏽 and",
    "https://example.com/",
    "a",
    "\n\n",
    "The plot is thin, the jokes are old, and yet it moved me. " * 3,
    "Sun, moon and stars; rivers, hills and",
)


class Decoder(tf.Module):
    """A float32 copy of a language model, with the signatures that LiteRT-LM runs.

    `prefill_<length>` takes `tokens`, int32 `(1, length)`, their positions `input_pos`, int32
    `(length,)`, and the cache: for each block `kv_cache_k_<i>` and `kv_cache_v_<i>`, float32 `(1,
    heads, max_tokens, projection_dim)`. It gives the cache with the new rows in it. `decode` does
    the same with one token, and also gives `logits`, float32 `(1, 1, vocab_size)`. Rows are written
    one after the other from `input_pos[0]` on, so that it doesn't matter what stands in the
    padding of a shorter piece. None may reach beyond the last row: they would take the place of
    older ones. There is no mask among the inputs: the one that LiteRT-LM would send hides what
    comes later, which follows from `input_pos[0]`.

    Args:
        model: `CausalLM` of any dtype policy, with a cache of keys and values. It is not changed.
        max_tokens: int or None: tokens that the cache holds, of prompt and answer; None for the
            model's most, but at most 1024.
        prefill_lengths: sequence of int, tokens that are read at once; 1 must be among them, with
            which the cache can be filled to the last row. Those above `max_tokens` are left out.

    Attributes:
        weights: list of `tf.Variable`, all weights.
        model: the float32 copy, with the tokenizer.
        max_tokens: int.
        prefill_lengths: tuple of int.

    Raises:
        TypeError: `model` is no `CausalLM`.
        ValueError: it has no such cache, or another argument is not as above.
    """

    def __init__(self, model, max_tokens=None, prefill_lengths=PREFILL_LENGTHS):
        super().__init__(name="decoder")
        _check_model(model)
        self.max_tokens = _checked_tokens(model.config, max_tokens)
        self.prefill_lengths = _checked_lengths(prefill_lengths, self.max_tokens)
        copy = float32_copy(model)
        copy.tokenizer = model.tokenizer
        self.weights = [weight.value for weight in copy.weights]
        self._get_model = lambda: copy  # in a closure; see `Scorer`

    parameter_bytes = Scorer.parameter_bytes  # which is a sum over `weights` too

    @property
    def model(self):
        return self._get_model()

    def signatures(self):
        """The concrete functions by name."""
        prefill = {f"prefill_{length}": self._signature(length) for length in self.prefill_lengths}
        return {**prefill, "decode": self._signature(1, with_logits=True)}

    def _signature(self, length, with_logits=False):
        def step(tokens, input_pos, **cache):
            pairs = zip(_of(cache, "k"), _of(cache, "v"))
            every = tf.ones([1, self.max_tokens], tf.int32)  # what comes later is hidden anyway
            cache = {"own": tuple(pairs), "padding_mask": every}
            logits, cache = self.model._step(tokens, input_pos[0], cache)
            outputs = {
                f"kv_cache_{kind}_{i}": rows
                for i, pair in enumerate(cache["own"])
                for kind, rows in zip("kv", pair)
            }
            return {**outputs, "logits": logits[:, tf.newaxis]} if with_logits else outputs

        specs = {
            "tokens": tf.TensorSpec([1, length], tf.int32, "tokens"),
            "input_pos": tf.TensorSpec([length], tf.int32, "input_pos"),
            **self._cache_specs(),
        }
        return tf.function(step, autograph=False).get_concrete_function(**specs)

    def _cache_specs(self):
        with tf.device("CPU:0"):
            empty = self.model.make_cache(1, self.max_tokens)
        names = {
            f"kv_cache_{kind}_{i}": rows
            for i, pair in enumerate(empty)
            for kind, rows in zip("kv", pair)
        }
        return {name: tf.TensorSpec(rows.shape, tf.float32, name) for name, rows in names.items()}

    # ---------------------------------------------------------------- what an artefact shall do

    def prompts(self, texts=None):
        """The prompts to try an artefact on.

        Args:
            texts: list of str, each with room for an answer; None for built-in ones, cut to fit.

        Returns:
            list of str, or where the model has no tokenizer of random token ids.

        Raises:
            TypeError: `texts` is no list of str.
            ValueError: a text is too long, or empty where no token begins one.
        """
        if self.model.tokenizer is None:
            random, size = np.random.default_rng(0), self.model.config.vocab_size
            lengths = np.arange(len(PROMPTS)) % (self.max_tokens // 2) + 1
            return [random.integers(0, size, length).tolist() for length in lengths]
        if texts is None:
            return [self._cut(prompt) for prompt in PROMPTS]
        texts = verify.checked_texts(texts)
        for text in texts:
            if len(self.ids(text)) >= self.max_tokens:
                raise ValueError(
                    "`prompts` (`texts` of `to_tflite`) must have fewer tokens than the cache "
                    f"holds, {self.max_tokens}. Received: {text!r:.80}."
                )
        return texts

    def _cut(self, prompt):
        while len(self.ids(prompt)) > self.max_tokens // 2:
            prompt = prompt[: len(prompt) // 2]
        return prompt

    def ids(self, prompt):
        """The token ids of a prompt, a list of int, as `generate` reads it."""
        return self.model._row(prompt)

    def answers(self, prompts):
        """What Keras writes on from prompts, each to the end of the cache or of the answer.

        Args:
            prompts: list of str or of lists of int.

        Returns:
            The pair of a list of `Generated`, and the milliseconds of each.
        """
        # On the CPU, as the fresh processes: a GPU multiplies float32 with fewer digits.
        with tf.device("CPU:0"):
            start = time.perf_counter()
            answers = [text for batch in self._batches(prompts) for text in self._answers(batch)]
            seconds = time.perf_counter() - start
        return answers, 1000 * seconds / len(prompts)

    def _batches(self, prompts):
        """All at once, where the model takes prompts of several lengths."""
        positions = getattr(self.model.config, "positions", "counted")
        alone = positions in ("learned", "sinusoidal")
        return [[prompt] for prompt in prompts] if alone else [prompts]

    def _answers(self, prompts):
        rooms = [self.room(prompt) for prompt in prompts]
        return self.model.generate(prompts, rooms, details=True, **GREEDY)

    def room(self, prompt):
        """How many tokens the answer to a prompt has at most, int."""
        return min(NEW_TOKENS, self.max_tokens - len(self.ids(prompt)))

    def begin(self):
        """The token ids that stand before a text, a list of int."""
        row, text = self.ids("a"), self.model.tokenizer.encode("a")
        return row[: len(row) - len(text)]

    def score(self, rows):
        """Say in Keras what follows each token of texts.

        Args:
            rows: list of lists of int, token ids.

        Returns:
            list with, for each row, the pair of the likeliest next token, int `(length - 1,)`, and
            the logarithm of the probability of the one that follows, float32 `(length - 1,)`.
        """
        scored = []
        with tf.device("CPU:0"):
            for part in chunks(rows, FEW):
                inputs = padded(part, max(map(len, part)), left=False)
                for row, logits in zip(part, self.model(inputs)):
                    logits = tf.nn.log_softmax(logits[: len(row) - 1])
                    of_next = tf.gather(logits, row[1:], batch_dims=1)
                    scored.append((tf.argmax(logits, axis=1).numpy(), of_next.numpy()))
        return scored


def compare(expected, received):
    """Compare what Keras and an artefact say of the next tokens.

    Args:
        expected: pair of the likeliest tokens, int `(tokens,)`, and of the logarithms of the
            probabilities of those that follow, float `(tokens,)`; of Keras.
        received: the same from the artefact.

    Returns:
        dict of `equal_tokens`, `keras_perplexity`, `perplexity`, and of probabilities
        `largest_difference` and `mean_difference`: fields of `Report`. A number that is none makes
        the differences infinite.

    Example:
        >>> found = compare(([1, 2], np.log([0.5, 0.5])), ([1, 3], np.log([0.5, 0.25])))
        >>> found["equal_tokens"], found["largest_difference"], round(found["perplexity"], 3)
        (0.5, 0.25, 2.828)
    """
    (best, scores), (received_best, received_scores) = expected, received
    difference = np.abs(np.exp(scores) - np.exp(received_scores))
    difference = np.where(np.isfinite(difference), difference, np.inf)
    return {
        "equal_tokens": float(np.mean(np.equal(best, received_best))),
        "keras_perplexity": float(np.exp(-np.mean(scores))),
        "perplexity": float(np.exp(-np.mean(received_scores))),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def _of(cache, kind):
    """The keys or the values of all blocks, in order."""
    return [cache[f"kv_cache_{kind}_{i}"] for i in range(len(cache) // 2)]


def _check_model(model):
    if not isinstance(model, CausalLM):
        raise TypeError(f"`model` must be a `CausalLM`. Received: {type(model).__name__}.")
    if isinstance(model.config, RecurrentConfig):
        raise ValueError(
            "`model` must have a cache of keys and values, which engines on devices ask for. "
            f"Received: a model of the family {model.family!r} (export it with `to_saved_model`)."
        )


def _checked_tokens(config, max_tokens):
    longest = config.max_length
    scaling = getattr(config, "rope_scaling", None)
    if scaling is not None and scaling.kind in GROWING:
        # Beyond, padding behind a piece would count as text.
        longest = min(longest, scaling.original_max_length)
    max_tokens = min(longest, MOST_TOKENS) if max_tokens is None else max_tokens
    if not isinstance(max_tokens, int) or not 2 <= max_tokens <= longest:
        raise ValueError(
            f"`max_tokens` (`max_length` of `to_tflite`) must be from 2 to {longest}, the "
            f"positions that the model knows. Received: {max_tokens!r}."
        )
    return max_tokens


def _checked_lengths(lengths, max_tokens):
    whole = np.iterable(lengths) and all(isinstance(n, int) and n > 0 for n in lengths)
    if not whole or 1 not in lengths:
        raise ValueError(
            "`prefill_lengths` must be whole numbers of at least 1, with 1 among them, by which "
            f"the cache can be filled to the last row. Received: {lengths!r}."
        )
    return tuple(length for length in sorted(set(lengths)) if length <= max_tokens)
