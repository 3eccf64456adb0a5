"""Protobuf's text format as C++ reads it: what is taken, what is refused, and where."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from salver.model_server.platform_config import ADAPTER, ANY_TYPES
from salver.model_server.text_parser import Position, TextError, parse
from salver.protos import config_pb2, session_config_pb2

Config = config_pb2.ModelServerConfig


def models(text: str | bytes) -> Any:
    data = text.encode() if isinstance(text, str) else text
    return parse(data, Config()).message.model_config_list.config


def one(fields: str) -> config_pb2.ModelConfig:
    (model,) = models(f"model_config_list {{ config {{ {fields} }} }}")
    return model


def refusal(text: str, message: Any = None) -> TextError:
    with pytest.raises(TextError) as raised:
        parse(text.encode(), message or Config(), any_types=ANY_TYPES)
    return raised.value


@pytest.mark.parametrize(
    "text",
    [
        'model_config_list { config { name: "a" } config { name: "b" } }',
        'model_config_list: { config: { name: "a" } config: { name: "b" } }',
        'model_config_list < config < name: "a" > config { name: "b" } >',
        "model_config_list { config { name: 'a'; }, config { name: 'b', }; };",
        'model_config_list { config [ { name: "a" }, < name: "b" > ] }',
        'model_config_list { config: [{name:"a"},{name:"b"}] config: [] }',
        'model_config_list{config{name:"a"}config{name:"b"}}',
        '# two models\nmodel_config_list {\r\n\tconfig { name: "a" } # one\n config{name:"b"}\f\v}',
        '\ufeffmodel_config_list { config { name: "a" } config { name: "b" } }',
    ],
)
def test_there_are_many_ways_to_write_the_same(text: str):
    """Colons before blocks, angle brackets, separators, short lists and comments are free."""
    assert [model.name for model in models(text)] == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"one" \'two\' # a comment\n "three"', "onetwothree"),
        (r'"\x41\101\u00e4\n\t\\\"\'"', "AAä\n\t\\\"'"),
        (r'"\U0001F600\?"', "😀?"),
        ('"ä"', "ä"),
        (r'"\303\244"', "ä"),
        ('""', ""),
    ],
)
def test_strings_are_joined_and_unescaped(written: str, name: str):
    """Pieces that follow each other are one string; escapes are those of C."""
    assert one(f"name: {written}").name == name


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("7", 7),
        ("0x1F", 31),
        ("0X1f", 31),
        ("017", 15),
        ("-3", -3),
        ("- 3", -3),
        ("0", 0),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("00", 0),
    ],
)
def test_integers_are_decimal_hexadecimal_or_octal(written: str, number: int):
    """A sign may stand apart."""
    policy = one(f"model_version_policy {{ specific {{ versions: {written} }} }}")

    assert list(policy.model_version_policy.specific.versions) == [number]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1", 1.0),
        ("1.5", 1.5),
        ("1.5f", 1.5),
        ("2F", 2.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-3", 0.001),
        ("-inf", float("-inf")),
        ("Infinity", float("inf")),
        ("- 2.5", -2.5),
        ("1E3f", 1000.0),
    ],
)
def test_numbers_with_a_point_may_end_in_f(written: str, number: float):
    """As in C++, for the sake of old files; infinity has a name, in any case."""
    text = f"sampling_rate: {written}".encode()

    assert parse(text, config_pb2.SamplingConfig()).message.sampling_rate == number


@pytest.mark.parametrize("written", ["true", "True", "t", "1", "0x1"])
def test_true_has_many_names(written: str):
    """So has false."""
    text = f"enable: {written}".encode()

    assert parse(text, config_pb2.PrometheusConfig()).message.enable


@pytest.mark.parametrize("written", ["false", "False", "f", "0"])
def test_false_has_many_names(written: str):
    """A field without presence may come again as long as it holds its default."""
    text = f"enable: {written} enable: true".encode()

    assert parse(text, config_pb2.PrometheusConfig()).message.enable


@pytest.mark.parametrize(("written", "number"), [("OTHER", 2), ("2", 2), ("0x2", 2), ("77", 77)])
def test_enums_are_written_by_name_or_number(written: str, number: int):
    """A number without a name is kept: a newer client may know one."""
    assert one(f"model_type: {written}").model_type == number


def test_the_last_of_two_entries_with_one_key_holds():
    """A map is a list of entries, in any of the ways to write one."""
    labels = (
        'version_labels { key: "a" value: 1 } version_labels: [{value: 2, key: "a"}, {key: "b"}]'
    )

    assert dict(one(labels).version_labels) == {"a": 2, "b": 0}


@pytest.mark.parametrize(
    "text",
    [
        f'[type.googleapis.com/{ADAPTER}] {{ legacy_config {{ session_target: "t" }} }}',
        f'[ any.host/x/{ADAPTER} ]: < legacy_config < session_target: "t" > >',
    ],
)
def test_what_an_any_holds_is_written_out(text: str):
    """The type is looked up by its public name; the URL in front of it may be any."""
    text = f"custom_logging_config {{ {text} }}"
    message = parse(text.encode(), config_pb2.LoggingConfig(), any_types=ANY_TYPES).message

    held = config_pb2.SavedModelBundleSourceAdapterConfig.FromString(
        message.custom_logging_config.value
    )
    assert held.legacy_config.session_target == "t"
    assert message.custom_logging_config.type_url.endswith(f"/{ADAPTER}")


@pytest.mark.parametrize(
    ("text", "place", "complaint"),
    [
        (
            'model_config_list {\n  config {\n    nmae: "m"\n  }\n}',
            (3, 5),
            (
                'Message type "tensorflow.serving.ModelConfig" has no field named "nmae". '
                'Did you mean "name"?'
            ),
        ),
        (
            'config { name: "m" }',
            (1, 1),
            (
                'Message type "tensorflow.serving.ModelServerConfig" has no field named "config". '
                'It is a field of "model_config_list": model_config_list { config … }.'
            ),
        ),
        (
            'model_config_list { config { name: "a" name: "b" } }',
            (1, 40),
            'Non-repeated field "name" is specified multiple times.',
        ),
        (
            "model_config_list { } model_config_list { }",
            (1, 23),
            'Non-repeated field "model_config_list" is specified multiple times.',
        ),
        (
            "model_config_list { } custom_model_config { }",
            (1, 23),
            (
                'Field "custom_model_config" is specified along with field "model_config_list", '
                'another member of oneof "config". Only one of them can hold.'
            ),
        ),
        (
            "model_config_list {\n  config {",
            (2, 11),
            'Expected "}", found the end of the file. It closes the "{" of 2:10.',
        ),
        (
            "model_config_list {\n config { > }",
            (2, 11),
            'Expected "}", found ">". It closes the "{" of 2:9.',
        ),
        (
            "model_config_list { config { name 'm' } }",
            (1, 35),
            'Expected ":", found "\'m\'". It stands after "name".',
        ),
        (
            "model_config_list { config { name: m } }",
            (1, 36),
            'Expected string, got: "m" A string stands in quotes.',
        ),
        (
            "model_config_list { config { name: 'm\n' } }",
            (1, 36),
            (
                "A string has no end on its line. Write \\n for a line break; quoted pieces that "
                "follow each other are joined."
            ),
        ),
        (
            "model_config_list { config { model_type: TENSORFLOWS } }",
            (1, 42),
            (
                'Unknown enumeration value of "TENSORFLOWS" for field "model_type". It is one of '
                "MODEL_TYPE_UNSPECIFIED, TENSORFLOW, OTHER."
            ),
        ),
        (
            "model_config_list { config { model_version_policy { latest { num_versions: -1 } } } }",
            (1, 76),
            'Expected integer, got: "-"',
        ),
        (
            "model_config_list { config { model_version_policy { latest { num_versions: 4294967296",
            (1, 76),
            "Integer out of range (4294967296) It has to be from 0 to 4294967295.",
        ),
        (
            "model_config_list { config { model_version_policy { latest { num_versions: 08 } } } }",
            (1, 76),
            "Numbers starting with leading zero must be in octal.",
        ),
        (
            "model_config_list { config { model_version_policy { latest { num_versions: 1x } } } }",
            (1, 76),
            '"1x" is no number.',
        ),
        ("model_config_list { };;", (1, 23), 'Expected the name of a field, found ";".'),
        ("model_config_list { config [ { }, ] }", (1, 35), 'Expected "{", found "]".'),
        (
            "model_config_list { config [ { } { } ] }",
            (1, 34),
            'Expected ",", found "{". A list goes on with a comma or ends with a bracket.',
        ),
        ("// a comment", (1, 1), '"/" begins nothing here. A comment begins with #.'),
        ("model_config_list { \x01 }", (1, 21), r"'\x01' cannot stand here."),
        ("model_config_list { ä }", (1, 21), r"'\xe4' cannot stand here."),
        (
            "custom_model_config { [type.googleapis.com/x.Y] { } }",
            (1, 23),
            'Could not find type "type.googleapis.com/x.Y" stored in google.protobuf.Any.',
        ),
        (
            "custom_model_config { [x.Y] { } }",
            (1, 23),
            "Type URL prefix is missing As in [type.googleapis.com/T].",
        ),
        ("model_config_list { config { name: '\\xff' } }", (1, 36), "The string is not UTF-8."),
        ("model_config_list { 1: { } }", (1, 21), 'Expected the name of a field, found "1".'),
    ],
)
def test_a_refusal_says_where_and_what_would_help(
    text: str, place: tuple[int, int], complaint: str
):
    """In C++'s words where it has some; line and column count from one."""
    error = refusal(text)

    assert (error.position, error.text) == (place, complaint)


