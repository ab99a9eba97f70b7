"""What a model looks at: attention weights, their flow through the layers, and each token's share.

Weights say where a layer looks, not what the answer hangs on (Jain and Wallace 2019, "Attention is
not Explanation"): that is what `integrated_gradients` is for.
"""

from kerasllm.interpretation.attention import (
    Attention,
    alignment,
    attention_rollout,
    attention_weights,
)
from kerasllm.interpretation.examples import example_pictures, example_rows
from kerasllm.interpretation.gradients import Attribution, integrated_gradients
from kerasllm.interpretation.pictures import (
    plot_attention,
    plot_attribution,
    plot_heads,
    write_attributions,
)

__all__ = [
    "Attention",
    "Attribution",
    "alignment",
    "attention_rollout",
    "attention_weights",
    "example_pictures",
    "example_rows",
    "integrated_gradients",
    "plot_attention",
    "plot_attribution",
    "plot_heads",
    "write_attributions",
]
