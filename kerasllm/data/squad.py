"""Questions on a text and their answers, from files in the layout of SQuAD."""


def is_squad(content):
    """Whether what a JSON file holds is laid out as SQuAD's files are.

    Args:
        content: what `json.loads` gave.

    Returns:
        bool.
    """
    return isinstance(content, dict) and isinstance(content.get("data"), list)


def read_squad(file, content):
    """Read the questions of a file in SQuAD's layout, version 1.1 or 2.0.

    Args:
        file: str, the name in messages.
        content: dict, what `json.loads` gave.

    Yields:
        `(where, row)`: the place, e.g. `"dev.json:data[0].paragraphs[3].qas[1]"`, and a dict with
        `id`, `question`, `context` and `answers`, a list of dicts with `text` and `answer_start`,
        which is empty where there is no answer. A file to be answered may have no `answers`.

    Raises:
        ValueError: a part is missing or is of another type.

    References:
        Rajpurkar et al. 2016, "SQuAD", and 2018, "Know What You Don't Know".
    """
    for a, article in enumerate(content["data"]):
        for p, paragraph in enumerate(_part(file, f"data[{a}]", article, "paragraphs", list)):
            place = f"data[{a}].paragraphs[{p}]"
            context = _part(file, place, paragraph, "context", str)
            for q, item in enumerate(_part(file, place, paragraph, "qas", list)):
                here = f"{place}.qas[{q}]"
                question = _part(file, here, item, "question", str)
                row = {"id": item.get("id", here), "question": question, "context": context}
                if item.get("is_impossible"):  # its answers are none, or only plausible
                    row["answers"] = []
                elif "answers" in item:
                    row["answers"] = _part(file, here, item, "answers", list)
                yield f"{file}:{here}", row


def _part(file, place, parent, name, kind):
    part = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(part, kind):
        raise ValueError(
            f"{file}:{place}: there must be `{name}`, a {kind.__name__}. Received: "
            f"{type(part).__name__} (is the file SQuAD's?)."
        )
    return part


def gold_answers(row):
    """Return the answers of a row, checked.

    Args:
        row: dict with `answers`: a list of dicts with `text` and `answer_start`, or, as in Hugging
            Face's datasets, a dict of lists `text` and `answer_start`. Empty where the context has
            no answer.

    Returns:
        A list of `(text, start)`, of str and int.

    Raises:
        ValueError: the answers are something else.

    Example:
        >>> gold_answers({"answers": {"text": ["one"], "answer_start": [4]}})
        [('one', 4)]
    """
    answers = row["answers"]
    try:
        if isinstance(answers, dict):
            pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
        return [(str(text), int(start)) for text, start in pairs]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{getattr(row, 'where', '') or 'A row'}: `answers` must be a list of dicts with "
            f"`text` and `answer_start`. Received: {str(answers)[:80]}."
        ) from None
