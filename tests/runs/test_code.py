import json
import subprocess
import sys

import pytest

from pose_lab.runs import code
from tests.conftest import ROOT


def python(text, folder, cwd):
    """What a process prints that runs the snapshot."""
    environment = {"PATH": "/usr/bin:/bin", **code.environment(folder)}
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_snapshot_is_what_a_process_runs_wherever_it_starts(tmp_path):
    folder, _ = code.snapshot(tmp_path)
    for cwd in (ROOT, tmp_path):
        assert python("import pose_lab; print(pose_lab.__file__)", folder, cwd) == f"{folder}/pose_lab/__init__.py"
    found = python("from pose_lab.runs.search_path import roots; print(roots()[0])", folder, ROOT)
    assert found == str(folder.resolve())
    assert (folder / "experiments" / "kapao_bs_sweep.yaml").exists()
    assert (folder / "sweeps" / "kapao_bs.yaml").exists()
    recorded = python("from pose_lab.runs.code import origin; print(origin().short)", folder, tmp_path)
    assert recorded == str(code.origin().short)


def test_equal_code_shares_a_snapshot_and_config_folders_are_in_it(tmp_path):
    own = tmp_path / "own"
    (own / "method").mkdir(parents=True)
    (own / "method" / "mine.yaml").write_text("a: 1")
    first, copies = code.snapshot(tmp_path / "code", [own])
    assert code.snapshot(tmp_path / "code", [own])[0] == first
    (own / "method" / "mine.yaml").write_text("a: 2")
    second, _ = code.snapshot(tmp_path / "code", [own])
    assert second != first
    assert (first / "config0" / "method" / "mine.yaml").read_text() == "a: 1"
    assert copies == {str(own): f"{first}/config0"}
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == sorted([first.name, second.name])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with an edited and a new file, in which the package lies."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path / "pose_lab"
    package.mkdir()
    (package / "__init__.py").write_text("old\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(code, "PACKAGE", package)
    code.origin.cache_clear()
    yield tmp_path
    code.origin.cache_clear()


def test_the_difference_holds_edits_and_new_files_and_can_be_applied(checkout, tmp_path_factory):
    clean = code.origin()
    assert clean.commit is not None
    assert (clean.difference, clean.short) == ("", clean.commit[:7])
    (checkout / "pose_lab" / "__init__.py").write_text("new\n")
    (checkout / "fresh.yaml").write_text("a: 1\n")
    code.origin.cache_clear()
    changed = code.origin()
    assert changed.short == f"{clean.commit[:7]}+"
    run = tmp_path_factory.mktemp("run")
    changed.write(run)
    other = tmp_path_factory.mktemp("other") / "clone"
    subprocess.run(["git", "clone", "-q", str(checkout), str(other)], check=True)
    subprocess.run(["git", "-C", str(other), "apply", str(run / "code.diff")], check=True)
    assert (other / "pose_lab" / "__init__.py").read_text() == "new\n"
    assert (other / "fresh.yaml").read_text() == "a: 1\n"


def test_a_difference_has_a_cap_and_says_what_it_leaves_out(checkout, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(code, "LARGEST", 1000)
    monkeypatch.setattr(code, "NEW_FILES", 4)
    (checkout / "pose_lab" / "__init__.py").write_text("new\n")
    (checkout / "a picture.bin").write_bytes(b"\x89\0\xff" * 10)
    (checkout / "b.csv").write_text("1\n" * 600)
    (checkout / "c.yaml").write_text("a: 1\n")
    (checkout / "d.txt").write_text("y\n" * 450)  # shown with a sign before each line
    for number in range(3):
        (checkout / f"e{number}.txt").write_text("x\n")
    found = code.origin()
    assert found.left_out == [
        "a picture.bin (not text)",
        "b.csv (larger than 1,000 bytes)",
        "3 further new files (more than 4)",
        "d.txt (its difference is larger than 1,000 bytes)",
    ]
    assert found.short.endswith("+")
    run, other = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("other") / "clone"
    found.write(run)
    assert "left out: b.csv (larger" in (run / "code.diff").read_text().splitlines()[2]
    subprocess.run(["git", "clone", "-q", str(checkout), str(other)], check=True)
    subprocess.run(["git", "-C", str(other), "apply", str(run / "code.diff")], check=True)
    changed = subprocess.run(["git", "-C", str(other), "status", "-s"], capture_output=True, text=True, check=True)
    assert sorted(line[3:] for line in changed.stdout.splitlines()) == ["c.yaml", "pose_lab/__init__.py"]
    staged = subprocess.run(["git", "-C", str(checkout), "diff", "--cached"], capture_output=True, check=True)
    assert not staged.stdout  # the user's own index is as it was


def test_all_differences_together_have_a_cap_and_changed_pictures_stay_out(checkout, monkeypatch):
    (checkout / "pose_lab" / "picture.bin").write_bytes(b"\0a")
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["add", "."], ["commit", "-qm", "second"]):
        subprocess.run([*git, *arguments], check=True)
    (checkout / "pose_lab" / "picture.bin").write_bytes(b"\0b")
    (checkout / "one.txt").write_text("1\n" * 100)
    (checkout / "two.txt").write_text("2\n" * 100)
    monkeypatch.setattr(code, "MOST", 600)
    found = code.origin()
    assert "one.txt" in found.difference
    assert found.left_out == [
        "pose_lab/picture.bin (not text)",
        "two.txt (all differences together are larger than 600 bytes)",
    ]


def test_the_number_of_new_files_costs_no_processes(checkout, monkeypatch):
    calls, run = [], subprocess.run
    monkeypatch.setattr(
        code.subprocess, "run", lambda command, **kwargs: calls.append(command) or run(command, **kwargs)
    )

    def asked():
        calls.clear()
        code.origin.cache_clear()
        code.origin()
        return len(calls)

    (checkout / "0.txt").write_text("x\n")
    few = asked()
    for number in range(1, 20):
        (checkout / f"{number}.txt").write_text("x\n")
    assert asked() == few
    assert sum("diff" in command for command in calls) == 1
    assert code.origin().difference.count("new file") == 20


def test_an_installed_package_has_no_commit_of_the_project_around_it(checkout, monkeypatch):
    installed = checkout / "site-packages" / "pose_lab"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    monkeypatch.setattr(code, "PACKAGE", installed)
    assert code.origin() == code.Origin()
    (installed.parent / "origin.json").write_text(json.dumps({"commit": "abc", "difference": "x"}))
    code.origin.cache_clear()
    assert code.origin().short == "abc+"
