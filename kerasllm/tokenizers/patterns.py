r"""Patterns by which Hugging Face's tokenizers split text, in the words of RE2, TensorFlow's.

The two differ in what they take for a letter, as their tables of Unicode are of different age, and
RE2 knows only the white space of ASCII. So each class of characters is asked of the `tokenizers`
package and written out. RE2 has no `\s+(?!\S)` either, "white space, but the last of it where a
word follows": there, the text is cut before that last one first.
"""

import functools
import re

from tokenizers import Regex, pre_tokenizers

# How GPT-2 splits text; a tokenizer.json only says `ByteLevel`.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_ALL_BUT_LAST = r"|\s+(?!\S)|\s+"
_LINES = r"|\s*[\r\n]+"
# What RE2 lacks, or reads in another way: look-around, possessive repeats, anchors, references.
_FOREIGN = re.compile(r"\(\?(?!:|i:)|[+*?]\+|[0-9,]\}\+|&&|\\[0-9A-RT-Za-moqu-z]|[\^$](?<!\[\^)")


def to_re2(pattern):
    r"""Gives the patterns that RE2 must apply in turn to split as `pattern` does.

    Args:
        pattern: str, a regular expression of a `Split` in a `tokenizer.json`.

    Returns:
        `(cut, pattern)`: where the text must be cut first, as a pattern of two groups between
        which the cut is, or None; and the pattern of a word.

    Raises:
        ValueError: where RE2 has no equal pattern.
    """
    plain, cut = pattern, None
    if pattern.endswith(_ALL_BUT_LAST):
        plain = pattern.removesuffix(_ALL_BUT_LAST) + r"|\s+"
        # Where line ends are words of their own, no cut is needed before one.
        last = _ranges(r"[^\S\r\n]") if _LINES + r"|\s+" in plain else white_space()
        cut = f"([{white_space()}]+)([{last}][^{white_space()}])"
    if _FOREIGN.search(plain):
        raise ValueError(
            "`pre_tokenizer` must split by a pattern that TensorFlow's regular expressions can "
            f"follow exactly. Received: {pattern!r} (tokenize in Python instead)"
        )
    return cut, _written_out(plain)


@functools.lru_cache(maxsize=1)
def digits():
    """Gives the pattern of what the `Digits` pre-tokenizer takes for a digit."""
    split = pre_tokenizers.Digits(individual_digits=True)
    chars = "a".join(_characters())
    found = [word for word, _ in split.pre_tokenize_str(chars) if len(word) == 1]
    return f"[{_as_ranges({ord(char) for char in found} - {ord('a')})}]"


def white_space():
    """Gives white space as ranges of a class of characters."""
    return _ranges(r"\s")


def characters(pattern):
    r"""Gives the characters that match a pattern of one character in Python's `re`, for RE2.

    Args:
        pattern: str, such as `r"\w"`.

    Returns:
        str, a class of characters.
    """
    chars = "".join([*_characters(), "a"])
    return f"[{_as_ranges(set(map(ord, re.findall(pattern, chars))))}]"


def _written_out(pattern):
    """`pattern` with classes of characters written out, and classes in classes made one."""
    parts, depth = [], 0
    for piece in re.findall(r"\\p\{\w+\}|\\.|\[\^|.", pattern, re.DOTALL):
        if piece == "[^" and depth:
            raise ValueError(f"`pre_tokenizer` must have no [^ in a class. Received: {pattern!r}")
        if piece in ("[", "[^"):
            parts.append("" if depth else piece)
            depth += 1
        elif piece == "]" and depth:
            depth -= 1
            parts.append("" if depth else "]")
        elif piece.startswith(r"\p") or piece == r"\s":
            parts.append(_ranges(piece) if depth else f"[{_ranges(piece)}]")
        elif piece == r"\S":
            parts.append(f"[^{white_space()}]")
        else:
            parts.append(piece)
    return "".join(parts)


def _characters():
    """All characters but surrogates, and but the letter a."""
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    return [chr(code) for code in codes if code != ord("a")]


@functools.lru_cache(maxsize=16)
def _ranges(pattern):
    """The characters that match a pattern of one character, as ranges of a class of RE2."""
    keep = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    chars = "".join([*_characters(), "a"])
    return _as_ranges({ord(char) for word, _ in keep.pre_tokenize_str(chars) for char in word})


def _as_ranges(codes):
    ordered = sorted(codes)
    firsts = [code for code in ordered if code - 1 not in codes]
    lasts = [code for code in ordered if code + 1 not in codes]
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in zip(firsts, lasts))
