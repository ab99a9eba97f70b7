"""Run a .litertlm file in LiteRT-LM: `run_litert_lm.py question.json answer.json`.

The question holds `file`, `message`, `prompts`, and `most`, how many tokens to write on from each
of them. The answer holds `message`, as the template has it, and `answers`: a list of `{"token_ids":
what the engine reads, "text": what it writes, "seconds": float}`.
"""

import json
import sys
import time

# An artefact must not need them. `None` makes Python refuse the import.
for name in ("kerasllm", "keras_nlp", "keras_hub", "tensorflow"):
    sys.modules[name] = None


def main(question, answer):
    """Answer a question, both given as paths."""
    import litert_lm  # only now that the others are refused

    with open(question, encoding="utf-8") as file:
        question = json.load(file)
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    # On one thread, and without the file of its own that the engine would put beside the model.
    backend = litert_lm.Backend.CPU(thread_count=1)
    with litert_lm.Engine(question["file"], backend=backend, cache_dir=":nocache") as engine:
        answers = [
            _write_on(litert_lm, engine, *both)
            for both in zip(question["prompts"], question["most"])
        ]
        with engine.create_conversation() as conversation:
            message = conversation.render_message_to_string(question["message"])
    with open(answer, "w", encoding="utf-8") as file:
        json.dump({"message": message, "answers": answers}, file)


def _write_on(litert_lm, engine, prompt, most):
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    options = {"apply_prompt_template": False, "sampler_config": greedy}
    start = time.perf_counter()
    with engine.create_session(max_output_tokens=most, **options) as session:
        session.run_prefill([prompt])
        (text,) = session.run_decode().texts
    seconds = time.perf_counter() - start
    return {"token_ids": engine.tokenize(prompt), "text": text, "seconds": seconds}


if __name__ == "__main__":
    main(*sys.argv[1:])
