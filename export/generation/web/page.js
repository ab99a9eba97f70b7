// The form: what both ways of running a model share. The query `?engine` takes LiteRT-LM.
const way = location.search === "?engine" ? "./engine.js" : "./generate.js";
const form = document.querySelector("form");
const output = document.querySelector("output");
const status = document.querySelector("#status");
try {
  const { load } = await import(way);
  const write = await load();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    const prompt = form.elements.prompt.value;
    button.disabled = true;
    output.value = prompt;
    const start = performance.now();
    try {
      for await (const text of write(prompt, 64)) output.value = prompt + text;
      status.textContent = `${((performance.now() - start) / 1000).toFixed(2)} s`;
    } catch (error) {
      status.textContent = error.message;
    }
    button.disabled = false;
  });
  form.querySelector("button").disabled = false;
  status.textContent = "Ready.";
} catch (error) {
  status.textContent = `The model can't be loaded: ${error.message}`;
  throw error;
}
