"""Server reflection: what it tells, and that what it tells is TensorFlow Serving's truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import Default, DescriptorPool
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import Code, Internal
from salver.model_server.reflection import PATHS, Reflection, read_descriptions
from salver.protos import health_pb2, reflection_pb2
from salver.protos.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from salver.wire.calls import Streaming
from saved_models import tensorflow

PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"
SERVED = (f"/{PREDICTION}/Predict", f"/{PREDICTION}/Classify", f"/{MODEL}/GetModelStatus")


def answers(*requests: bytes, reflection: Reflection | None = None) -> list[bytes]:
    """What one call says to several requests."""
    asked = reflection or Reflection(SERVED)

    async def stream() -> AsyncIterator[bytes]:
        for request in requests:
            yield request

    async def run() -> list[bytes]:
        return [answer async for answer in asked.info(stream())]

    return asyncio.run(run())


def ask(**asked: object) -> ServerReflectionResponse:
    """The answer to one question."""
    [answer] = answers(ServerReflectionRequest(**asked).SerializeToString())
    return ServerReflectionResponse.FromString(answer)


def files_in(answer: ServerReflectionResponse) -> list[FileDescriptorProto]:
    sent = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(one) for one in sent]


# --- Answers --------------------------------------------------------------------------------------


def test_the_services_of_the_server_are_listed_once_and_sorted():
    """Those of the paths served, and reflection's own two versions."""
    answer = ask(list_services="*")

    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        MODEL,
        PREDICTION,
    ]


def test_an_answer_repeats_the_question_and_the_host():
    """Clients tell answers apart by it."""
    answer = ask(host="example.org", list_services="")

    assert answer.valid_host == "example.org"
    assert answer.original_request == ServerReflectionRequest(host="example.org", list_services="")


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        (PREDICTION, "tensorflow_serving/apis/prediction_service.proto"),
        (f"{PREDICTION}.Predict", "tensorflow_serving/apis/prediction_service.proto"),
        ("tensorflow.serving.PredictRequest", "tensorflow_serving/apis/predict.proto"),
        ("tensorflow.serving.PredictRequest.inputs", "tensorflow_serving/apis/predict.proto"),
        ("tensorflow.serving.PredictRequest.InputsEntry", "tensorflow_serving/apis/predict.proto"),
        ("tensorflow.serving.ModelSpec.version_choice", "tensorflow_serving/apis/model.proto"),
        ("tensorflow.DataType", "tensorflow/core/framework/types.proto"),
        ("tensorflow.DT_FLOAT", "tensorflow/core/framework/types.proto"),
        ("tensorflow.TypeSpecProto.TypeSpecClass", "tensorflow/core/protobuf/struct.proto"),
        ("tensorflow.error.Code", "xla/tsl/protobuf/error_codes.proto"),
        ("google.protobuf.Any", "google/protobuf/any.proto"),
        ("google.protobuf.Int64Value", "google/protobuf/wrappers.proto"),
        ("grpc.health.v1.Health", "grpc/health/v1/health.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
        ("grpc.reflection.v1alpha.ErrorResponse", "grpc/reflection/v1alpha/reflection.proto"),
    ],
)
def test_every_kind_of_symbol_leads_to_its_file(symbol: str, file: str):
    """The file asked for comes first, and by its own name it is the same."""
    by_symbol = files_in(ask(file_containing_symbol=symbol))
    by_name = files_in(ask(file_by_filename=file))

    assert by_symbol[0].name == file
    assert by_symbol == by_name


def test_a_file_brings_all_that_it_depends_on_once():
    """So that a client can build it without another question."""
    sent = files_in(ask(file_containing_symbol=PREDICTION))

    names = [file.name for file in sent]
    assert len(names) == len(set(names))
    assert {name for file in sent for name in file.dependency} <= set(names)


