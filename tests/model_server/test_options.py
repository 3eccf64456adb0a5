"""The one table of options, and the checks before a start."""

import math
from dataclasses import replace

import pytest

from salver.errors import InvalidArgument, Unimplemented
from salver.model_server.options import (
    ROW_BY_NAME,
    ROWS,
    Face,
    Kind,
    Options,
    check_how_to_run,
    check_what_to_serve,
    split_list,
    usable_cpus,
)

SERVABLE = Options(model_base_path="/models/mnist")

TYPE_OF = {
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.BOOL: bool,
    Kind.STRING: str,
    Kind.FLOAT: float,
}


def test_tensorflow_servings_flags_come_first_and_salvers_follow():
    """Forty-eight rows are TensorFlow Serving's; those after them are Salver's own."""
    own = [row.own for row in ROWS]

    assert own.count(False) == 48
    assert own == sorted(own)


@pytest.mark.parametrize("face", Face)
def test_every_default_is_of_its_rows_type(face):
    """The type word of a row and its value on this machine agree."""
    options = Options.for_face(face)

    wrong = [row.name for row in ROWS if type(getattr(options, row.name)) is not TYPE_OF[row.kind]]

    assert wrong == []


def test_plain_options_are_those_of_tensorflow_model_server():
    """Options made without a face keep TensorFlow Serving's defaults."""
    assert Options() == Options.for_face(Face.TENSORFLOW_MODEL_SERVER)


def test_only_the_rows_with_two_defaults_differ_between_the_faces():
    """A face changes what its column of the table says, and nothing else."""
    options, salver_options = Options(), Options.for_face(Face.SALVER)

    differing = {
        row.name: getattr(salver_options, row.name)
        for row in ROWS
        if getattr(options, row.name) != getattr(salver_options, row.name)
    }

    assert differing == {
        "rest_api_port": 8501,
        "num_load_threads": usable_cpus(),
        "num_unload_threads": usable_cpus(),
        "enable_grpc_healthcheck_service": True,
        "rest_api_tls": True,
        "require_rest_api": True,
        "open_ports_before_load": True,
        "start_despite_failed_models": True,
        "independent_models": True,
        "model_config_file_poll_wait_seconds": 1,
        "model_config_file_prevails": False,
        "labels_follow_loads": True,
        "reload_wait_seconds": 60.0,
        "list_models": True,
        "max_num_load_retries": 0,
        "retry_failed_loads": True,
        "read_tflite_signatures": True,
        "load_session_bundles": True,
        "batch_without_waiting": True,
        "drain_grace_seconds": 30.0,
        "check_golden_requests": True,
        "explain_load_errors": True,
        "require_signatures": True,
        "health_endpoints": True,
    }


def test_given_values_stand_in_for_defaults():
    """What the command line gave wins over the face."""
    options = Options.for_face(Face.SALVER, {"rest_api_port": 80})

    assert (options.rest_api_port, options.drain_grace_seconds) == (80, 30.0)


def test_thread_defaults_grow_with_the_usable_cpus():
    """A default per CPU is counted on this machine and written so that every machine agrees."""
    row = ROW_BY_NAME["rest_api_num_threads"]

    assert row.default_here(Face.SALVER) == 4 * usable_cpus()
    assert str(row.default_of(Face.SALVER)) == "4 per CPU"


def test_every_row_is_one_plain_sentence():
    """The usage text pads by bytes and a table cell has no bars, so sentences are plain ASCII."""
    unfit = [
        row.name
        for row in ROWS
        if not (row.sentence.isascii() and row.sentence.endswith("."))
        or set("|\n\t") & set(row.sentence)
        or ". " in row.sentence
    ]

    assert unfit == []


def test_a_list_option_is_split_at_commas():
    """Blanks around an entry and empty entries do not count."""
    assert split_list(" serve, gpu,,") == ["serve", "gpu"]
    assert split_list("") == []


def test_a_server_with_a_model_passes_the_checks():
    """The smallest useful options are fine for either face."""
    for face in Face:
        options = Options.for_face(face, {"model_base_path": "/models/mnist"})

        check_what_to_serve(options)
        check_how_to_run(options)


def test_what_to_serve_is_checked_in_tensorflow_servings_order():
    """Ports first, then credentials, then models: the first complaint is TensorFlow Serving's."""
    wrong = Options(port=0, use_alts_credentials=True, ssl_config_file="/ssl")

    with pytest.raises(InvalidArgument) as no_port:
        check_what_to_serve(wrong)
    with pytest.raises(InvalidArgument) as two_credentials:
        check_what_to_serve(replace(wrong, grpc_socket_path="/run/socket"))
    with pytest.raises(InvalidArgument) as no_model:
        check_what_to_serve(Options())

    assert no_port.value.message == (
        "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
    )
    assert two_credentials.value.message == (
        "Either use_alts_credentials must be false or ssl_config_file must be empty."
    )
    assert no_model.value.message == (
        "Both server_options.model_base_path and server_options.model_config_file are empty!"
    )


def test_protection_that_is_missing_is_refused():
    """A port that was to be protected is never opened in the clear."""
    with pytest.raises(Unimplemented, match="use_alts_credentials"):
        check_what_to_serve(replace(SERVABLE, use_alts_credentials=True))


def test_protection_that_is_there_is_not_refused():
    """TLS is taken as asked for; its file is read later."""
    check_what_to_serve(replace(SERVABLE, ssl_config_file="/ssl"))


@pytest.mark.parametrize("grace_s", [-1.0, math.inf, math.nan])
def test_a_grace_that_is_no_time_is_refused(grace_s):
    """Draining needs an end."""
    with pytest.raises(InvalidArgument, match="drain_grace_seconds"):
        check_what_to_serve(replace(SERVABLE, drain_grace_seconds=grace_s))


def test_a_negative_memory_budget_is_refused():
    """Zero means no limit; less means a mistake."""
    with pytest.raises(InvalidArgument, match="memory_budget_bytes is -1"):
        check_what_to_serve(replace(SERVABLE, memory_budget_bytes=-1))


def test_batching_parameters_need_batching():
    """A parameters file without batching is a mistake, told in TensorFlow Serving's words."""
    with pytest.raises(InvalidArgument) as refused:
        check_how_to_run(replace(SERVABLE, batching_parameters_file="/batching"))

    assert refused.value.message == (
        "server_options.batching_parameters_file is set without setting "
        "server_options.enable_batching to true."
    )


def test_parallelism_is_set_once():
    """All three kinds of parallelism at once contradict each other; two do not."""
    two = replace(SERVABLE, tensorflow_session_parallelism=2, tensorflow_intra_op_parallelism=2)

    check_how_to_run(two)
    with pytest.raises(InvalidArgument) as refused:
        check_how_to_run(replace(two, tensorflow_inter_op_parallelism=2))

    assert refused.value.message == (
        "Either configure server_options.tensorflow_session_parallelism or "
        "(server_options.tensorflow_intra_op_parallelism, "
        "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
    )


@pytest.mark.parametrize("option", ["port", "rest_api_port"])
@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(option, port):
    """What is no TCP port ends the start before a model is loaded, and is named."""
    options = replace(Options(model_base_path="/models/m"), **{option: port})

    with pytest.raises(InvalidArgument, match=f": {option} is {port}; a TCP port is"):
        check_what_to_serve(options)
