"""A backbone with a classifier on one token of the text, or on all."""

import keras
import numpy as np
from keras import ops

from kerasllm.backbones import Transformer
from kerasllm.layers import Dense, Dropout, activation_function
from kerasllm.layers.attention import MASKED
from kerasllm.models.classifier import Classifier
from kerasllm.weights import read_json

# Tasks, and what Hugging Face's config calls them; it says nothing of one label for a text.
PROBLEM_TYPES = {
    "multi_label": "multi_label_classification",
    "text_regression": "regression",
}


@keras.saving.register_keras_serializable(package="kerasllm")
class TextClassifier(Classifier):
    """A backbone with a classifier on the first token of a text, on the last, or on all.

    Args:
        num_classes: int, number of classes.
        backbone: the name of a size (`families.SIZES`), a config, or a backbone. A config or a size
            gives fresh weights; `from_pretrained` gives trained ones.
        rate: float in [0, 1), dropout before the classifier.
        family: str or None: family of the backbone, which says how its classifier works; None where
            `backbone` is the name of a size.
        labels: sequence of `num_classes` str, names of the classes; None for `"0"`, `"1"`, ….
        tokenizer: of `kerasllm.tokenizers`, or None: what `predict` on text and the exports use.
            `save_pretrained` writes it, a `.keras` file does not.
        dtype: str or `keras.DTypePolicy`, of the parts made here; logits are always float32.
        special_ids: dict or None, of an encoder–decoder: ids of its `eos` and `decoder_start`, for
            the graph; None for what the tokenizer says, then those of published checkpoints.

    Call arguments:
        inputs: int32 tensors `(batch, length)`: the pair `(input_ids, attention_mask)` of the
            tutorials, the same with segment ids as the third, or a dict of `token_ids`,
            `padding_mask`, `segment_ids` (Hugging Face's names are understood). The mask defaults
            to all ones, the segments to all zeros.

    Returns:
        float32 `(batch, num_classes)`: logits.

    Raises:
        ValueError: `labels` are not `num_classes` distinct names, `backbone` names no size, the
            family has no text classifier, or a call gets inputs of another form.

    Example:
        >>> model = TextClassifier(2, "gpt2_small")  # doctest: +SKIP

    References:
        Devlin et al. 2018, "BERT", section 4.1 and figure 4; on the last token: Radford et al.
        2018, "Improving Language Understanding by Generative Pre-Training", section 3.2; on the
        decoder's end of the text: Lewis et al. 2019, "BART", section 3.1 and figure 3; on the
        largest values: Conneau et al. 2017, "Supervised Learning of Universal Sentence
        Representations", section 3.2.2.
    """

    HEAD = "text_classifier"

    @classmethod
    def _read(cls, folder, fresh_head, dtype, options_of):
        model = super()._read(folder, fresh_head, dtype, options_of)
        if model.task is None:
            stated = read_json(folder / "config.json").get("problem_type")
            model.task = next((ours for ours, x in PROBLEM_TYPES.items() if x == stated), None)
        return model

    def _fields(self):
        stated = PROBLEM_TYPES.get(self.task)
        return {**super()._fields(), **({"problem_type": stated} if stated else {})}

    def _add_layers(
        self,
        num_classes,
        rate,
        token="first",
        activation=None,
        dropout_first=False,
        use_bias=True,
        narrowed=False,
    ):
        """Make the head; the options are those of a family.

        Args:
            token: str, `"first"` or `"last"`, the token that stands for the text; or `"end"`: the
                last that ends a text (`eos`) does; or `"max"`: the largest value of each unit over
                all tokens does.
            activation: str or None, of the `pooler`, a `Dense` before the classifier; None for no
                pooler.
            dropout_first: bool, whether there is dropout before the pooler too.
            use_bias: bool, of the classifier.
            narrowed: bool, whether it reads hidden states as narrow as the token table.
        """
        self.token, self.dropout_first = token, dropout_first
        self.projection = self._narrowing() if narrowed else None
        policy = self.backbone.dtype_policy
        self.pooler = None
        if activation is not None:
            self.pooler = Dense(
                self.config.embed_dim,
                activation=activation_function(activation),
                kernel_initializer=self._initializer(),
                dtype=policy,
                name="pooler",
            )
        self.dropout = Dropout(rate, dtype=policy, name="dropout")
        self.classifier = Dense(
            num_classes,
            use_bias=use_bias,
            kernel_initializer=self._initializer(),
            dtype="float32",
            name="classifier",
        )

    def _states(self, inputs):
        if self.token == "first" and isinstance(self.backbone, Transformer):
            return self.backbone(inputs, rows=slice(0, 1))
        return super()._states(inputs)

    def _head(self, hidden_states, inputs):
        x = self._pooled(hidden_states, **inputs)  # (batch, embed_dim)
        if self.projection is not None:
            x = self.projection(x)  # (batch, embedding_dim)
        if self.pooler is not None:
            x = self.pooler(self.dropout(x) if self.dropout_first else x)
        return self.classifier(self.dropout(x))  # (batch, num_classes)

    def _pooled(self, hidden_states, token_ids, padding_mask, **others):
        if self.token == "first":
            return hidden_states[:, 0, :]
        if self.token == "max":
            real = ops.expand_dims(padding_mask, -1) > 0  # (batch, length, 1)
            return ops.max(ops.where(real, hidden_states, MASKED), axis=1)
        # The last real token, wherever the padding is: the mask times 1, 2, 3, … is largest there.
        index = ops.cumsum(ops.ones_like(padding_mask), axis=1)  # (batch, length)
        if self.token == "end":  # before all others; a text without any has its last token
            ends = ops.equal(ops.expand_dims(token_ids, -1), np.atleast_1d(self.special_ids["eos"]))
            index = index * (1 + index[:, -1:] * ops.cast(ops.any(ends, axis=-1), index.dtype))
        last = ops.max(index * padding_mask, axis=1, keepdims=True)  # (batch, 1)
        at_last = ops.cast(ops.expand_dims(ops.equal(index, last), -1), hidden_states.dtype)
        return ops.sum(at_last * hidden_states, axis=1)


@keras.saving.register_keras_serializable(package="kerasllm")
class BertClassifier(TextClassifier):
    """BERT with a classifier on its pooled first token, as the tutorials have it.

    Args:
        num_classes: int, number of classes.
        bert: the name of a size of BERT, a `TransformerConfig`, or a `Transformer`, as `backbone`
            of `TextClassifier`.
        rate: float in [0, 1), dropout before the classifier.
        **options: of `TextClassifier`.

    Call arguments:
        inputs: as for `TextClassifier`, e.g. the pair `(input_ids, attention_mask)`.

    Returns:
        float32 `(batch, num_classes)`: logits.

    Raises:
        ValueError: as for `TextClassifier`.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> ids = np.array([[101, 2307, 102]])
        >>> tuple(model((ids, np.ones_like(ids))).shape)
        (1, 2)

    References:
        Devlin et al. 2018, "BERT", section 4.1 and figure 4.
    """

    def __init__(self, num_classes, bert="bert_base", rate=0.1, **options):
        backbone = options.pop("backbone", bert)
        super().__init__(num_classes, backbone, rate, **{"family": "bert", **options})

    @property
    def bert(self):
        """The backbone."""
        return self.backbone
