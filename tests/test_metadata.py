import io
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from kerasllm.export import metadata

INPUTS = ("segment_ids", "token_ids", "padding_mask")
VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun", "##s", "\u2028é", "好")
LABELS = ("bad", "très bon")


@pytest.fixture(scope="module")
def content():
    """A converted matrix product of 40 by 50 weights."""
    kernel = np.arange(2000, dtype=np.float32).reshape(40, 50)
    product = tf.function(lambda x: {"y": tf.matmul(x, kernel)}, autograph=False)
    function = product.get_concrete_function(tf.TensorSpec([1, 40], tf.float32, "x"))
    module = tf.Module()
    module.product = product
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()


@pytest.fixture(scope="module")
def attached(content):
    return metadata.attach(content, INPUTS, VOCAB, LABELS)


@pytest.fixture
def mediapipe_schema():
    return pytest.importorskip(
        "mediapipe.tasks.metadata.metadata_schema_py_generated",
        reason="mediapipe's own schema is what the metadata is checked against",
    )


def buffer_of(content, name):
    model = schema.Model.GetRootAs(content)
    entries = {
        model.Metadata(i).Name().decode(): model.Metadata(i).Buffer()
        for i in range(model.MetadataLength())
    }
    return model.Buffers(entries[name]).DataAsNumpy().tobytes()


def test_metadata_reads_back_through_mediapipe_s_schema(attached, mediapipe_schema):
    data = buffer_of(attached, "TFLITE_METADATA")
    assert mediapipe_schema.ModelMetadata.ModelMetadataBufferHasIdentifier(data, 0)
    model = mediapipe_schema.ModelMetadataT.InitFromPackedBuf(data)
    assert (model.name, model.minParserVersion) == (b"TextClassifier", b"1.5.0")
    (graph,) = model.subgraphMetadata
    assert [t.name for t in graph.inputTensorMetadata] == [b"segment_ids", b"ids", b"mask"]
    (output,) = graph.outputTensorMetadata
    assert output.name == b"probability"
    for tensor in (*graph.inputTensorMetadata, output):
        assert isinstance(tensor.content.contentProperties, mediapipe_schema.FeaturePropertiesT)
        assert tensor.description
    (labels,) = output.associatedFiles
    types = mediapipe_schema.AssociatedFileType
    assert (labels.name, labels.type) == (b"labels.txt", types.TENSOR_AXIS_LABELS)
    (unit,) = graph.inputProcessUnits
    assert isinstance(unit.options, mediapipe_schema.BertTokenizerOptionsT)
    (vocab,) = unit.options.vocabFile
    assert (vocab.name, vocab.type) == (b"vocab.txt", types.VOCABULARY)


def test_file_numbers_are_those_of_mediapipe_s_schema(mediapipe_schema):
    assert mediapipe_schema.AssociatedFileType.VOCABULARY == metadata.VOCABULARY
    assert mediapipe_schema.AssociatedFileType.TENSOR_AXIS_LABELS == metadata.AXIS_LABELS
    assert mediapipe_schema.ContentProperties.FeatureProperties == metadata.FEATURE_PROPERTIES
    options = mediapipe_schema.ProcessUnitOptions
    assert options.BertTokenizerOptions == metadata.BERT_TOKENIZER_OPTIONS


def test_files_are_a_stored_archive_with_a_fixed_date(attached):
    with zipfile.ZipFile(io.BytesIO(attached)) as archive:
        assert archive.testzip() is None
        assert archive.read("vocab.txt").decode().split("\n") == [*VOCAB, ""]
        assert archive.read("labels.txt").decode().split("\n") == [*LABELS, ""]
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_equal_arguments_give_equal_bytes(content, attached):
    assert metadata.attach(content, INPUTS, VOCAB, LABELS) == attached
    assert metadata.attach(content, INPUTS, VOCAB, LABELS[::-1]) != attached


def test_the_converter_s_bytes_stay_as_they_are_and_aligned(content, attached):
    assert attached.index(content) % 16 == 0
    old, new = (schema.ModelT.InitFromPackedBuf(data) for data in (content, attached))
    assert len(new.buffers) == len(old.buffers) + 1
    assert len(new.metadata) == len(old.metadata) + 1
    assert (new.version, new.description) == (old.version, old.description)
    assert schema.Model.ModelBufferHasIdentifier(attached, 0)
    weights = [b.data for b in new.buffers if b.data is not None and len(b.data) == 8000]
    assert len(weights) == 1


@pytest.mark.parametrize("trailing", [0, 1, 15, 16])
def test_interpreter_runs_the_file_as_before(content, trailing):
    content = content + bytes(trailing)
    x = np.linspace(-1, 1, 40, dtype=np.float32)[None]
    results = []
    for data in (content, metadata.attach(content, INPUTS, VOCAB, LABELS)):
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    kernel = np.arange(2000, dtype=np.float32).reshape(40, 50)
    np.testing.assert_allclose(results[1], x @ kernel, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(results[0], results[1])


def test_line_breaks_are_refused(content):
    for argument, values in (("vocab", (VOCAB, ("a\nb",))), ("labels", (("a\rb",), LABELS))):
        vocab, labels = (values[1], LABELS) if argument == "vocab" else (VOCAB, values[0])
        with pytest.raises(ValueError, match=rf"`{argument}` must not hold line breaks"):
            metadata.attach(content, INPUTS, vocab, labels)


def test_weights_behind_the_flatbuffer_are_refused(content):
    model = schema.ModelT.InitFromPackedBuf(content)
    model.buffers[-1].offset = 4096
    builder = schema.flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ValueError, match=r"must hold its weights inside of the flatbuffer"):
        metadata.attach(bytes(builder.Output()), INPUTS, VOCAB, LABELS)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Was für ein CAFÉ!", "was fur ein cafe!"),
        ("ΌΛΑ ΣΑΣ", "ολα σασ"),
        ("a\u00a0b\u3000c\td\x00\u200be", "a b c de"),
        ("a\x0bb\ufffdc\u2028d", "abc d"),
        ("Й й İ 好 👍", "и и i 好 👍"),
        ("", ""),
    ],
)
def test_plain_text_is_what_bert_makes_of_a_text(text, plain):
    assert metadata.plain_text(text) == plain
