"""A tagger as TensorFlow alone: a text in, a tag for each of its words out."""

import tensorflow as tf

from kerasllm.data.sentences import CHINESE, sentences
from kerasllm.evaluation.entities import OUTSIDE
from kerasllm.export import verify
from kerasllm.export.scorer import TextModel
from kerasllm.tasks import extractive_summarization
from kerasllm.tasks.token_classification import WORD, words_of
from kerasllm.tokenizers.patterns import characters
from kerasllm.tokenizers.rows_in_graph import make_batch
from kerasllm.tokenizers.splitting_in_graph import CUT, cut_around, cut_between, parts
from kerasllm.tokenizers.words_in_graph import WordsInGraph


class Tagger(TextModel):
    """A `TokenClassifier`: see `TextModel`.

    `serving_default` and `tag` take `text`, string `(batch,)`, and give, for each of its words,
    padded to `(batch, words)`: strings `words` and `tags`, float32 `scores`, the probability of the
    tag, and int32 `starts` and `ends`, in characters of the text; and int32 `word_count`,
    `(batch,)`. `tag_words` takes `words`, string `(batch, words)`, without white space in them and
    padded with empty ones, and gives `tags` and `scores`.

    Args:
        model: `TokenClassifier`.
        max_length, texts: of `TextModel`.

    Raises:
        ValueError: as `TextModel`, or which tokens begin words can't be known in a graph.
    """

    def __init__(self, model, max_length=None, texts=verify.SENTENCES):
        super().__init__(model, max_length, texts)
        self.in_graph = self.tokenizer.in_graph()
        self.first_tokens = WordsInGraph(self.tokenizer, self.in_graph)

    def signatures(self):
        tag = self._of_texts(self._from_texts, "text")
        tag_words = self._of_words(lambda words: dict(zip(("tags", "scores"), self._tags(words))))
        return {"serving_default": tag, "tag": tag, "tag_words": tag_words}

    def _of_words(self, function, name="words"):
        """A signature of padded strings `(batch, words)`; `function` gets ragged ones."""

        def from_words(words):
            rows, width = tf.shape(words)[0], tf.shape(words)[1]
            words = tf.concat([words, tf.fill([tf.maximum(1 - rows, 0), width], "")], axis=0)
            found = function(tf.RaggedTensor.from_tensor(words, padding=""))
            return {name: values.to_tensor()[:rows] for name, values in found.items()}

        spec = tf.TensorSpec([None, None], tf.string, name)
        return tf.function(from_words, autograph=False).get_concrete_function(spec)

    def _from_texts(self, texts):
        words, starts = words_in_graph(texts)
        tags, scores = self._tags(words)
        lengths = tf.strings.length(words.values, unit="UTF8_CHAR")
        ends = starts.with_values(starts.values + lengths)
        found = {"words": words, "tags": tags, "scores": scores, "starts": starts, "ends": ends}
        padded = {name: values.to_tensor() for name, values in found.items()}
        return {**padded, "word_count": tf.cast(words.row_lengths(), tf.int32)}

    def _tags(self, words):
        """Tags and their probabilities, ragged `(batch, None)`, of words."""
        known, scores = self._probabilities(words)
        tags = tf.gather(tf.constant(self.labels), tf.argmax(scores, axis=1))
        return (
            words.with_values(tf.where(known, tags, OUTSIDE)),
            words.with_values(tf.where(known, tf.reduce_max(scores, axis=1), 0.0)),
        )

    def _probabilities(self, words):
        """Whether a token stands for each word, bool `(words,)`; and float32 `(words, classes)`."""
        ids, first = self.first_tokens(words)
        before, after = map(len, self.tokenizer.row_ends)
        inputs = self._make_rows(make_batch, ids, None)
        probabilities = tf.nn.softmax(self.model(self._named(inputs)), axis=-1)
        row = tf.cast(words.value_rowids(), tf.int32)
        known = (first.values >= 0) & (first.values < self.max_length - before - after)
        place = tf.where(known, first.values + before, 0)
        return known, tf.gather_nd(probabilities, tf.stack([row, place], axis=1))

    # ---------------------------------------------------------------- the verification

    def _more_tries(self, rows):
        return [("tag", rows), ("tag_words", rows)]

    def _inputs(self, signature, rows):
        if signature != "tag_words":
            return super()._inputs(signature, rows)
        return {"words": _padded([[word for word, *_ in words_of(row)] for row in rows])}

    def _answers(self, rows):
        fields = {"words": 0, "tags": 1, "scores": 2, "starts": 3, "ends": 4}
        found = self.predict(rows)
        outputs = {name: [[w[i] for w in row] for row in found] for name, i in fields.items()}
        return {**outputs, "word_count": [len(row) for row in found]}


