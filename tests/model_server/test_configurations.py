"""One configuration after another: what is accepted, what labels mean, what revisions are."""

from __future__ import annotations

import threading

import pytest

from core_house import CoreHouse, model
from salver.apis.requests import ModelSpec
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep
from salver.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
)
from salver.model_server.model_config import ModelConfig
from salver.model_server.server_core import (
    LabelRules,
    Looks,
    OnlyChanges,
    RevisionMismatch,
    ServerCore,
)
from salver.sources.version_policy import Specific

FOLLOWING = LabelRules(follow_loads=True)


def meaning(core: ServerCore, label: str, name: str = "m") -> int:
    with core.handle(ModelSpec(name, version_label=label)) as handle:
        return handle.id.version


def loaded(house: CoreHouse, name: str = "m") -> list[int]:
    return house.manager.serving_map.versions(name)


@pytest.fixture
def house() -> CoreHouse:
    made = CoreHouse()
    made.add("m", 1, 2)
    return made


# Which configurations are accepted (ReloadConfig).


def test_a_list_supersedes_everything_before_it(house: CoreHouse):
    """A model that is left out is unloaded; one that stays is not touched."""
    house.add("n", 1)
    house.serve(model("m"), model("n"))
    before = house.manager.handle("n").servable

    house.serve(model("n"))

    assert loaded(house) == []
    assert house.manager.handle("n").servable is before


def test_a_list_may_be_empty(house: CoreHouse):
    """A server may serve nothing, at the start and later."""
    house.serve()
    house.serve(model("m"))
    house.serve()

    assert loaded(house) == []
    assert house.core.names() == []


def test_a_configuration_that_says_nothing_changes_nothing_and_may_be_first(house: CoreHouse):
    """A list may follow it; labels are still unknown to the server."""
    change = house.core.configure(None)
    with pytest.raises(Unavailable, match=r"Model labels does not init yet\.stable"):
        meaning(house.core, "stable")
    house.serve(model("m"))

    assert change.new == ()
    assert loaded(house) == [2, 1]


def test_after_a_list_nothing_but_lists_is_accepted(house: CoreHouse):
    """So a file that was emptied unloads nothing."""
    house.serve(model("m"))

    with pytest.raises(FailedPrecondition) as raised:
        house.core.configure(None)

    assert raised.value.message == (
        "Cannot transition to requested config. It is only legal to transition from one "
        "ModelConfigList to another."
    )
    assert loaded(house) == [2, 1]


def test_a_model_keeps_its_platform():
    """As long as it is configured; after it was left out once it may come back as another."""
    house = CoreHouse(platforms=("tensorflow", "other"))
    house.add("m", 1)
    other = ModelConfig("m", "/models/m", platform="other")
    house.serve(model("m"))

    with pytest.raises(InvalidArgument) as raised:
        house.serve(other)
    assert raised.value.message == (
        "Illegal to change a model's platform. For model m platform was tensorflow and new "
        "platform requested is other"
    )
    house.serve()
    house.serve(other)
    assert loaded(house) == [1]


def test_a_configuration_that_failed_for_its_labels_is_what_the_next_is_compared_to():
    """TensorFlow Serving stores it before it looks at labels; its models are not applied."""
    house = CoreHouse(platforms=("tensorflow", "other"))
    failing = ModelConfig("m", "/models/m", platform="other", version_labels={"stable": 1})
    with pytest.raises(FailedPrecondition):
        house.core.configure([failing])

    with pytest.raises(InvalidArgument, match="platform was other"):
        house.core.configure([model("m")])

    assert house.core.names() == ()


def test_a_new_base_path_with_the_same_versions_reloads_nothing(house: CoreHouse):
    """Data may move while it is served."""
    house.serve(model("m"))
    before = house.manager.handle("m").servable
    house.shelf.versions["/elsewhere/m"] = [1, 2]

    house.serve(ModelConfig("m", "/elsewhere/m", Specific((1, 2))))

    assert house.manager.handle("m").servable is before


def test_a_new_policy_holds_from_the_next_look(house: CoreHouse):
    """Nothing is loaded or unloaded before it."""
    house.serve(model("m"))

    house.core.configure([ModelConfig("m", "/models/m", Specific((1,)))])
    while house.manager.step():
        pass
    assert loaded(house) == [2, 1]
    house.settle()

    assert loaded(house) == [1]


def test_an_identical_configuration_is_accepted_and_keeps_its_revision(house: CoreHouse):
    """Whoever sends the same again changes nothing."""
    house.serve(model("m"))
    revision = house.core.revision()

    change = house.core.configure([model("m")])

    assert (change.revision, change.new) == (revision, ())


# Labels.


