"""What the tokenizers of `pipeline` share inside a graph."""

import functools
import re

import tensorflow as tf

from kerasllm.tokenizers import rows_in_graph
from kerasllm.tokenizers.joining_in_graph import as_ragged
from kerasllm.tokenizers.patterns import white_space
from kerasllm.tokenizers.splitting_in_graph import cut_around, parts, valid


class PipelineInGraph(tf.Module):
    """A tokenizer made of TensorFlow operations: see its `in_graph`.

    Args:
        tokenizer: a `kerasllm.tokenizers.pipeline.PipelineTokenizer`.
    """

    def __init__(self, tokenizer):
        super().__init__()
        self._tokenizer = tokenizer
        self._template, self._pad_id = tokenizer._template, tokenizer._fill
        hidden = () if tokenizer.allow_special_tokens else tokenizer._special_added()
        hidden = {token.content for token in hidden}
        added = tokenizer._rust.get_added_tokens_decoder().items()
        added = [(i, token) for i, token in added if token.content not in hidden]
        normalizer = tokenizer._rust.normalizer
        with tf.init_scope():  # tensors of the module, also where a graph is being traced
            self._added = _AddedTokens([(i, t, t.content) for i, t in added if not t.normalized])
            self._added_normalized = _AddedTokens(
                [
                    (
                        i,
                        token,
                        normalizer.normalize_str(token.content) if normalizer else token.content,
                    )
                    for i, token in added
                    if token.normalized
                ]
            )

    # ---------------------------------------------------------------- what subclasses say

    def _encode_plain(self, texts, is_first):
        """Ids `(batch, None)` of normalised strings `(batch,)`.

        `is_first` `(batch,)` says which of them begin a text.
        """
        raise NotImplementedError

    def _text(self, ids):
        """Strings `(batch,)` of ids `(batch, None)`."""
        raise NotImplementedError

    # ---------------------------------------------------------------- the interface

    # There is no Python to convert in it, and looking for some takes seconds.
    @tf.autograph.experimental.do_not_convert
    def encode(self, texts):
        """Turns strings `(batch,)` into a ragged int32 tensor of ids `(batch, None)`."""
        texts = tf.convert_to_tensor(texts, tf.string)
        if texts.shape.rank != 1:
            raise ValueError(
                f"`texts` must be strings of shape (batch,). Received: shape {texts.shape}"
            )
        return self.encode_sections(valid(texts), tf.ones_like(texts, tf.bool))

    def encode_sections(self, texts, is_first):
        """Ids `(batch, None)` of parts of texts, UTF-8 strings `(batch,)`, as `encode` gives them.

        `is_first`, bool `(batch,)`, says which of them begin a text.
        """
        return self._added.encode(texts, is_first, self._encode_normalized)

    @functools.cached_property
    def chat(self):
        """The module that makes ids of a conversation: see `PipelineTokenizer.encode_chat`."""
        from kerasllm.tokenizers.chat_in_graph import ChatInGraph

        return ChatInGraph(self._tokenizer, self)

    def _encode_normalized(self, texts, is_first):
        for normalize in self._normalizers:
            texts = normalize(texts)
        return self._added_normalized.encode(texts, is_first, self._encode_plain)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, texts, pairs=None, *, max_length):
        """Turns strings `(batch,)` into a dict of int32 tensors `(batch, length)`."""
        return rows_in_graph.make_batch(
            self._template,
            self.encode(texts),
            None if pairs is None else self.encode(pairs),
            max_length=max_length,
            pad_id=self._pad_id,
        )

    @tf.autograph.experimental.do_not_convert
    def decode(self, ids):
        """Turns int32 ids `(batch, length)`, also ragged, into strings `(batch,)`."""
        return self._text(as_ragged(ids))


class _AddedTokens:
    """Tokens that stand for themselves, whatever the model would make of their letters."""

    def __init__(self, added):
        self._contents = [content for _, _, content in added]
        if not added:
            return
        for _, token, content in added:
            if token.single_word:
                raise ValueError(
                    "`added_tokens` must not be `single_word` in a graph. Received: "
                    f"{content!r} (tokenize in Python instead)"
                )
        self._ids = tf.constant([index for index, _, _ in added], tf.int32)
        space = f"[{white_space()}]*"
        self._edges = f"^{space}|{space}$"
        longest_first = sorted(added, key=lambda item: -len(item[2]))
        self._pattern = "|".join(
            (space if token.lstrip else "") + re.escape(content) + (space if token.rstrip else "")
            for _, token, content in longest_first
        )

    def encode(self, texts, is_first, encode):
        """Ids of strings `(batch,)`; what is between the tokens goes through `encode`."""
        if not self._contents:
            return encode(texts, is_first)
        sections = parts(cut_around(texts, self._pattern))
        row = sections.value_rowids()
        begins = tf.range(tf.size(row, tf.int64)) == tf.gather(sections.row_starts(), row)
        plain = tf.strings.regex_replace(sections.values, self._edges, "")
        match = plain[:, None] == tf.constant(self._contents)  # (sections, tokens)
        is_token = tf.reduce_any(match, axis=1)
        texts = tf.where(is_token, "", sections.values)
        ids = encode(texts, begins & tf.gather(is_first, row))
        match = tf.boolean_mask(match, is_token)
        tokens = tf.RaggedTensor.from_row_lengths(
            tf.gather(self._ids, tf.argmax(match, axis=1)), tf.cast(is_token, tf.int64)
        )
        return sections.with_values(tf.concat([ids, tokens], axis=1)).merge_dims(1, 2)
