"""RNN: Elman 1990, "Finding Structure in Time".

As `lstm`, with the weights of PyTorch's `torch.nn.RNN`.
"""

from kerasllm.families import lstm

MODEL_TYPE = "rnn"
CONFIG = lstm.CONFIG

SIZES = {
    "rnn_small": lstm.SIZES["lstm_small"],
    "rnn_base": lstm.SIZES["lstm_base"],
}

FIELDS = lstm.FIELDS
SETTINGS = dict(cell="rnn")
FIXED_FIELDS = lstm.FIXED_FIELDS
IGNORED_FIELDS = lstm.IGNORED_FIELDS
IGNORED_TENSORS = lstm.IGNORED_TENSORS
PREFIX = lstm.PREFIX
BACKBONE = lstm.BACKBONE
HEADS = lstm.heads("RNN")