def test_a_label_of_the_first_configuration_is_refused(house: CoreHouse):
    """The versions are not loaded yet, and nothing is configured."""
    with pytest.raises(FailedPrecondition) as raised:
        house.core.configure([model("m", stable=1)])

    assert raised.value.message == (
        "Request to assign label to version 1 of model m, "
        "which is not currently available for inference"
    )


def test_a_version_and_its_label_cannot_come_together(house: CoreHouse):
    """The label is judged before the version could be loaded; the models stay as they are."""
    house.serve(model("m"))
    house.add("m", 1, 2, 3)

    with pytest.raises(FailedPrecondition, match="version 3 of model m"):
        house.serve(model("m", canary=3))

    house.settle()
    assert loaded(house) == [3, 2, 1]
    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: canary"):
        meaning(house.core, "canary")


def test_labels_are_replaced_whole_before_any_model_goes(house: CoreHouse):
    """One left out means nothing at once, though its version is still loaded."""
    house.serve(model("m"))
    house.serve(model("m", stable=1, also=1))
    house.core.configure([model("m", also=1)])

    with pytest.raises(InvalidArgument):
        meaning(house.core, "stable")
    assert meaning(house.core, "also") == 1


def test_a_label_of_an_unloaded_version_is_not_found(house: CoreHouse):
    """The label is known, its version is not there."""
    house.serve(model("m"))
    house.serve(model("m", old=1))
    house.add("m", 2)
    house.settle()

    with pytest.raises(NotFound) as raised:
        meaning(house.core, "old")
    assert raised.value.message == "Servable not found for request: Specific(m, 1)"


def test_a_label_that_follows_loads_means_its_version_once_it_is_there():
    """A label of the first configuration is fine: it is not found until then."""
    house = CoreHouse(rules=FOLLOWING)
    house.add("m", 1)
    house.core.configure([model("m", stable=1)])
    with pytest.raises(NotFound):
        meaning(house.core, "stable")

    house.settle()

    assert meaning(house.core, "stable") == 1


def test_a_label_that_moves_to_a_version_to_be_loaded_keeps_its_meaning_until_then():
    """At no moment does it mean nothing, also where the new version pushes the old one out."""
    house = CoreHouse(rules=FOLLOWING)
    house.add("m", 1)
    house.serve(ModelConfig("m", "/models/m", version_labels={"stable": 1}))
    answers: list[int] = []
    house.bus.subscribe(lambda _: answers.append(meaning(house.core, "stable")))

    house.add("m", 1, 2)
    house.core.configure([ModelConfig("m", "/models/m", version_labels={"stable": 2})])
    assert meaning(house.core, "stable") == 1
    house.settle()

    assert set(answers) == {1, 2}
    assert answers == sorted(answers)
    assert loaded(house) == [2]


def test_a_label_stays_where_it_is_when_its_new_version_fails():
    """The old meaning is still right; the list shows what the label waits for."""
    house = CoreHouse(rules=FOLLOWING)
    house.add("m", 1)
    house.serve(model("m", stable=1))
    house.add("m", 1, 2)
    house.load_errors["/models/m/2"] = InvalidArgument("broken")

    house.serve(model("m", stable=2, other=1))

    (view,) = house.core.views()
    assert (view.labels, view.awaited_labels) == ({"stable": 1, "other": 1}, {"stable": 2})


def test_a_label_moves_to_a_version_that_sleeps():
    """It can be had: asking for it by its label wakes it."""
    house = CoreHouse(rules=FOLLOWING, versions_in_memory=1)
    house.add("m", 1)
    house.add("other", 1)
    house.serve(ModelConfig("other", "/models/other"))  # fills the memory
    house.serve(ModelConfig("other", "/models/other"), model("m", stable=1))
    house.add("m", 2)
    house.serve(ModelConfig("other", "/models/other"), model("m", stable=2))

    with pytest.raises(Asleep) as asleep:
        meaning(house.core, "stable")
    assert asleep.value.servable_id == ServableId("m", 2)


def test_of_several_labels_only_those_move_whose_version_came():
    """Each waits for its own."""
    house = CoreHouse(rules=FOLLOWING)
    house.add("m", 1)
    house.serve(model("m", a=1, b=1))
    house.core.configure([model("m", a=2, b=3)])
    house.add("m", 1, 2)
    house.settle()

    assert (meaning(house.core, "a"), meaning(house.core, "b")) == (2, 1)


# Revisions.


def test_every_change_has_a_revision_of_its_own(house: CoreHouse):
    """It begins with what tells one life of the server from another."""
    revisions = [house.core.revision()]
    configurations = ([model("m")], [model("m"), model("n")], [model("m")])
    revisions += [house.core.configure(configs).revision for configs in configurations]

    assert revisions == ["test-0", "test-1", "test-2", "test-3"]


