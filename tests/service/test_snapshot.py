from __future__ import annotations

import pytest

from llmops.errors import StoreUnavailable, UnknownVersion
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import RegisteredVersions
from service.error_map import ApiError
from service.snapshot import Snapshot
from tests.service.static_releases import StaticReleases


def test_every_name_of_a_release_finds_it(release):
    first, second = release(1, "champion"), release(2, "challenger")
    snapshot = Snapshot(StaticReleases([first, second]).registered())
    found = {name: target.release for name, target in snapshot.targets.items() if target.release is not None}
    assert found == {
        "assistant": first, "assistant@champion": first, "assistant@1": first,
        "assistant@2": second, "assistant@challenger": second,
    }  # fmt: skip
    assert snapshot.targets["tiny@2"].release is None


def test_an_app_without_a_champion_is_found_by_version_only(release):
    snapshot = Snapshot(StaticReleases([release(1)]).registered())
    assert snapshot.resolve("assistant@1").ref == "assistant@1"
    with pytest.raises(ApiError, match=r"there is tiny@1, assistant@1"):
        snapshot.resolve("assistant")


def test_an_empty_registry_says_so():
    with pytest.raises(ApiError, match="none is registered"):
        Snapshot(RegisteredVersions({})).resolve("assistant")


def test_a_long_list_of_names_is_cut(model_version):
    snapshot = Snapshot(RegisteredVersions({}, tuple(model_version(version=number) for number in range(1, 40))))
    with pytest.raises(ApiError, match=r"tiny@20, …; GET /v1/models lists all"):
        snapshot.resolve("x")


def test_static_releases_move_aliases_and_can_be_down(release):
    source = StaticReleases([release(1, "champion"), release(2)])
    source.set_alias("assistant", "champion", 2)
    assert [found.aliases for found in source.registered().releases["assistant"]] == [(), ("champion",)]
    with pytest.raises(UnknownVersion):
        source.set_alias("assistant", "champion", 3)
    source.down = True
    with pytest.raises(StoreUnavailable):
        source.registered()


def test_a_policy_splits_an_app_only_with_two_different_releases_and_something_to_share(release):
    source = StaticReleases([release(1, "champion"), release(2), release(1, "champion", "challenger", app="other")])
    shared = TrafficPolicy(canary=0.1)
    for app in ("assistant", "other", "absent"):
        source.set_policy(app, shared)
    assert Snapshot(source.registered()).splits == {}

    source.set_alias("assistant", "challenger", 2)
    snapshot = Snapshot(source.registered())
    (split,) = snapshot.splits.values()
    assert (split.champion.ref, split.challenger.ref, split.policy) == ("assistant@1", "assistant@2", shared)
    assert [model.ref for model in snapshot.served_models] == ["tiny@1", "tiny@1", "tiny@2"]

    source.set_policy("assistant", TrafficPolicy())
    assert Snapshot(source.registered()).splits == {}


def test_a_promoted_challenger_leaves_its_policy_resting(release):
    source = StaticReleases([release(1, "champion"), release(2, "challenger")])
    source.set_policy("assistant", TrafficPolicy(canary=1.0))
    source.set_alias("assistant", "champion", 2)
    source.remove_alias("assistant", "challenger")
    snapshot = Snapshot(source.registered())
    assert snapshot.splits == {}
    assert snapshot.resolve("assistant").ref == "assistant@2"


def test_an_app_held_back_keeps_its_releases_but_not_its_policy(release):
    source = StaticReleases([release(1, "champion"), release(2, "challenger"), release(3)])
    source.set_policy("assistant", TrafficPolicy(canary=0.1))
    older = Snapshot(source.registered())
    source.set_alias("assistant", "champion", 3)
    source.set_policy("assistant", None)
    held = Snapshot(source.registered()).holding_back({"assistant"}, older)
    assert held.resolve("assistant").ref == "assistant@1"
    assert (len(older.splits), held.splits) == (1, {})


def test_a_static_source_that_did_not_change_gives_the_same_object(release):
    source = StaticReleases([release(1, "champion")])
    first = source.registered()
    assert source.registered() is first
    source.set_policy("assistant", TrafficPolicy())
    assert source.registered() is not first
