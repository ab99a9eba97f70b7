"""What all models share: inputs by name, and checkpoints in Hugging Face's layout."""

import dataclasses
import json
import logging
import pathlib
import re

import keras
import numpy as np

from kerasllm import families, weights
from kerasllm.atomic import whole
from kerasllm.backbones import backbone_of
from kerasllm.backbones.encoder_decoder import shifted_right
from kerasllm.families import keras_hub
from kerasllm.layers import Dense, TokenLogits
from kerasllm.models import preset, preset_tokenizer
from kerasllm.models.lora import Lora, put_lora
from kerasllm.tokenizers import load_tokenizer

logger = logging.getLogger("kerasllm")

# The order in which inputs come as a tuple.
NAMES = ("token_ids", "padding_mask", "segment_ids")

# Tokens whose ids a config names, beside that of padding.
SPECIAL = ("bos", "eos", "sep", "cls", "mask", "decoder_start", "forced_bos", "forced_eos")

# The border to Hugging Face and the tutorials: what they call our inputs.
ALIASES = {
    "input_ids": "token_ids",
    "attention_mask": "padding_mask",
    "token_type_ids": "segment_ids",
    "decoder_input_ids": "decoder_token_ids",
    "decoder_attention_mask": "decoder_padding_mask",
}


class Pretrained(keras.Model):
    """A backbone and a head: a functional model that takes inputs under any of their names.

    A subclass names itself in `HEAD`, makes its layers in `_add_layers`, and says in `_head` how
    they follow one another.

    Args:
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        family: str or None: family of the backbone; None where `backbone` is the name of a size.
        tokenizer: of `kerasllm.tokenizers`, or None.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.
        special_ids: dict or None, the attribute of this name.
        task: str or None, the attribute of this name.

    Attributes:
        HEAD: str, its name in the families' `HEADS`.
        backbone: the backbone.
        config: the backbone's config.
        family: str, a name in `families.FAMILIES`.
        tokenizer: what turns texts into its inputs, or None.
        special_ids: dict, name in `SPECIAL`: id of that token, int or list of int, as the
            checkpoint's config has it. `save_pretrained` writes them back. The graph of a head
            with `reread` holds them as they were when it was built.
        reread: dict or None: that the decoder reads the encoder's text again, shifted right, so
            that the inputs are the encoder's alone; and `special_ids` where nobody says others.
        lora: `Lora`, which adapters it has, or None.
        task: str or None, what it was last trained for, a name in `kerasllm.tasks.TASKS`.
    """

    HEAD = None

    def __init__(self, backbone, *, family=None, tokenizer=None, dtype=None, **kwargs):
        self._add_layers(**self._start(backbone, family, dtype))
        self._connect(tokenizer, **kwargs)

    def _start(self, backbone, family, dtype):
        """Take or make the backbone; return the family's options of the head.

        Args:
            backbone: a backbone, a config, or the name of a size.
            family: str or None; None where `backbone` is the name of a size.
            dtype: str, `keras.DTypePolicy` or None, of a backbone made here.
        """
        if isinstance(backbone, str):
            family = families.family_of(backbone)
            backbone = families.size_config(backbone)
        if family is None:
            raise ValueError(
                "`family` must be given with a backbone or config of one's own. Received: None. "
                f"Families: {', '.join(families.FAMILIES)}."
            )
        head = families.head(family, self.HEAD)
        options = dict(head.options)
        self.reread = options.pop("reread", None)
        _check_kind(backbone, family, dtype)
        if not isinstance(backbone, keras.Model):
            config = families.head_config(backbone, head)
            backbone = backbone_of(config, dtype=dtype, name="backbone")
        elif head.encoder and hasattr(backbone, "decoder"):
            raise ValueError(
                f"`backbone` must be an encoder alone for the {self.HEAD} of {family}. Received: a "
                f"{type(backbone).__name__} (give its `encoder`)."
            )
        self.backbone = backbone
        self.family = family
        self.config = backbone.config
        return options

    def _connect(self, tokenizer, special_ids=None, task=None, **kwargs):
        """Build the graph, once all layers are there."""
        inputs, policy = dict(self.backbone.input), self.backbone.dtype_policy
        self.special_ids = dict(special_ids or {})
        read = inputs
        if self.reread is not None:
            self.special_ids = {**self.reread, **_ids_of(tokenizer), **self.special_ids}
            inputs = {name: inputs[name] for name in ("token_ids", "padding_mask")}
            read = {**inputs, **shifted_right(inputs, self.special_ids["decoder_start"])}
        super().__init__(inputs=inputs, outputs=self._head(self._states(read), inputs), **kwargs)
        _check_vocabulary(tokenizer, self.config.vocab_size)
        self.tokenizer = tokenizer
        self.lora = None
        self.task = task
        self.dtype_policy = policy  # `compile` asks it whether float16 needs a loss scale
        self.supports_jit = self.backbone.supports_jit
        self.input_spec = None  # a step with a cache has other inputs than the graph

    def _narrowing(self):
        """The layer back to the width of a narrower token table (OPT-350m); None for the others."""
        if not getattr(self.config, "embedding_dim", 0):
            return None
        return Dense(
            self.config.embedding_dim,
            use_bias=self.config.embedding_bias,
            kernel_initializer=self._initializer(),
            dtype=self.backbone.dtype_policy,
            name="projection",
        )

    def _add_layers(self, **options):
        """Make the layers of the head, by a family's options; every subclass has its own."""
        raise NotImplementedError

    def _initializer(self):
        """A fresh initializer of a kernel."""
        return keras.initializers.TruncatedNormal(stddev=self.config.initializer_range)

    def _token_logits(self, use_bias=False):
        """The layer that scores all tokens, by the token table where the config ties them."""
        config = self.config
        return TokenLogits(
            self.backbone.embedding.token_emb if config.tie_embedding else config.vocab_size,
            use_bias=use_bias,
            kernel_initializer=self._initializer(),
            dtype=self.backbone.dtype_policy,
            name="logits",
        )

    def _states(self, inputs):
        """The hidden states that the head asks for."""
        return self.backbone(inputs)

    def _head(self, hidden_states, inputs):
        """From hidden states to the model's output; every subclass has its own."""
        raise NotImplementedError

    def __call__(self, inputs, *args, **kwargs):
        names = tuple(self.input)
        inputs = named_inputs(inputs, names, with_cache=kwargs.get("cache") is not None)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None, mask=None, cache=None, position=0):
        if cache is None:
            return super().call(inputs, training=training, mask=mask)
        hidden_states, cache = self.backbone(inputs, cache=cache, position=position)
        return self._head(hidden_states, inputs), cache

    def make_cache(self, batch_size, max_length=None, **options):
        """Make an empty cache of keys and values; see the backbone's `make_cache`."""
        return self.backbone.make_cache(batch_size, max_length, **options)

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "family": self.family,
            "name": self.name,
            "trainable": self.trainable,
            "special_ids": dict(self.special_ids),
            "task": self.task,
            **({} if self.lora is None else {"lora": dataclasses.asdict(self.lora)}),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config, backbone=keras.saving.deserialize_keras_object(config["backbone"]))
        lora = config.pop("lora", None)
        model = cls(**config)
        if lora is not None:
            put_lora(model, Lora(**lora))
        return model

    @classmethod
    def from_pretrained(cls, name, *, fresh_head=False, dtype=None, **options):
        """Read a Hugging Face checkpoint, or a preset of keras-hub, with its tokenizer.

        Args:
            name: str or path-like: a local folder with `config.json` and `model.safetensors` (or
                its shards) or, of a preset, `model.weights.h5`; or a name on the Hugging Face hub,
                or keras-hub's name of a preset.
            fresh_head: bool, whether to start the head's last layer anew, whatever the checkpoint
                has in its place.
            dtype: str or `keras.DTypePolicy`, e.g. `"bfloat16"`; None for Keras' global one. The
                checkpoint's numbers are converted to it.
            **options: of the constructor.

        Returns:
            The model. Where the checkpoint lacks a layer of the head as a whole, that layer is
            fresh, and a log line says so.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: config, weights or tokenizer don't fit; the message says which and how.
        """
        folder = weights.find_folder(name)
        return cls._read(folder, fresh_head, dtype, lambda fields: options)

    @classmethod
    def _read(cls, folder, fresh_head, dtype, options_of):
        fields = weights.read_json(folder / "config.json")
        is_preset = keras_hub.is_preset(fields)
        if is_preset:
            family, config = keras_hub.config_from_preset(fields)
            fields, head = preset.head_fields(folder, family, cls.HEAD)
            tokenizer = preset_tokenizer.load_preset_tokenizer(folder, family)
        else:
            family, config = families.config_from_hf(fields)
            head, tokenizer = {}, load_tokenizer(folder)
        # Before anything large is made; the family may have no such head.
        config = families.head_config(config, families.head(family, cls.HEAD))
        # Random numbers would take longer than the checkpoint, which has all of them anyway.
        backbone = backbone_of(config, initializer="zeros", dtype=dtype, name="backbone")
        special_ids = {name: fields.get(f"{name}_token_id") for name in SPECIAL}
        model = cls(
            backbone=backbone,
            family=family,
            tokenizer=tokenizer,
            special_ids={name: value for name, value in special_ids.items() if value is not None},
            task=fields.get("finetuning_task"),
            **{**head, **options_of({**fields, "rate": getattr(config, "rate", 0.0)})},
        )
        if model.tokenizer is None:
            logger.info("`%s` holds no tokenizer: the model takes token ids alone.", folder)
        if is_preset:
            _tell_fresh(preset.load_preset(model, folder, fresh_head))
        else:
            model._load(folder, fresh_head)
        return model

    def _load(self, folder, fresh_head):
        names = families.name_map(self.family, self.HEAD, self.config)
        weights.check_reach(self, names)
        head = [path for path in names if not path.startswith("backbone.")]
        ignored = families.ignored_tensors(self.family, self.HEAD)
        if fresh_head:
            last = weights.as_stored(names.pop(head.pop())).name
            ignored = (*ignored, re.escape(last) + r"(\..*)?")
        absent = weights.load_weights(
            self,
            folder,
            names,
            prefix=families.prefix(self.family, self.HEAD),
            other_prefix=families.FAMILIES[self.family].PREFIX,
            ignored=ignored,
            fresh=tuple(head),
        )
        absent += list(families.head(self.family, self.HEAD).layers)[-1:] * fresh_head
        _tell_fresh(absent)

    def save_pretrained(self, folder, *, shard_bytes=weights.SHARD_BYTES):
        """Write config, weights and tokenizer as a folder that `transformers` loads.

        Args:
            folder: str or path-like. Files of the same names are replaced, others stay.
            shard_bytes: int, the most in one file of weights; more goes into several.

        Raises:
            OSError: the folder can't be written.
            ValueError: a checkpoint of the family can't say what the model's config says, or the
                model has adapters.
        """
        self._check_whole()
        with whole(folder) as aside:
            aside.mkdir()
            for name, fields in self._configs().items():
                text = json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_text(text, encoding="utf-8")
            names = families.name_map(self.family, self.HEAD, self.config)
            weights.save_weights(self, aside, names, shard_bytes=shard_bytes)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(aside)
            sharded = (aside / weights.INDEX.format(weights.FILE)).exists()
        if sharded:  # a single file of an earlier save would be read first
            (pathlib.Path(folder) / weights.FILE).unlink(missing_ok=True)

    def save_preset(self, folder):
        """Write config, weights and tokenizer as a folder that keras-hub's `from_preset` loads.

        Where keras-hub has no such head, or no such tokenizer, that is left out, and a log line
        says so.

        Args:
            folder: str or path-like. Files of the same names are replaced, others stay.

        Raises:
            OSError: the folder can't be written.
            ValueError: keras-hub doesn't have the family, or can't compute what the model's config
                says, or the model has adapters.
        """
        self._check_whole()
        with whole(folder) as aside:
            aside.mkdir()
            preset.save_preset(self, aside)

    def _check_whole(self):
        if self.lora is not None:
            raise ValueError(
                "`model` must have no adapters to be saved as a whole. Received: "
                f"{len(self.lora.layers)} of them (save the model that `merge_lora` makes, or the "
                "adapters alone with `save_lora`)."
            )

    def _configs(self):
        """Name of a JSON file of a checkpoint: what stands in it."""
        head = families.head(self.family, self.HEAD)
        fields = {
            "architectures": [head.architecture],
            "dtype": self.backbone.dtype_policy.variable_dtype,  # of most weights; heads may differ
            **families.config_to_hf(self.family, self.config),
            **self._fields(),
        }
        if self.task is not None:
            fields["finetuning_task"] = self.task
        for name, token_id in {**_ids_of(self.tokenizer), **self.special_ids}.items():
            fields[f"{name}_token_id"] = token_id
        return {"config.json": fields}

    def _fields(self):
        """Fields of `config.json` beyond the backbone's."""
        return {}


