"""How fast do the exported SavedModel and .tflite files answer, against onnxruntime?

All artefacts hold the same weights and get the same sentences. In the workload `text`, batches of
32 texts go in, so that tokenizing counts: inside the SavedModel's graph, and in Hugging Face's
tokenizer before onnxruntime. In the others, identical token ids of one sentence at a time, padded
to 128, go into float32 and int8 models that run on one or on two threads.
"""

import json

import contest
import material
import numpy as np

WORKLOADS = ("text", "float32-1", "int8-1", "float32-2", "int8-2")
BATCH_SIZE = 32
LENGTH = 128
INPUTS = ("token_ids", "padding_mask", "segment_ids")
ONNX_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export_ours(folder):
    """Write `saved_model/1`, `float32.tflite` and `int8.tflite`; return Keras' own scores."""
    from kerasllm import BertClassifier, to_saved_model, to_tflite
    from kerasllm.tasks import text_classification

    model = BertClassifier.from_pretrained(folder)
    to_saved_model(model, folder / "saved_model", max_length=LENGTH)
    to_tflite(model, folder / "float32.tflite", max_length=LENGTH)
    to_tflite(model, folder / "int8.tflite", max_length=LENGTH, quantize="int8")
    rows = [{"text": text} for text in material.read(folder)["texts"]]
    return text_classification.predict(model, rows, max_length=LENGTH).tolist()


def export_onnx(folder):
    """Write `float32.onnx` with dynamic shapes, and `int8.onnx` by dynamic quantization."""
    import onnx
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from transformers import AutoModelForSequenceClassification

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(folder)

        def forward(self, *inputs):
            logits = self.model(**dict(zip(ONNX_INPUTS, inputs))).logits
            return logits.softmax(-1)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    # Three tensors, because the exporter takes one that is given thrice for one input.
    example = tuple(torch.ones((2, 16), dtype=torch.long) for _ in ONNX_INPUTS)
    torch.onnx.export(
        Scores().eval(),
        example,
        folder / "float32.onnx",
        input_names=ONNX_INPUTS,
        output_names=["scores"],
        dynamic_shapes=[({0: batch, 1: length},) * len(ONNX_INPUTS)],
        verbose=False,
    )
    graph = onnx.load(folder / "float32.onnx")
    del graph.graph.value_info[:]  # shapes noted before the exporter folded nodes: some are wrong
    quantize_dynamic(graph, folder / "int8.onnx")


def saved_model_text(folder):
    """The SavedModel's signature for text."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

    loaded = tf.saved_model.load(folder / "saved_model" / "1")
    texts = _text_batches(folder)

    def work():
        answer = loaded.signatures["serving_default"]
        return [row for batch in texts for row in answer(text=batch)["scores"].numpy().tolist()]

    return work


def onnx_text(folder, file):
    """An ONNX file behind Hugging Face's tokenizer."""
    from transformers import AutoTokenizer

    session = _session(folder / file, threads=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = _text_batches(folder)

    def work():
        rows = []
        for batch in texts:
            ids = tokenizer(
                batch, padding=True, truncation=True, max_length=LENGTH, return_tensors="np"
            )
            rows += session.run(None, {name: ids[name] for name in ONNX_INPUTS})[0].tolist()
        return rows

    return work


def saved_model(folder, threads):
    """The SavedModel's signature for token ids."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(folder / "saved_model" / "1")
    rows = [{name: tf.constant(ids) for name, ids in row.items()} for row in _single_rows(folder)]

    def work():
        answer = loaded.signatures["token_ids"]
        return [answer(**row)["scores"].numpy()[0].tolist() for row in rows]

    return work


def tflite(folder, file, threads):
    """A .tflite file in LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / file), num_threads=threads)
    answer = interpreter.get_signature_runner("serving_default")
    rows = _single_rows(folder)
    return lambda: [answer(**row)["scores"][0].tolist() for row in rows]


def onnx(folder, file, threads):
    """An ONNX file in onnxruntime."""
    session = _session(folder / file, threads)
    rows = [
        {theirs: row[ours].astype("int64") for ours, theirs in zip(INPUTS, ONNX_INPUTS)}
        for row in _single_rows(folder)
    ]
    return lambda: [session.run(None, row)[0][0].tolist() for row in rows]


def _session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: as many as there are cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _text_batches(folder):
    texts = material.read(folder)["texts"]
    return [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]


def _single_rows(folder):
    rows = material.padded(folder, LENGTH)
    return [
        {name: ids[i : i + 1] for name, ids in rows.items()} for i in range(len(rows["token_ids"]))
    ]


def contestants_of(workload, folder):
    """The contestants of a workload, for `contest.compare`; the first is ours."""
    if workload == "text":
        return {
            "SavedModel": (saved_model_text, folder),
            "onnxruntime": (onnx_text, folder, "float32.onnx"),
            "onnxruntime, int8": (onnx_text, folder, "int8.onnx"),
        }
    kind, threads = workload.split("-")
    contestants = {
        f"{kind}.tflite": (tflite, folder, f"{kind}.tflite", int(threads)),
        f"onnxruntime, {kind}": (onnx, folder, f"{kind}.onnx", int(threads)),
    }
    if kind == "float32":
        contestants["SavedModel"] = (saved_model, folder, int(threads))
    return contestants


def measure(workload, folder, arguments):
    """Measure one workload; see `contest.run`."""
    if not (folder / "sentences.json").exists():
        contest.alone(material.write, folder, arguments.model, arguments.data, arguments.sentences)
        scores = contest.alone(export_ours, folder)
        (folder / "scores.json").write_text(json.dumps(scores))
        contest.alone(export_onnx, folder)
    results = contest.compare(contestants_of(workload, folder), arguments.rounds)
    scores = json.loads((folder / "scores.json").read_text())
    first, count = next(iter(results)), len(scores)
    rows = [
        {
            "": name,
            "ms a sentence": contest.spread([1000 * t / count for t in result.wall], ".2f"),
            f"{first} is × as fast": contest.spread(contest.ratios(results, name)),
            "by CPU time": contest.spread(contest.ratios(results, name, "cpu")),
            "peak memory": f"{result.peak_bytes / 1e6:.0f} MB",
            "off Keras by": f"{_difference(scores, result.answer):.1e}",
        }
        for name, result in results.items()
    ]
    title = f"Inference, {workload}: {count} sentences, {arguments.rounds} rounds"
    numbers = {name: vars(result) for name, result in results.items()}
    return contest.markdown(title, rows), {"sentences": count, "contestants": numbers}


def _difference(ours, theirs):
    """The largest difference of a score."""
    return float(np.abs(np.array(ours) - np.array(theirs)).max())


if __name__ == "__main__":
    contest.run(__doc__, WORKLOADS, measure, sentences=128)
