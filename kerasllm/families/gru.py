"""GRU: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder–Decoder".

As `lstm`, with the weights of PyTorch's `torch.nn.GRU`.
"""

from kerasllm.families import lstm

MODEL_TYPE = "gru"
CONFIG = lstm.CONFIG

SIZES = {
    "gru_small": lstm.SIZES["lstm_small"],
    "gru_base": lstm.SIZES["lstm_base"],
}

FIELDS = lstm.FIELDS
SETTINGS = dict(cell="gru")
FIXED_FIELDS = lstm.FIXED_FIELDS
IGNORED_FIELDS = lstm.IGNORED_FIELDS
IGNORED_TENSORS = lstm.IGNORED_TENSORS
PREFIX = lstm.PREFIX
BACKBONE = lstm.BACKBONE
HEADS = lstm.heads("GRU")
