"""Run a SavedModel through TensorFlow's C API: `run_c_api.py question.json answer.json`.

This is the loader of TensorFlow Serving. It alone notices a SavedModel whose functions use
variables that its checkpoint does not hold: Python's loader finds them another way. TensorFlow's
Python package is not imported; only its libraries are.

Question and answer are those of `run_saved_model.py`; the question also holds `signatures`:
`{name: {"inputs": {name: [tensor name, dtype number]}, "outputs": the same}}`.
"""

import ctypes
import glob
import importlib.util
import json
import math
import os
import sys
import time

FLOAT, INT32, STRING, INT64 = 1, 3, 7, 9  # numbers of TF_DataType
NUMBERS = {FLOAT: ctypes.c_float, INT32: ctypes.c_int32, INT64: ctypes.c_int64}
TSTRING_BYTES = 24  # sizeof(TF_TString)


class Output(ctypes.Structure):
    """TF_Output: one output of an operation of a graph."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def load_library():
    """Load the libraries that the tensorflow wheel holds; return one that finds all C functions."""
    folder = os.path.dirname(importlib.util.find_spec("tensorflow").origin)
    for stem in ("libtensorflow_framework", "libtensorflow_cc"):
        # `.so.2` on Linux, `.2.dylib` on macOS
        path = next(iter(glob.glob(f"{folder}/{stem}*.2*")), None)
        if path is None:
            raise FileNotFoundError(f"`{folder}` holds no {stem}, so the C API can't be tried.")
        library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    for name in ("NewStatus", "NewGraph", "NewSessionOptions", "AllocateTensor", "TensorData"):
        getattr(library, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("Message", "StringGetDataPointer"):
        getattr(library, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("LoadSessionFromSavedModel", "GraphOperationByName", "LoadLibrary"):
        getattr(library, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("Dim", "StringGetSize"):
        getattr(library, f"TF_{name}").restype = ctypes.c_int64
    return library


class Session:
    """A SavedModel that the C API loaded."""

    def __init__(self, folder, tensorflow_text=True):
        self.tf = load_library()
        self.status = ctypes.c_void_p(self.tf.TF_NewStatus())
        if tensorflow_text:
            self._load_text_operations()
        self.graph = ctypes.c_void_p(self.tf.TF_NewGraph())
        options = ctypes.c_void_p(self.tf.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.tf.TF_LoadSessionFromSavedModel(
                options, None, os.fsencode(folder), tags, 1, self.graph, None, self.status
            )
        )
        self._check()

    def _load_text_operations(self):
        """TensorFlow Serving links the whole of TensorFlow Text, so load the whole of it."""
        folder = os.path.dirname(importlib.util.find_spec("tensorflow_text").origin)
        for path in sorted(glob.glob(f"{folder}/python/ops/*.so")):
            self.tf.TF_LoadLibrary(os.fsencode(path), self.status)
            self._check()

    def _check(self):
        if self.tf.TF_GetCode(self.status):
            message = ctypes.c_char_p(self.tf.TF_Message(self.status)).value
            raise RuntimeError(f"TensorFlow's C API: {message.decode('utf-8', 'replace')}")

    def run(self, signature, inputs):
        """Run one signature; `inputs` and the result are dicts of nested lists."""
        feeds, fetches = signature["inputs"], signature["outputs"]
        points = [self._output(feeds[name][0]) for name in inputs]
        values = [self._to_tensor(value, feeds[name][1]) for name, value in inputs.items()]
        wanted = [self._output(name) for name, _ in fetches.values()]
        results = (ctypes.c_void_p * len(wanted))()
        self.tf.TF_SessionRun(
            self.session,
            None,
            (Output * len(points))(*points),
            (ctypes.c_void_p * len(values))(*values),
            ctypes.c_int(len(values)),
            (Output * len(wanted))(*wanted),
            results,
            ctypes.c_int(len(wanted)),
            None,
            ctypes.c_int(0),
            None,
            self.status,
        )
        self._check()
        tensors = zip(fetches, results, strict=True)
        return {name: self._to_list(ctypes.c_void_p(tensor)) for name, tensor in tensors}

    def _output(self, tensor_name):
        name, _, index = tensor_name.partition(":")
        operation = self.tf.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise RuntimeError(f"The SavedModel's graph has no operation `{name}`.")
        return Output(operation, int(index))

    def _to_tensor(self, values, dtype):
        shape, flat = _shape_and_numbers(values)
        size = TSTRING_BYTES if dtype == STRING else ctypes.sizeof(NUMBERS[dtype])
        dims = (ctypes.c_int64 * len(shape))(*shape)
        tensor = ctypes.c_void_p(
            self.tf.TF_AllocateTensor(
                ctypes.c_int(dtype),
                dims,
                ctypes.c_int(len(shape)),
                ctypes.c_size_t(size * math.prod(shape)),
            )
        )
        data = self.tf.TF_TensorData(tensor)
        if dtype == STRING:
            for i, value in enumerate(flat):
                value = value.encode("latin-1")
                place = ctypes.c_void_p(data + i * TSTRING_BYTES)
                self.tf.TF_StringInit(place)
                self.tf.TF_StringCopy(place, value, ctypes.c_size_t(len(value)))
        else:
            array = (NUMBERS[dtype] * len(flat))(*flat)
            ctypes.memmove(data, array, ctypes.sizeof(array))
        return tensor

    def _to_list(self, tensor):
        shape = [
            self.tf.TF_Dim(tensor, ctypes.c_int(axis)) for axis in range(self.tf.TF_NumDims(tensor))
        ]
        dtype, count = self.tf.TF_TensorType(tensor), math.prod(shape)
        data = self.tf.TF_TensorData(tensor)
        if dtype == STRING:
            flat = [self._string(data + i * TSTRING_BYTES) for i in range(count)]
        else:
            flat = list((NUMBERS[dtype] * count).from_address(data)) if count else []
        self.tf.TF_DeleteTensor(tensor)
        return _nested(flat, shape)

    def _string(self, address):
        place = ctypes.c_void_p(address)
        data, size = self.tf.TF_StringGetDataPointer(place), self.tf.TF_StringGetSize(place)
        return ctypes.string_at(data, size).decode("latin-1")


def _shape_and_numbers(values):
    """Shape of a nested list, and its numbers or strings in one list."""
    shape = [len(values)]
    while values and isinstance(values[0], list):
        shape.append(len(values[0]))
        values = [value for row in values for value in row]
    return shape, values


def _nested(flat, shape):
    """The inverse of `_shape_and_numbers`."""
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]  # maybe 0
        flat = [flat[i * size : (i + 1) * size] for i in range(math.prod(shape[:axis]))]
    return flat


def main(question, answer):
    """Answer a question, both given as paths."""
    with open(question, encoding="utf-8") as file:
        question = json.load(file)
    session, answers = Session(question["folder"], question.get("tensorflow_text", True)), []
    for call in question["calls"]:
        start = time.perf_counter()
        outputs = session.run(question["signatures"][call["signature"]], call["inputs"])
        answers.append({"outputs": outputs, "seconds": time.perf_counter() - start})
    if "tensorflow" in sys.modules:
        raise RuntimeError("TensorFlow's Python package was imported, so this was no bare C API.")
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
