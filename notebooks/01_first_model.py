# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your first model
#
# You will build a BERT from parts that you understand, teach it to tell good reviews from bad
# ones, and take it away as two files: one for a server, one for a phone.
#
# 1. The tutorial's own code
# 2. Its formula
# 3. Who may look at whom
# 4. The block
# 5. From text to numbers, and back
# 6. Train
# 7. How good is it?
# 8. Look inside
# 9. Save, load, export
# 10. Where to go next
#
# All of it runs offline on a laptop, in two or three minutes. Run the cells in order. You need
# Python and a little NumPy; nothing here assumes that you have met a Transformer before.
#
# While TensorFlow starts, and again when a model is exported, it may print lines about oneDNN,
# CUDA or XNNPACK. They are notes, not errors.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow: errors only

import math
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras import ops

from kerasllm import (
    BertClassifier,
    MultiHeadSelfAttention,
    TokenAndPositionEmbedding,
    TransformerBlock,
    TransformerConfig,
    WordPieceTokenizer,
    evaluate,
    fit,
    read_rows,
    split_rows,
    to_saved_model,
    to_tflite,
)

FAST = os.environ.get("KERASLLM_FAST") == "1"  # the project's tests set it: few rows, one epoch
OUTPUT = pathlib.Path("runs") / "first_model"  # everything that this notebook writes

np.set_printoptions(precision=3, suppress=True, floatmode="fixed")
tf.get_logger().setLevel("ERROR")
plt.rcParams.update({"figure.dpi": 80, "font.size": 9, "figure.constrained_layout.use": True})
keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The tutorial's own code
#
# If you have followed a "build your first large model" tutorial, you have typed in these names:
# `MultiHeadSelfAttention(embed_dim, num_heads)`, `TransformerBlock(embed_dim, num_heads,
# ff_dim)`, `TokenAndPositionEmbedding(maxlen, vocab_size, embed_dim)`. They are the layers of
# this library too, with the same arguments. So the tutorial's model is these few lines:

# %%
maxlen, vocab_size = 48, 2000
embed_dim, num_heads, ff_dim = 32, 2, 32

inputs = keras.Input((maxlen,), dtype="int32")
x = TokenAndPositionEmbedding(maxlen, vocab_size, embed_dim)(inputs)
x = TransformerBlock(embed_dim, num_heads, ff_dim)(x)
x = keras.layers.GlobalAveragePooling1D()(x)
x = keras.layers.Dense(20, activation="relu")(x)
outputs = keras.layers.Dense(2, activation="softmax")(x)
tutorial_model = keras.Model(inputs, outputs)

for layer in tutorial_model.layers:
    name, shape = type(layer).__name__, str(layer.output.shape)
    print(f"{name:26} {shape:15} {layer.count_params():7,} weights")

# %% [markdown]
# Read the shapes from top to bottom. 48 token ids come in. Each becomes a vector of 32 numbers.
# The block mixes these vectors and gives 48 vectors of the same width, so blocks can be stacked,
# as many as you like. Then the vectors are averaged into one, and two numbers come out: how
# likely "bad" is, and how likely "good".
#
# A BERT is the same with more and wider blocks, and it takes the vector of the first token where
# this model takes the average. So: what happens inside a block?

# %% [markdown]
# ## 2. Its formula
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{QK^\top}{\sqrt{d}}\right)V$$
#
# Every word asks a question (its row of $Q$), offers a key (its row of $K$), and carries a value
# (its row of $V$). Where a question and a key point in the same direction, their product is
# large, and the word that asks takes in more of that value. (Vaswani et al. 2017, "Attention Is
# All You Need", equation 1.)
#
# Let us do it by hand for three words. Their vectors are made up, so that *soup* and *cold* have
# something in common, and *the* has little to do with either. For now, question, key and value
# are all the vector itself.

# %%
words = ["the", "soup", "cold"]
x = np.array(
    [
        [0.2, 0.1, 0.0, 0.3],  # the
        [2.0, 0.4, 1.6, 0.0],  # soup
        [1.4, 0.0, 2.0, 0.4],  # cold
    ]
)


