"""From the scores of the next token to whole texts: one loop, which runs in a TensorFlow graph.

It knows no model, only `step(token_ids, position, cache)`, which says what may come next. Keras'
`generate` and an exported SavedModel run this same loop.
"""

import itertools

import tensorflow as tf

EXCLUDED = float("-inf")  # the score of what can't be drawn
UNFINISHED = -1e9  # the score of a place in a beam that holds nothing yet
COLDEST = 1e-4  # by less, scores would be divided beyond all numbers
FOREVER = tf.int32.max
AT_ONCE, NEVER = 1, 2  # of `early_stopping`

# What a caller may set, each as `[1]` or `[batch]`, so that a server can batch requests: dtype and
# what it is by default.
SETTINGS = {
    "max_new_tokens": ("int32", 64),
    "min_new_tokens": ("int32", 0),
    "min_length": ("int32", 0),
    "temperature": ("float32", 0.0),
    "top_k": ("int32", 0),
    "top_p": ("float32", 1.0),
    "min_p": ("float32", 0.0),
    "repetition_penalty": ("float32", 1.0),
    "no_repeat_ngram_size": ("int32", 0),
    "early_stopping": ("int32", 0),
    "length_penalty": ("float32", 1.0),
    "seed": ("int64", 0),
    "forced_bos": ("int32", -1),
    "forced_eos": ("int32", -1),
}


def generate(step, token_ids, padding_mask, cache, settings, *, room, **options):
    """Continue a batch of prompts, each until it stops or has all tokens it may have.

    Args:
        step: function of `token_ids`, int32 `(rows, length)`, `position`, scalar int32, the index
            of the first of them in the cache, and `cache`. It returns the pair of float32 `(rows,
            vocab_size)`, the logits of what comes after the last of them, and the new cache.
        token_ids: int32 `(batch, length)`, the prompts, padded at the left.
        padding_mask: int32 `(batch, length)`, 1 = real token.
        cache: nested structure of tensors whose first axis is the batch.
        settings: dict with names of `SETTINGS`, each `[1]` or `[batch]`, and `stop_ids`, int32
            `(count,)`: tokens that end a text. `temperature` 0 takes the likeliest token; `top_k` 0
            is all; a `forced_bos` or `forced_eos` of -1 is none. Until there are `min_new_tokens`,
            and `min_length` together with the prompt's, no token ends a text.
            `no_repeat_ngram_size` 0 lets tokens come in any order again. With beams,
            `early_stopping` says when a search ends that has found as many texts as it has beams:
            0 where none of those that go on is better by now, `AT_ONCE`, or `NEVER` before none
            of them can get better.
        room: int, or scalar int tensor: the largest of `max_new_tokens` or more.
        **options: of `start`.

    Returns:
        dict, as of `finish`.

    Example:
        >>> def step(token_ids, position, cache):  # after each number comes the next
        ...     return tf.one_hot(token_ids[:, -1] + 1, 9), cache
        >>> prompt = tf.constant([[3, 4]])
        >>> found = generate(step, prompt, tf.ones_like(prompt), (),
        ...     {"max_new_tokens": [5], "stop_ids": [8]}, room=5)
        >>> found["token_ids"].numpy().tolist(), found["stopped"].numpy().tolist()
        ([[[5, 6, 7, 0, 0]]], [[True]])
    """
    state = start(step, token_ids, padding_mask, cache, settings, room=room, **options)
    return finish(advance(step, state), options.get("num_sequences", 1))


