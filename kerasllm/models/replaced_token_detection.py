"""ELECTRA's two models, trained together: one replaces tokens, the other finds the replaced."""

import dataclasses
import pathlib

import keras
from keras import ops

from kerasllm import families, weights
from kerasllm.backbones import Transformer
from kerasllm.models.masked_lm import MaskedLM
from kerasllm.models.token_detector import TokenDetector

# What of an embedding the two share, beside the tokens'; the norm and the projection are their own.
OTHER_TABLES = ("pos_emb", "segment_emb")


@keras.saving.register_keras_serializable(package="kerasllm")
class ReplacedTokenDetection(keras.Model):
    """A small generator that fills masked tokens, and a detector that finds what it filled in.

    What is wanted in the end is the detector: its folder, which `save_pretrained` writes, is the
    one to fine-tune. The generator's stands within it.

    Args:
        backbone: of the detector: the name of a size (`families.SIZES`), a config, or a backbone.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        generator: config of the generator's backbone, or such a backbone; None for a config with
            `generator_size` of the detector's width, heads and inner width. With a config, its
            tables are the detector's.
        generator_size: float in (0, 1].
        dtype: str or `keras.DTypePolicy`, of both; None for the detector's `backbone`'s, or Keras'
            global one. Logits are always float32.
        task: str or None, what it was last trained for, a name in `kerasllm.tasks.TASKS`.
        special_ids: dict or None, name of a special token: its id, as of `Pretrained`.
        name: str or None.

    Call arguments:
        inputs: dict of int32: `token_ids`, `padding_mask` and, where the family has segments,
            `segment_ids`, `(batch, length)`, of the text as it is; `masked_token_ids` `(batch,
            length)`, what the generator reads; `masked_positions` and `masked_weights` `(batch,
            masked)`, where it may write, and 1 where it does.

    Returns:
        dict of float32 logits: `tokens` `(batch, masked, vocab_size)`, the generator's; `detected`
        `(batch, length)`: above 0 where the detector is right, replaced or not. (Its loss is
        binary cross entropy with targets of 1; what it says itself is `model.detector`'s answer.)

    Raises:
        ValueError: `backbone` names no size, or the family lacks one of the heads.

    Example:
        >>> config = families.size_config("electra_small", vocab_size=50, num_layers=1)
        >>> model = ReplacedTokenDetection(config, family="electra")
        >>> model.generator.config.embed_dim, model.detector.config.embed_dim
        (64, 256)

    References:
        Clark et al. 2020, "ELECTRA", section 2 and 3.2.
    """

    HEAD = "replaced_token_detection"
    GENERATOR = "generator"  # its folder

    def __init__(
        self,
        backbone,
        *,
        family=None,
        tokenizer=None,
        generator=None,
        generator_size=0.25,
        dtype=None,
        task=None,
        special_ids=None,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        options = {"tokenizer": tokenizer, "special_ids": special_ids}
        self.detector = TokenDetector(
            backbone, family=family, dtype=dtype, name="detector", **options
        )
        self.family, self.config = self.detector.family, self.detector.config
        if generator is None:
            generator = smaller(self.config, generator_size)
        if not isinstance(generator, keras.Model):
            generator = _Sharing(
                generator,
                token_emb=self.backbone.embedding,
                dtype=self.backbone.dtype_policy,
                name="backbone",
            )
        self.generator = MaskedLM(generator, family=self.family, name="generator", **options)
        self.seeds = keras.random.SeedGenerator(0)
        self.task = task
        self.lora = None
        self.supports_jit = self.detector.supports_jit
        self.built = True

    @property
    def backbone(self):
        """The detector's backbone."""
        return self.detector.backbone

    @property
    def tokenizer(self):
        """The tokenizer of both."""
        return self.detector.tokenizer

    @property
    def special_ids(self):
        """Ids of special tokens by name, as in the checkpoint."""
        return self.detector.special_ids

    def call(self, inputs, training=None):
        names = self.backbone.input.keys()
        text = {name: inputs[name] for name in names}
        masked = {**text, "token_ids": inputs["masked_token_ids"]}
        positions = inputs["masked_positions"]
        logits = self.generator({**masked, "masked_positions": positions}, training=training)
        written = self.replaced(text["token_ids"], logits, positions, inputs["masked_weights"])
        found = self.detector({**text, "token_ids": written}, training=training)
        is_replaced = ops.not_equal(written, text["token_ids"])
        return {"tokens": logits, "detected": ops.where(is_replaced, found, -found)}

    def replaced(self, token_ids, logits, positions, weights):
        """Draw tokens from the generator and put them into a text.

        Args:
            token_ids: int32 `(batch, length)`.
            logits: float `(batch, masked, vocab_size)`, which get no gradient from what is drawn.
            positions, weights: int32 `(batch, masked)`.

        Returns:
            int32 `(batch, length)`.
        """
        noise = keras.random.uniform(ops.shape(logits), 1e-9, 1.0, seed=self.seeds)
        drawn = ops.argmax(ops.stop_gradient(logits) - ops.log(-ops.log(noise)), axis=-1)
        old = ops.take_along_axis(token_ids, positions, axis=1)
        new = ops.where(weights > 0, ops.cast(drawn, token_ids.dtype), old)
        row = ops.expand_dims(ops.arange(ops.shape(token_ids)[0], dtype=positions.dtype), 1)
        where = ops.stack([ops.broadcast_to(row, ops.shape(positions)), positions], axis=-1)
        return ops.scatter_update(token_ids, ops.reshape(where, (-1, 2)), ops.reshape(new, (-1,)))

    def save_pretrained(self, folder):
        """Write the detector as a folder that `transformers` loads, and the generator within it.

        Args:
            folder: str or path-like. Files of the same names are replaced, others stay.

        Raises:
            OSError: the folder can't be written.
        """
        self.detector.task = self.task
        self.detector.save_pretrained(folder)
        self.generator.save_pretrained(pathlib.Path(folder) / self.GENERATOR)

    @classmethod
    def from_pretrained(cls, name, *, generator=None, dtype=None, generator_size=0.25):
        """Read a detector, and the generator within its folder, or begin a new generator.

        Args:
            name: str or path-like: a local folder, or a name on the Hugging Face hub.
            generator: the same of a generator, e.g. of a published one; None for that within the
                folder, if there is one. The tables are the detector's from then on.
            dtype: str or `keras.DTypePolicy`; None for Keras' global one.
            generator_size: float, of a new generator.

        Returns:
            The model.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: config, weights or tokenizer don't fit; the message says which and how.
        """
        folder = weights.find_folder(name)
        if generator is None and (folder / cls.GENERATOR).is_dir():
            generator = folder / cls.GENERATOR
        config = None
        if generator is not None:
            generator = weights.find_folder(generator)
            config = families.config_from_hf(weights.read_json(generator / "config.json"))[1]
        detector = TokenDetector.from_pretrained(folder, dtype=dtype)
        model = cls(
            detector.backbone,
            family=detector.family,
            tokenizer=detector.tokenizer,
            special_ids=detector.special_ids,
            generator=config,
            generator_size=generator_size,
            dtype=dtype,
            task=detector.task,
        )
        if generator is not None:
            model.generator._load(generator, fresh_head=False)
        model.detector._load(folder, fresh_head=False)  # last: the tables are its own
        return model

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "family": self.family,
            "generator": self.generator.config.to_dict(),
            "task": self.task,
            "special_ids": dict(self.special_ids),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        generator = type(backbone.config)(**config["generator"])
        return cls(**{**config, "backbone": backbone, "generator": generator})


class _Sharing(Transformer):
    """A Transformer with the tables of another one's embedding, which it gets as `token_emb`."""

    def _add_layers(self, config, cross_attention, token_emb, *options):
        super()._add_layers(config, cross_attention, token_emb.token_emb, *options)
        for name in OTHER_TABLES:
            if hasattr(token_emb, name):
                delattr(self.embedding, name)
                setattr(self.embedding, name, getattr(token_emb, name))


def smaller(config, size):
    """The config of a generator: as deep as the detector, and narrower.

    Args:
        config: `TransformerConfig` of the detector.
        size: float in (0, 1], share of its heads, and so of its width, and of its inner width.

    Returns:
        `TransformerConfig`, with token vectors as wide as the detector's.

    Example:
        >>> found = smaller(families.size_config("electra_base"), 1 / 3)
        >>> found.embed_dim, found.num_heads, found.embedding_dim
        (256, 4, 768)

    References:
        Clark et al. 2020, "ELECTRA", section 3.2 and appendix A.
    """
    heads = max(1, round(config.num_heads * size))
    width = config.embed_dim // config.num_heads * heads
    table = config.embedding_dim or config.embed_dim
    return dataclasses.replace(
        config,
        num_heads=heads,
        embed_dim=width,
        ff_dim=max(1, round(config.ff_dim * size)),
        embedding_dim=0 if table == width else table,
    )
