"""What every tokenizer asks of the texts that it is given."""


def to_str(text, argument="text"):
    """Gives `text` as a `str` that UTF-8 can hold, what is broken in it replaced by U+FFFD."""
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    if not isinstance(text, str):
        raise TypeError(
            f"`{argument}` must be a str or bytes. Received: {text!r} of type "
            f"{type(text).__name__} (is a row without text among the data?)"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates; two that belong together become one character
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def check_iterable(texts, argument="texts"):
    """Raises `TypeError` where a single text stands in place of a list of texts."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"`{argument}` must be a list of texts. Received: the single text {texts[:40]!r} "
            "(write [text])"
        )


def encode_batch(rust, texts, argument="texts"):
    """Gives the ids of each of `texts`, a list of lists, from a tokenizer of Hugging Face."""
    check_iterable(texts, argument)
    texts = [to_str(text, f"{argument}[{i}]") for i, text in enumerate(texts)]
    return [item.ids for item in rust.encode_batch_fast(texts, add_special_tokens=False)]


def checked_ids(ids, vocab_size):
    """Gives `ids` as a list of `int`, all of which are in the vocabulary."""
    ids = [int(index) for index in ids]
    for index in ids:
        if not 0 <= index < vocab_size:
            raise ValueError(
                f"`ids` must be between 0 and {vocab_size - 1}. Received: {index} "
                "(was it made with another vocabulary?)"
            )
    return ids