def start(
    step, token_ids, padding_mask, cache, settings, *, room, num_beams=1, num_sequences=1
):  # fmt: skip
    """Read the prompts, and find the first new token of each text.

    Args:
        step, token_ids, padding_mask, cache, settings, room: of `generate`.
        num_beams: int, how many texts are followed at once, of which the likeliest is kept
            (`temperature` is then of no account); 1 for none.
        num_sequences: int, texts for each prompt. Without beams, the `i`-th is drawn with a seed
            that is larger by `i`; with beams they are the best ones.

    Returns:
        dict, the state, for `advance`.

    References:
        Beams, and when they end: Wu et al. 2016, "Google's Neural Machine Translation System",
        section 7; as Hugging Face's `generate` has it.
    """
    batch = tf.shape(token_ids)[0]
    logits, cache = step(token_ids, tf.constant(0), cache)
    stop_ids = tf.cast(settings.get("stop_ids", ()), _dtype("stop_ids"))
    settings = _complete(settings, batch)
    settings["max_new_tokens"] = tf.minimum(settings["max_new_tokens"], room)
    prompt = tf.reduce_sum(tf.cast(padding_mask, "int32"), axis=1)
    least = settings["min_length"] - prompt
    settings["min_new_tokens"] = tf.maximum(settings["min_new_tokens"], least)
    # Every place holds a token of its own row, so that a penalty for repetition finds no other.
    last = token_ids[:, -1:]
    token_ids = tf.where(tf.cast(padding_mask, "bool"), token_ids, last)
    state = {
        "first": tf.shape(token_ids)[1],
        "position": tf.shape(token_ids)[1],  # of the next token
        "begins": tf.shape(token_ids)[1] - prompt,  # where padding ends
        "token_ids": tf.concat([token_ids, tf.repeat(last, room, axis=1)], axis=1),
        "lengths": tf.zeros_like(last[:, 0]),  # new tokens, without the one that ended the text
        "stopped": tf.zeros_like(last[:, 0], "bool"),  # by such a token
        "done": settings["max_new_tokens"] < 1,
        "settings": settings,
    }
    if num_beams > 1:
        state = _with_beams(state, num_beams)
        logits, cache = _repeat((logits, cache), num_beams)
    elif num_sequences > 1:
        state, logits, cache = _repeat((state, logits, cache), num_sequences)
        state["settings"]["seed"] += tf.tile(tf.range(num_sequences, dtype="int64"), [batch])
    return _next(logits, {**state, "stop_ids": stop_ids, "cache": cache})


def advance(step, state, until=FOREVER):
    """Go on with the texts that have not ended.

    Args:
        step: of `generate`.
        state: dict, from `start` or an earlier call.
        until: int, or scalar int32 tensor: the new tokens after which to return.

    Returns:
        dict, the new state.
    """

    def goes_on(state):
        return (state["position"] - state["first"] < until) & ~tf.reduce_all(state["done"])

    def body(state):
        last = state["position"] - 1
        tokens = tf.reshape(tf.gather(state["token_ids"], last, axis=-1), (-1, 1))
        logits, cache = step(tokens, last, state["cache"])
        return (_next(logits, {**state, "cache": cache}),)

    return tf.while_loop(goes_on, body, (state,))[0]


def finish(state, num_sequences=1):
    """Take the texts out of a state.

    Args:
        state: dict, from `advance`.
        num_sequences: int, of `start`.

    Returns:
        dict of tensors: `token_ids`, int32 `(batch, num_sequences, room)`, what is new, with 0
        after the end; `lengths`, int32 `(batch, num_sequences)`, the tokens before the end;
        `stopped`, bool `(batch, num_sequences)`, whether a token ended the text, and not its
        length; `done`, bool `(batch, num_sequences)`, whether anything did.
    """
    if "best" in state:
        found = {name: x[:, :num_sequences] for name, x in state["best"].items()}
        done = tf.repeat(tf.expand_dims(state["done"], 1), num_sequences, axis=1)
    else:
        names = ("token_ids", "lengths", "stopped", "done")
        found = {name: _unflatten(state[name], num_sequences) for name in names}
        done = found["done"]
    token_ids = found["token_ids"][..., state["first"] :]
    real = tf.range(tf.shape(token_ids)[-1]) < tf.expand_dims(found["lengths"], -1)
    return {
        "token_ids": tf.where(real, token_ids, 0),
        "lengths": found["lengths"],
        "stopped": found["stopped"],
        "done": done,
    }


