// The loop over a language model's .tflite file of kerasllm: tokens in, tokens out.

/** The signatures `prefill_<length>` and `decode`, and the class of the tensors that they take. */
export class Model {
  constructor(signatures, Tensor) {
    this.signatures = signatures;
    this.Tensor = Tensor;
    this.lengths = Object.keys(this.signatures)
      .filter((name) => name.startsWith("prefill_"))
      .map((name) => Number(name.split("_")[1]))
      .sort((a, b) => b - a); // the longest pieces first
    const inputs = this.signatures.decode.getInputDetails();
    this.rows = inputs.filter(({ name }) => name.startsWith("kv_cache"));
    this.most = this.rows[0].shape[2];
    this.cache = {};
    this.reset();
  }

  /** Forget all tokens. */
  reset() {
    Object.values(this.cache).forEach((tensor) => tensor.delete());
    this.cache = Object.fromEntries(
      this.rows.map(({ name, shape }) => [
        name,
        new this.Tensor(new Float32Array(shape.reduce((a, b) => a * b)), shape),
      ])
    );
    this.position = 0;
  }

  /** Take up tokens, without asking what comes next. */
  async read(ids) {
    // Past the end, the rows of older tokens would be overwritten, without an error.
    if (this.position + ids.length > this.most) {
      throw new RangeError(`There is room for ${this.most - this.position} tokens, not ${ids.length}.`);
    }
    for (const length of this.lengths) {
      while (ids.length >= length) {
        await this.run(`prefill_${length}`, ids.slice(0, length));
        ids = ids.slice(length);
      }
    }
  }

  /** Take up one token, and score what may come next: the logits, a Float32Array. */
  async next(token) {
    if (this.position >= this.most) throw new RangeError(`There is room for ${this.most} tokens.`);
    const logits = await this.run("decode", [token]);
    const scores = logits.toTypedArray();
    logits.delete();
    return scores;
  }

  async run(signature, ids) {
    const tokens = new this.Tensor(Int32Array.from(ids), [1, ids.length]);
    const positions = Int32Array.from(ids, (_, i) => this.position + i);
    const inputs = { tokens, input_pos: new this.Tensor(positions, [ids.length]), ...this.cache };
    const { logits, ...cache } = await this.signatures[signature].run(inputs);
    Object.values(inputs).forEach((tensor) => tensor.delete()); // not collected by themselves
    this.cache = cache;
    this.position += ids.length;
    return logits;
  }
}

/** Write on from tokens, until one of `stopIds` comes, or the cache is full: the likeliest ones. */
export async function* generate(model, ids, stopIds = [], most = 64) {
  if (!ids.length) throw new RangeError("There must be at least one token to write on from.");
  await model.read(ids.slice(0, -1));
  let token = ids.at(-1);
  for (let count = 0; count < most; count++) {
    const scores = await model.next(token);
    token = scores.reduce((best, score, i) => (score > scores[best] ? i : best), 0);
    if (stopIds.includes(token)) return;
    yield token;
    if (model.position === model.most) return;
  }
}
