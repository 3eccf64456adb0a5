"""The command line is read as TensorFlow Serving reads it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.cli.flags import parse, usage, written
from salver.model_server.options import ROWS, Face, Kind, Options

TFS = Face.TENSORFLOW_MODEL_SERVER


@pytest.mark.parametrize(
    ("word", "port"),
    [
        ("--port=1", 1),
        ("--port=+5", 5),
        ("--port=-0", 0),
        ("--port= 5", 5),
        ("--port=5 ", 5),
        ("--port=\t\v\f5\r\n", 5),
        ("--port=2147483647", 2**31 - 1),
        ("--port=-2147483648", -(2**31)),
        ("--port=000000000000000000000000000007", 7),
    ],
)
def test_a_whole_number_may_have_a_sign_and_blanks_around_it(word, port):
    """What TensorFlow's own parser takes for an int32 is taken, with the same value."""
    parsed = parse([word], TFS)

    assert (parsed.options.port, parsed.failed) == (port, False)


@pytest.mark.parametrize(
    "text",
    [
        "1x",
        "",
        " ",
        "2147483648",
        "-2147483649",
        "0x10",
        "- 5",
        "--1",
        "+-1",
        "1_0",
        "٣",
        "9" * 5000,
    ],
)
def test_what_is_no_int32_fails_and_leaves_the_default(text):
    """What TensorFlow's own parser refuses for an int32 is refused."""
    parsed = parse([f"--port={text}"], TFS)

    assert parsed.failed
    assert parsed.options.port == 8500
    assert [(each.row.name, each.text) for each in parsed.rejected] == [("port", text)]


def test_an_int64_is_wider_than_an_int32():
    """An int64 option takes what 64 bits hold and no more."""
    fits = parse([f"--load_retry_interval_micros={2**63 - 1}"], TFS)
    too_big = parse([f"--load_retry_interval_micros={2**63}"], TFS)

    assert fits.options.load_retry_interval_micros == 2**63 - 1
    assert too_big.failed


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--enable_batching", True),
        ("--enable_batching=true", True),
        ("--enable_batching=TrUe", True),
        ("--enable_batching=1", True),
        ("--enable_batching=False", False),
        ("--enable_batching=0", False),
    ],
)
def test_a_boolean_stands_alone_or_says_true_or_false(word, value):
    """Both spellings of a boolean are read, in any case."""
    assert parse([word], TFS).options.enable_batching is value


@pytest.mark.parametrize("text", ["", "t", "yes", "no", "2", "01", " true", "1 "])
def test_any_other_word_for_a_boolean_fails(text):
    """A boolean is neither abbreviated nor trimmed."""
    assert parse([f"--enable_batching={text}"], TFS).failed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000),
        (" .5", 0.5),
        ("5. ", 5),
        ("-.5E+3", -500),
        ("1e400", math.inf),
        ("inf", math.inf),
    ],
)
def test_a_float_is_written_in_any_common_way(text, value):
    """Decimals, exponents and infinity are floats."""
    assert parse([f"--drain_grace_seconds={text}"], TFS).options.drain_grace_seconds == value


@pytest.mark.parametrize("text", ["", ".", "1f", "1e", "1_0", "1,5", "infx", "+-1"])
def test_what_is_no_float_fails(text):
    """A float is read to its end or not at all."""
    assert parse([f"--drain_grace_seconds={text}"], TFS).failed


def test_a_string_is_everything_after_the_first_equals_sign():
    """A string may be empty and may hold equals signs."""
    parsed = parse(["--model_name=", "--model_base_path=s3://a?b=c"], TFS)

    assert (parsed.options.model_name, parsed.options.model_base_path) == ("", "s3://a?b=c")


@pytest.mark.parametrize(
    "words",
    [
        ["--port", "8501"],
        ["-port=1"],
        ["--noenable_batching"],
        ["--use_tflite_model=true"],
        ["--enable_batchingx=1"],
        ["--enable-batching"],
        ["port=1"],
        [""],
    ],
)
def test_what_is_no_flag_is_handed_back(words):
    """Unknown words are left over, in their order, and change nothing."""
    parsed = parse(words, TFS)

    assert parsed.leftovers == tuple(words)
    assert parsed.options == Options()
    assert not parsed.failed


def test_a_boolean_takes_no_value_after_a_space():
    """``--enable_batching false`` turns batching on and leaves a word over."""
    parsed = parse(["--enable_batching", "false"], TFS)

    assert parsed.options.enable_batching
    assert parsed.leftovers == ("false",)


def test_the_last_of_a_repeated_flag_wins():
    """A script can append a flag to override an earlier one."""
    assert parse(["--port=1", "--port=2"], TFS).options.port == 2


def test_a_bad_value_fails_even_if_a_good_one_follows():
    """Overriding does not heal what could not be read."""
    parsed = parse(["--port=x", "--port=3"], TFS)

    assert (parsed.failed, parsed.options.port) == (True, 3)


def test_two_dashes_end_the_flags():
    """What follows ``--`` is left over unread, and so is ``--`` itself."""
    parsed = parse(["--port=1", "--", "--port=2", "--help"], TFS)

    assert parsed.options.port == 1
    assert parsed.leftovers == ("--", "--port=2", "--help")
    assert not parsed.failed


def test_help_counts_only_as_the_first_leftover():
    """``--help`` after known flags asks for help; after an unknown word it does not."""
    assert parse(["--port=1", "--help"], TFS).failed
    assert not parse(["x", "--help"], TFS).failed


def test_given_flags_without_effect_are_known():
    """Only flags that were given and wait for their part are told."""
    parsed = parse(["--port=1", "--mixed_precision=bfloat16", "--enable_profiler=false"], TFS)

    assert parsed.without_effect == ["mixed_precision", "enable_profiler"]


def test_usage_has_one_line_per_row_in_tensorflows_layout():
    """The flag is padded to 33 columns; type and sentence follow, each after a tab."""
    lines = usage("/usr/bin/tensorflow_model_server").splitlines()

    assert lines[:2] == ["usage: /usr/bin/tensorflow_model_server", "Flags:"]
    assert len(lines) == 2 + len(ROWS)
    assert lines[2].startswith(f"\t{'--port=8500':<33}\tint32\t")
    empty = '--model_base_path=""'
    assert any(line.startswith(f"\t{empty:<33}\tstring\t") for line in lines)
    assert any(
        line.startswith("\t--per_process_gpu_memory_fraction=0.000000\tfloat\t") for line in lines
    )
    assert any(line.startswith(f"\t{'--enable_batching=false':<33}\tbool\t") for line in lines)


@given(st.lists(st.text()))
def test_no_words_break_the_parser(words):
    """Whatever a command line holds, it is parsed, rejected or left over."""
    parsed = parse(words, TFS)

    assert len(parsed.leftovers) + len(parsed.rejected) + len(parsed.given) <= len(words)


@given(st.data())
def test_a_value_written_is_the_value_read(data):
    """Every option reads back what ``written`` makes of any value it can have."""
    row = data.draw(st.sampled_from(ROWS))
    values = {
        Kind.INT32: st.integers(-(2**31), 2**31 - 1),
        Kind.INT64: st.integers(-(2**63), 2**63 - 1),
        Kind.BOOL: st.booleans(),
        Kind.STRING: st.text(),
        Kind.FLOAT: st.floats(allow_nan=False),
    }
    value = data.draw(values[row.kind])

    parsed = parse([f"--{row.name}={written(value)}"], TFS)

    assert getattr(parsed.options, row.name) == value