def _ids_of(tokenizer):
    """What a tokenizer, or None, knows of `SPECIAL`."""
    ids = {name: getattr(tokenizer, f"{name}_id", None) for name in SPECIAL}
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def _check_kind(backbone, family, dtype):
    """Check that a config, or that of a backbone, is of the family's kind, and fits the dtype."""
    kind = families.config_class(family)
    if not isinstance(getattr(backbone, "config", backbone), kind):
        raise TypeError(
            f"`backbone` must be, or be of, a `{kind.__name__}` for the family {family}. "
            f"Received: {type(backbone).__name__}."
        )
    if dtype is None or not isinstance(backbone, keras.Model):
        return
    policy = keras.dtype_policies.get(dtype)
    if policy != backbone.dtype_policy:
        raise ValueError(
            "`dtype` must be that of a `backbone` which is made already, or None. Received: "
            f"{policy.name}, and a backbone of {backbone.dtype_policy.name}."
        )


def _check_vocabulary(tokenizer, vocab_size):
    """Log where texts may have tokens that a model doesn't; published checkpoints are so too."""
    known = getattr(tokenizer, "vocab_size", 0)
    if known > vocab_size:
        logger.warning(
            "The tokenizer has %d tokens, and the model knows the first %d of them alone.",
            *(known, vocab_size),
        )


