"""Checking a configuration file: what it brings about, what is wrong, by line and column."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from certificates import Authority
from salver.model_server.config_check import Kind, Report, check, kind_of
from salver.model_server.platform_config import ADAPTER
from salver.servables.platform import installed_platforms

FOLDERS = {"/models/m": ["1", "2", "10", "tmp"], "/models/empty": []}

PLATFORM = 'model_platform: "tensorflow"'


def listing(path: str) -> list[str]:
    if path not in FOLDERS:
        raise FileNotFoundError(2, "No such file or directory")
    return FOLDERS[path]


def checked(text: str, kind: Kind | None = None) -> Report:
    return check(text.encode(), kind, list_children=listing)


def told(report: Report) -> list[str]:
    return [f"{f.position}: {f.level.value}: {f.text}" for f in report.findings]


def test_a_good_file_says_which_versions_would_be_loaded():
    """By its policies, of what lies there now."""
    report = checked(
        "model_config_list {\n"
        f'config {{ name: "a" base_path: "/models/m" {PLATFORM} }}\n'
        f'config {{ name: "b" base_path: "/models/m" {PLATFORM}\n'
        "  model_version_policy { specific { versions: 1 versions: 2 } } }\n"
        f'config {{ name: "c" base_path: "/models/m" {PLATFORM}\n'
        "  model_version_policy { all { } } }\n"
        f'config {{ name: "d" base_path: "/models/m" {PLATFORM}\n'
        "  model_version_policy { latest { num_versions: 2 } } }\n"
        f'config {{ name: "e" base_path: "s3://models/e" {PLATFORM} }}\n'
        "}\n"
    )

    assert report.is_good
    assert report.message == "ModelServerConfig"
    assert list(report.honoured) == [
        "a: the latest version in /models/m; loads 10 of 10, 2, 1",
        "b: versions 2, 1 in /models/m; loads 2, 1 of 10, 2, 1",
        "c: all versions in /models/m; loads 10, 2, 1 of 10, 2, 1",
        "d: the latest 2 versions in /models/m; loads 10, 2 of 10, 2, 1",
        "e: the latest version in s3://models/e; a remote store, not looked at",
    ]
    assert told(report) == []


def test_a_folder_may_be_written_as_a_uri():
    """It is the one that its path means."""
    report = checked(
        f'model_config_list {{ config {{ name: "a" base_path: "file:///models/m" {PLATFORM} }} }}'
    )

    assert report.is_good
    assert list(report.honoured) == [
        "a: the latest version in file:///models/m; loads 10 of 10, 2, 1"
    ]


def test_a_secret_in_a_base_path_is_refused_and_not_repeated():
    """What a check writes ends up in logs."""
    uri = "https://me:hunter2@example.com/m"
    report = checked(
        f'model_config_list {{ config {{ name: "a" base_path: "{uri}" {PLATFORM} }} }}'
    )

    assert not report.is_good
    assert "carries credentials" in told(report)[0]
    assert "hunter2" not in str(report)


def test_everything_that_is_wrong_is_told_with_its_place():
    """All of it at once, in the order of the file."""
    report = checked(
        "model_config_list {\n"
        f'  config {{ name: "m" base_path: "/models/no" {PLATFORM} }}\n'
        f'  config {{ name: "m" base_path: "models/m" {PLATFORM} }}\n'
        '  config { name: "n" base_path: "/models/m" }\n'
        f'  config {{ name: "o" base_path: "/models/empty" {PLATFORM} }}\n'
        f'  config {{ name: "p" base_path: "/models/m" {PLATFORM}\n'
        "    logging_config { } }\n"
        '  config { name: "q" base_path: "/models/m" model_platform: "other" }\n'
        f'  config {{ name: "" base_path: "/models/m" {PLATFORM} }}\n'
        "}\n"
    )

    assert not report.is_good
    assert told(report) == [
        "2:22: error: base path /models/no cannot be read: No such file or directory",
        "3:12: error: Illegal to list model m multiple times in config list",
        "3:22: error: Expected model m to have an absolute path or URI; got base_path()=models/m",
        (
            "4:3: error: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform, model name is n"
        ),
        (
            "5:22: error: No versions of servable o found under base path /models/empty. Did you "
            "forget to name your leaf directory as a number (eg. '/1/')?"
        ),
        "7:5: error: No request-logger-creator provided.",
        (
            "8:45: warning: Model q requests unsupported platform other; there are: "
            f"{', '.join(installed_platforms())}, and whatever platform_config_file lists"
        ),
        "9:3: warning: a model without a name cannot be asked for",
    ]


def test_labels_are_compared_to_the_versions_that_would_be_loaded():
    """One for another version has its place; one that is fine is refused by one of the faces."""
    report = checked(
        f'model_config_list {{ config {{ name: "m" base_path: "/models/m" {PLATFORM}\n'
        'version_labels { key: "good" value: 10 }\n'
        'version_labels { key: "bad" value: 1 } } }\n'
    )

    assert report.is_good
    first, second = told(report)
    assert first.startswith("2:1: warning: label good: tensorflow_model_server refuses")
    assert second == "3:1: warning: label bad is for version 1, which is not loaded"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("model_config_list {\n  cofnig { } }", '2:3: error: Message type "tensorflow.serving.'),
        ("custom_model_config { }", "1:1: error: ModelServer does not yet support custom"),
        ("# nothing", "1:1: warning: it says nothing about models"),
    ],
)
def test_files_that_serve_nothing_are_told_so(text: str, finding: str):
    """A mistake in the text is an error with its place."""
    assert told(checked(text, Kind.MODEL))[0].startswith(finding)


def test_a_platform_file_says_what_holds_and_what_does_not():
    """Inside the Any, too."""
    report = checked(
        'platform_configs { key: "tensorflow" value { source_adapter_config {\n'
        f"  [type.googleapis.com/{ADAPTER}] {{ legacy_config {{\n"
        '    saved_model_tags: "serve"\n'
        "    session_config { intra_op_parallelism_threads: 2 }\n"
        '    mixed_precision: "bfloat16"\n'
        "    enable_saved_model_config: true\n"
        "} } } } }\n"
        'platform_configs { key: "x" value { } }\n'
    )

    assert list(report.honoured) == [
        "tensorflow: tags serve; warm-up off; session config: intra_op_parallelism_threads"
    ]
    assert [line.partition(" has")[0].partition(" keeps")[0] for line in told(report)] == [
        "5:5: warning: mixed_precision",
        "6:5: error: enable_saved_model_config",
        f"8:29: error: platform x names no adapter; there is only {ADAPTER}",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_batch_size { value: 8 } allowed_batch_sizes: [2, 8]", ""),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            (
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
                "expected 8"
            ),
        ),
        (
            "allowed_batch_sizes: [4, 2, 1000]",
            "allowed_batch_sizes entries must be in increasing order",
        ),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be positive; was -1"),
        ("max_batch_size { value: 0 }", "input_batch_size_limit must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            (
                "enable_large_batch_splitting { value: true } max_batch_size { value: 4 } "
                "max_execution_batch_size { value: 8 }"
            ),
            (
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater "
                "than or equal to max_execution_batch_size.<4, 8>"
            ),
        ),
        (
            (
                "enable_large_batch_splitting { value: true } max_batch_size { value: 64 } "
                "max_execution_batch_size { value: 8 } allowed_batch_sizes: [8, 64]"
            ),
            "",
        ),
    ],
)
def test_batching_parameters_are_checked_by_tensorflow_servings_rules(text: str, complaint: str):
    """In its words."""
    report = checked(text, Kind.BATCHING)

    errors = [finding.text for finding in report.findings if finding.level.value == "error"]
    assert errors == ([complaint] if complaint else [])
    assert report.honoured[0].startswith("with --enable_batching: ")


def test_a_platform_file_says_that_models_are_batched_and_what_keeps_them_from_loading():
    """With the place of the field."""
    report = checked(
        'platform_configs { key: "tensorflow" value { source_adapter_config {\n'
        f"  [type.googleapis.com/{ADAPTER}] {{ legacy_config {{\n"
        "    batching_parameters {\n"
        "      max_enqueued_batches { value: 0 } } }\n"
        "} } } }\n"
    )

    assert list(report.honoured) == [
        "tensorflow: tags serve; warm-up off; session config: none; batched"
    ]
    assert told(report) == [
        (
            "4:7: error: batching_parameters.max_enqueued_batches keeps every model from loading: "
            "max_enqueued_batches must be positive; was 0"
        )
    ]


def test_a_monitoring_file_says_where_the_page_is():
    """Or that there is none."""
    assert checked("prometheus_config { enable: true path: '/p' }").honoured == [
        "the Prometheus page is at /p on the REST port"
    ]
    assert told(checked("prometheus_config { path: '/p' }")) == [
        "1:1: warning: prometheus_config.enable is not set: there is no page"
    ]


def test_an_ssl_file_is_tried(authority: Authority):
    """With the certificate and the key in it."""
    server = authority.server()
    text = f"server_cert: {quoted(server.certificate)}\nserver_key: {quoted(server.key)}\n"

    assert checked(text).honoured == ["TLS for gRPC; clients are not asked for certificates"]
    assert not checked("server_cert: 'x' server_key: 'y'").is_good
    assert not checked("client_verify: true", Kind.SSL).is_good


def quoted(text: str) -> str:
    return "\n".join(f'"{line}\\n"' for line in text.splitlines())


def test_a_session_file_says_what_tensorflow_is_handed():
    """Its fields."""
    report = checked("gpu_options { allow_growth: true } allow_soft_placement: true")

    assert report.honoured == ["handed to TensorFlow: gpu_options, allow_soft_placement"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("model_config_list { }", Kind.MODEL),
        ("model_config_list { config { nmae: 'x' } }", Kind.MODEL),
        ("platform_configs { key: 'x' }", Kind.PLATFORM),
        ("max_batch_size { value: 1 }", Kind.BATCHING),
        ("max_batch_size { value: 'x' }", Kind.BATCHING),
        ("prometheus_config { }", Kind.MONITORING),
        ("server_key: ''", Kind.SSL),
        ("server_key: 'a'", Kind.SSL),
        ("intra_op_parallelism_threads: 1", Kind.SESSION),
        ("# nothing", Kind.MODEL),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_text(text: str, kind: Kind):
    """Also where the text has a mistake: by how far it can be read."""
    assert kind_of(text.encode()) is kind


def test_what_lies_in_a_real_folder_is_what_counts(tmp_path: Path):
    """Without a listing of the test's own."""
    (tmp_path / "m" / "7").mkdir(parents=True)
    text = f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/m" {PLATFORM} }} }}'

    assert check(text.encode()).honoured == [f"m: the latest version in {tmp_path}/m; loads 7 of 7"]


def test_the_examples_of_the_page_are_right():
    """Every file that ``docs/configuration.md`` shows reads without a mistake."""
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^    (?:model_config_list|platform_configs) \{\n(?:    .*\n)+", page, re.MULTILINE
    )

    reports = [checked(block) for block in blocks]

    assert [report.message for report in reports] == ["ModelServerConfig", "PlatformConfigMap"]
    assert reports[1].is_good
    assert all("cannot be read" in finding.text for finding in reports[0].findings)
