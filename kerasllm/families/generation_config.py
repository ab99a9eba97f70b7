"""What checkpoints say of how texts are generated: `generation_config.json`, once in `config.json`.

The fields are the same in all families. `generate` takes its defaults from those that it knows.
"""

# Their field: the option of `generate`.
OPTIONS = {
    "max_new_tokens": "max_new_tokens",
    "min_new_tokens": "min_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "num_beams": "num_beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
}

# What changes the texts and `generate` does not do, and the value that asks for nothing.
UNDONE = {
    "max_time": None,
    "stop_strings": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "typical_p": 1.0,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "penalty_alpha": None,
    "guidance_scale": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "watermarking_config": None,
    "token_healing": False,
}

# Says nothing about a text.
IGNORED = {
    "num_return_sequences", "cache_implementation", "cache_config", "low_memory", "output_scores",
    "output_logits", "return_dict_in_generate", "remove_invalid_values", "renormalize_logits",
    "_from_model_config",
}  # fmt: skip

OTHERS = {"do_sample", "max_length", "min_length", "force_bos_token_to_be_generated"}
FIELDS = {*OPTIONS, *UNDONE, *IGNORED, *OTHERS}

# Tokens that a `generation_config.json` must name too: what reads it looks nowhere else.
TOKENS = ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos")
TOKEN_FIELDS = tuple(f"{name}_token_id" for name in TOKENS)


def from_config(fields):
    """Give what an older checkpoint's `config.json` says in place of a `generation_config.json`.

    Args:
        fields: dict, the parsed file.

    Returns:
        dict, its fields that speak of generation.
    """
    found = {name: value for name, value in fields.items() if name in {*FIELDS, *TOKEN_FIELDS}}
    if found.pop("force_bos_token_to_be_generated", False):
        found.setdefault("forced_bos_token_id", found.get("bos_token_id"))
    return {name: value for name, value in found.items() if value is not None}


def options(fields, of_answer):
    """Translate to options of `generate`.

    Args:
        fields: dict, what a `generation_config.json` holds.
        of_answer: bool, whether their `max_length` is that of an answer (with the token that begins
            it), as in an encoder–decoder, and does not count a prompt too.

    Returns:
        dict, of those options that it speaks of; and `min_length`, which counts the prompt too.
    """
    found = {our: fields[name] for name, our in OPTIONS.items() if fields.get(name) is not None}
    if fields.get("do_sample"):
        found = {"temperature": 1.0, "top_k": 50, **found}  # as in `transformers`
    else:
        found.pop("temperature", None)
    if of_answer and fields.get("max_length"):
        found.setdefault("max_new_tokens", max(1, fields["max_length"] - 1))
    if fields.get("min_length") and "min_new_tokens" not in found:
        found["min_length"] = fields["min_length"]
    return found


def undone(fields):
    """Find what `generate` does not do.

    Args:
        fields: dict, what a `generation_config.json` holds.

    Returns:
        dict, the fields that would change the texts.
    """
    asked = {name: fields[name] for name in UNDONE if fields.get(name)}
    return {name: value for name, value in asked.items() if value != UNDONE[name]}
