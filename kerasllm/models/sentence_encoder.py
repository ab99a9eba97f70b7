"""A backbone that turns a text into one vector."""

import json

import keras
import numpy as np
from keras import ops

from kerasllm import weights
from kerasllm.layers.attention import MASKED
from kerasllm.models.pretrained import Pretrained

# Ours: the field of sentence-transformers' 1_Pooling/config.json.
POOLINGS = {
    "mean": "pooling_mode_mean_tokens",
    "first": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
}
MODULES, POOLING, TEXTS = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"


@keras.saving.register_keras_serializable(package="kerasllm")
class SentenceEncoder(Pretrained):
    """A backbone that turns a text into one vector: texts that mean the same have like vectors.

    Its checkpoints are those of the library sentence-transformers, which are a backbone's and say
    in two more files how its hidden states become a vector.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        pooling: str: `"mean"` of all real tokens, the `"first"` token, or the `"max"` of each unit
            over the real tokens.
        normalize: bool, whether vectors have length 1, so that their product is their cosine.
        max_length: int or None, the tokens that `encode` cuts a text to; None for all positions.
        dtype: str or `keras.DTypePolicy`, of the backbone made here; vectors are always float32.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.

    Returns:
        float32 `(batch, embed_dim)`, or of the width of a recurrent network's hidden states.

    Raises:
        ValueError: `backbone` names no size, the family has no such model, or `pooling` is unknown.

    Example:
        >>> model = SentenceEncoder("bert_tiny")
        >>> tuple(model(np.array([[101, 2307, 102]])).shape)
        (1, 128)

    References:
        Reimers and Gurevych 2019, "Sentence-BERT", section 3; on recurrent networks: Conneau et al.
        2017, "Supervised Learning of Universal Sentence Representations", section 3.2.
    """

    HEAD = "sentence_encoder"

    def __init__(
        self,
        backbone,
        *,
        family=None,
        tokenizer=None,
        pooling="mean",
        normalize=True,
        max_length=None,
        dtype=None,
        **kwargs,
    ):
        if pooling not in POOLINGS:
            raise ValueError(
                f"`pooling` must be one of {', '.join(POOLINGS)}. Received: {pooling!r}."
            )
        self._start(backbone, family, dtype)
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length or self.config.max_length
        self._connect(tokenizer, **kwargs)

    def _head(self, hidden_states, inputs):
        x = ops.cast(hidden_states, "float32")
        real = ops.expand_dims(ops.cast(inputs["padding_mask"], "float32"), -1)
        if self.pooling == "first":
            x = x[:, 0, :]
        elif self.pooling == "max":
            x = ops.max(ops.where(real > 0, x, MASKED), axis=1)
        else:
            count = ops.maximum(ops.sum(real, axis=1), 1.0)  # a row of padding alone has none
            x = ops.sum(x * real, axis=1) / count
        if not self.normalize:
            return x  # (batch, embed_dim)
        return x / ops.maximum(ops.norm(x, axis=-1, keepdims=True), 1e-12)

    def encode(self, texts, *, max_length=None, batch_size=32):
        """Turn texts into vectors.

        Args:
            texts: list of str.
            max_length: int or None: texts are cut to so many tokens; None for the model's
                `max_length`.
            batch_size: int.

        Returns:
            NumPy float32 `(texts, embed_dim)`.

        Raises:
            ValueError: the model has no tokenizer, or `texts` is no list of str.

        Example:
            >>> model = SentenceEncoder.from_pretrained("my_model")  # doctest: +SKIP
            >>> a, b = model.encode(["A cat sleeps.", "A kitten naps."])  # doctest: +SKIP
            >>> round(float(a @ b), 2)  # doctest: +SKIP
            0.75
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"`texts` must be a list of at least one str. Received: {texts!r}.")
        if self.tokenizer is None:
            raise ValueError("`model` must have a tokenizer to encode texts. Received: None.")
        inputs = self.tokenizer(list(texts), max_length=max_length or self.max_length)
        order = np.argsort(inputs["padding_mask"].sum(axis=1), kind="stable")
        vectors = np.zeros((len(texts), self.output_shape[-1]), "float32")
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            width = inputs["padding_mask"][rows].sum(axis=1).max()
            batch = {name: value[rows, :width] for name, value in inputs.items()}
            vectors[rows] = ops.convert_to_numpy(self.predict_on_batch(batch))
        return vectors

    def search(self, queries, texts, count=10, *, batch_size=32):
        """Find the texts that are most like each query, by the cosine of their vectors.

        Args:
            queries: list of str.
            texts: list of str; or their vectors as `encode` gives them, float `(texts, embed_dim)`,
                where the same texts are searched again and again.
            count: int, how many are found for a query.
            batch_size: int.

        Returns:
            list of lists of pairs, the most alike first: the number of a text, int, and its cosine,
            float; fewer than `count` where there are fewer texts.

        Raises:
            ValueError: `count` is below 1, there are no queries or texts, or no tokenizer.

        Example:
            >>> model = SentenceEncoder.from_pretrained("my_model")  # doctest: +SKIP
            >>> model.search(["cats"], ["A kitten naps.", "Rain again."], 1)  # doctest: +SKIP
            [[(0, 0.51)]]
        """
        if count < 1:
            raise ValueError(f"`count` must be at least 1. Received: {count}.")
        if not hasattr(texts, "shape"):
            texts = self.encode(texts, batch_size=batch_size)
        cosines = _unit(self.encode(queries, batch_size=batch_size)) @ _unit(texts).T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return [[(int(i), float(row[i])) for i in places] for row, places in zip(cosines, order)]

    def get_config(self):
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_length": self.max_length,
        }

    @classmethod
    def from_pretrained(cls, name, *, dtype=None, **options):
        """Read a checkpoint of sentence-transformers, or any of the family, with its tokenizer.

        Args:
            name: str or path-like: a local folder, or a name on the Hugging Face hub.
            dtype: str or `keras.DTypePolicy`, e.g. `"bfloat16"`; None for Keras' global one.
            **options: of the constructor, over what `modules.json` says; where there is none, the
                constructor's defaults count.

        Returns:
            The model.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: config, weights or tokenizer don't fit, or `modules.json` asks for what is
                not computed here; the message says which and how.
        """
        folder = weights.find_folder(name)
        return cls._read(folder, False, dtype, lambda fields: {**read_modules(folder), **options})

    def _configs(self):
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        modules += [("2_Normalize", "Normalize")] * self.normalize
        pooling = {field: self.pooling == name for name, field in POOLINGS.items()}
        return {
            **super()._configs(),
            MODULES: [
                {
                    "idx": i,
                    "name": str(i),
                    "path": path,
                    "type": f"sentence_transformers.models.{kind}",
                }
                for i, (path, kind) in enumerate(modules)
            ],
            POOLING: {"word_embedding_dimension": self.output_shape[-1], **pooling},
            TEXTS: {
                "max_seq_length": self.max_length,
                "do_lower_case": False,  # the tokenizer knows
            },
        }


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def read_modules(folder):
    """Read how a checkpoint of sentence-transformers makes a vector of hidden states.

    Args:
        folder: `pathlib.Path`.

    Returns:
        dict of `pooling`, `normalize` and `max_length`, arguments of `SentenceEncoder`; empty where
        there is no `modules.json`.

    Raises:
        FileNotFoundError: the file that says how to pool is missing.
        ValueError: a module or a pooling is unknown; the message names it.
    """
    path = folder / MODULES
    if not path.is_file():
        return {}
    try:
        modules = json.loads(path.read_text("utf-8"))
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"`{path}` must be a JSON list of modules with their `type`.") from None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"`{path}` must list a Transformer, a Pooling and perhaps a Normalize. Received: "
            f"{kinds}."
        )
    fields = weights.read_json(folder / POOLING)
    asked = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value]
    found = [name for name, field in POOLINGS.items() if asked == [field]]
    if not found:
        raise ValueError(
            f"`{folder / POOLING}` must ask for one of {', '.join(POOLINGS.values())}. Received: "
            f"{asked}."
        )
    texts = weights.read_json(folder / TEXTS) if (folder / TEXTS).is_file() else {}
    return {
        "pooling": found[0],
        "normalize": "Normalize" in kinds,
        "max_length": texts.get("max_seq_length"),
    }
