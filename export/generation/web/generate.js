// Writes on from a prompt in this browser: a .tflite file of kerasllm, LiteRT.js, and the loop.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { Tokenizer } from "@huggingface/tokenizers";

/** A .tflite file with the signatures `prefill_<length>` and `decode`. */
export class Model {
  static async load(file) {
    await loadLiteRt("node_modules/@litertjs/core/wasm/");
    return new Model(await loadAndCompile(file, { accelerator: "wasm" }));
  }

  constructor(compiled) {
    this.signatures = compiled.signatures;
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
        new Tensor(new Float32Array(shape.reduce((a, b) => a * b)), shape),
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
    const tokens = new Tensor(Int32Array.from(ids), [1, ids.length]);
    const positions = Int32Array.from(ids, (_, i) => this.position + i);
    const inputs = { tokens, input_pos: new Tensor(positions, [ids.length]), ...this.cache };
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

/** Load model and tokenizer, and return a function from a prompt to the texts so far. */
export async function load(file = "model.tflite") {
  const [json, options, config] = await Promise.all(
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json"].map(async (name) =>
      (await fetch(name)).json()
    )
  );
  const tokenizer = new Tokenizer(json, options);
  const model = await Model.load(file);
  return async function* (prompt, most) {
    const { ids } = tokenizer.encode(prompt, { add_special_tokens: false });
    const found = [];
    model.reset();
    for await (const token of generate(model, [...config.bos_token_id, ...ids], config.eos_token_id, most)) {
      found.push(token);
      yield tokenizer.decode(found, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
    }
  };
}
