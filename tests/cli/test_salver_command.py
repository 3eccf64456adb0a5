"""``salver``: its commands, its help, and how it answers what it does not understand."""

import subprocess
import sys

import pytest

from fakes import FakeServe
from salver import __version__
from salver.cli import main
from salver.cli.console import leave
from salver.cli.help import help_for_serve
from salver.errors import NotFound
from salver.model_server.options import ROWS, Face, Options


def run(*words, environ=None, serve=None):
    return main.run(["salver", *words], environ=environ or {}, serve_models=serve or FakeServe())


def options_served(*words, environ=None):
    serve = FakeServe()
    assert run("serve", *words, environ=environ, serve=serve) == 0
    ((options, face),) = serve.calls
    assert face is Face.SALVER
    return options


def test_serve_starts_with_the_kinder_defaults():
    """The options are those of Salver's face, with what was given in their place."""
    options = options_served("--model_base_path=/models/mnist", "--port=1")

    assert options == Options.for_face(Face.SALVER, {"model_base_path": "/models/mnist", "port": 1})


@pytest.mark.parametrize(
    "words",
    [
        ["--rest_api_port=9", "--enable_signature_method_name_check=true"],
        ["--rest-api-port=9", "--enable-signature-method-name-check"],
        ["--rest_api_port", "9", "--enable_signature_method_name_check", "true"],
        ["--enable-signature-method-name-check", "TRUE", "--rest-api-port", "9"],
    ],
)
def test_serve_takes_dashes_and_spaces(words):
    """A dash may stand for an underscore and a space for an equals sign."""
    options = options_served("--model-base-path", "/models/mnist", *words)

    assert options.model_base_path == "/models/mnist"
    assert options.rest_api_port == 9
    assert options.enable_signature_method_name_check


def test_a_negative_number_is_a_value():
    """One dash does not make an option."""
    options = options_served("--model_base_path=/m", "--file_system_poll_wait_seconds", "-1")

    assert options.file_system_poll_wait_seconds == -1


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--modelname=mnist"], "there is no option --modelname; did you mean --model_name?"),
        (
            ["--enable_badging"],
            "there is no option --enable_badging; did you mean --enable_batching?",
        ),
        (["-port=1"], "there is no option -port; did you mean --port?"),
        (["--xyz"], "there is no option --xyz; see salver serve --help."),
        (["--port=x"], "--port takes a whole number of at most 32 bits, and 'x' is not."),
        (["--enable_batching=yes"], "--enable_batching takes true or false, and 'yes' is not."),
        (["--port"], "--port needs a value, as in --port=…"),
        (["--model_name", "--port=1"], "--model_name needs a value, as in --model_name=…"),
        (["/models/mnist"], "'/models/mnist' belongs to no option; see salver serve --help."),
        (["--", "--port=1"], "there is no option --; see salver serve --help."),
        ([], "there is nothing to serve."),
    ],
)
def test_serve_refuses_what_it_does_not_understand(words, hint, capsys):
    """A mistake ends the command with a hint on stderr, before anything starts."""
    serve = FakeServe()

    code = run("serve", *words, serve=serve)

    assert (code, serve.calls) == (2, [])
    assert f"salver serve: {hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "words", "name", "path"),
    [
        ({"MODEL_NAME": "mnist"}, [], "mnist", "/models/mnist"),
        ({"MODEL_BASE_PATH": "/srv"}, [], "model", "/srv/model"),
        ({"MODEL_NAME": "a", "MODEL_BASE_PATH": "/srv"}, ["--model_name=b"], "b", "/srv/a"),
        ({"MODEL_NAME": "a"}, ["--model_base_path=/m"], "default", "/m"),
        ({"MODEL_NAME": "a"}, ["--model_config_file=/c"], "default", ""),
    ],
)
def test_the_environment_names_a_model_when_the_options_do_not(environ, words, name, path):
    """MODEL_NAME and MODEL_BASE_PATH work as in TensorFlow Serving's images."""
    options = options_served(*words, environ=environ)

    assert (options.model_name, options.model_base_path) == (name, path)


def test_a_failed_start_is_told_on_stderr(capsys):
    """A person reads what went wrong; a script reads the exit code."""
    serve = FakeServe(error=NotFound("/models/mnist has no versions"))

    code = run("serve", "--model_base_path=/models/mnist", serve=serve)

    assert code == 1
    assert "NOT_FOUND: /models/mnist has no versions" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--port", "--help"], ["--xyz", "--help"]])
def test_serve_help_explains_every_option(words, capsys):
    """Help is given wherever it is asked for, and names every row of the table."""
    code = run("serve", *words)

    text = capsys.readouterr().out
    assert code == 0
    assert [row.name for row in ROWS if f"--{row.name}" not in text] == []


@pytest.mark.parametrize("columns", [60, 80, 300])
def test_serve_help_is_wrapped(columns):
    """The explanations keep to the terminal, and on a wide one to a readable width."""
    explanations = [
        line for line in help_for_serve(columns).splitlines() if line.startswith(" " * 6)
    ]

    assert max(map(len, explanations)) <= min(columns, 96)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_the_commands(words, capsys):
    """Asked for help, or for nothing, the command explains itself."""
    code = run(*words)

    text = capsys.readouterr().out
    assert code == 0
    assert [command for command in main.COMMANDS if f"salver {command}" not in text] == []


@pytest.mark.parametrize("word", ["version", "--version", "-V"])
def test_version_names_salver_and_tensorflow(word, capsys):
    """Both versions are told without importing either."""
    code = run(word)

    text = capsys.readouterr().out
    assert code == 0
    assert text.startswith(f"Salver {__version__}, ")
    assert "\nTensorFlow " in text


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("serv", "there is no command 'serv'; did you mean serve?"),
        ("xyz", "there is no command 'xyz'; there are serve, check, show, options, version, help."),
        ("--port=1", "options follow a command, as in: salver serve --port=1"),
    ],
)
def test_an_unknown_command_gets_a_hint(word, hint, capsys):
    """A mistyped command ends with what was perhaps meant."""
    code = run(word)

    assert code == 2
    assert capsys.readouterr().err == f"salver: {hint}\n"


HEAVY = ("asyncio", "google.protobuf", "grpc", "numpy", "tensorflow", "uvloop")


@pytest.mark.parametrize("command", ["help", "version", "options", "serve --help"])
def test_a_command_that_serves_nothing_imports_nothing_heavy(command):
    """Help and versions are instant: no array, loop, protobuf or framework comes along."""
    program = (
        "import sys\n"
        "from salver.cli.main import main\n"
        "code = main()\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (finished.returncode, finished.stderr) == (0, "[]\n")


def test_the_package_runs_as_a_module():
    """``python -m salver`` is the command ``salver``."""
    finished = subprocess.run(
        [sys.executable, "-m", "salver", "serv"],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 2
    assert finished.stderr.startswith("salver: there is no command 'serv'")


def test_a_thread_that_hangs_does_not_keep_the_process():
    """A load that never comes back sits on a pool's thread; the command ends all the same."""
    program = (
        "import sys, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from salver.cli.console import leave\n"
        "ThreadPoolExecutor().submit(threading.Event().wait)\n"
        "print('said')\n"
        "sys.exit(leave(7))\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (finished.returncode, finished.stdout) == (7, "said\n")


def test_a_command_without_threads_ends_as_usual():
    """Nothing at work, nothing cut short: the code is handed on."""
    assert leave(3) == 3
