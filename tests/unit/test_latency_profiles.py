"""Profiles: what is refused, and files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nvme_emu.controller.profiles import PROFILES, DeviceProfile, ProfileError, load_profile


def test_profiles_that_come_with_the_program_are_found_by_name() -> None:
    assert list(PROFILES) == ["instant", "optane", "tlc", "qlc"]
    for name, profile in PROFILES.items():
        assert load_profile(name) is profile
        assert profile.name == name
        assert profile.instant == (name == "instant")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("channels", 0, "at least 1"),
        ("channels", 4096, "at most 1024"),
        ("planes", -2, "at least 1"),
        ("page_bytes", 0, "at least 1"),
        ("program_ns", -1, "at least 0"),
        ("program_ns", 1.5, "a whole number"),
        ("program_ns", True, "a whole number"),
        ("program_ns", 1 << 70, "at most"),
        ("read_ns", (), "a number or a list"),
        ("read_ns", (5, -1), "at least 0"),
        ("read_ns", 5, "a number or a list"),
        ("power_loss_protected", 1, "true or false"),
        ("write_amplification_pct", 99, "at least 100"),
        ("retry_ppm", 1_000_001, "at most 1000000"),
        ("name", "", "a word"),
        ("buffer_bytes", 16384, "two programs"),
    ],
)
def test_wrong_value_names_key_value_and_rule(key: str, value: object, rule: str) -> None:
    with pytest.raises(ProfileError) as caught:
        DeviceProfile(**{key: value})  # type: ignore[arg-type]

    assert f"key '{key}' is " in str(caught.value)
    assert rule in str(caught.value)


def test_profile_with_one_duration_is_not_instant() -> None:
    for field in dataclasses.fields(DeviceProfile):
        if field.name.endswith("_ns") and field.name != "read_ns":
            assert not DeviceProfile(**{field.name: 1}).instant, field.name
    assert not DeviceProfile(read_ns=(0, 1)).instant
    assert not DeviceProfile(read_link_mb_s=100).instant
    assert DeviceProfile(channels=8, buffer_bytes=1 << 20).instant


def test_toml_file_overrides_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "tlc"\nchannels = 16\nread_ns = [40000, 60000]\n')

    expected = dataclasses.replace(
        PROFILES["tlc"], name="mine", channels=16, read_ns=(40_000, 60_000)
    )
    assert load_profile(path) == expected
    assert load_profile(str(path)) == expected


def test_toml_file_without_a_base_starts_from_instant(tmp_path: Path) -> None:
    path = tmp_path / "slow.toml"
    path.write_text('name = "slower"\nread_ns = 5\n')

    assert load_profile(path) == DeviceProfile(name="slower", read_ns=(5,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("chanels = 8", "key 'chanels' is unknown: it must be one of base, name, channels"),
        ("channels = 0", "key 'channels' is 0: it must be at least 1"),
        ('channels = "8"', "key 'channels' is '8': it must be a whole number"),
        ("read_ns = [1, 'x']", "key 'read_ns' is 'x': it must be a whole number"),
        ('base = "nvram"', "key 'base' is 'nvram': it must be one of instant, optane, tlc, qlc"),
        ("base = [1]", "key 'base' is [1]"),
        ("[channels]\nx = 1", "key 'channels' is {'x': 1}"),
        ("channels = ", "it must be TOML"),
        (b"\xff\xfe", "it must be TOML"),
    ],
)
def test_wrong_toml_file_names_file_key_and_rule(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ProfileError) as caught:
        load_profile(path)

    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_absent_file_and_unknown_name_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"absent\.toml: No such file"):
        load_profile(tmp_path / "absent.toml")
    with pytest.raises(ProfileError, match="Is a directory"):
        load_profile(tmp_path)
    with pytest.raises(ProfileError, match="'nand' is unknown: it must be one of instant, optane, tlc, qlc"):
        load_profile("nand")