def softmax(scores):
    """Turn each row into positive numbers that sum to 1."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


query, key, value = x, x, x
scores = query @ key.T / math.sqrt(x.shape[1])  # (query, key)
weights = softmax(scores)
output = weights @ value  # (query, width)

print("scores\n", scores)
print("weights: each row sums to 1\n", weights)
print("output\n", output)


# %%
def draw_weights(axes, weights, words, title=""):
    """Draw attention weights: a row is a word that looks, a column is what it looks at."""
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(words)), words, rotation=45 if len(words) > 4 else 0)
    axes.set_yticks(range(len(words)), words)
    axes.set_title(title, loc="left")
    if len(words) <= 5:
        for (row, column), weight in np.ndenumerate(weights):
            color = "white" if weight > 0.55 else "black"
            axes.text(column, row, f"{weight:.2f}", ha="center", va="center", color=color)


figure, axes = plt.subplots(figsize=(3, 3))
draw_weights(axes, weights, words, "by hand")
axes.set(xlabel="is looked at", ylabel="looks")
plt.show()

# %% [markdown]
# *soup* takes two fifths of its new vector from *cold*: it is now the vector of a cold soup.
# *the* has no strong opinion and takes a bit of everything.
#
# The layer does two things more. It does not use the vector itself: `query_dense`, `key_dense`
# and `value_dense` are three matrices that turn it into question, key and value, and they are
# what is learned. And it does the sum several times side by side, in *heads*, each with its own
# slice of the vectors; `combine_heads` puts the results together. Here is the layer, and the same
# by hand.

# %%
layer = MultiHeadSelfAttention(embed_dim=4, num_heads=2)
from_layer = ops.convert_to_numpy(layer(x[None].astype("float32")))[0]  # a batch of one


def dense(x, layer):
    """What a `Dense` layer computes."""
    return x @ ops.convert_to_numpy(layer.kernel) + ops.convert_to_numpy(layer.bias)


parts = layer.query_dense, layer.key_dense, layer.value_dense
query, key, value = (dense(x, part) for part in parts)
heads = []
for head in range(layer.num_heads):
    part = slice(head * layer.projection_dim, (head + 1) * layer.projection_dim)
    weights = softmax(query[:, part] @ key[:, part].T / math.sqrt(layer.projection_dim))
    heads.append(weights @ value[:, part])
by_hand = dense(np.concatenate(heads, axis=-1), layer.combine_heads)

print("layer\n", from_layer)
print("by hand\n", by_hand)
print(f"largest difference {np.abs(from_layer - by_hand).max():.0e}")

# %% [markdown]
# They agree in all digits that a float32 has. There is no magic left in that layer.
#
# **Why divide by $\sqrt{d}$?** A product of two vectors is a sum of $d$ terms, so the longer the
# vectors, the larger the scores. Large scores make softmax pick one word and ignore all others,
# and then there is next to no gradient to learn from. Dividing keeps the scores at the same size
# for every width:

# %%
rng = np.random.default_rng(0)
print("width   scores spread   largest of 10 weights: plain   divided")
for width in (4, 64, 1024):
    query, keys = rng.normal(size=(500, 1, width)), rng.normal(size=(500, 10, width))
    scores = (query * keys).sum(axis=-1)  # (trial, key)
    plain, divided = (softmax(s).max(axis=-1).mean() for s in (scores, scores / math.sqrt(width)))
    print(f"{width:5} {scores.std():15.1f} {plain:30.2f} {divided:9.2f}")

# %% [markdown]
# **Try it.** In the three-word example, change the vector of *cold* so that *soup* looks at
# *soup* alone. What do you have to do?
#
# <details><summary>Answer</summary>
#
# Make the product of the two vectors small: let *cold* point in another direction, for example
# `[0.0, 2.0, 0.0, 2.0]`. Then its score with *soup* is `0.8 / 2 = 0.4`, against 3.4 for *soup*
# with itself.
# </details>

# %% [markdown]
# ## 3. Who may look at whom
#
# Some words must not be seen. Sentences of a batch have different lengths, and the short ones are
# filled up with `[PAD]`, which means nothing. And a model that writes text word by word must not
# see the words that come later. Both are done by the same trick: before softmax, a number is
# added to the score, 0 where looking is allowed and a very negative one where it is not. After
# softmax that weight is 0.
#
# The trick has two functions, `padding_bias` and `causal_bias`, and every layer and block takes
# the result as `attention_bias`.

# %%
from kerasllm.layers import causal_bias, padding_bias

words = ["not", "bad", "at all", "[PAD]"]
x = rng.normal(size=(1, 4, 8)).astype("float32")  # (batch, length, width)
layer = MultiHeadSelfAttention(embed_dim=8, num_heads=1)
layer(x)  # the first call makes the weights


def attention_weights(layer, x, bias=None):
    """The weights of an attention layer for `x`: `(batch, heads, query, key)`."""
    parts = (layer.query_dense, layer.key_dense, layer.value_dense)
    query, key, value = (layer.separate_heads(part(x), len(x)) for part in parts)
    return ops.convert_to_numpy(layer.attention(query, key, value, bias)[1])


biases = {
    "no bias": None,
    "padding_bias": padding_bias(np.array([[1, 1, 1, 0]])),
    "causal_bias": causal_bias(4),
}
figure, all_axes = plt.subplots(1, 3, figsize=(8.4, 2.7))
for axes, (name, bias) in zip(all_axes, biases.items()):
    draw_weights(axes, attention_weights(layer, x, bias)[0, 0], words, name)
plt.show()

# %% [markdown]
# A picture may lie, so let us test it: replace the last vector by another, and see whose output
# moves.

# %%
changed = x.copy()
changed[0, -1] = rng.normal(size=8)

for name, bias in biases.items():
    before, after = (ops.convert_to_numpy(layer(v, attention_bias=bias)) for v in (x, changed))
    print(f"{name:13} moves by", np.abs(after - before).max(axis=-1)[0])

# %% [markdown]
# Without a bias everything moves. With `padding_bias` the three real words don't notice what
# stands in the padding, not in a single bit. (The padding's own output moves; nobody will read
# it.) With `causal_bias` no word notices what comes after it.
#
# **Try it.** A model that writes text also gets padded batches. How do you forbid both, padding
# and later words?
#
# <details><summary>Answer</summary>
#
# Add the two: `padding_bias(mask) + causal_bias(length)`. Their shapes are `(batch, 1, 1,
# length)` and `(1, 1, length, length)`, so the sum has the shape `(batch, 1, length, length)`.
# </details>

# %% [markdown]
# ## 4. The block
#
# A `TransformerBlock` is attention, then a small network (`ffn`) that works on each word alone.
# Around each of the two stand a *residual sum* and a `LayerNormalization`: the input is added to
# the output, and the sum is brought to a common scale. As two lines:

# %%
x = rng.normal(loc=2.0, scale=3.0, size=(1, 5, 32)).astype("float32")
block = TransformerBlock(embed_dim=32, num_heads=2, ff_dim=64)
from_block = ops.convert_to_numpy(block(x, training=False))

attended = block.layernorm1(x + block.att(x))
by_hand = block.layernorm2(attended + block.ffn(attended))

print(f"largest difference {np.abs(from_block - by_hand).max():.0e}")
for name, vectors in (("in", x[0]), ("out", from_block[0])):
    mean, spread = np.abs(vectors.mean(axis=-1)), vectors.std(axis=-1)
    print(f"{name:3}  |mean| {mean}  spread {spread}")

# %% [markdown]
# LayerNorm takes each word's vector on its own and gives it mean 0 and spread 1, whatever came
# in. (It then multiplies and shifts by numbers that are learned; fresh ones change nothing.) So
# blocks can be stacked, and the numbers neither explode nor vanish.
#
# And the residual sum? Attention averages, and what is averaged again and again becomes the same
# everywhere. We stack 12 fresh layers both ways and measure how alike the words' vectors are: 1
# means that they all point in the same direction.


# %%
def likeness(x):
    """Mean cosine between the vectors of different words."""
    x = ops.convert_to_numpy(x)[0].astype("float64")
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    count = len(x)
    return ((x @ x.T).sum() - count) / (count * (count - 1))


x = rng.normal(size=(1, 10, 32)).astype("float32")
fresh = keras.initializers.TruncatedNormal(stddev=0.02)  # as BERT begins
attentions = [MultiHeadSelfAttention(32, 2, kernel_initializer=fresh) for _ in range(12)]
blocks = [TransformerBlock(32, 2, 64, kernel_initializer=fresh) for _ in range(12)]
curves = {"attention alone": attentions, "TransformerBlock": blocks}
figure, axes = plt.subplots(figsize=(5, 2.8))
for name, layers in curves.items():
    vectors, curve = x, [likeness(x)]
    for layer in layers:
        vectors = layer(vectors)
        curve.append(likeness(vectors))
    axes.plot(curve, "o-", label=name)
axes.set(xlabel="layers", ylabel="likeness of the words", ylim=(-0.1, 1.05))
axes.legend()
plt.show()

# %% [markdown]
# With attention alone, every word says the same after a single layer, and nothing about the
# sentence is left: fresh weights look everywhere alike, so each word gets the same average. The
# residual sum carries each word past the averaging, until attention has learned where to look.
# (Dong et al. 2021, "Attention is not all you need", prove that without it the words collapse,
# and how fast.)
#
# One thing is still missing. Attention has no idea of order: shuffle the words, and the output is
# the same, shuffled. To attention alone, "not good, but bad" and "not bad, but good" are one and
# the same. That is why the embedding adds a second vector to the word's own: one that says where
# it stands.

# %%
block = TransformerBlock(32, 2, 64)
order = rng.permutation(10)
plain, shuffled = (ops.convert_to_numpy(block(v)) for v in (x, x[:, order]))
print(f"vectors alone:  moves by {np.abs(shuffled - plain[:, order]).max():.6f}")

embedding = TokenAndPositionEmbedding(48, 2000, 32)  # longest text, number of tokens, width
ids = np.arange(10)[None]
plain, shuffled = (ops.convert_to_numpy(block(embedding(v))) for v in (ids, ids[:, order]))
print(f"with positions: moves by {np.abs(shuffled - plain[:, order]).max():.6f}")

# %% [markdown]
# ## 5. From text to numbers, and back
#
# Now real text. The library brings a few reviews for practice: restaurants, films, phones,
# hotels. They were generated by a program, from phrases written for this project, so nobody's
# words are used, and they are small enough to learn from in a minute. (With files of your own,
# write `read_rows("reviews.csv")` instead.)

# %%
rows = read_rows("sample:reviews_en:train")
test = read_rows("sample:reviews_en:test")
train, validation = split_rows(rows, (0.9, 0.1), seed=0)
if FAST:
    train, validation, test = train[:160], validation[:40], test[:80]

print(
    len(train),
    "to learn from,",
    len(validation),
    "to pick the best epoch,",
    len(test),
    "to test on",
)
for row in train[:4]:
    print(f"{row['label']:9} {row['text']}")

# %% [markdown]
# A model takes numbers. BERT's WordPiece gives every frequent word one number (an *id*) and cuts
# the others into pieces that are in its list; a piece that continues a word begins with `##`. We
# learn the list from the texts to learn from.

# %%
tokenizer = WordPieceTokenizer.train([row["text"] for row in train], vocab_size=2000)
print(tokenizer.vocab_size, "entries:", *tokenizer.vocab[:5], "…", *tokenizer.vocab[200:205], "…")

text = "The waiter was unforgettably rude."
ids = tokenizer.encode(text)
print(ids)
print([tokenizer.vocab[i] for i in ids])
print(tokenizer.decode(ids))

# %% [markdown]
# Called with a list of texts, the tokenizer gives what BERT wants. Each row begins with `[CLS]`,
# whose vector will stand for the whole text, and ends with `[SEP]`. The short row is filled up
# with `[PAD]`, and `padding_mask` says which tokens are real. (`segment_ids` tells the two texts
# of a pair apart; we have no pairs, so they are all 0.)

# %%
batch = tokenizer(["What a lovely room.", "Avoid."], max_length=48)
for name, values in batch.items():
    print(name, *values, sep="\n    ")
for row in batch["token_ids"]:
    print([tokenizer.vocab[i] for i in row])

# %% [markdown]
# **One behaviour everywhere.** A model on a server has no Python tokenizer beside it: the
# tokenizer becomes part of its TensorFlow graph. If the two differed on a single accent, the
# model would be worse on the server than here, and nobody would know why. So `in_graph()` gives a
# tokenizer made of TensorFlow operations, with the same ids to the last one:

# %%
awkward = [
    "Très CAFÉ",
    "so 👍🏽 good",
    "味道很好!",
    "tab\there",
    "",
    "[SEP] typed by a user",
    "x" * 150,
]
in_python = tokenizer(awkward, max_length=48)
in_graph = tokenizer.in_graph()(tf.constant(awkward), max_length=48)
print("equal:", all(np.array_equal(in_python[name], in_graph[name]) for name in in_python))
for text, ids in zip(awkward, in_python["token_ids"]):
    print(f"{text:22.22}", *[tokenizer.vocab[i] for i in ids if i != tokenizer.pad_id][:9])

# %% [markdown]
# Accents and capitals are gone, a Chinese character is a word, what the list doesn't have is
# `[UNK]`, and a user who types `[SEP]` gets plain text, not the token.
#
# **Try it.** Train a second tokenizer with `lowercase=False`. What does it do to "CAFÉ"?
#
# <details><summary>Answer</summary>
#
# `WordPieceTokenizer.train(texts, vocab_size=2000, lowercase=False)` keeps capitals and accents.
# No *É* occurs in these reviews, so "CAFÉ" is `[UNK]` as a whole. A cased list needs more entries
# for the same words ("The" and "the"), so for little data lower case is better.
# </details>

# %% [markdown]
# ## 6. Train
#
# `BertClassifier` is an embedding, a stack of the blocks that you now know, and a classifier on
# the vector of `[CLS]`. This one is "BERT tiny": 2 blocks, 128 wide. The call is the tutorial's,
# a pair of `(input_ids, attention_mask)`.

# %%
MAX_LENGTH = 48  # tokens; the longest of these reviews has 45
LABELS = ("negative", "positive")


def new_model():
    """A fresh classifier; the same weights each time."""
    keras.utils.set_random_seed(0)
    config = TransformerConfig(
        tokenizer.vocab_size,
        num_layers=2,
        num_heads=2,
        embed_dim=128,
        ff_dim=512,
        max_length=MAX_LENGTH,
    )
    return BertClassifier(len(LABELS), config, labels=LABELS, tokenizer=tokenizer)


def encode(rows):
    """What `model.fit` takes: `(input_ids, attention_mask)`, and the class ids."""
    batch = tokenizer([row["text"] for row in rows], max_length=MAX_LENGTH, pad_to=MAX_LENGTH)
    labels = np.array([LABELS.index(row["label"]) for row in rows])
    return (batch["token_ids"], batch["padding_mask"]), labels


x_train, y_train = encode(train)
x_validation, y_validation = encode(validation)

model = new_model()
logits = model((x_train[0][:32], x_train[1][:32]))  # (batch, num_classes)
print(f"{model.count_params():,} weights, logits of shape {tuple(logits.shape)}")

# %% [markdown]
# **A check before any training.** A fresh model knows nothing, so of two classes it gives each
# about one half, and its loss must be about $\ln 2 = 0.693$. If it isn't, there is an error
# somewhere, and you have found it in a second.

# %%
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
print(f"loss {float(cross_entropy(y_train[:32], logits)):.3f}")

# %% [markdown]
# ### The tutorial's way: `compile` and `fit`
#
# The model is a plain `keras.Model`, so everything that you know from Keras works.

# %%
model.compile(keras.optimizers.Adam(3e-4), cross_entropy, metrics=["accuracy"])
history = model.fit(
    x_train,
    y_train,
    validation_data=(x_validation, y_validation),
    epochs=1 if FAST else 4,
    batch_size=16,
    verbose=2,  # a line an epoch
)

# %% [markdown]
# For an epoch nothing seems to happen (`val_accuracy` near one half), then it learns. That is
# usual: as long as attention looks everywhere alike, `[CLS]` holds the average of all words, and
# only slowly do the words that matter come out of it.
#
# ### The library's way: `fit`
#
# `kerasllm.fit` is `model.fit` with the recipe that BERT is trained by:
#
# - the learning rate rises from 0 (*warm-up*: the first gradients of a fresh model are of little
#   use) and then falls to 0 (so that the last steps only polish);
# - *weight decay* pulls the matrices, but not norms and biases, towards 0;
# - a batch holds texts of like length, so little padding is computed;
# - in the end the model has the weights of the epoch that was best on `validation`.
#
# It takes the rows as they are.

# %%
model = new_model()
history = fit(
    model,
    train,
    validation,
    epochs=1 if FAST else 6,
    batch_size=16,
    learning_rate=5e-4,
    progress=False,  # leave it out, and you have a progress bar
)
for epoch, (loss, accuracy) in enumerate(zip(history["loss"], history["val_accuracy"]), start=1):
    print(f"epoch {epoch}: loss {loss:.3f}, accuracy on validation {accuracy:.3f}")

# %%
from kerasllm.evaluation import plot_confusion, plot_history

plot_history(history)

# %% [markdown]
# With so small a model both ways come about equally far. The recipe earns its keep with a
# pretrained one, in which a start that is too fast destroys what it knows.
#
# How to read such curves:
#
# - both losses fall: it learns; let it go on;
# - the training loss falls and the validation loss rises: it learns the training texts by heart.
#   Stop, or find more data. (The accuracy may still stand where it was: the model gets more sure
#   of its mistakes.)
# - nothing falls: the learning rate is too high or too low, or labels and texts don't belong
#   together.
#
# **Try it.** Train with `learning_rate=5e-3`. What do the curves look like?
#
# <details><summary>Answer</summary>
#
# Nothing falls; the accuracy jumps between the shares of the two classes, because the model gives
# every text the same answer. Ten times too high is usually too high. For a fresh model of this
# size, 3e-4 to 1e-3 works; for a pretrained one, 2e-5 to 1e-4.
# </details>
#
# **Try it.** Train the tutorial's model of section 1 on the same arrays. How far does it come?
#
# <details><summary>Answer</summary>
#
# ```python
# tutorial_model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
# tutorial_model.fit(x_train[0], y_train, batch_size=32, epochs=6)
# (ids, _), labels = encode(test)
# tutorial_model.evaluate(ids, labels)
# ```
#
# To about 0.8 in a few seconds. It is small, it averages over all 48 positions, and most of them
# are padding, which it can't tell from words: nobody gave it a mask.
# </details>

# %% [markdown]
# ## 7. How good is it?
#
# On the test rows, which it has not seen, and which picked nothing:

# %%
found = evaluate(model, test)
print(found)
plot_confusion(found)

# %% [markdown]
# Is that good? A number says little without another one beside it. So count words: take how often
# each word occurs in a text, no order at all, and fit a logistic regression. That is three lines,
# and it is trained in a blink.

# %%
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

counting = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
counting.fit([row["text"] for row in train], [row["label"] for row in train])

test_texts, test_labels = ([row[name] for row in test] for name in ("text", "label"))
by_counting = counting.score(test_texts, test_labels)
by_bert = found.accuracy
error = math.sqrt(by_bert * (1 - by_bert) / len(test))
print(f"counting words {by_counting:.3f}")
print(f"this BERT      {by_bert:.3f}, give or take {error:.3f}")

# %% [markdown]
# Two lessons. With few texts, counting words comes close: always try the simple thing first. And
# 400 test rows give a result to within the last number above (its standard error), so don't
# celebrate half a percent.
#
# What can a BERT do that counting cannot? The pairs below have the same words in another order,
# so counting must give both the same score. BERT need not.

# %%
from kerasllm.tasks.text_classification import predict


def positive(model, texts):
    """How likely each text is positive, by the model."""
    return predict(model, [{"text": text} for text in texts])[:, LABELS.index("positive")]


pairs = [
    "The jokes are witty, yet the ending is rushed.",
    "The ending is rushed, yet the jokes are witty.",
    "The film was funny, but the ending was dull.",
    "The ending was dull, but the film was funny.",
]
print("BERT   counting")
for text, ours, theirs in zip(pairs, positive(model, pairs), counting.predict_proba(pairs)[:, 1]):
    print(f"{ours:.3f}  {theirs:.3f}     {text}")

# %% [markdown]
# In these reviews, what comes after *but* or *yet* decides. Our model has learned it for some
# sentences and not for others: only about one review in six turns around like this, and it has
# read some 1,400. (A pretrained BERT has read billions of words before it sees the first review.
# Section 10 says how to start from one.)
#
# The most useful page of any evaluation is the list of the worst mistakes. Read it before you
# change anything.

# %%
print("label     score of that label")
for example in found.worst[:6]:
    print(f"{example['label']:9} {example['score']:.3f}  {example['text']}")

# %% [markdown]
# **Try it.** What have most of these texts in common? What would you do about it?
#
# <details><summary>Answer</summary>
#
# They turn around: "far from …", "anything but …", "nobody can tell me that …". More texts of
# that kind would help most, and then a pretrained checkpoint. A wider model would not: this one
# can already learn its training texts by heart.
# </details>

# %% [markdown]
# ## 8. Look inside
#
# Which words does the model look at? We send one sentence through, block by block, and ask each
# attention layer for its weights, as in section 3.

# %%
sentence = pairs[0]
batch = tokenizer([sentence], max_length=MAX_LENGTH)
tokens = [tokenizer.vocab[i] for i in batch["token_ids"][0]]

hidden_states = model.bert.embedding(batch["token_ids"])
bias = padding_bias(batch["padding_mask"])
figure, all_axes = plt.subplots(2, 2, figsize=(8, 8))
for number, (row, block) in enumerate(zip(all_axes, model.bert.blocks), start=1):
    weights = attention_weights(block.att, hidden_states, bias)[0]  # (heads, query, key)
    for head, axes in enumerate(row):
        draw_weights(axes, weights[head], tokens, f"block {number}, head {head + 1}")
    hidden_states = block(hidden_states, attention_bias=bias)
plt.show()

# %% [markdown]
# The row of `[CLS]` at the top of block 2 is the one that counts: what it takes in there goes to
# the classifier. Take such pictures as a hint, not as a proof: they show where the model looks,
# not what it makes of it.

# %% [markdown]
# ## 9. Save, load, export
#
# `save_pretrained` writes a folder as Hugging Face has them; `transformers` loads it, and so does
# `from_pretrained`, with tokenizer and labels.

# %%
model.save_pretrained(OUTPUT / "model")
for file in sorted((OUTPUT / "model").iterdir()):
    print(f"{file.name:24} {file.stat().st_size:>9,} bytes")

loaded = BertClassifier.from_pretrained(OUTPUT / "model")
print("same scores:", np.array_equal(positive(loaded, pairs), positive(model, pairs)))

# %% [markdown]
# ### For a server: a SavedModel
#
# It takes text and gives scores and label; the tokenizer is inside. Before the call returns, the
# export is tried on sentences in many languages, in a fresh process that has no kerasllm, and
# once more by the loader that TensorFlow Serving uses. Too large a difference would be an error,
# and leave no file behind. What was found is printed, returned and written beside the export.

# %%
report = to_saved_model(model, OUTPUT / "serving")

# %% [markdown]
# `serving/1` is version 1; export again, and you have version 2, which a server picks up by
# itself. Here is how anybody uses it, without kerasllm:

# %%
import tensorflow_text  # noqa: F401  (brings the operations of the tokenizer)

sentences = [
    "The room was spotless, and the breakfast was delicious.",
    "The battery dies before lunch.",
    "The ending is rushed, yet the jokes are witty.",
]
served = tf.saved_model.load(report.path)
answer = served.signatures["serving_default"](text=tf.constant(sentences))
for text, label, scores in zip(sentences, answer["label"].numpy(), answer["scores"].numpy()):
    print(f"{label.decode():9} {scores}  {text}")

# %% [markdown]
# ### For a phone: a TFLite file
#
# One file holds weights, vocabulary and labels, and MediaPipe runs it on Android, iOS and in a
# browser. `quantize="int8"` stores each weight in one byte where float32 takes four: a quarter of
# the size, and faster, for scores that differ a little. The report says how little.

# %%
report = to_tflite(model, OUTPUT / "model.tflite", quantize="int8", max_length=MAX_LENGTH)

# %% [markdown]
# The warning is about accents and capitals in text that an app hands to MediaPipe as it is;
# `export/mobile/README.md` has the few lines that take care of them.
#
# A plain interpreter runs the file on token ids, one text at a time. This is what an app does, in
# its own language:

# %%
from ai_edge_litert.interpreter import Interpreter

run = Interpreter(report.path).get_signature_runner("serving_default")
batch = tokenizer(sentences, max_length=MAX_LENGTH, pad_to=MAX_LENGTH)
on_phone = [
    run(**{name: values[i : i + 1] for name, values in batch.items()})["scores"][0]
    for i in range(len(sentences))
]

print("positive:  Keras  SavedModel  TFLite int8")
columns = positive(model, sentences), answer["scores"].numpy()[:, 1], np.array(on_phone)[:, 1]
for text, *scores in zip(sentences, *columns):
    print("          {:6.3f} {:11.3f} {:12.3f}".format(*scores), text)

# %% [markdown]
# **Try it.** Export without `quantize`, and with `quantize="float16"`. Compare size, difference
# and time.
#
# <details><summary>Answer</summary>
#
# float32 has 2.7 MB and scores equal to Keras to about 1e-7; float16 has half of that, with
# differences of up to about 1e-3. A model as small as this one takes less than a millisecond in
# any of them. For a larger one, int8 is two to three times as fast, and float16 no faster than
# float32, because its weights are turned back before they are multiplied.
# </details>

# %% [markdown]
# ## 10. Where to go next
#
# **Start from a real checkpoint.** A BERT that has read billions of words is far better than a
# fresh one. Any folder of Hugging Face's with `config.json`, `model.safetensors` and a vocabulary
# will do, or a name on its hub; the classifier on top is fresh. Use small learning rates:
#
# ```python
# model = BertClassifier.from_pretrained("path/to/bert", labels=("negative", "positive"))
# fit(model, train, validation, epochs=3, learning_rate=5e-5)
# ```
#
# **Your own data.** `read_rows` reads `.csv`, `.tsv`, `.jsonl` and `.txt` files, folders, lists
# and more; a bad row is reported with its line. `read_rows("reviews.csv", rename={"text":
# "review"})` if your column has another name. And `sample:reviews_zh` has reviews of the same
# kind in Chinese.
#
# **The command line.** All of this notebook, from a terminal, with a report page to open in a
# browser:
#
# ```
# kerasllm train bert_tiny sample:reviews_en:train runs/reviews --test sample:reviews_en:test \
#     --vocab-size 2000 --max-length 48 --epochs 6 --batch-size 16 --learning-rate 5e-4
# kerasllm export runs/reviews saved_model runs/serving
# kerasllm predict runs/serving "The ending is rushed, yet the jokes are witty."
# ```
#
# **Deploy.** `export/serving/README.md` takes the SavedModel to TensorFlow Serving, and
# `export/mobile/README.md` the TFLite file to Android, iOS and the web.
#
# **Read the code.** `kerasllm/layers/attention.py` and `transformer_block.py` are what you did by
# hand in sections 2 to 4, and every model of the library is made of them.
