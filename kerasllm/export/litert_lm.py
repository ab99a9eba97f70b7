"""Export to a .litertlm file: a language model with its tokenizer, for phones and browsers."""

import importlib.util
import json
import os
import pathlib
import sys
import tempfile

from kerasllm.atomic import whole
from kerasllm.export import verify
from kerasllm.export.decoder import PREFILL_LENGTHS, Decoder
from kerasllm.export.tflite import check_decoder, convert_decoder
from kerasllm.tokenizers.chat import render

PACKAGES = ("litert_lm", "litert_lm_builder")
FRESH = "LiteRT-LM in a fresh process without kerasllm and TensorFlow"
VARIANTS = (None, "int8")
# What a message becomes where the model was trained on no roles: its text.
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# The engine hands out messages as lists of parts, where published templates want one text. In front
# of a template, this makes them one; it is the same for the engine's Jinja and for Python's.
ONE_TEXT = """\
{%- set joined = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set content.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- set content.text = content.text + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- set joined.messages = joined.messages + [dict(message, content=content.text)] -%}
{%- endfor -%}
{%- set messages = joined.messages +%}"""
TOP_P = 2  # the sampler's number; with k = 1 it takes the likeliest token
MESSAGE = "Hello"  # which the template is tried on
BROKEN = "\ufffd"


def to_litert_lm(
    model, file, *, quantize=None, max_tokens=None, prefill_lengths=PREFILL_LENGTHS, prompts=None
):
    """Write a language model as a .litertlm file, which LiteRT-LM runs: text in, text out.

    The file holds the weights with the signatures of `kerasllm.export.decoder.Decoder`, the
    tokenizer, its chat template or one that adds nothing to a message, and the tokens that begin
    and end a text. LiteRT-LM runs it from Python, Kotlin, Swift and C++, and in browsers:
    `export/generation` in the repository says how. `file` + `.report.json` holds the report.

    What Keras' `generate` writes on from prompts, the engine has to write too, letter for letter in
    float32. Each token of prompts and answers is also fed to the weights in LiteRT alone: the
    report has the differences of probabilities, the share of tokens that are likeliest in both, and
    the perplexities.

    Args:
        model: `CausalLM` with a tokenizer, a token that ends a text, and a cache of keys and
            values. Whatever its dtype policy, the export starts from a float32 copy of the model,
            and is compared with it.
        file: str or path-like, usually ending in `.litertlm`.
        quantize: None for float32, `"int8"` for weights of a quarter, which are also multiplied as
            int8.
        max_tokens: int or None: tokens of prompt and answer together, for which the cache has
            room; None for the model's most, but at most 1024.
        prefill_lengths: sequence of int: so many tokens of a prompt are read at once. 1 must be
            among them. Long ones are quicker for long prompts, and make the file a little larger.
        prompts: list of str to compare on; None for a built-in list in many languages.

    Returns:
        `Report`, which is printed to stderr too.

    Raises:
        ImportError: LiteRT-LM or its packer is not installed.
        OSError: the file can't be written.
        RuntimeError: the converter gave a broken file, or the engine can't run it.
        TypeError: `model` is no `CausalLM`, or `prompts` is no list of str.
        ValueError: an argument is not as above, or the engine writes something else than Keras.
            After any error, as after Ctrl-C, nothing is left behind.

    Example:
        >>> model = CausalLM.from_pretrained("my_gpt")  # doctest: +SKIP
        >>> report = to_litert_lm(model, "my_gpt.litertlm", quantize="int8")  # doctest: +SKIP
        >>> report.equal_tokens  # doctest: +SKIP
        0.98
    """
    _check_packages()
    if quantize not in VARIANTS:
        raise ValueError(f"`quantize` must be one of {VARIANTS}. Received: {quantize!r}.")
    decoder = Decoder(model, max_tokens, prefill_lengths)
    _check_tokenizer(model)
    prompts = decoder.prompts(prompts)
    path = pathlib.Path(file)
    with whole(f"{path}.report.json") as report_aside, whole(path) as aside:
        with tempfile.TemporaryDirectory() as folder:
            tflite = pathlib.Path(folder) / "model.tflite"
            content, checks = convert_decoder(decoder, quantize)
            tflite.write_bytes(content)
            answers, keras_milliseconds = decoder.answers(prompts)
            numbers = check_decoder(decoder, tflite, prompts, answers, quantize)
            _pack(decoder, tflite, aside)
        equal, milliseconds = _verify(decoder, aside, prompts, answers, quantize)
        report = verify.Report(
            target="litert_lm",
            variant=quantize or "float32",
            path=str(path),
            bytes=aside.stat().st_size,
            keras_milliseconds=keras_milliseconds,
            checks=(f"{FRESH}: {equal} of {len(prompts)} texts equal", *checks),
            **{**numbers, "milliseconds": milliseconds},
        )
        report.write(report_aside)
    sys.stderr.write(f"{report}\n")
    return report


def _check_packages():
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"LiteRT-LM and its packer must be installed. Missing: {', '.join(missing)} "
            "(pip install litert-lm-api litert-lm-builder)."
        )


