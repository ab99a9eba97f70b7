"""A sentence encoder as TensorFlow alone: a text in, its vector out."""

from kerasllm.export.scorer import TextModel


class SentenceVectors(TextModel):
    """A `SentenceEncoder`: see `TextModel`.

    `serving_default` and `encode` take `text`, string `(batch,)`, and give `vector`, float32
    `(batch, embed_dim)`. A text is cut to the model's `max_length`, unless there is another.
    """

    def signatures(self):
        self.in_graph = self.tokenizer.in_graph()  # an attribute, so that its tables are saved
        encode = self._of_texts(self._encode, "text")
        return {"serving_default": encode, "encode": encode}

    def _encode(self, texts):
        return {"vector": self.model(self._named(self.in_graph(texts, max_length=self.max_length)))}

    def _more_tries(self, rows):
        return [("encode", rows)]

    def _answers(self, rows):
        texts = [row["text"] for row in rows]
        return {"vector": self.model.encode(texts, max_length=self.max_length)}
