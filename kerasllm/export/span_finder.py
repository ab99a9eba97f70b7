"""A model that answers questions on a text, as TensorFlow alone: two texts in, an answer out."""

import numpy as np
import tensorflow as tf

from kerasllm.export import verify
from kerasllm.export.scorer import TextModel
from kerasllm.tasks import question_answering
from kerasllm.tokenizers.offsets_in_graph import OffsetsInGraph
from kerasllm.tokenizers.windows_in_graph import make_windows

NOTHING = -np.inf
WINDOWS = 16  # that the model reads at once: of a long context, all would take gigabytes


class SpanFinder(TextModel):
    """A `SpanLabeler`: see `TextModel`.

    `serving_default` and `answer` take `question` and `context`, strings `(batch,)`, and give, all
    `(batch,)`: string `answer`, a piece of the context, empty where it is likelier that there is
    none; int32 `start` and `end`, where the best piece stands in characters of the context; float32
    `score`, its probability; and float32 `no_answer`, the probability that there is none.

    Each of the `texts` that an artefact is verified on is a question on the next one.

    Args:
        model: `SpanLabeler`.
        max_length, texts: of `TextModel`.

    Raises:
        ValueError: as `TextModel`, or where a token stands in its text can't be known in a graph.
    """

    def __init__(self, model, max_length=None, texts=verify.SENTENCES):
        super().__init__(model, max_length, texts)
        tokenizer = self.tokenizer
        self.in_graph = tokenizer.in_graph()
        self.offsets = OffsetsInGraph(tokenizer, self.in_graph)

    inputs = ("question", "context")

    def signatures(self):
        answer = self._of_texts(self._answer, "question", "context")
        return {"serving_default": answer, "answer": answer}

    def _answer(self, question, context):
        ids, starts, ends = self.offsets(context)
        stride = max(self.max_length // question_answering.STRIDES, 1)
        questions = self.in_graph.encode(question)
        made = self._make_rows(make_windows, questions, ids, stride=stride)
        inputs, row, tokens, before = made
        logits = tf.cast(self._logits(self._named(inputs)), tf.float64)  # (windows, length, 2)
        bounds = tf.stack([starts.values, ends.values], axis=1)  # (tokens, 2)
        best, no_answer, (start, end) = _best(
            logits, row, *_aligned(logits, tokens, before, bounds)
        )
        answer = tf.strings.substr(context, start, end - start, unit="UTF8_CHAR")
        return {
            "answer": tf.where(best >= no_answer, answer, ""),
            "start": start,
            "end": end,
            "score": tf.cast(best, tf.float32),
            "no_answer": tf.cast(no_answer, tf.float32),
        }

    def _logits(self, inputs):
        """What the model gives, float32 `(windows, length, 2)`, of some windows after others."""
        windows = tf.shape(inputs["token_ids"])[0]
        found = tf.TensorArray(
            tf.float32, size=0, dynamic_size=True, infer_shape=False, element_shape=(None, None, 2)
        )

        def read(start, found):
            part = {name: ids[start : start + WINDOWS] for name, ids in inputs.items()}
            return start + WINDOWS, found.write(start // WINDOWS, self.model(part))

        found = tf.while_loop(
            lambda start, _: start < windows, read, (0, found), parallel_iterations=1
        )[1]
        return found.concat()

    # ---------------------------------------------------------------- the verification

    def _rows(self, texts):
        return [
            {"question": question, "context": context}
            for question, context in zip(texts, [*texts[1:], texts[0]])
        ]

    def _more_tries(self, rows):
        return [("answer", rows)]

    def _answers(self, rows):
        found = question_answering.answers(self.model, rows, self.predict(rows))
        return {name: [answer[name] for answer in found] for name in found[0]}


def _aligned(logits, tokens, before, bounds):
    """Logits and bounds of the tokens of a context in each window, `(windows, most, 2)` both.

    Where there is no token, or one that stands for no character, logits are -inf.
    """
    length = tokens.row_lengths()
    place = tf.range(tf.maximum(tf.reduce_max(length), 1))
    inside = place < length[:, tf.newaxis]  # (windows, most)
    first = tf.gather(tf.concat([tokens.values, [0]], 0), tokens.row_starts())
    token = tf.where(inside, first[:, tf.newaxis] + place, tf.shape(bounds, tf.int64)[0])
    bounds = tf.gather(tf.concat([bounds, [[0, 0]]], 0), token)
    index = tf.where(inside, before[:, tf.newaxis] + place, 0)
    holds = bounds[..., 1:] > bounds[..., :1]
    return tf.where(holds, tf.gather(logits, index, batch_dims=1), NOTHING), bounds


def _best(logits, row, of_tokens, bounds):
    """The likeliest piece of each context, over all of its windows.

    Args:
        logits: float64 `(windows, length, 2)`, of which the first token's are those of no answer.
        row: int64 `(windows,)`, the context that each is of, in order.
        of_tokens: float64 `(windows, most, 2)`, those of the context's tokens.
        bounds: int32 `(windows, most, 2)`, where these stand in the context.

    Returns:
        `(score, no_answer, (start, end))`, all `(batch,)`, as `question_answering.predict` has it.
    """
    most, width = question_answering.MAX_ANSWER, tf.shape(of_tokens)[1]
    first, last = of_tokens[..., 0], of_tokens[..., 1]
    last = tf.pad(last, [[0, 0], [0, most - 1]], constant_values=NOTHING)
    # scores[:, i, j]: the answer begins at i and has j + 1 tokens.
    scores = first[..., tf.newaxis] + tf.signal.frame(last, most, 1)
    scores = tf.reshape(scores, [-1, width * most])
    found, where = tf.reduce_max(scores, axis=1), tf.argmax(scores, axis=1, output_type=tf.int32)
    best = tf.math.segment_max(found, row)
    # Of several windows with the best piece, the first.
    window = tf.range(tf.size(row))
    is_best = found == tf.gather(best, row)
    window = tf.math.segment_min(tf.where(is_best, window, tf.size(row)), row)
    begin, more = (tf.gather(part, window) for part in (where // most, where % most))
    bounds = tf.gather(bounds, window)  # (batch, most, 2)
    start = tf.gather(bounds, begin, batch_dims=1)[:, 0]
    end = tf.gather(bounds, begin + more, batch_dims=1)[:, 1]
    start, end = (tf.where(best > NOTHING, place, 0) for place in (start, end))
    every, nothing = tf.reduce_logsumexp(scores, axis=1), tf.reduce_sum(logits[:, 0], axis=-1)
    nothing = tf.math.segment_min(nothing, row)
    top = tf.maximum(nothing, tf.math.segment_max(every, row))
    total = tf.math.segment_sum(tf.exp(every - tf.gather(top, row)), row)
    whole = top + tf.math.log(total + tf.exp(nothing - top))
    return tf.exp(best - whole), tf.exp(nothing - whole), (start, end)
