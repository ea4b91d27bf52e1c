"""Repository scans and version policies: models, versions, stamps and names. Nothing is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from torso.errors import ConfigError, ServerError
from torso.nets.models.card import CARD, WEIGHTS
from torso.nets.models.directory import find_model
from torso.nets.models.onnx_export import ONNX
from torso.serve import ServeConfig
from torso.serve.models.catalogue import STAMPED, TAKEN, Catalogue, SelectionPolicy, parse_models, stamp
from torso.serve.models.control import VersionSource


def make(directory: Path, content: str = "{}") -> Path:
    directory.mkdir(parents=True)
    (directory / CARD).write_text(content)
    (directory / WEIGHTS).write_bytes(b"weights")
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def catalogue(folder: Path, *models: str, policy: str = "latest") -> Catalogue:
    return Catalogue(ServeConfig(models=models, repository=folder, version_policy=policy))


def versions(folder: Path) -> dict[str, list[str]]:
    return {name: [source.version for source in sources] for name, sources in catalogue(folder).scan().models.items()}


def sources(*numbers: str) -> list[VersionSource]:
    return [VersionSource(name="m", version=number, directory=Path(number)) for number in numbers]


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("latest", ["10"]),
        ("latest:1", ["10"]),
        ("latest:2", ["9", "10"]),
        ("latest:99", ["1", "2", "9", "10"]),
        ("all", ["1", "2", "9", "10"]),
        ("2", ["2"]),
        ("10,1", ["1", "10"]),
        ("1, 3", ["1"]),
        ("3", []),
    ],
)
def test_a_policy_chooses_by_number_oldest_first(policy: str, chosen: list[str]) -> None:
    assert [source.version for source in SelectionPolicy.parse(policy).select(sources("10", "9", "1", "2"))] == chosen


@pytest.mark.parametrize(
    "policy",
    ["", "newest", "latest:", "latest:0", "latest:-1", "latest:two", "0", "01", "1,,2", "1;2", "-1", "ALL", "²"],
)
def test_what_is_no_policy_is_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match="version_policy must be latest, latest:N, all, or numbers"):
        SelectionPolicy.parse(policy)


def test_models_are_folders_of_numbered_folders(folder: Path) -> None:
    for name in ("digits/1", "digits/10", "digits/9", "cart.pole-v1_b/3"):
        make(folder / name)
    assert versions(folder) == {"cart.pole-v1_b": ["3"], "digits": ["1", "9", "10"]}
    [source] = catalogue(folder).scan().models["cart.pole-v1_b"]
    assert source == VersionSource(
        name="cart.pole-v1_b",
        version="3",
        directory=folder / "cart.pole-v1_b" / "3",
        stamp=stamp(folder / "cart.pole-v1_b" / "3"),
    )


def test_what_is_no_model_is_passed_over_and_says_why(folder: Path) -> None:
    make(folder / "good" / "1")
    for name in ("good/.2.tmp", "good/02", "good/0", "good/1a", "good/-1", "good/٣", "good/" + "9" * 19):
        make(folder / name)
    for name in (".hidden/1", "two words/1", "naïve/1", "-x/1", "x" * 129 + "/1", "direct"):
        make(folder / name)
    (folder / "empty").mkdir()
    (folder / "README").write_text("")
    (folder / "good" / "7").write_text("")
    (folder / "good" / "8").symlink_to(folder / "nowhere")
    (folder / "dangling").symlink_to(folder / "nowhere")
    listing = catalogue(folder).scan()
    assert {name: [one.version for one in found] for name, found in listing.models.items()} == {"good": ["1"]}
    number = "a version must be a whole number from 1 on, without leading zeros"
    letters = "a model's name must have letters, digits, '.', '_' and '-', first a letter or digit"
    assert listing.ignored == {
        **{f"good/{name}": number for name in (".2.tmp", "02", "0", "1a", "-1", "٣", "9" * 19)},
        **{f"good/{name}": "it is no folder, or a broken link" for name in ("7", "8")},
        **dict.fromkeys(("two words", "naïve", "-x", "x" * 129), letters),
        ".hidden": "it is hidden",
        "direct": "it is a model or run directory, not a folder of versions: move it to direct/1, or serve it directly",
        "empty": "it has no version folders (1, 2, ...)",
        "README": "it is no folder",
        "dangling": "it is no folder",
    }
    assert not listing.unreadable


def test_names_that_are_no_text_are_passed_over(folder: Path) -> None:
    make(folder / "good" / "1")
    os.mkdir(os.fsencode(folder) + b"/\xff\xfe")  # noqa: PTH102 - a Path cannot say it
    listing = catalogue(folder).scan()
    assert list(listing.models) == ["good"]
    assert len(listing.ignored) == 1


def test_a_name_that_is_given_directly_is_taken(folder: Path, tmp_path: Path) -> None:
    make(folder / "digits" / "1")
    make(tmp_path / "digits")
    listing = catalogue(folder, str(tmp_path / "digits")).scan()
    assert listing.models == {}
    assert listing.ignored == {"digits": TAKEN}


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "store" / "a")
    (folder / "m").mkdir(parents=True)
    (folder / "m" / "1").symlink_to(tmp_path / "store" / "a")
    make(tmp_path / "elsewhere" / "4")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert versions(folder) == {"linked": ["4"], "m": ["1"]}


def test_a_folder_that_cannot_be_listed_is_named(folder: Path) -> None:
    with pytest.raises(ServerError, match=r"repository .* cannot be listed: No such file or directory"):
        catalogue(folder).scan()
    folder.write_text("")
    with pytest.raises(ServerError, match="cannot be listed: Not a directory"):
        catalogue(folder).scan()


def test_a_model_whose_folder_cannot_be_read_is_not_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder / "good" / "1")
    make(folder / "locked" / "1")
    iterdir = Path.iterdir

    def refusing(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    if os.geteuid() == 0:  # permissions do not bite
        monkeypatch.setattr(Path, "iterdir", refusing)
    else:
        (folder / "locked").chmod(0)
    try:
        listing = catalogue(folder).scan()
    finally:
        (folder / "locked").chmod(0o755)
    assert list(listing.models) == ["good"]
    assert listing.unreadable == {"locked": "its folder cannot be read: Permission denied"}


def test_without_a_repository_there_is_nothing_to_scan(tmp_path: Path) -> None:
    direct = Catalogue(ServeConfig(models=(str(make(tmp_path / "m")),)))
    assert direct.scan().models == {}
    [source] = direct.direct_sources()
    assert (source.name, source.version, source.directory) == ("m", "1", tmp_path / "m")
    assert source.stamp


# -- stamps -----------------------------------------------------------------------------------------------------------


def replaced(directory: Path) -> None:
    (directory / "new").write_text("{}")
    (directory / "new").replace(directory / CARD)


def touched(directory: Path) -> None:
    os.utime(directory / WEIGHTS, ns=(1, 1))


def truncated(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(b"")


def exported(directory: Path) -> None:
    (directory / ONNX).write_bytes(b"onnx")


def repointed(directory: Path) -> None:
    directory.rename(directory.with_name("old"))
    other = make(directory.with_name("other"))
    os.utime(other / CARD, ns=(5, 5))
    os.utime(other / WEIGHTS, ns=(5, 5))
    directory.symlink_to(other)


@pytest.mark.parametrize("change", [replaced, touched, truncated, exported, repointed])
def test_a_stamp_changes_with_the_files(tmp_path: Path, change: Callable[[Path], None]) -> None:
    directory = make(tmp_path / "m")
    for path in (directory / CARD, directory / WEIGHTS):
        os.utime(path, ns=(5, 5))
    before = stamp(directory)
    assert before == stamp(directory) != ""
    change(directory)
    assert stamp(directory) != before


def test_other_files_do_not_change_a_stamp(tmp_path: Path) -> None:
    directory = make(tmp_path / "m")
    before = stamp(directory)
    (directory / "notes.txt").write_text("hello")
    assert stamp(directory) == before


def test_a_directory_without_a_card_has_no_stamp(tmp_path: Path) -> None:
    directory = make(tmp_path / "m")
    (directory / CARD).unlink()
    assert stamp(directory) == stamp(tmp_path / "gone") == stamp(directory / WEIGHTS) == ""
    assert stamp(tmp_path / ("x" * 300)) == ""


def test_a_stamp_is_of_the_files_that_are_loaded(tmp_path: Path) -> None:
    """The names and the order are those of torso.nets, which this module does not import."""
    assert STAMPED == (CARD, WEIGHTS, ONNX)
    run = tmp_path / "run"
    make(run / "model")
    only_model = stamp(run)
    assert find_model(run) == run / "model"
    make(run / "best")
    assert find_model(run) == run / "best"
    assert stamp(run) != only_model
    truncated(run / "model")
    with_best = stamp(run)
    truncated(run / "best")
    assert stamp(run) != with_best


# -- models that are given directly -----------------------------------------------------------------------------------


def test_names_come_from_directories_or_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_models(["runs/digits", "pole=runs/cartpole/best", ".", "best=lr=0.1", "lr=0.5"]) == {
        "digits": Path("runs/digits"),
        "pole": Path("runs/cartpole/best"),
        tmp_path.name: Path(),
        "best": Path("lr=0.1"),
        "lr": Path("0.5"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/digits", "b/digits"], "two models are named 'digits': a/digits and b/digits"),
        (["x=a", "x=b"], "two models are named 'x'"),
        (["runs/my model"], "model name 'my model' must have letters"),
    ],
)
def test_bad_names_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ServerError, match=message):
        parse_models(arguments)


def test_a_directory_with_an_equals_sign_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    with pytest.raises(ServerError, match=r"model name 'lr=0\.1'"):
        parse_models(["lr=0.1"])