def test_messages_may_not_be_nested_without_end():
    """What is nested too deep is refused before it can exhaust the stack."""
    kind = "type.googleapis.com/google.protobuf.Any"
    text = f"[{kind}] {{ " * 1000
    any_message = config_pb2.LoggingConfig().custom_logging_config

    with pytest.raises(TextError, match="nested"):
        parse(text.encode(), any_message, any_types={"google.protobuf.Any": type(any_message)})


def test_every_field_has_a_place():
    """Also those behind a key, in a list or in an Any; what is not there has its parent's."""
    text = (
        "platform_configs {\n"
        '  key: "tensorflow"\n'
        "  value { source_adapter_config {\n"
        "    [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {\n"
        "      legacy_config {\n"
        '        saved_model_tags: ["a",\n'
        '          "b"]\n'
        "      }\n    }\n  } }\n}\n"
    )
    places = parse(text.encode(), config_pb2.PlatformConfigMap(), any_types=ANY_TYPES).places

    bundle = ("platform_configs", "tensorflow", "value", "source_adapter_config", "legacy_config")
    assert places.of() == Position(1, 1)
    assert places.of(*bundle) == Position(5, 7)
    assert places.of(*bundle, "saved_model_tags", 1) == Position(7, 11)
    assert places.of(*bundle, "session_target") == Position(5, 7)


