"""Text and labels in: `rows` reads a source into checked rows, `batches` makes `tf.data` of them.

The names below need no TensorFlow. The module `batches` does, and is imported by its own name:

    from kerasllm.data.batches import batches, text_batches
"""

from kerasllm.data.rows import Row, label_ids, label_names, read_rows, split_rows
from kerasllm.data.samples import SAMPLES

__all__ = ["SAMPLES", "Row", "label_ids", "label_names", "read_rows", "split_rows"]
