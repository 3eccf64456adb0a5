"""The process logs in TensorFlow's layout."""

import logging
import re
import subprocess
import sys

import pytest

import salver.cli.logs
from salver.cli.logs import TensorFlowLayout


def record(level=logging.INFO, pathname=salver.cli.logs.__file__, exc_info=None):
    return logging.LogRecord("salver", level, pathname, 12, "loaded %s", ("mnist/7",), exc_info)


def test_a_line_has_tensorflows_layout():
    """Time to the microsecond, level letter, the file within the package, line, message."""
    line = TensorFlowLayout().format(record())

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: I salver/cli/logs\.py:12\] loaded mnist/7", line
    )


@pytest.mark.parametrize(
    ("level", "letter"),
    [(logging.DEBUG, "I"), (logging.WARNING, "W"), (logging.ERROR, "E"), (logging.CRITICAL, "F")],
)
def test_the_letter_tells_the_level(level, letter):
    """The letters are TensorFlow's four."""
    assert f": {letter} salver/" in TensorFlowLayout().format(record(level))


def test_a_file_outside_the_package_is_shortened():
    """Of another library's path, folder and file are enough."""
    line = TensorFlowLayout().format(record(pathname="/usr/lib/python3/asyncio/base_events.py"))

    assert " asyncio/base_events.py:12] " in line


def test_a_traceback_follows_its_line():
    """What was raised is not lost."""
    error = ValueError("odd")

    line = TensorFlowLayout().format(record(exc_info=(ValueError, error, None)))

    assert line.endswith("\nValueError: odd")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("", "IWE"),
        ("0", "IWE"),
        ("1", "WE"),
        ("2", "E"),
        ("3", ""),
        ("99", ""),
        ("loud", "IWE"),
        ("9" * 9999, "IWE"),
    ],
)
def test_tensorflows_variable_quiets_the_log(level, shown):
    """TF_CPP_MIN_LOG_LEVEL hides what it hides of TensorFlow's lines; nonsense hides nothing."""
    program = (
        "import logging, sys\n"
        "from salver.cli.logs import set_up_logging\n"
        "set_up_logging(sys.stderr, {'TF_CPP_MIN_LOG_LEVEL': sys.argv[1]})\n"
        "for level in (logging.INFO, logging.WARNING, logging.ERROR):\n"
        "    logging.getLogger('any').log(level, 'hello')\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, level],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "".join(re.findall(r": ([IWEF]) ", finished.stderr)) == shown
