"""The pages made from the table of options."""

from pathlib import Path

from salver.cli import options
from salver.model_server.options import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_options_page_is_in_step_with_the_table():
    """``docs/options.md`` is what ``salver options --markdown`` writes; run it after a change."""
    assert PAGE.read_text(encoding="utf-8") == options.markdown()


def test_the_page_has_every_option_once_in_the_tables_that_explain():
    """No option is missing, and none is explained twice."""
    explained = [
        line.split("`")[1] for line in options.markdown().splitlines() if line[:3] == "| `"
    ]
    two_defaults = [row.name for row in ROWS if row.default != row.salver_default]

    assert sorted(explained) == sorted([row.name for row in ROWS] + two_defaults)


def test_the_table_for_a_terminal_has_a_line_per_option(capsys):
    """Each line names the option, its type and both defaults, in columns."""
    code = options.run([])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:]] == [row.name for row in ROWS]
    assert "rest_api_port int32 0 8501" in [" ".join(line.split()) for line in lines]


def test_the_page_can_be_printed(capsys):
    """``--markdown`` prints the page of the documentation."""
    code = options.run(["--markdown"])

    assert (code, capsys.readouterr().out) == (0, options.markdown())


def test_other_words_are_refused(capsys):
    """A word that is not understood is not passed over."""
    code = options.run(["--json"])

    assert code == 2
    assert "--markdown" in capsys.readouterr().err