def _check_tokenizer(model):
    if not hasattr(model.tokenizer, "special_tokens"):
        kind = None if model.tokenizer is None else type(model.tokenizer).__name__
        raise ValueError(
            "`model` must have a `ByteLevelBPETokenizer` or a `SentencePieceTokenizer`, for which "
            f"there is a tokenizer.json. Received: {kind}."
        )
    if not model._stop_ids(()):
        raise ValueError(
            "`model` must have a token that ends a text, which LiteRT-LM asks for. Received: none "
            "(set it, e.g. `model.special_ids['eos'] = 2`)."
        )


def _pack(decoder, tflite, file):
    from litert_lm_builder import litertlm_builder as packer

    builder = packer.LitertLmFileBuilder()
    name = packer.Metadata("Authors", "kerasllm", packer.DType.STRING)
    with tempfile.TemporaryDirectory() as folder:
        described = os.path.join(folder, "metadata.pb")
        with open(described, "wb") as stream:
            stream.write(_metadata(decoder).SerializeToString())
        decoder.model.tokenizer.save_pretrained(folder)
        builder.add_system_metadata(name)
        builder.add_tflite_model(str(tflite), packer.TfLiteModelType.PREFILL_DECODE)
        builder.add_hf_tokenizer(os.path.join(folder, "tokenizer.json"))
        builder.add_llm_metadata(described)
        with open(file, "wb") as stream:
            builder.build(stream)


def _metadata(decoder):
    """What the engine has to know beside weights and tokenizer, an `LlmMetadata`."""
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    tokenizer = decoder.model.tokenizer
    found = LlmMetadata(max_num_tokens=decoder.max_tokens)
    found.llm_model_type.generic_model.SetInParent()
    if decoder.begin():
        found.start_token.token_ids.ids.extend(decoder.begin())
    for token in decoder.model._stop_ids(()):
        found.stop_tokens.add().token_ids.ids.append(token)
    found.pad_token.token_ids.ids.append(tokenizer._fill)
    # The engine's own `eos_token` is empty. So is `bos_token`, which it puts in front by itself.
    end = json.dumps(_end(tokenizer), ensure_ascii=False)
    end = "{%- set eos_token = " + end + " -%}\n"
    found.jinja_prompt_template = end + ONE_TEXT + _template(tokenizer)
    sampler = found.sampler_params
    sampler.type, sampler.k, sampler.p, sampler.temperature = TOP_P, 1, 1.0, 1.0
    return found


def _template(tokenizer):
    # Python's Jinja drops a line break at the end, and the engine's does not.
    return (getattr(tokenizer, "chat_template", None) or PLAIN_TEMPLATE).removesuffix("\n")


def _end(tokenizer):
    return tokenizer.special_tokens.get("eos", "")


def _verify(decoder, file, prompts, answers, quantize):
    """Run the file in the engine; return how many texts are equal, and the milliseconds of one."""
    question = {
        "file": os.fspath(file),
        "message": MESSAGE,
        "prompts": prompts,
        "most": [decoder.room(prompt) for prompt in prompts],
    }
    answer = verify.run("run_litert_lm.py", question)
    _check_template(decoder.model.tokenizer, answer["message"])
    found = answer["answers"]
    for prompt, answer in zip(prompts, found):
        expected = decoder.model.tokenizer.encode(prompt)
        if answer["token_ids"] != expected:
            raise ValueError(
                f"The engine must read {prompt!r} as the token ids {expected}. Received: "
                f"{answer['token_ids']} (leave it out of `prompts`, if it holds special tokens)."
            )
    special = decoder.model.tokenizer.special_tokens.values()
    pairs = [
        (_plain(text.text), _plain(answer["text"], special)) for text, answer in zip(answers, found)
    ]
    different = [i for i, (expected, received) in enumerate(pairs) if expected != received]
    if different and quantize is None:
        first = different[0]
        raise ValueError(
            f"The engine must write what Keras writes. Received: {len(different)} of {len(pairs)} "
            f"texts that differ, so nothing was written. The first one goes on from "
            f"{prompts[first]!r:.60} with {pairs[first][1]!r}, and Keras with {pairs[first][0]!r}."
        )
    milliseconds = 1000 * sum(answer["seconds"] for answer in found) / len(found)
    return len(pairs) - len(different), milliseconds


def _check_template(tokenizer, received):
    messages = [{"role": "user", "content": MESSAGE}]
    expected = render(_template(tokenizer), messages, {"bos": "", "eos": _end(tokenizer)})
    if received != expected:
        raise ValueError(
            "`model.tokenizer.chat_template` must be one that the engine understands. It makes "
            f"{received!r} of the message {MESSAGE!r}, and not {expected!r} (set a simpler one, "
            "without methods of Python's, or None)."
        )


def _plain(text, special=()):
    """A text without what the engine writes in another way, or can't hand out."""
    for token in special:  # one that ends no text is written out
        text = text.replace(token, "")
    text = text.partition("\0")[0]  # where a string ends for C
    return text.rstrip(BROKEN).removeprefix(" ")  # SentencePiece's first space is left out
