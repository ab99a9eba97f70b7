"""Conversations to token ids, inside a graph."""

import logging
import re

import tensorflow as tf

from kerasllm.tokenizers.chat import ROLES, Between, ChatStrings
from kerasllm.tokenizers.patterns import white_space
from kerasllm.tokenizers.splitting_in_graph import CUT, parts, valid

logger = logging.getLogger("kerasllm")

MARK = b"\xfe"  # before the id of a special token; no UTF-8 text holds it


class ChatInGraph(tf.Module):
    """A chat template made of TensorFlow operations: see `PipelineTokenizer.encode_chat`.

    Args:
        tokenizer: a `PipelineTokenizer` with a `chat_template`.
        graph: its `in_graph()`.

    Raises:
        ValueError: the template can't be written as plain strings.
    """

    def __init__(self, tokenizer, graph):
        super().__init__(name="chat")
        strings = ChatStrings(tokenizer.chat_template, tokenizer.special_tokens)
        if "strftime_now" in tokenizer.chat_template:
            logger.warning(
                "The chat template tells the day. In a graph it stays the day on which it is made."
            )
        self._sought = strings.sought
        places = (None, *ROLES)
        none = Between("", False, False)
        pairs = [[(a, b) for b in places] for a in places]
        table = [[strings.between.get(pair, none) for pair in row] for row in pairs]
        with tf.init_scope():  # tensors of the module, also where a graph is being traced
            self._known = tf.constant([[pair in strings.between for pair in row] for row in pairs])
            self._texts = tf.constant([[_marked(tokenizer, b.text) for b in row] for row in table])
            self._strips_before = tf.constant([[b.strips_before for b in row] for row in table])
            self._strips_after = tf.constant([[b.strips_after for b in row] for row in table])
        self._graph = graph

    @tf.autograph.experimental.do_not_convert
    def __call__(self, roles, contents):
        """Turns one conversation, strings `(messages,)`, into ids: ragged int32 `(1, None)`."""
        counted = tf.debugging.Assert(
            tf.equal(tf.size(roles), tf.size(contents)),
            ["`contents` must be as many as `roles`. Received:", tf.size(contents), tf.size(roles)],
        )
        with tf.control_dependencies([counted]):  # else what comes next may fail first
            role, contents = self._numbers(tf.identity(roles)), tf.identity(contents)
        pairs = tf.stack([tf.concat([[0], role], 0), tf.concat([role, [0]], 0)], axis=1)
        tf.debugging.Assert(
            tf.reduce_all(tf.gather_nd(self._known, pairs)) & (tf.size(role) > 0),
            [
                "`roles` must be in an order that the chat template takes, the last one the "
                "user's. Received:",
                roles,
            ],
        )
        contents, space = valid(contents), f"[{white_space()}]+"
        for string in self._sought:
            holds = tf.strings.regex_full_match(contents, f"(?s).*{re.escape(string)}.*")
            rule = f"`contents` must not hold {string!r}, which the chat template looks for."
            tf.debugging.Assert(~tf.reduce_any(holds), [rule, "Received:", contents])
        for strips, edge in (
            (tf.gather_nd(self._strips_after, pairs[:-1]), f"^{space}"),
            (tf.gather_nd(self._strips_before, pairs[1:]), f"{space}$"),
        ):
            contents = tf.where(strips, tf.strings.regex_replace(contents, edge, ""), contents)
        between = tf.gather_nd(self._texts, pairs)
        texts = tf.reshape(tf.stack([between[:-1], contents], axis=1), (-1,))
        return self._ids(tf.strings.reduce_join(tf.concat([texts, between[-1:]], axis=0)))

    def _numbers(self, roles):
        """int32 `(messages,)`: the place of each role, from 1."""
        match = tf.expand_dims(roles, 1) == tf.constant(ROLES)  # (messages, roles)
        tf.debugging.Assert(
            tf.reduce_all(tf.reduce_any(match, axis=1)),
            [f"`roles` must be among {', '.join(ROLES)}. Received:", roles],
        )
        return 1 + tf.argmax(match, axis=1, output_type=tf.int32)

    def _ids(self, text):
        sections = parts(tf.expand_dims(text, 0)).values
        special = tf.strings.substr(sections, 0, 1) == MARK
        numbers = tf.where(special, tf.strings.substr(sections, 1, 20), "0")
        numbers = tf.strings.to_number(numbers, tf.int32)
        first = tf.range(tf.size(sections)) == 0
        plain = self._graph.encode_sections(tf.where(special, "", sections), first)
        tokens = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(numbers, special), tf.cast(special, tf.int64)
        )
        ids = tf.concat([plain, tokens], axis=1).values
        return tf.RaggedTensor.from_row_lengths(ids, tf.size(ids, tf.int64)[tf.newaxis])


def _marked(tokenizer, text):
    """A string of the template, in which special tokens are their ids."""
    sections = tokenizer.at_special_tokens(text)
    cuts = (s.encode() if isinstance(s, str) else MARK + str(s).encode() for s in sections)
    # A cut stands on both sides of a special token alone: what is before may go on in a content.
    return b"".join(CUT + cut + CUT if cut.startswith(MARK) else cut for cut in cuts)
