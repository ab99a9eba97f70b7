"""Proof that an artefact answers as its Keras model does: run it elsewhere, compare, report."""

import dataclasses
import json
import math
import numbers
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

RUNNERS = pathlib.Path(__file__).parent / "runners"

# Below this lead of the first label over the second, a flip says little about an int8 artefact.
CLEAR_LEAD = 0.1
FLIPS_ALLOWED = 0.1

# What an artefact is tried on where the caller gives no texts of their own.
SENTENCES = (
    "",
    " ",
    "A warm, funny film; I would watch it again.",
    "It was dull, far too long and badly acted.",
    "Not bad at all, though the ending is weak!",
    "Is this the best place in town? Hardly.",
    "THE SOUP WAS COLD AND THE WAITER RUDE.",
    "Ein schöner Abend, die Küche war großartig.",
    "Où est passée l'élégance de son précédent roman ?",
    "¡Qué decepción! No volveré a comprarlo.",
    "Ótimo serviço, preço justo, coração cheio.",
    "Очень вкусно, но ждать пришлось долго.",
    "Πολύ καλό βιβλίο, το διάβασα σε μια μέρα.",
    "味道很好,下次还会再来。",
    "送餐太慢,饭都凉了,差评。",
    "とても楽しい映画でした。",
    "배송이 빠르고 품질도 좋아요.",
    "فيلم جميل لكنه طويل جدا.",
    "great phone 👍🏽 love the camera 📷❤️",
    "meh... 5/10, would-not-recommend @shop #fail https://example.com/a?b=c",
    "supercalifragilisticexpialidocious" * 4,
    "The plot is thin, the jokes are old, and yet it moved me. " * 40,
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What the verification of one artefact found.

    Args:
        target: str, a key of `TARGETS`.
        variant: str, `"float32"`, `"float16"` or `"int8"`.
        path: str, the artefact.
        sentences: int, how many were compared.
        bytes: int, size of the artefact on disk.
        keras_milliseconds: float, time of a sentence in Keras, batches of up to 16.
        milliseconds: float, time of a sentence in the artefact: a SavedModel in the same batches,
            a .tflite file one at a time, at its full length, on one thread.
        largest_difference: float, of any score between Keras and the artefact; None of texts.
        mean_difference: float, over all scores; None of texts.
        label_flips: int, sentences whose best label differs; None of texts.
        equal_tokens: float, the share of new tokens that are equal; None of scores.
        keras_perplexity: float, of tokens that a language model was fed; None of others.
        perplexity: float, the same in the artefact.
        checks: tuple of str, what was found to hold.
        warnings: tuple of str, what a user has to know.
    """

    target: str
    variant: str
    path: str
    sentences: int
    bytes: int
    keras_milliseconds: float
    milliseconds: float
    largest_difference: float = None
    mean_difference: float = None
    label_flips: int = None
    equal_tokens: float = None
    keras_perplexity: float = None
    perplexity: float = None
    checks: tuple = ()
    warnings: tuple = ()

    def to_dict(self):
        """The fields as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def write(self, path):
        """Write the fields as a JSON file.

        Args:
            path: path-like.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"
        pathlib.Path(path).write_text(text, encoding="utf-8")

    def __str__(self):
        rows = [
            ("size", f"{self.bytes / 1e6:.1f} MB"),
            ("sentences compared", self.sentences),
            *self._comparison(),
            (
                "time a sentence",
                f"{self.milliseconds:.1f} ms (Keras {self.keras_milliseconds:.1f})",
            ),
            *(("checked", check) for check in self.checks),
            *(("WARNING", warning) for warning in self.warnings),
        ]
        title = f"{self.target} ({self.variant}) {self.path}"
        return "\n".join([title, *(f"  {name:18}  {value}" for name, value in rows)])

    def _comparison(self):
        if self.equal_tokens is not None:
            yield "equal tokens", f"{self.equal_tokens:.2%}"
        if self.perplexity is not None:
            yield "perplexity", f"{self.perplexity:.3f} (Keras {self.keras_perplexity:.3f})"
        if self.largest_difference is not None:
            largest, mean = f"{self.largest_difference:.1e}", f"{self.mean_difference:.1e}"
            yield "score difference", f"{largest} at most, {mean} on average"
        if self.label_flips is not None:
            yield "label flips", self.label_flips


def checked_texts(texts):
    """Return the texts to try an artefact on, as a list.

    Args:
        texts: sequence of str, or None for `SENTENCES`.

    Returns:
        list of str.

    Raises:
        TypeError: `texts` is one str, or holds something else than str.
        ValueError: `texts` is empty.
    """
    texts = SENTENCES if texts is None else texts
    if isinstance(texts, (str, bytes)) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`texts` must be a list of str. Received: {texts!r:.60}.")
    if len(texts) == 0:
        raise ValueError(
            "`texts` must hold at least one text. Received: none (None = built-in ones)."
        )
    return list(texts)


def check_tolerance(tolerance):
    """Check a tolerance before the work that it is for.

    Args:
        tolerance: float.

    Raises:
        ValueError: it is no number of at least 0.
    """
    if not (isinstance(tolerance, numbers.Real) and tolerance >= 0):
        raise ValueError(f"`tolerance` must be a number of at least 0. Received: {tolerance!r}.")


def run(runner, question, timeout=900):
    """Ask a script of `runners` in a fresh process.

    Args:
        runner: str, file name in `runners`.
        question: what the script reads, as JSON.
        timeout: float, seconds after which the process is ended.

    Returns:
        What the script answers, from JSON.

    Raises:
        RuntimeError: the process failed, with the end of what it said.
        TimeoutError: it did not end in time.
    """
    # The CPU alone: the memory of a GPU may be taken, and results shall not depend on one.
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("question.json", "answer.json")]
        with open(paths[0], "w", encoding="utf-8") as file:
            json.dump(question, file)
        command = [sys.executable, str(RUNNERS / runner), *paths]
        try:
            # If Ctrl-C leaves this call, it ends the process.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=env,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"The artefact did not answer within {timeout} s in a fresh process ({runner}). "
                "Try fewer `texts`."
            ) from None
        if done.returncode != 0:
            raise RuntimeError(
                f"The artefact does not run in a fresh process ({runner}, exit code "
                f"{done.returncode}). It said: {_last_words(done.stderr)}"
            )
        with open(paths[1], encoding="utf-8") as file:
            return json.load(file)


def _last_words(stderr):
    """The error at the end of what a process said, on one line."""
    tail = stderr.decode("utf-8", "replace").strip()[-1500:]
    error = re.split(r"^(?=[\w.]+(?:Error|Exception): )", tail, flags=re.MULTILINE)[-1]
    return " ".join(error.split()) or "nothing"


def compare(expected, received):
    """Compare the scores of Keras with those of an artefact.

    Args:
        expected: float `(sentences, num_classes)`.
        received: the same from the artefact.

    Returns:
        dict of `sentences`, `largest_difference`, `mean_difference`, `label_flips`: fields of
        `Report`. A score that is not a number makes the differences infinite.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> compare([[0.9, 0.1]], [[0.4, 0.6]])["label_flips"]
        1
    """
    expected, received = np.asarray(expected), np.asarray(received)
    if expected.shape != received.shape:
        raise ValueError(
            f"The artefact must give scores of shape {expected.shape}. Received: {received.shape}."
        )
    difference = np.abs(expected - received)
    difference = np.where(np.isfinite(difference), difference, np.inf)
    return {
        "sentences": len(expected),
        "largest_difference": float(difference.max(initial=0.0)),
        "mean_difference": float(difference.sum() / max(difference.size, 1)),
        "label_flips": int(np.sum(_flips(expected, received))),
    }


def _flips(expected, received):
    return expected.argmax(axis=1) != received.argmax(axis=1)


def check_difference(expected, received, tolerance, what):
    """Check that no score differs by more than `tolerance`.

    Args:
        expected: float `(sentences, num_classes)`, of Keras.
        received: the same from the artefact.
        tolerance: float.
        what: str, names the artefact in the error.

    Returns:
        The dict of `compare`.

    Raises:
        ValueError: a score differs by more.
    """
    numbers = compare(expected, received)
    if not numbers["largest_difference"] <= tolerance:
        raise ValueError(
            f"{what} must give the scores of the Keras model within {tolerance:g}. Received: a "
            f"largest difference of {numbers['largest_difference']:.2g} and "
            f"{numbers['label_flips']} label flips in {numbers['sentences']} sentences, so nothing "
            "was written. A larger `tolerance` accepts it."
        )
    return numbers


def check_outputs(pairs, tolerance, what):
    """Check that an artefact gives what Keras gives: numbers nearly, and all else exactly.

    Args:
        pairs: list of `(expected, received)`, an output each: lists with one for each row, a number
            or str, or a list of them, which an artefact may pad with zeros or empty str.
        tolerance: float, the largest difference of a number with a fraction.
        what: str, names the artefact in the error.

    Returns:
        The dict of `compare`, over all such numbers.

    Raises:
        ValueError: they differ by more, or anything else differs.

    Example:
        >>> pairs = [([[0.5], []], [[0.5], [0.0]]), (["a", "b"], ["a", "b"])]
        >>> check_outputs(pairs, 1e-5, "It")["largest_difference"]
        0.0
    """
    found = []
    for expected, received in pairs:
        expected = [np.asarray(row) for row in expected]
        received = [_unpadded(*rows, what) for rows in zip(expected, received)]
        if all(row.dtype.kind == "f" for row in expected):
            both = map(_table, (expected, received))
            found.append(check_difference(*both, tolerance, what))
            continue
        for wanted, row in zip(expected, received):
            if as_json(wanted.tolist()) != row:
                raise ValueError(
                    f"{what} must give what the Keras model gives. Received: {row!r:.200} instead "
                    f"of {wanted.tolist()!r:.200}, so nothing was written."
                )
    return max(found, key=lambda numbers: numbers["largest_difference"])


def _unpadded(expected, received, what):
    if not expected.ndim:
        return received
    row, padding = received[: len(expected)], received[len(expected) :]
    if any(padding):
        raise ValueError(
            f"{what} must give rows as long as the Keras model does. Received: {received!r:.200} "
            f"instead of {expected.tolist()!r:.200}, so nothing was written."
        )
    return row


def _table(rows):
    """Rows of numbers as `compare` takes them: of one length as they are, others as one column."""
    if len({np.shape(row) for row in rows}) == 1 and np.size(rows[0]) and np.ndim(rows[0]):
        return np.asarray(rows)
    return np.concatenate([np.ravel(row) for row in rows] or [[]]).reshape(-1, 1)


def as_json(value):
    """A text, or lists of them, as the runners take and give them.

    Args:
        value: str, a number, or a list.

    Returns:
        The same with one character for each byte of a text in UTF-8, as JSON has no bytes.

    Example:
        >>> as_json(["é", 1])
        ['Ã©', 1]
    """
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value.encode().decode("latin-1") if isinstance(value, str) else value


def check_labels(expected, received, tolerance, what):
    """Check a coarsely quantised artefact by its labels, and its scores by their mean difference.

    Scores of an int8 artefact differ by 0.1 here and there and its labels are still right. So
    labels may flip for at most `FLIPS_ALLOWED` (rounded up) of the sentences on which Keras gives
    the first label a lead of more than `CLEAR_LEAD`.

    Args:
        expected: float `(sentences, num_classes)`, of Keras.
        received: the same from the artefact.
        tolerance: float, the mean difference allowed.
        what: str, names the artefact in the error.

    Returns:
        The dict of `compare`.

    Raises:
        ValueError: labels flip more often, or scores differ by more on average.
    """
    numbers = compare(expected, received)
    expected, received = np.asarray(expected), np.asarray(received)
    best, *others = np.sort(expected, axis=1).T[::-1]
    clear = best - (others[0] if others else 0) > CLEAR_LEAD
    flips = int(np.sum(_flips(expected, received) & clear))
    if (
        flips > math.ceil(FLIPS_ALLOWED * clear.sum())
        or not numbers["mean_difference"] <= tolerance
    ):
        raise ValueError(
            f"{what} must keep {1 - FLIPS_ALLOWED:.0%} of the clear labels, and the scores of the "
            f"Keras model within {tolerance:g} on average. Received: {flips} label flips in "
            f"{int(clear.sum())} clear sentences, and a mean difference of "
            f"{numbers['mean_difference']:.2g}, so nothing was written. Use a finer `quantize`, or "
            "a larger `tolerance`."
        )
    return numbers