def _unflatten(x, num_sequences):
    """From `(batch * num_sequences, …)` to `(batch, num_sequences, …)`."""
    return tf.reshape(x, tf.concat([[-1, num_sequences], tf.shape(x)[1:]], axis=0))


# ---------------------------------------------------------------- which tokens may come


def penalize(scores, token_ids, penalty):
    """Make less likely what was there before.

    Args:
        scores: float32 `(rows, vocab_size)`, logits or log-probabilities.
        token_ids: int32 `(rows, length)`, what was there.
        penalty: float32 `(rows,)`; 1 changes nothing, more makes less likely.

    Returns:
        float32 `(rows, vocab_size)`.

    References:
        Keskar et al. 2019, "CTRL", section 4.1; negative scores, which it would make more likely,
        are multiplied instead.
    """
    old = tf.gather(scores, token_ids, batch_dims=1)  # (rows, length)
    penalty = tf.expand_dims(penalty, 1)
    new = tf.where(old < 0, old * penalty, old / penalty)
    row = tf.broadcast_to(tf.expand_dims(tf.range(tf.shape(old)[0]), 1), tf.shape(old))
    return tf.tensor_scatter_nd_update(scores, tf.stack([row, token_ids], axis=-1), new)


def exclude_repeats(scores, token_ids, begins, position, size):
    """Exclude the tokens that would repeat a run of tokens.

    Args:
        scores: float32 `(rows, vocab_size)`.
        token_ids: int32 `(rows, length)`.
        begins: int32 `(rows,)`, the place of each row's first token; what is before is padding.
        position: scalar int32, the place of the token that comes next.
        size: int32 `(rows,)`, the length of such a run; 0 excludes nothing.

    Returns:
        float32 `(rows, vocab_size)`: `EXCLUDED` for what may not come.

    Example:
        >>> scores, said = tf.zeros((1, 4)), tf.constant([[1, 2, 3, 1]])
        >>> exclude_repeats(scores, said, tf.constant([0]), 4, tf.constant([2])).numpy().tolist()
        [[0.0, 0.0, -inf, 0.0]]

    References:
        Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5.
    """
    size = tf.expand_dims(size, 1)
    place = tf.range(tf.shape(token_ids)[1])
    back = tf.range(1, tf.maximum(tf.reduce_max(size), 1))  # how far before a run's last token
    before = tf.maximum(tf.expand_dims(place, 1) - back, 0)
    before = tf.gather(token_ids, before, axis=1)  # (rows, length, back)
    now = tf.gather(token_ids, tf.maximum(position - back, 0), axis=1)  # (rows, back)
    same = tf.equal(before, tf.expand_dims(now, 1)) | (back >= tf.expand_dims(size, 2))
    first = tf.expand_dims(begins, 1) + size - 1  # the last token of the first run
    ends = tf.reduce_all(same, axis=2) & (place >= first) & (place < position) & (size > 0)
    least = tf.where(ends, EXCLUDED, float("inf"))
    row = tf.broadcast_to(tf.expand_dims(tf.range(tf.shape(ends)[0]), 1), tf.shape(ends))
    return tf.tensor_scatter_nd_min(scores, tf.stack([row, token_ids], axis=-1), least)


