// Classifies text in this browser, with model.tflite from `kerasllm export`.
import { FilesetResolver, TextClassifier } from "./node_modules/@mediapipe/tasks-text/text_bundle.mjs";

// Whether the model was trained on lower-cased text without accents, as BERT "uncased" is.
const UNCASED = true;

/** Do to a text what MediaPipe leaves undone: it lower-cases ASCII letters only. */
export function plain(text) {
  if (!UNCASED) return text;
  const spaced = text.replace(/[\t\n\r\p{Z}]/gu, " ");
  const cleaned = spaced.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/gu, "");
  const bare = cleaned.normalize("NFD").replace(/\p{Mn}/gu, "");
  // One character at a time: at the end of a word, toLowerCase writes another sigma.
  return Array.from(bare, (char) => char.toLowerCase()).join("");
}

/** Load a .tflite file and return a function from a text to `[{label, score}, …]`, best first. */
export async function load(file = "model.tflite") {
  const wasm = await FilesetResolver.forTextTasks("node_modules/@mediapipe/tasks-text/wasm");
  const classifier = await TextClassifier.createFromModelPath(wasm, file);
  return (text) =>
    classifier
      .classify(plain(text))
      .classifications[0].categories.map(({ categoryName, score }) => ({ label: categoryName, score }));
}

const form = document.querySelector("form");
const output = document.querySelector("output");
try {
  const classify = await load();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [best] = classify(form.elements.text.value);
    output.value = `${best.label} (${best.score.toFixed(4)})`;
  });
  form.querySelector("button").disabled = false;
  output.value = "Ready.";
} catch (error) {
  output.value = `The model can't be loaded: ${error.message}`;
  throw error;
}
