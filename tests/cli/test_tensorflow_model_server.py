"""``tensorflow_model_server`` starts, complains and leaves as TensorFlow Serving's does."""

import re

from fakes import FakeServe
from salver.cli import tensorflow_model_server
from salver.cli.entrypoint import arguments
from salver.cli.flags import usage
from salver.errors import InvalidArgument
from salver.model_server.options import Face, Options

PROGRAM = "/usr/bin/tensorflow_model_server"


def run(*words, serve=None):
    return tensorflow_model_server.run([PROGRAM, *words], serve=serve or FakeServe())


def test_the_server_gets_the_options_and_its_exit_code_is_the_commands():
    """A command line that is understood starts the server with TensorFlow Serving's defaults."""
    serve = FakeServe(exit_code=3)

    code = run("--rest_api_port=8501", "--model_base_path=/models/mnist", serve=serve)

    assert code == 3
    assert serve.calls == [
        (
            Options(rest_api_port=8501, model_base_path="/models/mnist"),
            Face.TENSORFLOW_MODEL_SERVER,
        )
    ]


def test_help_prints_the_usage_and_fails(capsys):
    """Help goes to stdout and the exit code is that of minus one."""
    code = run("--help")

    assert code == 255
    assert capsys.readouterr().out == usage(PROGRAM)


def test_a_bad_value_prints_the_usage_and_is_logged(capsys, caplog):
    """A value of the wrong type keeps the server from starting; the log says which."""
    serve = FakeServe()

    code = run("--port=x", serve=serve)

    assert (code, serve.calls) == (255, [])
    assert capsys.readouterr().out == usage(PROGRAM)
    assert caplog.messages == ["Couldn't interpret value x for flag port."]


def test_an_unknown_argument_is_told_and_does_not_stop_the_start(capsys):
    """The first unknown argument is named on stdout, with the usage, and the server starts."""
    serve = FakeServe()

    code = run("--use_tflite_model=true", "--port", "9000", serve=serve)

    assert capsys.readouterr().out == (
        f"unknown argument: --use_tflite_model=true\n{usage(PROGRAM)}"
    )
    assert code == 0
    assert serve.calls == [(Options(), Face.TENSORFLOW_MODEL_SERVER)]


def test_an_argument_that_is_no_text_can_be_told(capsys):
    """Bytes that no encoding knows are escaped, not a crash."""
    run("\udcff")

    assert capsys.readouterr().out.startswith("unknown argument: \\udcff\n")


def test_version_prints_two_lines_and_starts_nothing(capsys):
    """The version is a semantic one with build metadata, as release scripts expect."""
    serve = FakeServe()

    code = run("--version", "--whatever", serve=serve)

    assert (code, serve.calls) == (0, [])
    assert re.fullmatch(
        r"TensorFlow ModelServer: \d+\.\d+\.\d+\+salver\.[0-9A-Za-z.-]+\n"
        r"TensorFlow Library: .+\n",
        capsys.readouterr().out,
    )


def test_a_failed_start_is_told_with_its_status(capsys):
    """The status is printed as Abseil prints it, on stdout, and the exit code is 255."""
    serve = FakeServe(error=InvalidArgument("no model"))

    code = run(serve=serve)

    assert code == 255
    assert capsys.readouterr().out == (
        "Failed to start server. Error: INVALID_ARGUMENT: no model\n"
    )


def test_options_without_effect_are_warned_of_in_one_line(caplog):
    """Options that were given and do nothing yet are named together."""
    run("--mixed_precision=bfloat16", "--port=1", "--enable_profiler=false")

    assert caplog.messages == [
        "Options accepted that have no effect yet: --mixed_precision, --enable_profiler"
    ]


def test_the_environment_names_no_model(monkeypatch):
    """MODEL_NAME is the images' business, not this command's."""
    monkeypatch.setenv("MODEL_NAME", "mnist")
    serve = FakeServe()

    run(serve=serve)

    assert serve.calls == [(Options(), Face.TENSORFLOW_MODEL_SERVER)]


def test_the_container_entry_point_names_one_model_and_opens_both_ports():
    """The words of the container come last, so that they win."""
    assert arguments(["--port=9"], {"MODEL_NAME": "mnist", "MODEL_BASE_PATH": "/srv"}) == [
        "tensorflow_model_server",
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=mnist",
        "--model_base_path=/srv/mnist",
        "--port=9",
    ]


def test_the_container_entry_point_has_the_images_defaults():
    """Without environment variables the model is ``model`` in ``/models``."""
    assert arguments([], {})[3:] == ["--model_name=model", "--model_base_path=/models/model"]
