"""The sentences of a text, and the spaces between words that Chinese doesn't have."""

import re

# Chinese characters, with Japan's kana: written without spaces, each is counted as a word.
CHINESE = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# With its punctuation marks.
_MARKS = rf"[{CHINESE}\u3000-\u303f\uff00-\uffef]"
SPACES = re.compile(rf"(?<={_MARKS}) +| +(?={_MARKS})")

# Behind these a sentence ends: a full stop only before a space or a Chinese character, so that
# numbers and names of files stay whole.
ENDS = re.compile(rf"(?<=[。！？])|(?<=[.!?])(?=[{CHINESE}])|(?<=[.!?])\s+|\n+")


def sentences(text):
    """Split a text into sentences.

    Args:
        text: str; or list of str, which are taken for its sentences.

    Returns:
        list of str, none of them empty.

    Raises:
        ValueError: it is neither.

    Example:
        >>> sentences("Pi is 3.14. Is it? 是的。好.再见")
        ['Pi is 3.14.', 'Is it?', '是的。', '好.', '再见']
    """
    parts = ENDS.split(text) if isinstance(text, str) else text
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise ValueError(
            f"`text` must be a text, or a list of its sentences. Received: {text!r:.80}."
        )
    return [part.strip() for part in parts if part.strip()]


def joined(text):
    """Put the sentences of a text behind one another.

    Args:
        text: str, which stays as it is; or list of str.

    Returns:
        str, with spaces between the sentences, unless they are Chinese.

    Raises:
        ValueError: it is neither.

    Example:
        >>> joined(["It is.", "Is it?"]), joined(["是的。", "好。"])
        ('It is. Is it?', '是的。好。')
    """
    return text if isinstance(text, str) else close_up(" ".join(sentences(text)))


def close_up(text):
    """Take out the spaces beside Chinese characters.

    Args:
        text: str, e.g. of a tokenizer that takes each Chinese character for a word.

    Returns:
        str.

    Example:
        >>> close_up("我 是 Tom Sawyer 。")
        '我是Tom Sawyer。'
    """
    return SPACES.sub("", text)
