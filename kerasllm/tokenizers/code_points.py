"""What Hugging Face's normalizers make of each character, as tables for a graph."""

import functools
import struct

import numpy as np
from tokenizers import normalizers

SEPARATOR = chr(0x10FFFF)  # a character that nothing becomes
MAX_BYTES = 5  # `Precompiled` looks at longer graphemes character by character
LAST_MARK = "\u0345"  # the mark that comes after all others in canonical order


def forms_of(normalize):
    """Gives what a normalizer makes of each character that it changes.

    Args:
        normalize: function from `str` to `str` that looks at one character at a time.

    Returns:
        dict from `str` of one character to `str`.
    """
    changed = {}
    for start in range(0, 0x110000, 256):
        codes = range(start, start + 256)
        chars = ["1" if 0xD800 <= c < 0xE000 or c == ord(SEPARATOR) else chr(c) for c in codes]
        texts = normalize(SEPARATOR.join(["", *chars, ""])).split(SEPARATOR)[1:-1]
        changed |= {char: text for char, text in zip(chars, texts) if char != text}
    return changed


@functools.lru_cache(maxsize=1)
def mark_ranks():
    """Gives the place, from 1, in canonical order of each combining mark, by the mark."""
    nfd = normalizers.NFD().normalize_str
    whole = forms_of(nfd)
    chars = [
        chr(c) for c in (*range(0x300, 0xD800), *range(0xE000, 0x20000)) if chr(c) not in whole
    ]
    marks = [LAST_MARK] + [c for c in chars if not nfd(LAST_MARK + c).startswith(LAST_MARK)]

    def order(a, b):
        if nfd(a + b) != a + b:
            return 1
        return -1 if nfd(b + a) != b + a else 0

    marks.sort(key=functools.cmp_to_key(order))
    ranks = {}
    for before, mark in zip([None, *marks], marks):
        ranks[mark] = ranks.get(before, 0) + (before is None or order(before, mark) < 0)
    return ranks


@functools.lru_cache(maxsize=1)
def compositions():
    """Gives the character that two become in normal form C, by the two as a `str`."""
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    found = {}
    for char, parts in forms_of(nfd).items():
        first = nfc(parts[:-1])
        if len(first) == 1 and nfc(first + parts[-1]) == char:
            found[first + parts[-1]] = char
    return found


@functools.lru_cache(maxsize=2)
def charsmap(blob):
    """Gives what a `precompiled_charsmap` replaces, and how it sees graphemes: its `Graphemes`."""
    keys = read_charsmap(blob)
    return keys, Graphemes(normalizers.Precompiled(blob).normalize_str, keys)


def read_charsmap(blob):
    """Gives what a SentencePiece normalizer replaces, and by what, as a dict of `str`.

    What is longer than `MAX_BYTES` is left out.

    Args:
        blob: bytes, the `precompiled_charsmap`: a double-array trie (of Darts-clone), and texts.
    """
    (size,) = struct.unpack_from("<I", blob)
    units = np.frombuffer(blob, "<u4", size // 4, 4).astype(np.int64)
    texts = blob[4 + size :]
    labels = np.arange(1, 256)
    found, waiting = {}, [(b"", _child(0, units[0]))]
    while waiting:
        key, node = waiting.pop()
        near = (node ^ labels)[(node ^ labels) < len(units)]
        for place in near[(units[near] & 0x800000FF) == (near ^ node)]:
            inner, child = key + bytes([place ^ node]), _child(int(place), units[place])
            if units[place] >> 8 & 1:  # a key ends here
                start = int(units[child]) & 0x7FFFFFFF
                found[inner.decode()] = texts[start : texts.index(b"\0", start)].decode()
            if len(inner) < MAX_BYTES:
                waiting.append((inner, child))
    return found


def _child(place, unit):
    return place ^ (int(unit) >> 10 << (int(unit) & 0x200) // 0x40)


class Graphemes:
    """Which characters share a grapheme with their neighbours, as `Precompiled` sees it.

    That normalizer takes a short grapheme (less than six bytes) for one character: it replaces
    the shortest beginning that it knows, and drops the rest. Where it has split a text into
    graphemes shows in what becomes of a known pair next to a character, so it is asked.

    Args:
        normalize: function from `str` to `str`, the normalizer.
        keys: dict of what it replaces.
    """

    def __init__(self, normalize, keys):
        pair, mark = _known_pair(normalize, keys)
        codes = (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000))
        chars = [chr(code) for code in codes]
        known, long = keys[pair], pair + pair[1]
        # What joins `long` makes it too long to be known.
        self.extend = {c for c in chars if not normalize(long + c).startswith(known)}
        self.prepend = {c for c in chars if not normalize(c + pair).endswith(known)}
        # After a control character, two marks are a grapheme of their own, the second dropped.
        self.control = {
            c for c in chars if normalize(c + mark + pair[1]) == keys.get(c, c) + keys[mark]
        }


def _known_pair(normalize, keys):
    """A letter and a mark that are replaced together, and a mark that is replaced alone."""
    pairs = [key for key in keys if len(key) == 2 and len(key.encode()) == 3]
    pairs = sorted(pair for pair in pairs if pair[0] not in keys)
    for pair in pairs:
        for mark in sorted(key for key in keys if len(key) == 1 and len(key.encode()) == 2):
            if keys[mark] and normalize(pair + mark) == keys[pair]:
                return pair, mark
    raise ValueError(
        "`normalizer` must have a character map like SentencePiece's own in a graph. Received: "
        f"one of {len(keys)} entries (tokenize in Python instead)"
    )