class SentencePicker(Tagger):
    """A `TokenClassifier` of the sentences of texts, for extractive summaries: see `TextModel`.

    `serving_default` and `summarize` take `text`, string `(batch,)`, and give string `summary`
    `(batch,)`, the likeliest sentence; and, padded to `(batch, sentences)`, strings `sentences` and
    float32 `scores`, the probability that each is taken. `score_sentences` takes `sentences`,
    string `(batch, sentences)`, padded with empty ones, and gives `scores`.
    """

    def signatures(self):
        summarize = self._of_texts(self._from_texts, "text")
        score = self._of_words(lambda words: {"scores": self._scores(words)}, "sentences")
        return {"serving_default": summarize, "summarize": summarize, "score_sentences": score}

    def _from_texts(self, texts):
        parts = sentences_in_graph(texts)
        padded, scores = parts.to_tensor(), self._scores(parts).to_tensor(-1.0)
        # One more, empty, where there is none.
        best = tf.argmax(tf.pad(scores, [[0, 0], [0, 1]], constant_values=-1.0), axis=1)
        summary = tf.gather(tf.pad(padded, [[0, 0], [0, 1]]), best, batch_dims=1)
        return {"summary": summary, "sentences": padded, "scores": tf.maximum(scores, 0.0)}

    def _scores(self, parts):
        known, scores = self._probabilities(parts)
        return parts.with_values(tf.where(known, scores[:, 1], 0.0))

    # ---------------------------------------------------------------- the verification

    def _more_tries(self, rows):
        return [("summarize", rows), ("score_sentences", rows)]

    def _inputs(self, signature, rows):
        if signature == "score_sentences":
            return {"sentences": _padded([sentences(row["text"]) for row in rows])}
        return TextModel._inputs(self, signature, rows)

    def _answers(self, rows):
        parts = [sentences(row["text"]) for row in rows]
        most = max(map(len, parts))
        rows = [{"source": each} for each in parts]
        found = extractive_summarization.predict(
            self.model, rows, max_length=self.max_length, num_sentences=max(most, 1)
        )
        scores = [[score for _, score in row] for row in found]
        return {
            "summary": [_likeliest(row) for row in found],
            "sentences": parts,
            "scores": scores,
        }


def _likeliest(sentences):
    return max(sentences, key=lambda sentence: sentence[1])[0] if sentences else ""


def _padded(rows):
    most = max(map(len, rows), default=0)
    return [verify.as_json(row + [""] * (most - len(row))) for row in rows]


def sentences_in_graph(texts):
    """Split texts into sentences, as `data.sentences.sentences` does.

    Args:
        texts: strings `(batch,)`, in UTF-8.

    Returns:
        string `tf.RaggedTensor` `(batch, None)`.
    """
    space = characters(r"\s")
    texts = tf.strings.regex_replace(texts, "[。！？]", rb"\0" + CUT)
    texts = cut_between(texts, f"([.!?])([{CHINESE}]|{space})")
    pieces = tf.strings.split(tf.strings.regex_replace(texts, r"\n", CUT), CUT)
    pieces = pieces.with_values(tf.strings.regex_replace(pieces.values, f"^{space}+|{space}+$", ""))
    return tf.ragged.boolean_mask(pieces, pieces != "")


def words_in_graph(texts):
    """Split texts into words, as `token_classification.words_of` does.

    Args:
        texts: strings `(batch,)`, in UTF-8.

    Returns:
        Two `tf.RaggedTensor` `(batch, None)`: strings, and int32, where each begins, in characters.
    """
    solid = characters(r"\S")
    # Python's classes of characters are others than RE2's.
    pattern = WORD.pattern.replace(rf"[^\W{CHINESE}]", characters(rf"[^\W{CHINESE}]"))
    pattern = pattern.replace(r"\w", characters(r"\w")).replace(r"\S", solid)
    cut = cut_around(texts, pattern)
    count = _pieces(cut, solid)[0].row_lengths()
    chinese = tf.strings.regex_replace(texts, f"[^{CHINESE}]", "")
    chinese = tf.cast(tf.strings.length(chinese, unit="UTF8_CHAR"), tf.int64)
    return _pieces(tf.where(2 * chinese > count, cut_around(texts, solid), cut), solid)


def _pieces(cut, solid):
    """The parts of texts that are no white space, and where they begin, both ragged."""
    pieces = parts(cut)
    lengths = tf.strings.length(pieces.values, unit="UTF8_CHAR")
    starts = tf.cumsum(lengths, exclusive=True)
    first = tf.gather(tf.concat([starts, [0]], 0), pieces.row_starts())
    starts -= tf.gather(first, pieces.value_rowids())
    kept = pieces.with_values(tf.strings.regex_full_match(pieces.values, f"(?s){solid}.*"))
    return tuple(tf.ragged.boolean_mask(x, kept) for x in (pieces, pieces.with_values(starts)))
