"""`serve --dhchap-secret`: how its options become a policy."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nvme_emu.cli.serve import serve
from nvme_emu.cli.serve_tcp import dhchap_policy
from nvme_emu.core.dhchap import DhchapSecrets, Secret
from nvme_emu.spec.dhchap import DhGroup, DhHash

KEY, OTHER, CTRL = Secret(bytes(32)), Secret(bytes(48)), Secret(bytes(64))
HOST = "nqn.2024-01.org.example:host"


def test_secrets_are_for_one_host_or_for_all_the_others(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{OTHER}\n")

    policy = dhchap_policy([f"{HOST}=@{path}", str(KEY)], str(CTRL), "hmac(sha384)", "ffdhe2048")

    assert policy is not None
    assert policy.secrets_of(HOST) == DhchapSecrets(OTHER, CTRL)
    assert policy.secrets_of("nqn.2024-01.org.example:another") == DhchapSecrets(KEY, CTRL)
    assert (policy.hashes, policy.dhgroups) == ({DhHash.SHA384}, {DhGroup.FFDHE2048})
    assert len({policy.entropy(16) for _ in range(8)}) == 8


def test_without_a_secret_nobody_has_to_authenticate() -> None:
    assert dhchap_policy([], None, None, None) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dhchap-secret", "hunter2"], "DHHC-1:hh:BASE64:"),
        (["--dhchap-secret", str(KEY), "--dhchap-secret", str(OTHER)], "two --dhchap-secret"),
        (["--dhchap-secret", f"nqn.x={KEY}"], "no NVMe Qualified Name"),
        (["--dhchap-secret", "@/does/not/exist"], "No such file"),
        (["--dhchap-ctrl-secret", str(CTRL)], "need --dhchap-secret"),
        (["--dhchap-dhgroup", "null"], "need --dhchap-secret"),
        (["--dhchap-secret", str(KEY), "--dhchap-dhgroup", "modp"], "'modp' is none of null, ffdhe2048"),
        (["--dhchap-secret", str(KEY), "--dhchap-hash", "md5"], "'md5' is none of hmac"),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_reason(options: list[str], words: str) -> None:
    result = CliRunner().invoke(serve, ["--tcp", "127.0.0.1:0", "--size", "1M", *options], standalone_mode=False)
    assert result.return_value == 2
    assert words in result.output
    assert str(KEY) not in result.output


def test_secret_without_tcp_is_refused(tmp_path: Path) -> None:
    options = ["--vfio-user", str(tmp_path / "sock"), "--dhchap-secret", str(KEY)]
    result = CliRunner().invoke(serve, options, standalone_mode=False)
    assert (result.return_value, "is about --tcp" in result.output) == (2, True)
