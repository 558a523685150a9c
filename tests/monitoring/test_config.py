"""The monitor's configuration: one file, read strictly, table by table."""

import re
from pathlib import Path

import pytest

from llmops.errors import BadFile
from llmops.settings import Settings
from monitoring.config import read_config
from monitoring.descriptors.descriptor_set import DEFAULT_FILE
from monitoring.tables import ConfigTable
from tests.monitoring.described import default_descriptors


def read(tmp_path, text):
    file = tmp_path / "monitor.toml"
    file.write_text(text)
    return read_config(Settings(monitor_config=file))


def test_the_packaged_file_is_the_default_and_the_environment_names_another():
    config = read_config()
    assert config.file == DEFAULT_FILE
    assert config.slices == ("release",)
    assert config.descriptors.version == default_descriptors().version
    assert config.policies == {}
    assert Settings.from_environment({"LLMOPS_MONITOR_CONFIG": "m.toml"}).monitor_config is not None


def test_the_file_that_the_setting_names_replaces_the_packaged_one(tmp_path):
    text = """
        [[descriptor]]
        name = "output.shouts"
        kind = "regex"
        of = "output"
        pattern = "[A-Z]{5}"
        harmful = true
        [slices]
        dimensions = ["release", "route", "release"]
        [rules]
        minimum_rows = 50
        [[limit]]
        descriptor = "output.shouts"
        share_at_most = 0.01
    """
    config = read(tmp_path, text)
    assert list(config.descriptors.descriptors) == ["output.shouts"]
    assert config.slices == ("release", "route")
    assert config.rules.minimum_rows == 50
    assert [limit.descriptor for limit in config.limits] == ["output.shouts"]
    assert config.file == tmp_path / "monitor.toml"


def test_a_file_that_declares_no_descriptor_watches_what_the_packaged_one_does_and_slices_may_be_none(tmp_path):
    alone = read(tmp_path, "[alerts]\ncool_down = '1h'")
    assert alone.descriptors.version == default_descriptors().version
    assert alone.rules == read_config().rules
    assert list(read(tmp_path, "descriptor = []").descriptors.descriptors) == []
    assert read(tmp_path, "[slices]\ndimensions = []").slices == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[rule]", "rule: unknown table; did you mean rules?"),
        ("[slices]\ndimensions = ['relaese']", "there is no dimension 'relaese'; did you mean release?"),
        ("[rules]\nminimum_row = 3", "rules: minimum_row: unknown key; did you mean minimum_rows?"),
        ("[rules]\nminimum_rows = 'x'", "rules: minimum_rows: must be a whole number, not 'x'"),
        ("[rules]\nminimum_rows = 1.5", "rules: minimum_rows: must be a whole number, not 1.5"),
        ("[rules]\nlabel_floor = 'half'", "rules: label_floor: must be a number, not 'half'"),
        ("[rules]\nvolume_floor = 1", "rules: drift rules: volume_floor"),
        ("[rules]\nflag_weights = 3", "rules: flag_weights: must be a table, not 3"),
        ("[rules.flag_weights]\nerror = 'x'", "rules: flag_weights.error: must be a number, not 'x'"),
        (
            "[[descriptor]]\nname = 'error'\nkind = 'error'\n[rules.flag_weights]\neror = 6",
            "rules: flag_weights: there is no harmful flag 'eror'; did you mean error?",
        ),
        ("[[descriptor]]\nkind = 'length'", "descriptor number 1: name: is missing"),
        ("[[descriptor]]\nname = 'a'\nkind = 'lenght'\nof = 'input'", "did you mean length?"),
        ("[[limit]]\ndescriptor = 'a'\nshare_at_most = 0.1", "no such descriptor"),
        ("[[limit]]\nshare_at_most = 0.1", "limit 1: descriptor: is missing"),
        ("limit = [1]", "limit 1: must be a table"),
        ("[policy.app]\ndry_run = 1", "policy.app: dry_run: must be true or false, not 1"),
        ("descriptor = 3", "descriptor: must be [[descriptor]] tables"),
        ("descriptor = [", "is not TOML"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it_and_the_key(tmp_path, text, problem):
    with pytest.raises(BadFile) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'monitor.toml'}: ")
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(BadFile, match=r"absent\.toml: cannot be read"):
        read_config(Settings(monitor_config=tmp_path / "absent.toml"))


def test_what_the_packaged_file_has_marked_out_can_be_switched_on(tmp_path):
    marked = ("# [[descriptor]]", "# name", "# kind", "# sampled")
    lines = DEFAULT_FILE.read_text(encoding="utf-8").partition("# --- Alerts")[0].splitlines()
    text = "\n".join(line.removeprefix("# ") if line.startswith(marked) else line for line in lines)
    assert "output.similarity" in read(tmp_path, text).descriptors.descriptors


def test_the_tables_of_the_guide_together_with_the_default_descriptors_are_read(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    shown = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    descriptors = DEFAULT_FILE.read_text(encoding="utf-8").partition("# --- Slices")[0]
    config = read(tmp_path, "\n".join([descriptors, *shown]))
    assert len(shown) >= 6
    assert config.descriptors.descriptors["output.no_source"].harmful
    assert config.slices == ("release", "route")
    assert [limit.descriptor for limit in config.limits] == ["output.refusal", "latency_ms"]
    assert config.policies["assistant"].action == "rollback"
    assert config.alerts.slack[0].name == "channel"
    assert config.reference.at_promotion == "first-window"


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        ("text", ""), ("text", 3), ("texts", []), ("texts", ["a", 3]), ("texts", 3), ("switch", "true"),
        ("number", True), ("number", 11), ("whole", 2.0), ("whole", -1), ("mapping", [1]), ("path", "absent.txt"),
    ],
)  # fmt: skip
def test_readers_refuse_what_they_are_not_for(reader, value):
    table = ConfigTable({"key": value}, "monitor.toml", "table")
    bounds = {"least": 0, "most": 10} if reader in ("number", "whole") else {}
    with pytest.raises(BadFile, match=r"monitor\.toml: table: key: "):
        getattr(table, reader)("key", **bounds)


def test_a_path_starts_at_the_files_folder(tmp_path):
    (tmp_path / "words.txt").write_text("a")
    assert ConfigTable({"words": "words.txt"}, tmp_path / "monitor.toml", "t").path("words") == tmp_path / "words.txt"
