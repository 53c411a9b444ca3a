"""How many cores a process may use."""

import math

import pytest

from rice_lib.common import machine


@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("0::/", {}, math.inf),
        ("0::/", {"": "max 100000"}, math.inf),
        ("0::/", {"": "150000 100000"}, 1.5),
        ("0::/a/b", {"a": "400000 100000", "a/b": "max 100000"}, 4),
        ("12:cpu:/x\n0::/a/b", {"a": "400000 100000", "a/b": "50000 100000"}, 0.5),
        ("12:cpu:/x", {}, math.inf),
    ],
)
def test_the_quota_is_the_smallest_on_the_way_to_the_root(own, limits, cores, tmp_path):
    for group, limit in limits.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(f"{limit}\n")
    (tmp_path / "membership").write_text(f"{own}\n")
    assert machine._quota(tmp_path, tmp_path / "membership") == cores
    assert machine._quota(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize(("top", "own"), [(150000, -1), (-1, 150000), (400000, 150000)])
def test_the_quota_of_version_1(top, own, tmp_path):
    for folder, quota in (("cpu", top), ("cpu/docker/a", own)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / folder / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text("5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n")
    assert machine._quota(tmp_path, tmp_path / "membership") == 1.5


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 8), (16.0, 8), (2.5, 3), (0.1, 1)])
def test_cores_are_no_more_than_the_quota(quota, cores, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    assert machine.cores() == cores
