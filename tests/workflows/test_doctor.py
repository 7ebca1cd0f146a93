"""`dive doctor`: what it finds is what there is, and nothing makes it fail."""

import builtins
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import chain
import h5py
import numpy as np
import PIL
import pytest
import torch

from dive.version import __version__
from dive.workflows import doctor


def found(precision: bool = False) -> dict[str, doctor.Finding]:
    return {one.name: one for one in doctor.examine(precision)}


def test_it_tells_the_versions_that_the_libraries_tell():
    told = found()
    assert all(one.ok for one in told.values())
    assert told["dive"].value.startswith(__version__ + ", ")
    assert told["torch"].value.startswith(torch.__version__ + ", built for ")
    assert told["NumPy"].value == np.__version__
    assert told["HDF5"].value == f"{h5py.version.hdf5_version}, h5py {h5py.__version__}"
    assert told["Pillow"].value.startswith(PIL.__version__)
    assert f"with {torch.get_num_threads()} of {len(os.sched_getaffinity(0))} " in told["threads"].value
    assert told["CUDA"].value.startswith("none: ")  # tests see no GPU
    assert told["extra demo"].value == f"scikit-learn {importlib.metadata.version('scikit-learn')}"


def test_the_disks_are_those_of_the_folders_where_they_lie(monkeypatch):
    Path("cache").mkdir()
    asked = []

    def usage(path: Path):
        asked.append(Path(path))
        return shutil._ntuple_diskusage(5_000_000_000, 1, 3_200_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    told = found()
    assert told["disk of cache/"].value == "3.2 GB of 5.0 GB free"
    assert told["disk of checkpoints/"].value == "3.2 GB of 5.0 GB free (not created yet)"
    assert asked == [Path("cache"), Path()]


@pytest.mark.parametrize("broken", ["torchvision", "h5py", "PIL", "numpy"])
def test_a_library_that_cannot_be_imported_is_a_line_that_says_so(broken, monkeypatch):
    monkeypatch.setitem(sys.modules, broken, None)
    told = found()
    failed = [one for one in told.values() if not one.ok]
    assert failed and all(broken in one.value for one in failed)
    assert told["dive"].ok and told["memory"].ok


@pytest.mark.parametrize("error", [OSError("no\nroom"), RuntimeError("\x1b[31mred"), SystemExit(3)])
def test_whatever_a_part_raises_is_one_line(error, monkeypatch):
    def failing(*_: object) -> str:
        raise error

    for name in ("_torch", "_cuda", "_memory", "_disk", "_extra", "_precision"):
        monkeypatch.setattr(doctor, name, failing)
    outcome = chain.succeed("doctor")
    assert outcome.out.count("broken: ") >= 9 and "\x1b" not in outcome.out and outcome.err == ""


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnxscript":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "onnxscript is not installed" in found()["extra onnx"].value


def test_the_extras_are_those_of_the_package(repository):
    import configparser

    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    declared = setup["options.extras_require"]
    for name, packages in doctor.EXTRAS.items():
        listed = declared[name]
        assert any(package in listed for package in packages)
    assert set(doctor.EXTRAS) == set(declared) - {"test", "examples"}


def test_the_trial_says_which_precision_auto_takes_and_why(monkeypatch):
    monkeypatch.setattr(doctor, "BATCH", 4)
    (one,) = (one for one in doctor.examine() if one.name == "precision auto")
    assert one.ok and one.value.split()[0] in ("fp32", "bf16")
    assert "ms a batch in bf16" in one.value and "on cpu (resnet32, batches of 4: " in one.value


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = chain.succeed("doctor", "--quick").out
    from rich.text import Text

    lines = Text.from_ansi(out).plain.splitlines()
    assert max(map(len, lines)) <= columns
    names = [line.split("  ")[1].strip() for line in lines if line[2:3].strip()]
    assert [name for name in names if name] == [one.name for one in doctor.examine(False)]


def test_the_json_has_every_finding():
    document = chain.succeed("doctor", "--quick", "--json").document
    assert list(document) == [one.name for one in doctor.examine(False)]
    assert document["torch"] == {"value": found()["torch"].value, "ok": True}


def test_it_reads_no_more_than_the_machine_gives(monkeypatch):
    """Without /proc, as in some sandboxes, those parts are broken lines and the rest stands."""
    real = builtins.open

    def refusing(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refusing)
    monkeypatch.setattr("io.open", refusing)
    told = found()
    assert told["torch"].ok and told["dive"].ok and told["memory"].value