@pytest.mark.parametrize(
    "asked",
    [
        {"file_by_filename": "tensorflow_serving/apis/session_service.proto"},
        {"file_containing_symbol": "tensorflow.serving.SessionService"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": "x" * 100_000},
        {"file_containing_symbol": f"{PREDICTION}.Nothing"},
        {"file_containing_symbol": "tensorflow.serving"},
        {"file_containing_symbol": f".{PREDICTION}"},
        {
            "file_containing_extension": ExtensionRequest(
                containing_type="tensorflow.TensorProto", extension_number=7
            )
        },
        {"all_extension_numbers_of_type": "tensorflow.Nothing"},
    ],
)
def test_what_is_not_there_is_not_found(asked: dict[str, object]):
    """The answer says so, shortly, and the call goes on."""
    answer = ask(**asked)

    assert answer.error_response.error_code == Code.NOT_FOUND
    assert 0 < len(answer.error_response.error_message) < 300
    assert answer.original_request == ServerReflectionRequest(**asked)


def test_a_message_has_no_extensions():
    """Its name comes back, with no number."""
    answer = ask(all_extension_numbers_of_type="tensorflow.TensorProto")

    assert answer.HasField("all_extension_numbers_response")
    assert answer.all_extension_numbers_response.base_type_name == "tensorflow.TensorProto"
    assert not answer.all_extension_numbers_response.extension_number


def test_a_request_that_asks_nothing_is_invalid():
    """It may come from a later version of the protocol."""
    answer = ask(host="example.org")

    assert answer.error_response.error_code == Code.INVALID_ARGUMENT


def test_one_call_answers_many_questions():
    """In their order, those that fail among them."""
    requests = [
        ServerReflectionRequest(list_services=""),
        ServerReflectionRequest(file_by_filename="no.proto"),
        ServerReflectionRequest(file_by_filename="google/protobuf/any.proto"),
    ]

    sent = answers(*(request.SerializeToString() for request in requests))

    parsed = [ServerReflectionResponse.FromString(answer) for answer in sent]
    assert [answer.original_request for answer in parsed] == requests
    assert [answer.WhichOneof("message_response") for answer in parsed] == [
        "list_services_response",
        "error_response",
        "file_descriptor_response",
    ]


@given(st.binary(max_size=64))
def test_any_bytes_are_answered_or_refused(data: bytes):
    """Nothing a client sends is a failure of the server."""
    try:
        [answer] = answers(data)
    except Internal:
        return

    assert ServerReflectionResponse.FromString(answer).WhichOneof("message_response")


@given(st.text(max_size=40))
def test_any_name_is_answered(name: str):
    """Names nobody thought of are not found, or are found; they harm nothing."""
    for asked in ("file_by_filename", "file_containing_symbol", "all_extension_numbers_of_type"):
        assert ask(**{asked: name}).WhichOneof("message_response")


def test_the_descriptions_are_read_at_the_first_question_about_one():
    """A server that nobody asks never reads them; a list of names needs none."""
    reads: list[str] = []

    def read() -> bytes:
        reads.append("read")
        return read_descriptions()

    reflection = Reflection(SERVED, read=read)
    about_names = ServerReflectionRequest(list_services="").SerializeToString()
    about_file = ServerReflectionRequest(file_containing_symbol=MODEL).SerializeToString()

    answers(about_names, reflection=reflection)
    before = list(reads)
    answers(about_file, about_file, reflection=reflection)

    assert (before, reads) == ([], ["read"])


def test_both_versions_have_a_path():
    """Old clients ask under the first name of the service."""
    methods = Reflection(SERVED).methods()

    assert {path: type(method) for path, method in methods.items()} == dict.fromkeys(
        PATHS, Streaming
    )


# --- The truth ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described() -> DescriptorPool:
    """Everything described, in a pool of its own."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(read_descriptions()).file:
        pool.Add(file)
    return pool


def test_what_is_described_is_what_tensorflow_serving_has(described: DescriptorPool):
    """Every file, message, field, enum, value and service is the original's, number for number.

    Not every message of ``meta_graph.proto`` is described, but none is described by half.
    """
    tensorflow()
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2")
    pytest.importorskip("tensorflow_serving.apis.model_service_pb2")
    compared = [
        name
        for name in file_names()
        if name.startswith(("tensorflow/", "tensorflow_serving/", "xla/"))
    ]

    wrong = {
        name: sorted(ours ^ theirs)
        for name in compared
        for ours, theirs in [both_facts(described, name)]
        if ours != theirs
    }

    assert wrong == {}
    assert len(compared) == 26


def test_the_messages_that_the_server_parses_are_the_ones_it_describes(described: DescriptorPool):
    """Health and reflection are parsed under Salver's own names, field for field the same."""
    pairs = [
        (health_pb2.DESCRIPTOR, "grpc/health/v1/health.proto"),
        (reflection_pb2.DESCRIPTOR, "grpc/reflection/v1/reflection.proto"),
        (reflection_pb2.DESCRIPTOR, "grpc/reflection/v1alpha/reflection.proto"),
    ]

    for ours, name in pairs:
        public = described.FindFileByName(name)
        parsed = {fact.replace(ours.package, public.package) for fact in message_facts(ours)}
        assert parsed == message_facts(public)


def test_no_description_enters_the_pool_of_the_process():
    """``grpc.health.v1`` is free for whoever brings its own stubs into the process."""
    answers(ServerReflectionRequest(file_containing_symbol=PREDICTION).SerializeToString())

    with pytest.raises(KeyError):
        Default().FindFileByName("grpc/health/v1/health.proto")


def file_names() -> list[str]:
    return [file.name for file in FileDescriptorSet.FromString(read_descriptions()).file]


def both_facts(described: DescriptorPool, name: str) -> tuple[set[str], set[str]]:
    """What our description of a file says, and what the original says of the same things."""
    ours = described.FindFileByName(name)
    theirs = Default().FindFileByName(name)
    left_out = set(theirs.message_types_by_name) - set(ours.message_types_by_name)
    may_leave_out = name == "tensorflow/core/protobuf/meta_graph.proto"
    return file_facts(ours), file_facts(theirs, left_out if may_leave_out else set())


def file_facts(file: FileDescriptor, left_out: set[str] = frozenset()) -> set[str]:
    services = {
        f"{method.full_name} {method.input_type.full_name} {method.output_type.full_name} "
        f"{method.client_streaming} {method.server_streaming}"
        for service in file.services_by_name.values()
        for method in service.methods
    }
    names = {f"{file.name} {file.package}", *map("service {}".format, file.services_by_name)}
    return names | services | message_facts(file, left_out)


def message_facts(file: FileDescriptor, left_out: set[str] = frozenset()) -> set[str]:
    messages = file.message_types_by_name.items()
    facts = {fact for name, one in messages if name not in left_out for fact in facts_of(one)}
    return facts | {fact for enum in file.enum_types_by_name.values() for fact in enum_facts(enum)}


def facts_of(message: Descriptor) -> Iterator[str]:
    yield f"message {message.full_name} {message.GetOptions().map_entry}"
    for field in message.fields:
        yield field_fact(field)
    for nested in message.nested_types:
        yield from facts_of(nested)
    for enum in message.enum_types:
        yield from enum_facts(enum)


def field_fact(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        f"{field.full_name} {field.number} {field.type} {kind.full_name if kind else ''} "
        f"{field.is_repeated} {field.is_packed} {field.has_presence} {field.json_name} "
        f"{oneof.full_name if oneof else ''} {field.default_value!r} "
        f"{field.GetOptions().deprecated}"
    )


def enum_facts(enum: EnumDescriptor) -> Iterator[str]:
    yield f"enum {enum.full_name}"
    for value in enum.values:
        yield f"{enum.full_name} {value.name} {value.number}"