def test_one_model_is_added_replaced_and_taken_out(house: CoreHouse):
    """The others stay as they are."""
    house.serve(model("m"))
    house.add("n", 1, 2)

    added = house.core.edit("n", model("n"), if_revision="test-1")
    replaced = house.core.edit(
        "n", ModelConfig("n", "/models/n", Specific((1,))), if_revision=added.revision
    )
    house.settle()
    assert (added.new, replaced.new, loaded(house, "n")) == (("n",), (), [1])
    house.core.edit("n", None, if_revision=replaced.revision)
    house.settle()

    assert (loaded(house), loaded(house, "n")) == ([2, 1], [])


def test_of_two_writers_with_one_revision_the_second_is_told(house: CoreHouse):
    """Neither loses the other's change."""
    house.serve(model("m"))
    house.core.edit("n", model("n"), if_revision="test-1")

    with pytest.raises(RevisionMismatch, match="test-2 by now, not test-1"):
        house.core.edit("o", model("o"), if_revision="test-1")

    assert house.core.names() == ["m", "n"]


def test_many_writers_at_once_lose_nothing(house: CoreHouse):
    """Each tries again until its change is in."""
    house.serve()

    def add(name: str) -> None:
        while True:
            try:
                house.core.edit(name, model(name), if_revision=house.core.revision())
            except RevisionMismatch:
                continue
            return

    writers = [threading.Thread(target=add, args=(f"m{i}",)) for i in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert set(house.core.names()) == {f"m{i}" for i in range(20)}
    assert house.core.revision() == "test-21"


def test_what_is_not_configured_cannot_be_taken_out(house: CoreHouse):
    """And the revision stays."""
    house.serve(model("m"))

    with pytest.raises(NotFound, match="no model n is configured"):
        house.core.edit("n", None, if_revision="test-1")
    assert house.core.revision() == "test-1"


# Views and waits.


def test_the_list_has_what_is_configured_and_what_is_still_to_go(house: CoreHouse):
    """What has ended and is not configured is not on it."""
    house.add("n", 1)
    house.add("gone", 1)
    house.serve(model("gone"), model("n"), model("m"))
    house.serve(model("n"), model("m"))
    with house.manager.handle("m"):
        house.serve(model("n"))

        views = {view.name: view for view in house.core.views()}

    assert list(views) == ["n", "m"]
    assert views["m"].config is None
    assert {status.state for status in views["m"].versions} == {"UNLOADING", "END"}


def test_a_wait_for_the_start_is_over_when_the_missing_model_leaves(house: CoreHouse):
    """Whoever mends the configuration need not mend the path."""
    calls: list[None] = []
    house.serve(model("m"), model("missing"))
    house.core.when_loaded(lambda: calls.append(None))
    assert calls == []

    house.serve(model("m"))

    assert calls == [None]


def test_a_failed_start_is_told_in_tensorflow_servings_words(house: CoreHouse):
    """Every model that failed, with its cause."""
    house.load_errors = {f"/models/m/{v}": InvalidArgument("broken") for v in (1, 2)}
    house.serve(model("m"))

    with pytest.raises(ServingError) as raised:
        house.core.check_loaded()

    assert raised.value.message == (
        "1 servable(s) did not become available: "
        "{{name: m version: 2} due to error: INVALID_ARGUMENT: broken}, }"
    )


def test_a_wish_is_handed_on_only_if_it_is_another():
    """Saying the same every second costs nothing further down."""
    heard: list[tuple[str, list[int]]] = []

    class Target:
        def set_aspired_versions(self, name, versions):
            heard.append((name, [data.id.version for data in versions]))

    target = OnlyChanges(Target())
    for versions in ([1], [1], [1, 2], [], [1, 2]):
        target.set_aspired_versions("m", [ServableData(ServableId("m", v), "p") for v in versions])

    assert heard == [("m", [1]), ("m", [1, 2]), ("m", []), ("m", [1, 2])]


def test_a_look_answers_all_who_asked_before_it_began():
    """Whoever asks during a look gets one more, and all of them the same one."""
    looks = 0
    has_begun, may_end, is_over = threading.Event(), threading.Event(), threading.Event()
    answered: list[tuple[str, int]] = []

    def look() -> None:
        nonlocal looks
        looks += 1
        has_begun.set()
        may_end.wait(60)

    asked = Looks(look)
    asked.soon(lambda: answered.append(("first", looks)))
    has_begun.wait(60)
    asked.soon(lambda: answered.append(("second", looks)))
    asked.soon(lambda: (answered.append(("third", looks)), is_over.set()))
    may_end.set()
    is_over.wait(60)

    assert answered == [("first", 1), ("second", 2), ("third", 2)]
