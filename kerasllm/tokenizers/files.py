"""The files of a tokenizer, read strictly."""

import json


def write(path, text):
    """Writes a text file whose lines end alike on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def read(path):
    """Gives the text of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text. Received: {error}") from error


def read_json(path):
    """Gives what a JSON file holds."""
    try:
        return json.loads(read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON. Received: {error} (is it whole?)") from error


def read_object(path):
    """Gives the `dict` that a JSON file holds; an empty one where there is no such file."""
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {type(found).__name__}")
    return found


def content(token):
    """Gives the text of a special token, which some files write as an object."""
    return token.get("content") if isinstance(token, dict) else token
