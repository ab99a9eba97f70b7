// Writes on from a prompt in this browser: a .litertlm file of kerasllm, and LiteRT-LM.
import { Backend, Engine, loadLiteRtLm, SamplerType } from "@litert-lm/core";

/** Load a .litertlm file and return a function from a prompt to the texts so far. */
export async function load(file = "model.litertlm") {
  await loadLiteRtLm("node_modules/@litert-lm/core/wasm/");
  const engine = await Engine.create({ model: file, backend: Backend.CPU });
  return async function* (prompt, most) {
    const samplerParams = { type: SamplerType.TOP_P, k: 1, p: 1, temperature: 1 }; // the likeliest
    const conversation = await engine.createConversation({
      sessionConfig: { samplerParams, maxOutputTokens: most },
    });
    let text = "";
    for await (const { content } of conversation.sendMessageStreaming(prompt)) {
      for (const part of content) text += part.text ?? "";
      yield text;
    }
    await conversation.delete();
  };
}
