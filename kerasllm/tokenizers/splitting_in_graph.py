"""Splitting strings at regular expressions, with TensorFlow's own operations.

A text is cut by putting a byte between its parts that no UTF-8 text holds. No pattern matches that
byte, so one pattern after another can cut what the ones before it have left.
"""

import tensorflow as tf

CUT = b"\xff"


def valid(texts):
    """Gives `texts` with U+FFFD in place of what is no UTF-8."""
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def cut_between(texts, pattern):
    """Cuts `texts` between the two groups of each match of `pattern`."""
    return tf.strings.regex_replace(texts, pattern, rb"\1" + CUT + rb"\2")


def cut_around(texts, pattern):
    """Cuts `texts` before and after each match of `pattern`."""
    return tf.strings.regex_replace(texts, pattern, CUT + rb"\0" + CUT)


def parts(texts):
    """Gives the parts of strings `(batch,)` that were cut, as a ragged tensor `(batch, None)`."""
    found = tf.strings.split(texts, CUT)
    return tf.ragged.boolean_mask(found, found != "")
