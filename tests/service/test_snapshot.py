from __future__ import annotations

import pytest

from llmops.errors import StoreUnavailable, UnknownVersion
from service.error_map import ApiError
from service.snapshot import Snapshot, read_snapshot
from service.static_releases import StaticReleases


def test_every_name_of_a_release_finds_it(release):
    first, second = release(1, "champion"), release(2, "challenger")
    snapshot = read_snapshot(StaticReleases([first, second]))
    found = {name: target.release for name, target in snapshot.targets.items() if target.release is not None}
    assert found == {
        "assistant": first, "assistant@champion": first, "assistant@1": first,
        "assistant@2": second, "assistant@challenger": second,
    }  # fmt: skip
    assert snapshot.targets["tiny@2"].release is None


def test_an_app_without_a_champion_is_found_by_version_only(release):
    snapshot = read_snapshot(StaticReleases([release(1)]))
    assert snapshot.resolve("assistant@1").ref == "assistant@1"
    with pytest.raises(ApiError, match=r"there is tiny@1, assistant@1"):
        snapshot.resolve("assistant")


def test_an_empty_registry_says_so():
    with pytest.raises(ApiError, match="nothing is registered yet"):
        Snapshot({}).resolve("assistant")


def test_a_long_list_of_names_is_cut(model_version):
    snapshot = Snapshot({}, tuple(model_version(version=number) for number in range(1, 40)))
    with pytest.raises(ApiError, match=r"tiny@20, …; GET /v1/models lists all"):
        snapshot.resolve("x")


def test_static_releases_move_aliases_and_can_be_down(release):
    source = StaticReleases([release(1, "champion"), release(2)])
    source.set_alias("assistant", "champion", 2)
    assert [found.aliases for found in source.releases("assistant")] == [(), ("champion",)]
    with pytest.raises(UnknownVersion):
        source.set_alias("assistant", "champion", 3)
    source.down = True
    with pytest.raises(StoreUnavailable):
        source.apps()