def narrow(scores, temperature, top_k, top_p, min_p):
    """Sharpen or flatten scores, and exclude the tokens that shall not be drawn.

    The likeliest token always stays; so do tokens that are exactly as likely as one that stays.

    Args:
        scores: float32 `(rows, vocab_size)`, logits.
        temperature: float32 `(rows,)`, more than 0: what scores are divided by, first of all.
        top_k: int32 `(rows,)`: so many of the likeliest stay; 0 for all.
        top_p: float32 `(rows,)`, in (0, 1]: of these, the likeliest that together have this
            probability.
        min_p: float32 `(rows,)`, in [0, 1]: those that are at least so likely, as a part of the
            likeliest one.

    Returns:
        float32 `(rows, vocab_size)`: `EXCLUDED` for what can't be drawn.

    Example:
        >>> narrow(tf.constant([[2.0, 1.0, 0.0]]), [1.0], [2], [1.0], [0.0]).numpy().tolist()
        [[2.0, 1.0, -inf]]

    References:
        Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4 (`top_k`); Holtzman et
        al. 2019, "The Curious Case of Neural Text Degeneration", section 3.1 (`top_p`); Nguyen et
        al. 2024, "Min-p Sampling", section 3.
    """
    scores = scores / tf.expand_dims(temperature, 1)
    vocab_size = tf.shape(scores)[1]
    top_k = tf.where(tf.less(top_k, 1), vocab_size, tf.minimum(top_k, vocab_size))
    least = tf.cond(  # sorting a whole vocabulary takes longer than a small model's step
        tf.reduce_any(top_k < vocab_size) | tf.reduce_any(tf.less(top_p, 1.0)),
        lambda: _least_of_top(scores, top_k, top_p),
        lambda: tf.fill(tf.shape(top_k), EXCLUDED),
    )
    likeliest = tf.reduce_max(scores, axis=1)
    least = tf.minimum(tf.maximum(least, likeliest + tf.math.log(min_p)), likeliest)
    return tf.where(scores < tf.expand_dims(least, 1), EXCLUDED, scores)


def _least_of_top(scores, top_k, top_p):
    """The lowest score, `(rows,)`, that `top_k` and `top_p` leave."""
    top_k, top_p = tf.expand_dims(top_k, 1), tf.expand_dims(top_p, 1)
    best, _ = tf.math.top_k(scores, tf.reduce_max(top_k))  # (rows, place), sorted
    inside = tf.range(tf.shape(best)[1]) < top_k
    probability = tf.nn.softmax(tf.where(inside, best, EXCLUDED))
    before = tf.cumsum(probability, axis=1, exclusive=True)
    inside &= (before < top_p) | tf.greater_equal(top_p, 1.0)
    return tf.reduce_min(tf.where(inside, best, float("inf")), axis=1)


def gumbel(seeds, number, size):
    """Draw the noise that makes the highest score a draw from the softmax of all scores.

    Each row's noise comes from its own seed alone, so a text doesn't depend on the texts beside it.

    Args:
        seeds: int64 `(rows,)`.
        number: scalar int32, which draw it is.
        size: scalar int32, how many numbers a row has.

    Returns:
        float32 `(rows, size)`.

    References:
        Maddison et al. 2014, "A* Sampling", section 2.
    """
    number = tf.cast(number, "int64")

    def row(seed):
        return tf.random.stateless_uniform(
            tf.reshape(size, (1,)),
            tf.stack([seed, number]),
            minval=1.2e-38,  # the logarithm of 0 is none
            alg="philox",  # the same on all devices
        )

    uniform = tf.map_fn(row, seeds, fn_output_signature=tf.TensorSpec((None,), "float32"))
    return -tf.math.log(-tf.math.log(uniform))


# ---------------------------------------------------------------- one token further


def _next(logits, state):
    """The state with one more token in each text, by the logits of what comes next."""
    return (_follow_beams if "best" in state else _draw)(logits, state)


def _draw(logits, state):
    settings, position = state["settings"], state["position"]
    number = position - state["first"]
    scores = _allowed(logits, state["token_ids"], state)
    tokens = tf.cond(
        tf.reduce_any(settings["temperature"] > 0),
        lambda: _sampled(scores, number, settings),
        lambda: _likeliest(scores),
    )
    forced = _forced(number, settings)
    tokens = tf.where(forced >= 0, forced, tokens)
    ends = _ends_text(tokens, state["stop_ids"])
    running = ~state["done"]
    last = number + 1 >= settings["max_new_tokens"]
    stopped = running & ends & ~(last & (settings["forced_eos"] >= 0))
    return {
        **state,
        "position": position + 1,
        "token_ids": _put(state["token_ids"], position, tokens),
        "lengths": state["lengths"] + tf.cast(running & ~ends, "int32"),
        "stopped": state["stopped"] | stopped,
        "done": state["done"] | ends | last,
    }


