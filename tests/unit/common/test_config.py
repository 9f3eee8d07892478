# SPDX-License-Identifier: Apache-2.0
"""vdsm.conf and its drop-ins: order, precedence, and faults that name file and line."""

from pathlib import Path

import msgspec
import pytest

from vdsm_mp.common import config
from vdsm_mp.common.options import ACCEPTED

CHECKOUT = Path(__file__).resolve().parents[3]


def written(folder: Path, text: str, **drop_ins: str) -> Path:
    """A main file with drop-ins; in their names `_` stands for `-`."""
    main = folder / "vdsm.conf"
    main.write_text(text)
    for name, content in drop_ins.items():
        below = folder / "vdsm.conf.d"
        below.mkdir(exist_ok=True)
        (below / f"{name.lstrip('_').replace('_', '-')}.conf").write_text(content)
    return main


def test_without_any_file_the_defaults_are_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "MAIN_FILE", tmp_path / "absent")
    monkeypatch.setattr(config, "DROP_INS", ())
    monkeypatch.delenv(config.ENVIRONMENT, raising=False)
    assert config.load().config.addresses.management_port == 54321


def test_drop_ins_of_all_directories_are_merged_by_base_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.ENVIRONMENT, raising=False)
    folders = [tmp_path / name for name in ("usr", "run", "etc")]
    for folder in folders:
        folder.mkdir()
    main = written(tmp_path, "[irs]\nsd_health_check_delay = 1\n")
    (folders[0] / "99-vendor.conf").write_text("[irs]\nsd_health_check_delay = 99\n")
    (folders[2] / "50-local.conf").write_text("[irs]\nsd_health_check_delay = 50\n[vars]\nssl = no\n")
    (folders[2] / "60-ignored.txt").write_text("[irs]\nsd_health_check_delay = 60\n")
    monkeypatch.setattr(config, "MAIN_FILE", main)
    monkeypatch.setattr(config, "DROP_INS", tuple(folders))
    loaded = config.load()
    assert loaded.config.irs.sd_health_check_delay == 99
    assert loaded.config.vars.ssl is False
    assert loaded.origin["irs", "sd_health_check_delay"] == f"{folders[0]}/99-vendor.conf:2"


def test_the_environment_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.ENVIRONMENT, str(written(tmp_path, "[vars]\nssl = off\n")))
    assert config.load().config.vars.ssl is False


def test_values_may_refer_to_other_options(tmp_path: Path) -> None:
    text = "[vdsm_mp]\nstate_dir = /srv/vdsm\nlog_dir = %(state_dir)s/log\n"
    assert config.load(written(tmp_path, text)).config.vdsm_mp.log_dir == "/srv/vdsm/log"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[vars]\n\nshl = true\n", "vdsm.conf:3: [vars] has no option shl"),
        ("[vars]\nssl = perhaps\n", "vdsm.conf:2: [vars] ssl: 'perhaps' is neither true nor false"),
        ("[addresses]\nmanagement_port = 70000\n", "vdsm.conf:2: [addresses] management_port: Expected `int` <= 65535"),
        ("[sanlock]\nio_timeout = soon\n", "vdsm.conf:2: [sanlock] io_timeout: "),
        ("[wars]\nssl = true\n", "vdsm.conf:2: [wars] has no option ssl"),
        ("[wars]\n", "there is no section [wars]"),
        ("[vdsm_mp]\nlog_dir = %(nothing)s\n", "vdsm.conf:2: [vdsm_mp] log_dir: "),
        ("[vars]\nssl = true\nssl = false\n", "vdsm.conf:3: [vars] ssl is set already"),
        ("[vars]\n[irs]\n[vars]\n", "vdsm.conf:3: section [vars] is there already"),
        ("[vars]\nssl\n", "vdsm.conf:2: 'ssl' is neither a [section] nor option = value"),
        ("ssl = true\n", "vdsm.conf:1: 'ssl = true' stands before the first [section]"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load(written(tmp_path, text))
    assert " ".join(fault.split()) in " ".join(str(caught.value).split())


def test_all_faults_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    main = written(tmp_path, "[vars]\nshl = 1\n", _50_bad="[vars]\ncpu = 1\n", _60_bad="[irs]\nirs = 1\n")
    with pytest.raises(config.ConfigError) as caught:
        config.load(main)
    assert [line.partition(":")[0].rpartition("/")[2] for line in str(caught.value).splitlines()] == [
        "vdsm.conf", "50-bad.conf", "60-bad.conf",
    ]  # fmt: skip


def test_beside_a_fault_the_rest_can_still_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = written(
        tmp_path, "[vars]\nssl = perhaps\nshl = 1\n[vdsm_mp]\nrun_dir = /run/elsewhere\n", _50_bad="nothing\n"
    )
    monkeypatch.setenv(config.ENVIRONMENT, str(main))
    usable, faults = config.load_usable()
    assert usable.vdsm_mp.run_dir == "/run/elsewhere" and usable.vars.ssl is True
    assert len(faults) == 3
    monkeypatch.setenv(config.ENVIRONMENT, str(tmp_path / "absent.conf"))
    assert config.load_usable()[0] == config.Config()


def test_a_named_file_that_is_absent_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="No such file"):
        config.load(tmp_path / "absent.conf")


def test_options_of_vdsm_that_mean_nothing_here_are_named_and_nothing_else(tmp_path: Path) -> None:
    text = "[vars]\nvdsm_nice = -5\nethtool_opts.eth0 = -K {iface} gro off\nssl = true\n[rpc]\nworker_threads = 8\n"
    notes = config.load(written(tmp_path, text)).notes
    assert notes == (
        "options without a meaning here, ignored: [vars] vdsm_nice, [vars] ethtool_opts.eth0, [rpc] worker_threads",
    )


def test_what_is_in_force_can_be_read_again_and_says_where_it_comes_from(tmp_path: Path) -> None:
    main = written(tmp_path, "[irs]\nsd_health_check_delay = 7\n")
    shown = config.as_ini(config.rows(config.load(main)))
    assert f"sd_health_check_delay = 7    # {main}:2" in shown
    again = tmp_path / "again.conf"
    again.write_text("\n".join(line.partition("    # ")[0] for line in shown.splitlines()))
    assert config.load(again).config == config.load(main).config


def test_the_shipped_file_is_current_and_changes_nothing(tmp_path: Path) -> None:
    shipped = (CHECKOUT / "etc/vdsm.conf").read_text()
    assert shipped == config.manual()
    assert config.load(written(tmp_path, shipped)).config == config.Config()
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and line[1:2] != " " else line for line in shipped.split("\n")
    )
    assert config.load(written(tmp_path, uncommented)).config == config.Config()


def test_no_option_is_called_ignored_that_is_not() -> None:
    sections = {field.encode_name: field.type for field in msgspec.structs.fields(config.Config)}
    for name, accepted in ACCEPTED.items():
        used = {option.encode_name for option in msgspec.structs.fields(sections[name])} if name in sections else set()
        assert not used & accepted


def test_every_option_of_vdsm_is_known_with_its_default(tmp_path: Path) -> None:
    rows = [line.split("\t") for line in (CHECKOUT / "tests/data/vdsm-options.txt").read_text().splitlines()]
    sections: dict[str, list[str]] = {}
    for section, option, value in rows:
        sections.setdefault(section, []).append(f"{option} = {value}")
    text = "".join(f"[{name}]\n{chr(10).join(lines)}\n" for name, lines in sections.items())
    loaded = config.load(written(tmp_path, text))
    assert loaded.config == config.Config()
