"""How much RAM processes here may have: the machine's, or what a control group leaves them."""

from pathlib import Path

import pytest

from muxd.host import hardware

GiB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(cgroups, path)`: 64 GiB, of which 40 are available; cgroups: limit, current and file cache in GiB."""

    def machine(cgroups: dict[str, tuple[object, int, int]], path: str = "/a/b") -> None:
        for name, (limit, current, cache) in cgroups.items():
            folder: Path = tmp_path / "cgroup" / name
            folder.mkdir(parents=True, exist_ok=True)
            size = limit * GiB if isinstance(limit, int) else limit
            (folder / "memory.max").write_text(f"{size}\n")
            (folder / "memory.current").write_text(f"{current * GiB}\n")
            (folder / "memory.stat").write_text(f"anon 7\ninactive_file {cache * GiB}\nslab 1\n")
        (tmp_path / "own").write_text(f"0::{path}\n")
        (tmp_path / "meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {40 << 20} kB\n")

    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(hardware, "_MEMORY", tmp_path / "meminfo")
    return machine


@pytest.mark.parametrize(
    ("cgroups", "total", "available"),
    [
        ({}, 64, 40),
        ({"a/b": ("max", 3, 1)}, 64, 40),
        ({"a/b": (20, 8, 3)}, 20, 15),
        ({"a/b": ("max", 3, 1), "a": (24, 10, 0)}, 24, 14),
        ({"a/b": (50, 1, 0), "": (16, 4, 4)}, 16, 16),
        ({"a/b": (8, 9, 0)}, 8, 0),
        ({"other": (1, 1, 0)}, 64, 40),
    ],
)
def test_the_smallest_room_counts_of_the_machine_and_of_every_control_group_above(machine, cgroups, total, available):
    machine(cgroups)
    assert hardware.host_memory() == total * GiB
    assert hardware.available_memory() == available * GiB


def test_in_a_container_of_its_own_namespace_the_root_group_counts(machine):
    machine({"": (20, 5, 0)}, "/")
    assert hardware.available_memory() == 15 * GiB


def test_without_control_groups_of_version_2_the_machine_counts(machine, tmp_path):
    machine({"a/b": (1, 1, 0)})
    (tmp_path / "own").write_text("4:memory:/a/b\n")
    assert (hardware.host_memory(), hardware.available_memory()) == (64 * GiB, 40 * GiB)