def _allowed(scores, token_ids, state, times=1):
    """Scores after penalties, `EXCLUDED` for what may not come; `times` rows for each setting."""

    def of_rows(x):
        return tf.repeat(x, times) if times > 1 else x

    settings = state["settings"]
    penalty = of_rows(settings["repetition_penalty"])
    size, begins = of_rows(settings["no_repeat_ngram_size"]), of_rows(state["begins"])
    short = of_rows(state["position"] - state["first"] < settings["min_new_tokens"])
    # A step of a small model is quick enough for passes over its vocabulary to count.
    scores = _where_any(penalty != 1, lambda x: penalize(x, token_ids, penalty), scores)
    scores = _where_any(
        size > 0, lambda x: exclude_repeats(x, token_ids, begins, state["position"], size), scores
    )
    return _where_any(short, lambda x: _without_ends(x, short, state["stop_ids"]), scores)


def _where_any(rows, function, scores):
    """Apply a function, if any row needs it."""
    return tf.cond(tf.reduce_any(rows), lambda: function(scores), lambda: scores)


def _without_ends(scores, rows, stop_ids):
    ends = _ends_text(tf.range(tf.shape(scores)[1]), stop_ids)
    return tf.where(tf.expand_dims(rows, 1) & ends, EXCLUDED, scores)


def _likeliest(scores):
    return tf.argmax(scores, axis=1, output_type=tf.int32)


def _sampled(scores, number, settings):
    hot = settings["temperature"] > 0
    temperature = tf.where(hot, tf.maximum(settings["temperature"], COLDEST), 1.0)
    limits = (settings[name] for name in ("top_k", "top_p", "min_p"))
    narrowed = narrow(scores, temperature, *limits)
    noise = gumbel(settings["seed"], number, tf.shape(scores)[1])
    return tf.where(hot, _likeliest(narrowed + noise), _likeliest(scores))


def _forced(number, settings):
    """int32 `(batch,)`: the token that must come now, or -1."""
    last = number + 1 >= settings["max_new_tokens"]
    forced = tf.where(last, settings["forced_eos"], -1)
    return tf.where((forced < 0) & (number == 0), settings["forced_bos"], forced)


def _ends_text(tokens, stop_ids):
    return tf.reduce_any(tf.expand_dims(tokens, -1) == stop_ids, axis=-1)


def _put(token_ids, position, tokens):
    """Put `tokens`, which lack the last axis of `token_ids`, at one position of it."""
    here = tf.range(tf.shape(token_ids)[-1]) == position
    return tf.where(here, tf.expand_dims(tokens, -1), token_ids)


# ---------------------------------------------------------------- beams


def _with_beams(state, num_beams):
    """The state with `num_beams` texts a prompt that run, and as many places for finished ones."""

    def beams(x):
        return tf.repeat(tf.expand_dims(x, 1), num_beams, axis=1)

    best = {name: beams(state[name]) for name in ("token_ids", "lengths", "stopped")}
    zeros = tf.zeros_like(best["lengths"], "float32")
    return {
        **state,
        "token_ids": best["token_ids"],
        # At first all texts are the same: only one of them may go on.
        "scores": tf.where(tf.range(num_beams) == 0, zeros, UNFINISHED),
        "best": {**best, "scores": zeros + UNFINISHED},
    }