MODELS = st.lists(
    st.builds(
        config_pb2.ModelConfig,
        name=st.text(),
        base_path=st.text(),
        model_type=st.integers(0, 2),
        version_labels=st.dictionaries(st.text(), st.integers(-(2**63), 2**63 - 1), max_size=3),
        model_version_policy=st.builds(
            config_pb2.ServableVersionPolicy,
            specific=st.builds(
                config_pb2.ServableVersionPolicy.Specific,
                versions=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
            ),
        ),
    ),
    max_size=3,
)


@given(MODELS, st.booleans(), st.booleans())
def test_what_protobuf_writes_is_read_back(
    listed: list[config_pb2.ModelConfig], on_one_line: bool, short: bool
):
    """Whatever a message holds, and however it is laid out."""
    message = Config()
    message.model_config_list.config.extend(listed)
    message.model_config_list.SetInParent()
    text = text_format.MessageToString(
        message, as_one_line=on_one_line, use_short_repeated_primitives=short
    )

    assert parse(text.encode(), Config()).message == message


@given(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
def test_numbers_are_read_back(wide: float, narrow: float):
    """Every double and every float."""
    message = session_config_pb2.ConfigProto()
    message.gpu_options.per_process_gpu_memory_fraction = wide
    message.gpu_options.experimental.virtual_devices.add(memory_limit_mb=[narrow])

    text = text_format.MessageToString(message).encode()
    assert parse(text, session_config_pb2.ConfigProto()).message == message


@given(st.binary(max_size=200))
def test_whatever_the_bytes_they_are_a_message_or_a_text_error(data: bytes):
    """Nothing else is raised."""
    with suppress(TextError):
        parse(data, Config(), any_types=ANY_TYPES)
