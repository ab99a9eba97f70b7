"""What a family says of one of its heads."""

from typing import NamedTuple


class Head(NamedTuple):
    """A head of a family, as its checkpoints hold it.

    Args:
        architecture: str, the class of `transformers` with this head.
        layers: dict, attribute path on our model: name in a checkpoint, or `weights.Stored`.
        options: dict, keyword arguments of our model class: the mathematics of this family's head.
        prefix: str or None, how its checkpoints begin the backbone's names; None for the family's
            `PREFIX`.
        encoder: bool, whether the encoder of an encoder–decoder is the whole backbone.
    """

    architecture: str
    layers: dict
    options: dict = {}
    prefix: str | None = None
    encoder: bool = False