def _follow_beams(logits, state):
    settings, num_beams = state["settings"], state["scores"].shape[1]
    count = state["position"] - state["first"] + 1  # of new tokens
    last = count >= settings["max_new_tokens"]  # (batch,)
    norm = _norm(count, settings)
    candidates = _candidates(logits, state)
    ended = _ends_text(candidates["tokens"], state["stop_ids"]) | tf.expand_dims(last, 1)
    best = _best_finished(candidates, ended, count, norm, state)

    going_on = tf.where(ended, candidates["scores"] + UNFINISHED, candidates["scores"])
    scores, places = tf.math.top_k(going_on, num_beams)
    token_ids = tf.gather(candidates["token_ids"], places, batch_dims=1)
    beams = tf.gather(candidates["beams"], places, batch_dims=1)
    rows = tf.expand_dims(tf.range(tf.shape(beams)[0]) * num_beams, 1) + beams
    rows = tf.reshape(rows, (-1,))  # of the cache

    # What goes on is taken as if it ended here, or, where that is for the better, at its longest.
    early = settings["early_stopping"]
    longest = (early == NEVER) & (settings["length_penalty"] > 0)
    hoped = tf.where(longest, _norm(settings["max_new_tokens"], settings), norm)
    hopeless = scores[:, 0] / hoped <= tf.reduce_min(best["scores"], axis=1)
    full = tf.reduce_all(best["scores"] > UNFINISHED, axis=1)
    enough = full & (hopeless | (early == AT_ONCE))
    return {
        **state,
        "position": state["position"] + 1,
        "token_ids": token_ids,
        "scores": scores,
        "best": best,
        "done": state["done"] | last | enough | tf.reduce_all(ended, axis=1),
        "cache": tf.nest.map_structure(lambda x: tf.gather(x, rows), state["cache"]),
    }


def _norm(count, settings):
    """What the score of a text of `count` tokens is divided by, float32 `(batch,)`."""
    return tf.pow(tf.cast(count, "float32"), settings["length_penalty"])


def _best_finished(candidates, ended, count, norm, state):
    """The best of the texts that had ended before and of those that end now."""
    settings, num_beams = state["settings"], state["scores"].shape[1]
    # Only the likeliest may end; the other candidates are there to fill up the beam.
    place = tf.range(tf.shape(ended)[1])
    counts = ended & (place < num_beams) & ~tf.expand_dims(state["done"], 1)
    by_token = _ends_text(candidates["tokens"], state["stop_ids"])
    forced = (count >= settings["max_new_tokens"]) & (settings["forced_eos"] >= 0)
    now = {
        "token_ids": candidates["token_ids"],
        "scores": tf.where(counts, candidates["scores"] / tf.expand_dims(norm, 1), UNFINISHED),
        "lengths": count - tf.cast(by_token, "int32"),
        "stopped": by_token & ~tf.expand_dims(forced, 1),
    }
    both = {name: tf.concat([old, now[name]], axis=1) for name, old in state["best"].items()}
    _, places = tf.math.top_k(both["scores"], num_beams)
    return {name: tf.gather(x, places, batch_dims=1) for name, x in both.items()}


def _candidates(logits, state):
    """The likeliest texts that are longer by one token.

    There are so many that the beam stays full, whatever of them ends here: dict of `scores`,
    `tokens` and `beams`, `(batch, keep)`, and `token_ids`, `(batch, keep, length)`.
    """
    settings = state["settings"]
    num_beams = state["scores"].shape[1]
    vocab_size = tf.shape(logits)[1]
    flat_ids = tf.reshape(state["token_ids"], (-1, tf.shape(state["token_ids"])[-1]))
    scores = _allowed(tf.nn.log_softmax(logits), flat_ids, state, num_beams)
    scores = tf.reshape(scores, (-1, num_beams, vocab_size))
    forced = tf.reshape(_forced(state["position"] - state["first"], settings), (-1, 1, 1))
    is_forced = tf.where(tf.range(vocab_size) == forced, 0.0, EXCLUDED)
    scores = tf.where(forced >= 0, is_forced, scores) + tf.expand_dims(state["scores"], -1)
    keep = max(2, 1 + state["stop_ids"].shape[0]) * num_beams
    scores, index = tf.math.top_k(tf.reshape(scores, (-1, num_beams * vocab_size)), keep)
    beams, tokens = index // vocab_size, index % vocab_size
    token_ids = tf.gather(state["token_ids"], beams, batch_dims=1)
    token_ids = _put(token_ids, state["position"], tokens)
    return {"scores": scores, "tokens": tokens, "beams": beams, "token_ids": token_ids}


