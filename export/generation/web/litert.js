// Writes on from a prompt in this browser: a .tflite file of kerasllm, LiteRT.js, and the loop.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { Tokenizer } from "@huggingface/tokenizers";
import { generate, Model } from "./generate.js";

/** Load model and tokenizer, and return a function from a prompt to the texts so far. */
export async function load(file = "model.tflite") {
  await loadLiteRt("node_modules/@litertjs/core/wasm/");
  const [json, options, config] = await Promise.all(
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json"].map(async (name) =>
      (await fetch(name)).json()
    )
  );
  const tokenizer = new Tokenizer(json, options);
  const compiled = await loadAndCompile(file, { accelerator: "wasm" });
  const model = new Model(compiled.signatures, Tensor);
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
