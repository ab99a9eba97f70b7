"""Write on from a prompt with a .tflite file of kerasllm: `python generate.py gpt.tflite "To be"`.

Needs `pip install ai-edge-litert tokenizers`, and nothing of kerasllm.
"""

import argparse
import json
import sys
import zipfile

import numpy as np
import tokenizers
from ai_edge_litert.interpreter import Interpreter


class Model:
    """A .tflite file with the signatures `prefill_<length>` and `decode`.

    Args:
        file: path of the file.
        threads: int, how many the interpreter may take.
    """

    def __init__(self, file, threads=1):
        interpreter = Interpreter(str(file), num_threads=threads)
        names = interpreter.get_signature_list()
        signatures = {name: interpreter.get_signature_runner(name) for name in names}
        self.decode = signatures.pop("decode")
        # The longest pieces first.
        self.prefill = {int(name.split("_")[1]): signatures[name] for name in signatures}
        self.prefill = dict(sorted(self.prefill.items(), reverse=True))
        inputs = self.decode.get_input_details()
        self.empty = {
            name: np.zeros(tensor["shape"], tensor["dtype"])
            for name, tensor in inputs.items()
            if name.startswith("kv_cache")
        }
        self.most = self.empty["kv_cache_k_0"].shape[2]
        self.reset()

    def reset(self):
        """Forget all tokens."""
        self.cache, self.position = self.empty, 0

    def read(self, ids):
        """Take up tokens, without asking what comes next.

        Args:
            ids: list of int.

        Raises:
            ValueError: the cache has no room for them.
        """
        # Past the end, the rows of older tokens would be overwritten, without an error.
        if self.position + len(ids) > self.most:
            raise ValueError(
                f"`ids` must be at most {self.most - self.position} tokens, for which there is "
                f"room. Received: {len(ids)}."
            )
        for length, signature in self.prefill.items():
            while len(ids) >= length:
                self._run(signature, ids[:length])
                ids = ids[length:]

    def next(self, token):
        """Take up one token, and score what may come next.

        Args:
            token: int.

        Returns:
            float32 `(vocab_size,)`: the logits.

        Raises:
            ValueError: the cache has no room for it.
        """
        if self.position >= self.most:
            raise ValueError(f"`token` must be one of the first {self.most}; reset the model.")
        return self._run(self.decode, [token])[0, 0]

    def _run(self, signature, ids):
        positions = np.arange(self.position, self.position + len(ids), dtype="int32")
        outputs = signature(tokens=np.array([ids], "int32"), input_pos=positions, **self.cache)
        logits = outputs.pop("logits", None)
        self.cache, self.position = outputs, self.position + len(ids)
        return logits


def generate(model, ids, stop_ids=(), max_new_tokens=64, temperature=0.0, seed=0):
    """Write on from tokens, until one of `stop_ids` comes, or the cache is full.

    Args:
        model: `Model`, at its beginning or in the midst of a conversation.
        ids: list of int, at least one.
        stop_ids: list of int, tokens that end a text.
        max_new_tokens: int.
        temperature: float: 0 takes the likeliest token, 1 draws them as likely as they are.
        seed: int: the same one gives the same text.

    Yields:
        int, the new tokens.

    Raises:
        ValueError: there are no `ids`, or the cache has no room for them.
    """
    if not ids:
        raise ValueError("`ids` must hold at least one token, to write on from. Received: none.")
    random = np.random.default_rng(seed)
    *before, token = ids
    model.read(before)
    for _ in range(max_new_tokens):
        logits = model.next(token)
        if temperature:
            logits = logits / temperature + random.gumbel(size=logits.shape)
        token = int(logits.argmax())
        if token in stop_ids:
            return
        yield token
        if model.position == model.most:
            return


def load_tokenizer(file):
    """Read what a .tflite file of kerasllm carries, as a zip archive.

    Args:
        file: path of the file.

    Returns:
        The pair of a `tokenizers.Tokenizer`, and a dict with the lists of int `bos_token_id`, what
        a text begins with, and `eos_token_id`, what ends one.
    """
    with zipfile.ZipFile(file) as archive:
        tokenizer = tokenizers.Tokenizer.from_str(archive.read("tokenizer.json").decode())
        return tokenizer, json.loads(archive.read("generation_config.json"))


def main():
    """Write the text as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    file, prompt = options.pop("file"), options.pop("prompt")
    tokenizer, config = load_tokenizer(file)
    ids = config["bos_token_id"] + tokenizer.encode(prompt, add_special_tokens=False).ids
    stream = tokenizers.decoders.DecodeStream(skip_special_tokens=True)
    for token in generate(Model(file), ids, config["eos_token_id"], **options):
        # None until all bytes of a character are there.
        sys.stdout.write(stream.step(tokenizer, token) or "")
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
