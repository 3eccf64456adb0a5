"""What TensorFlow is told a folder is called: its path, and after many versions a lasting name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from salver.errors import ServingError, Unknown
from salver.servables.folder_names import FolderNames
from salver.servables.tensorflow import TensorFlowRuntime
from saved_models import Shelf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model with three versions."""
    for version in ("1", "2", "3"):
        (tmp_path / "m" / version).mkdir(parents=True)
    return tmp_path / "m"


def open_files() -> set[str]:
    """The descriptors of this process."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def test_the_first_versions_of_a_model_go_by_their_paths(model: Path):
    """So does each of them when it is loaded again."""
    names = FolderNames(max_versions=2)

    told = [names.name(model / version).told for version in ("1", "2", "1")]

    assert told == [model / "1", model / "2", model / "1"]


def test_a_later_version_goes_by_a_name_that_comes_back(model: Path):
    """The name leads to the folder while it is open, and to another one after that."""
    names = FolderNames(max_versions=1)
    names.name(model / "1")
    name = names.name(model / "2")
    led_to = os.path.realpath(name.told)
    name.close()

    other = names.name(model / "3")

    assert name.told == other.told != model / "3"
    assert (led_to, os.path.realpath(other.told)) == (str(model / "2"), str(model / "3"))
    other.close()


def test_models_do_not_use_up_each_others_names(model: Path):
    """Each has so many versions, and all together have an end, too."""
    names = FolderNames(max_versions=1, max_paths=2)
    folders = [model / "1", model / "1" / "a", model / "2" / "b"]
    for folder in folders[1:]:
        folder.mkdir()

    told = [names.name(folder) for folder in folders]
    for name in told:
        name.close()

    assert [name.told == folder for name, folder in zip(told, folders, strict=True)] == [
        True,
        True,
        False,
    ]


def test_a_folder_that_is_not_there_goes_by_its_path(model: Path):
    """TensorFlow may say itself what is wrong with it."""
    name = FolderNames(max_versions=0).name(model / "9")

    assert name.told == model / "9"


def test_errors_name_the_path(model: Path):
    """Nobody knows a folder by the name that TensorFlow was told."""
    name = FolderNames(max_versions=0).name(model / "1")
    error = name.translated(Unknown(f"nothing in {name.told}/variables"))
    name.close()

    assert error.message == f"nothing in {model}/1/variables"
    assert isinstance(error, Unknown)


def test_a_model_loads_from_a_lasting_name_and_lets_go_of_it(shelf: Shelf):
    """Its graph, variables and assets are read through it; unloading closes the folder."""
    runtime = TensorFlowRuntime(folder_names=FolderNames(max_versions=0))
    loaders = [runtime.loader(str(shelf.version(each))) for each in ("half_plus_two", "v1_main_op")]
    loaders[0].load()  # TensorFlow keeps files of its own open from its first load on
    loaders[0].unload()
    before = open_files()
    answers = []
    for loader, sent in zip(loaders, (np.float32([4]), np.int64([2])), strict=True):
        loader.load()
        servable = loader.servable()
        signature = servable.signatures["serving_default"]
        (feed,), (fetch,) = signature.inputs.values(), signature.outputs.values()
        answers += servable.run({feed.name: sent}, [fetch.name])
    for loader in loaders:
        loader.unload()

    assert [answer.tolist() for answer in answers] == [[4.0], [b"two"]]
    assert open_files() == before


def test_a_load_that_fails_by_a_lasting_name_says_what_it_would_have_said(
    shelf: Shelf, tmp_path: Path
):
    """The same words with the same path, and the folder is closed."""
    version = tmp_path / "1"
    shutil.copytree(shelf.version("half_plus_two"), version)
    (version / "variables" / "variables.data-00000-of-00001").unlink()
    before = open_files()
    texts = []
    for names in (FolderNames(), FolderNames(max_versions=0)):
        runtime = TensorFlowRuntime(folder_names=names)
        with pytest.raises(ServingError) as raised:
            runtime.load(version)
        texts.append(str(raised.value))

    assert texts[0] == texts[1]
    assert str(version) in texts[0]
    assert open_files() == before