# ---------------------------------------------------------------- settings and rows


def _dtype(name):
    return SETTINGS[name][0] if name in SETTINGS else "int32"


def _complete(settings, batch):
    """All of `SETTINGS`, `[batch]` each."""
    whole = {}
    for name, (dtype, default) in SETTINGS.items():
        value = tf.cast(settings.get(name, [default]), dtype)
        whole[name] = tf.broadcast_to(value, tf.reshape(batch, (1,)))
    return whole


def _repeat(nest, times):
    """Each row of all tensors `times` times, one after another; scalars as they are."""
    return tf.nest.map_structure(lambda x: tf.repeat(x, times, axis=0) if x.shape.rank else x, nest)


# ---------------------------------------------------------------- caches


def write_rows(cache, start, rows):
    """Write rows into a cache, in place where nothing else holds it, as in a loop.

    Args:
        cache: `(batch, heads, max_length, projection_dim)`.
        start: sequence of four int or scalar int32: the place of the first row.
        rows: `(batch, heads, length, projection_dim)`, at most as many as there is room for.

    Returns:
        The cache with the rows in it.

    Example:
        >>> write_rows(tf.zeros((1, 1, 3, 1)), (0, 0, 1, 0), tf.ones((1, 1, 2, 1))).numpy().ravel()
        array([0., 1., 1.], dtype=float32)
    """
    start = tf.stack([tf.cast(x, "int32") for x in start])
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=cache,
        begin=start,
        end=start + tf.shape(rows),
        strides=tf.ones_like(start),
        value=rows,
    )


# ---------------------------------------------------------------- compiled


class Compiled:
    """The loop for one model, compiled once for each size of a batch.

    Args:
        prepare: function of `inputs`, a dict of tensors, and `room`, int. It returns `token_ids`,
            `padding_mask` and `cache` for the loop.
        step: of `generate`.
        variables: list, what the two read: a model that has others needs another loop.
    """

    def __init__(self, prepare, step, variables=()):
        self.variables = variables

        def first(inputs, settings, room, num_beams, num_sequences):
            options = {"num_beams": num_beams, "num_sequences": num_sequences}
            return start(step, *prepare(inputs, room), settings, room=room, **options)

        def further(state, until, num_sequences):
            state = advance(step, state, until)
            return state, finish(state, num_sequences)

        self._start = tf.function(first, autograph=False)
        self._advance = tf.function(further, autograph=False)

    def states(self, inputs, settings, *, room, num_beams=1, num_sequences=1, every=FOREVER):
        """Run the loop, and hand out now and then what there is.

        Args:
            inputs: dict of NumPy arrays, for `prepare`.
            settings, room: of `generate`, NumPy.
            num_beams, num_sequences: of `start`.
            every: int, new tokens after which to hand out; by default, when all texts have ended.

        Yields:
            dict of NumPy arrays, as of `finish`; the last one when all texts have ended.
        """
        # Whatever numbers they are given as: each kind would be traced anew.
        settings = {name: tf.cast(x, _dtype(name)) for name, x in settings.items()}
        state = self._start(inputs, settings, room, num_beams, num_sequences)
        for until in itertools.count(every, every):
            state, found = self._advance(state, tf.constant(until), num_sequences)
            found = {name: value.numpy() for name, value in found.items()}
            yield found
            if found["done"].all():
                return