def _tell_fresh(absent):
    if absent:
        logger.info("Fresh weights, to be trained: %s.", ", ".join(absent))


def named_inputs(inputs, names, with_cache=False):
    """Bring a model's inputs into the form of its graph.

    Args:
        inputs: int `(batch, length)`: token ids, a tuple in the order of `NAMES`, or a dict.
        names: sequence of str, the inputs of the graph.
        with_cache: bool, whether this is a step with a cache, whose masks are of other shapes.

    Returns:
        dict of int32 tensors with the graph's names. A mask defaults to all ones, segments to all
        zeros; segments that the graph has no input for are dropped.

    Raises:
        ValueError: there are no token ids among the inputs, or unknown names, or text, or shapes
            other than (batch, length).
    """
    if isinstance(inputs, (tuple, list)):
        if len(inputs) > len(NAMES):
            raise ValueError(f"`inputs` must be at most {NAMES}. Received: {len(inputs)} values.")
        inputs = dict(zip(NAMES, inputs))
    elif not isinstance(inputs, dict):
        inputs = {"token_ids": inputs}
    inputs = {ALIASES.get(name, name): _tensor(value) for name, value in inputs.items()}
    if with_cache:
        return inputs
    unknown = inputs.keys() - {*names, *NAMES}
    missing = [name for name in names if name.endswith("token_ids") and name not in inputs]
    if unknown or missing:
        wanted = ", ".join(f"`{name}`" for name in names if name.endswith("token_ids"))
        rest = " and ".join(
            f"`{name}`" for name in (*NAMES, *names[len(NAMES) :]) if not name.endswith("token_ids")
        )
        raise ValueError(
            f"`inputs` must have {wanted}, and may have {rest}. Received: {sorted(inputs)}."
        )
    for side in {name.removesuffix("token_ids") for name in names if name.endswith("token_ids")}:
        _fill(inputs, side, names)
    return inputs


