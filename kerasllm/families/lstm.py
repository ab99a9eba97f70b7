"""LSTM: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory".

Hugging Face has no recurrent models, so the fields of `config.json` are our own words. The weights
are those of PyTorch's `torch.nn.LSTM`, named `rnn`, beside an `embedding` and a head.
"""

from kerasllm.config import RecurrentConfig
from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "lstm"
CONFIG = RecurrentConfig

SIZES = {
    "lstm_small": dict(num_layers=1, embed_dim=128, units=128),
    "lstm_base": dict(num_layers=2, embed_dim=256, units=256, bidirectional=True),
}

FIELDS = {
    "vocab_size": ("vocab_size", 30522),
    "num_layers": ("num_layers", 1),
    "embed_dim": ("embed_dim", 128),
    "units": ("units", 128),
    "bidirectional": ("bidirectional", False),
    "max_length": ("max_length", 512),
    "rate": ("rate", 0.1),
    "initializer_range": ("initializer_range", 0.1),
    "pad_token_id": ("pad_id", 0),
    "tie_embedding": ("tie_embedding", False),
}
SETTINGS = dict(cell="lstm")
FIXED_FIELDS = {}
IGNORED_FIELDS = set()
IGNORED_TENSORS = ()
PREFIX = ""

BACKBONE = {
    "embedding.token_emb": "embedding",
    **{
        f"blocks.{{i}}.{direction}_layer.cell.{ours}": Stored(
            f"rnn.{theirs}_l{{i}}{suffix}", optional=direction == "backward"
        )
        for direction, suffix in (("forward", ""), ("backward", "_reverse"))
        for ours, theirs in (
            ("kernel", "weight_ih"),
            ("recurrent_kernel", "weight_hh"),
            ("bias", "bias_ih"),
            ("recurrent_bias", "bias_hh"),
        )
    },
}


def heads(name):
    """The heads of a recurrent network.

    Args:
        name: str, e.g. `"LSTM"`, how the names of the architectures begin.

    Returns:
        dict, name of a head: `Head`.
    """
    return {
        # The largest value of each unit over the text says most: Conneau et al. 2017, "Supervised
        # Learning of Universal Sentence Representations", section 3.2.2.
        "text_classifier": Head(
            f"{name}ForSequenceClassification", {"classifier": "classifier"}, {"token": "max"}
        ),
        "token_classifier": Head(f"{name}ForTokenClassification", {"classifier": "classifier"}),
        "span_labeler": Head(f"{name}ForQuestionAnswering", {"span": "qa_outputs"}),
        "causal_lm": Head(f"{name}LMHeadModel", {"logits": "lm_head"}),
        "sentence_encoder": Head(f"{name}Model", {}),
    }


HEADS = heads("LSTM")
