"""Pictures and pages of what a model looks at."""

import html
import pathlib

import numpy as np

from kerasllm.atomic import whole
from kerasllm.evaluation.plots import picture, shown

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)  # for and against, told apart by colour-blind eyes
HEADS = 4  # in a row of a picture

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 50rem; color: #1d2329;
  background: #fff; font: 1rem/1.9 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; }}
p {{ overflow-wrap: break-word; }}
span {{ padding: 0.15rem 0.2rem; border-radius: 0.2rem; }}
.against {{ border-bottom: 0.15rem dotted rgb{orange}; }}
.for {{ border-bottom: 0.15rem solid rgb{blue}; }}
.faint {{ color: #56616c; font-size: 0.875rem; line-height: 1.4; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="faint">A token with a solid blue line speaks for the answer, one with a dotted orange line
against it; the deeper the colour, the more. Rest the pointer on a token for its share.</p>
{texts}
</body>
</html>
"""


def plot_attention(attention, layer=-1, head=None):
    """Draw where the tokens of one layer look.

    Args:
        attention: `Attention`.
        layer: int.
        head: int, or None for the mean of all heads.

    Returns:
        `matplotlib.figure.Figure`.
    """
    weights = attention.weights[layer]
    weights = weights.mean(axis=0) if head is None else weights[head]
    sides = (1.5 + 0.24 * len(tokens) for tokens in (attention.keys, attention.queries))
    with picture(*(min(side, 12) for side in sides)) as figure:
        _draw(figure.add_subplot(), weights, attention, True)
    return figure


def plot_heads(attention, layer=-1):
    """Draw where the tokens look, in each head of one layer.

    Args:
        attention: `Attention`.
        layer: int.

    Returns:
        `matplotlib.figure.Figure`.
    """
    weights = attention.weights[layer]
    rows = -(-len(weights) // HEADS)
    with picture(10, 2.6 * rows) as figure:
        for number, head in enumerate(weights):
            axes = figure.add_subplot(rows, HEADS, number + 1)
            _draw(axes, head, attention, len(attention.keys) <= 12)
            axes.set_title(f"head {number}")
    return figure


def plot_attribution(attribution):
    """Draw the share of each token as a bar.

    Args:
        attribution: `Attribution`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    count = len(attribution.tokens)
    colors = [np.array(BLUE if share >= 0 else ORANGE) / 255 for share in attribution.shares]
    hatches = ["" if share >= 0 else "//" for share in attribution.shares]
    with picture(6, 0.8 + 0.24 * count) as figure:
        axes = figure.add_subplot()
        axes.barh(range(count), attribution.shares, color=colors, hatch=hatches, edgecolor="white")
        axes.set_yticks(range(count), map(shown, attribution.tokens))
        axes.invert_yaxis()
        axes.axvline(0, color="#222222", linewidth=0.8)
        axes.set_xlabel(f"share of the logit of {attribution.target!r}")
    return figure


def write_attributions(path, attributions, *, title="What the answers hang on") -> pathlib.Path:
    """Write texts with their tokens coloured by their shares, as a page of HTML.

    Args:
        path: str or path-like; the file appears whole or not at all.
        attributions: list of `Attribution`.
        title: str.

    Returns:
        `pathlib.Path`, the file.

    Raises:
        OSError: the file can't be written.
    """
    texts = "\n".join(map(_text, attributions))
    page = PAGE.format(title=html.escape(title), texts=texts, blue=BLUE, orange=ORANGE)
    with whole(path) as aside:
        aside.write_text(page, encoding="utf-8", newline="\n")
    return pathlib.Path(path)


def _draw(axes, weights, attention, named):
    axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    if named:
        axes.set_xticks(range(len(attention.keys)), map(shown, attention.keys), rotation=90)
        axes.set_yticks(range(len(attention.queries)), map(shown, attention.queries))
    else:
        axes.set_xticks([])
        axes.set_yticks([])


def _text(attribution):
    most = float(np.abs(attribution.shares).max()) or 1.0
    tokens = " ".join(
        _token(token, float(share), most)
        for token, share in zip(attribution.tokens, attribution.shares)
    )
    return (
        f'<p dir="auto">{tokens}</p>\n<p class="faint">{html.escape(attribution.target)}: logit '
        f"{attribution.output:.3f}, without words {attribution.baseline:.3f}, shares together "
        f"{attribution.shares.sum():.3f}</p>"
    )


def _token(token, share, most):
    color = BLUE if share >= 0 else ORANGE
    kind = "for" if share >= 0 else "against"
    style = f"background: rgb({color[0]} {color[1]} {color[2]} / {0.6 * abs(share) / most:.2f})"
    return f'<span class="{kind}" title="{share:+.3f}" style="{style}">{html.escape(token)}</span>'