def _fill(inputs, side, names):
    """Check and complete the inputs of the encoder (`side` is "") or the decoder ("decoder_")."""
    mine = {f"{side}{name}" for name in NAMES}
    _check_shapes({name: value for name, value in inputs.items() if name in mine})
    ids = inputs[f"{side}token_ids"]
    inputs.setdefault(f"{side}padding_mask", keras.ops.ones_like(ids))
    if f"{side}segment_ids" in names:
        inputs.setdefault(f"{side}segment_ids", keras.ops.zeros_like(ids))
    else:
        inputs.pop(f"{side}segment_ids", None)


def _tensor(value):
    if isinstance(value, keras.KerasTensor):
        return value
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if getattr(value.dtype, "name", "").startswith(("str", "bytes", "object")):
        raise ValueError(
            "`inputs` must be token ids, not text. "
            f"Received: dtype={value.dtype}. The model's tokenizer makes ids from text."
        )
    return keras.ops.convert_to_tensor(value, dtype="int32")


def _check_shapes(inputs):
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    ids_shape = next(shape for name, shape in shapes.items() if name.endswith("token_ids"))
    for shape in shapes.values():
        fits = all(a == b or None in (a, b) for a, b in zip(shape, ids_shape))
        if len(shape) != 2 or not fits:
            raise ValueError(
                f"`inputs` must all have the same shape (batch, length). Received: {shapes}."
            )
