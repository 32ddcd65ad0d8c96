"""Makes a data set once: in parallel, under a lock, in a temporary folder that is renamed when it is complete."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pose_lab.data.cache import writing
from pose_lab.data.synth.settings import SynthSettings
from pose_lab.data.synth.worker import SPLITS, file_name
from pose_lab.skeletons import Skeleton, skeleton

_TELLINGS = 4  # lines of progress where the output is no terminal
_WORKER = "from pose_lab.data.synth.worker import main; main()"
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Keep freed pictures in the process: asking the system for each anew costs a third of the time (glibc).
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_TOP_PAD_": "67108864",
}
_PACKAGE = Path(__file__).parents[3]  # where `pose_lab` is imported from


def ensure(settings: SynthSettings, cache: Path, workers: int | None = None) -> Path:
    """The data set's root; made first if the cache lacks it.

    Any number of processes may call this at once: one makes the data set, the others wait for it.

    Args:
        settings: of the data set.
        cache: the folder that keeps data sets, each in `synth-HASH`.
        workers: processes that draw; all cores by default. The bytes do not depend on it.

    Returns:
        A folder with `train/`, `val/`, `annotations/` (COCO's layout; 3D joints beside) and `settings.json`.

    Raises:
        OSError: if the folder cannot be written to or the disk is full.
    """
    root = Path(cache).expanduser().absolute() / f"synth-{settings.digest}"
    if root.exists():
        return root
    with writing("the synthetic data set", root.parent):
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if not root.exists():
                _make(settings, root, workers or _cores())
    return root


def _cores() -> int:
    """Cores this process may use; all of them where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    lock = FileLock(_lock_file(root))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that makes {root.name}.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_file(root: Path) -> Path:
    return root.with_suffix(".lock")


def _make(settings: SynthSettings, root: Path, workers: int) -> None:
    _remove_half_made(root)
    folder = Path(tempfile.mkdtemp(prefix=f"{root.name}.making-", dir=root.parent))
    try:
        folder.chmod(0o755)
        for name in (*SPLITS, "annotations"):
            (folder / name).mkdir()
        _draw(settings, folder, workers)
        _assemble(settings, folder)
        folder.rename(root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_half_made(root: Path) -> None:
    """Removes what killed makers of any data set have left; those that live hold their data set's lock."""
    for half_made in root.parent.glob("synth-*.making-*"):
        name = half_made.name.partition(".making-")[0]
        lock = FileLock(_lock_file(root.with_name(name)))
        with suppress(Timeout), nullcontext() if name == root.name else lock.acquire(timeout=0):
            shutil.rmtree(half_made, ignore_errors=True)


def _draw(settings: SynthSettings, folder: Path, workers: int) -> None:
    """Runs the workers until all pictures are there."""
    total = settings.train_images + settings.val_images
    count = max(1, min(workers, total))
    running = [_start(settings, folder, first, count) for first in range(count)]
    try:
        with _progress(total) as advance:
            _listen(running, advance)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _start(settings: SynthSettings, folder: Path, first: int, step: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WORKER, str(folder), str(first), str(step)]
    paths = os.pathsep.join(filter(None, (str(_PACKAGE), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(settings.to_json()).encode())
    process.stdin.close()
    process.stdin = None
    return process


def _listen(running: list[subprocess.Popen[bytes]], advance: Callable[[int], None]) -> None:
    """Counts finished pictures; raises what stopped a worker."""
    with selectors.DefaultSelector() as selector:
        for process in running:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        while selector.get_map():
            for key, _ in selector.select():
                said = os.read(key.fd, 65536)
                if b"{" in said:
                    problem = json.loads(said[said.index(b"{") :].splitlines()[0])
                    raise OSError(problem["errno"], problem["message"])
                advance(said.count(b"done"))
                if not said:
                    selector.unregister(key.fileobj)
                    _check_end(key.data)


def _check_end(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    complaint = process.stderr.read().decode(errors="replace").strip()
    if status := process.wait():
        raise RuntimeError(f"a worker that draws synthetic pictures ended with status {status}: {complaint[-2000:]}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal, a few lines elsewhere."""
    if sys.stdout.isatty():
        with Progress(TextColumn("Drawing people"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _lines(total)


def _lines(total: int) -> Callable[[int], None]:
    start, state = time.monotonic(), {"done": 0, "told": 0}
    print(f"Drawing {total} synthetic pictures.", flush=True)

    def advance(count: int) -> None:
        state["done"] += count
        part = state["done"] * _TELLINGS // max(total, 1)
        if part > state["told"]:
            state["told"] = part
            left = (time.monotonic() - start) * (total / state["done"] - 1)
            print(f"Drew {state['done']} of {total} pictures, {left:.0f} s left.", flush=True)

    return advance


def _assemble(settings: SynthSettings, folder: Path) -> None:
    """Joins the workers' parts into the annotation files."""
    parts = sorted(folder.glob("part-*.jsonl"))
    rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    rows.sort(key=lambda row: (row["split"], row["index"]))
    for split, name in enumerate(SPLITS):
        _write_annotations(settings, folder / "annotations", name, [row for row in rows if row["split"] == split])
    for part in parts:
        part.unlink()
    (folder / "settings.json").write_text(json.dumps(settings.to_json(), indent=1) + "\n")


def _write_annotations(settings: SynthSettings, folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    points = skeleton(settings.skeleton)
    first = 1 if name == SPLITS[0] else 1 + settings.train_images  # ids are unique over both splits
    images = [_image(settings, row, first) for row in rows]
    people = [
        (row["index"] + first, row["focal"], *pair)
        for row in rows
        for pair in zip(row["people"], row["joints"], strict=True)
    ]
    annotations = [
        {"id": number + 1, "image_id": image, "category_id": 1, "num_keypoints": _counted(points, person), **person}
        for number, (image, _, person, _) in enumerate(people)
    ]
    content = {
        "info": {"description": "SynthPeople", "version": "1.0", "digest": settings.digest},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [_category(points)],
    }
    (folder / f"person_keypoints_{name}.json").write_text(json.dumps(content))
    np.savez_compressed(
        folder / f"joints3d_{name}.npz",
        annotation_ids=np.arange(1, len(people) + 1),
        image_ids=np.array([image for image, *_ in people], np.int64),
        focal=np.array([focal for _, focal, *_ in people], np.float64),
        joints=np.array([joints for *_, joints in people], np.float32).reshape(-1, len(points), 3),
    )


def _image(settings: SynthSettings, row: dict[str, Any], first: int) -> dict[str, Any]:
    image = {
        "id": row["index"] + first,
        "file_name": file_name(row["index"]),
        "width": settings.width,
        "height": settings.height,
    }
    return {**image, "crowdIndex": row["crowdIndex"]} if settings.crowd else image


def _counted(points: Skeleton, person: dict[str, Any]) -> int:
    return sum(counts and v > 0 for counts, v in zip(points.counted, person["keypoints"][2::3], strict=True))


def _category(points: Skeleton) -> dict[str, Any]:
    limbs = [[a + 1, b + 1] for a, b in points.limbs]  # COCO counts from 1
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(points.keypoints),
        "skeleton": limbs,
    }
