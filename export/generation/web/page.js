// The form: what both ways of running a model share. The query `?engine` takes LiteRT-LM.
const MOST = 64; // new tokens
const way = location.search === "?engine" ? "./engine.js" : "./litert.js";
const form = document.querySelector("form");
const button = form.querySelector("button");
const status = document.querySelector("#status");
const [before, after] = document.querySelectorAll("output span");
document.querySelector(`a[href="./${location.search}"]`)?.setAttribute("aria-current", "page");
try {
  const { load } = await import(way);
  const write = await load();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const prompt = form.elements.prompt.value;
    button.disabled = true;
    status.textContent = "Writing …";
    before.textContent = prompt;
    after.textContent = "";
    const start = performance.now();
    try {
      for await (const text of write(prompt, MOST)) after.textContent = text;
      status.textContent = `Done in ${((performance.now() - start) / 1000).toFixed(2)} s.`;
    } catch (error) {
      status.textContent = error.message;
    }
    button.disabled = false;
  });
  button.disabled = false;
  status.textContent = "Ready.";
} catch (error) {
  status.textContent = `The model can't be loaded: ${error.message}`;
  throw error;
}
