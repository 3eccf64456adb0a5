"""What stands between a source and the manager."""

from __future__ import annotations

import pytest

from fakes import RecordingTarget
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.source import ErrorInjectingAdapter, SourceAdapter, SourceRouter
from salver.errors import FailedPrecondition, InvalidArgument, NotFound, ServingError, Unknown


def data(version: int, path: str = "p") -> ServableData[str]:
    return ServableData(ServableId("m", version), path)


def test_id_prints_as_in_tensorflow_serving():
    """Logs and errors name a version as TensorFlow Serving does."""
    assert str(ServableId("half_plus_two", 123)) == "{name: half_plus_two version: 123}"


def test_value_is_the_payload_or_the_error():
    """Data gives what it carries, or raises why it cannot."""
    assert data(1, "path").value() == "path"
    with pytest.raises(NotFound, match="gone"):
        ServableData(ServableId("m", 1), error=NotFound("gone")).value()


def test_adapter_converts_each_version():
    """Every payload arrives in its new form, under its own id."""
    target = RecordingTarget()
    adapter = SourceAdapter(lambda servable_id, path: f"{path}@{servable_id.version}", target)

    adapter.set_aspired_versions("m", [data(1, "a"), data(2, "b")])

    assert target.wishes == [("m", [data(1, "a@1"), data(2, "b@2")])]


def test_adapter_hands_an_empty_wish_on():
    """The wish for nothing is a wish."""
    target = RecordingTarget()

    SourceAdapter(lambda _, path: path, target).set_aspired_versions("m", [])

    assert target.wishes == [("m", [])]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (InvalidArgument("bad"), InvalidArgument, "bad"),
        (KeyError("k"), Unknown, "KeyError: 'k'"),
    ],
)
def test_failing_conversion_costs_its_version_only(
    raised: Exception, kind: type[ServingError], message: str
):
    """What the conversion of one version raises travels on in its place."""
    target = RecordingTarget()

    def convert(servable_id: ServableId, path: str) -> str:
        if servable_id.version == 1:
            raise raised
        return path

    SourceAdapter(convert, target).set_aspired_versions("m", [data(1), data(2)])

    ((_, (failed, converted)),) = target.wishes
    assert type(failed.error) is kind
    assert failed.error.message == message
    assert failed.error.__traceback__ is None
    assert converted == data(2)


def test_adapter_passes_errors_through():
    """A version that came as an error leaves as that error, unconverted."""
    target = RecordingTarget()
    broken = ServableData[str](ServableId("m", 1), error=NotFound("gone"))

    SourceAdapter(lambda _, path: path, target).set_aspired_versions("m", [broken])

    ((_, (passed,)),) = target.wishes
    assert isinstance(passed.error, NotFound)
    assert passed.error.message == "gone"


def test_error_injecting_adapter_fails_every_version():
    """Every version becomes the one error."""
    target = RecordingTarget()
    error = FailedPrecondition("no platform")

    ErrorInjectingAdapter(error, target).set_aspired_versions("m", [data(1), data(2)])

    ((_, versions),) = target.wishes
    assert [(d.id.version, d.error) for d in versions] == [(1, error), (2, error)]


def test_router_sends_each_name_its_way():
    """A name in the table goes to its target, any other to the last resort."""
    mine, rest = RecordingTarget(), RecordingTarget()
    router = SourceRouter(rest, {"m": mine})

    router.set_aspired_versions("m", [data(1)])
    router.set_aspired_versions("other", [])

    assert mine.wishes == [("m", [data(1)])]
    assert rest.wishes == [("other", [])]


def test_routes_are_replaced_whole():
    """After an update only the new table counts."""
    first, second, rest = RecordingTarget(), RecordingTarget(), RecordingTarget()
    router = SourceRouter(rest, {"m": first, "gone": first})

    router.update_routes({"m": second})
    router.set_aspired_versions("m", [])
    router.set_aspired_versions("gone", [])

    assert (len(first.wishes), len(second.wishes), len(rest.wishes)) == (0, 1, 1)
