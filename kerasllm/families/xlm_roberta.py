"""XLM-RoBERTa: Conneau et al. 2019, "Unsupervised Cross-lingual Representation Learning"."""

from kerasllm.families import roberta

MODEL_TYPE = "xlm-roberta"

# Section 3, "Architecture"; RoBERTa's sizes with a vocabulary for a hundred languages.
SIZES = {
    name.replace("roberta", "xlm_roberta"): {**size, "vocab_size": 250002}
    for name, size in roberta.SIZES.items()
    if name != "roberta_distil"
}
FIELDS = {**roberta.FIELDS, "vocab_size": ("vocab_size", 30522)}
SETTINGS = roberta.SETTINGS
FIXED_FIELDS = roberta.FIXED_FIELDS
IGNORED_FIELDS = roberta.IGNORED_FIELDS
IGNORED_TENSORS = roberta.IGNORED_TENSORS
PREFIX = roberta.PREFIX
BACKBONE = roberta.BACKBONE
HEADS = {
    name: head._replace(architecture=f"XLM{head.architecture}")
    for name, head in roberta.HEADS.items()
}
read, write = roberta.read, roberta.write
