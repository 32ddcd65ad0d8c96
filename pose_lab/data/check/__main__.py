"""`python -m pose_lab.data.check ROOT`: what is in a data set, and what looks wrong.

ROOT is the folder of a data set; which one is guessed from its files, and told. Further arguments:

  data=NAME        which data set it is (pose_lab/conf/data)
  data.KEY=VALUE   changes to its config, e.g. data.train.annotations=train.json
  images=decode    decode every image file; images=list only looks whether they are there
  out=FOLDER       writes check.json, and for each split pictures of what was found

Left and right: `pose_lab/data/check/flips.py` says how exchanged keypoints are found, and which cannot be.
The exit status is 0 if the data set could be read, whatever was found in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pose_lab.errors import complain

if TYPE_CHECKING:  # imported below where they are needed: the help is there at once
    from pose_lab.data.check.findings import Findings
    from pose_lab.data.check.sources import Part, Source

_NAMED = 3  # how many ids or files a line names
_WIDTH = 80
_LABEL = 33


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    from pose_lab.data.check.sources import guessed, named

    try:
        root, settings, overrides = _parsed(arguments)
        source = named(settings["data"], root, overrides) if settings["data"] else guessed(root)
        _check(root, source, settings["images"] == "decode", Path(settings["out"]) if settings["out"] else None)
    except (ValueError, OSError, RuntimeError) as error:
        complain(error)
        return 1
    return 0


def _parsed(arguments: Sequence[str]) -> tuple[Path, dict[str, str], list[str]]:
    """The root, the settings, and the changes of the data set's config."""
    settings = {"data": "", "images": "decode", "out": "", "data.root": ""}
    overrides, roots = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in settings:
            settings[key] = value
        elif equals and key.startswith("data."):
            overrides.append(argument)
        elif equals:
            raise ValueError(f"{argument!r} is none of data=, data.KEY=, images=, out=")
        else:
            roots.append(argument)
    roots += [settings["data.root"]] if settings["data.root"] else []
    if len(roots) != 1:
        raise ValueError(f"expected one folder of a data set, but {', '.join(roots) or 'none'} was given")
    if settings["images"] not in ("decode", "list"):
        raise ValueError(f"images={settings['images']} is neither decode nor list")
    if overrides and not settings["data"]:
        raise ValueError(f"{overrides[0]} changes a data set's config: name the data set by data=NAME")
    return Path(roots[0]), settings, overrides


def _check(root: Path, source: Source, decode: bool, out: Path | None) -> None:
    from pose_lab.data.check import plots
    from pose_lab.data.check.findings import look_at

    print(f"{root}: {source.how}")
    for file, reason in source.passed_over.items():
        print(f"  not looked at: {file}: {reason}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"root": str(root), "how": source.how, "not looked at": source.passed_over, "splits": {}}
    for part in source.parts:
        findings, annotations = look_at(part, decode)
        print(f"\n{table(part, findings)}")
        report["splits"][part.name] = {"annotations": str(part.annotations), **findings.to_json()}
        if out:
            plots.save_distributions(
                out / f"{part.name}.png", f"{part.name}: {part.annotations.name}", findings, annotations
            )
            suspects = [*findings.flips["crossed"], *findings.flips["turned"]]
            skeleton = part.rules.shown or part.rules.skeleton
            plots.save_suspects(out / f"{part.name}_flips.png", annotations, part.images, skeleton, suspects)
    if out:
        temporary = out / "check.json.writing"
        temporary.write_text(json.dumps(report, indent=1))
        temporary.replace(out / "check.json")
        print(
            f"\nPictures and check.json are in {out}; in those of people (*_flips.png)\nleft is orange, right is blue."
        )


def table(part: Part, findings: Findings) -> str:
    """What was found in one split, at most 80 columns wide."""
    lines = [f"{part.name}: {part.annotations}", f"skeleton {findings.skeleton}, pictures in {part.images}", ""]
    for what, counts in (("pictures", findings.pictures), ("people", findings.people)):
        lines += [_line(what if name == "all" else f"  {name}", f"{count:,}") for name, count in counts.items()]
    lines += [_line(f"keypoints {name}", f"{count:,}") for name, count in findings.keypoints.items()]
    most = len(findings.people_per_picture) - 1
    lines.append(_line("people in a picture", f"{_mean(findings.people_per_picture):.1f} on average, at most {most}"))
    lines.append(_line("keypoints of a person", f"{_mean(findings.visible_per_person):.1f} on average"))
    lines.append(_line("", "".join(f"{level:>9}" for level in ("least", "quarter", "median", "quarter", "most"))))
    for name, values in findings.quantiles.items():
        lines.append(_line(f"{name}, pixels", "".join(f"{value:9g}" for value in values)))
    if findings.crowd_index:
        lines.append(
            _line("crowd index", ", ".join(f"{name} {count:,}" for name, count in findings.crowd_index.items()))
        )
    rare = sorted(findings.labelled_share.items(), key=lambda item: item[1])[:_NAMED]
    lines.append(_line("rarest keypoints", ", ".join(f"{name} {share:.0%}" for name, share in rare)))
    lines += ["", f"what looks wrong: {findings.complaints:,}"]
    lines += [_wrong(f"{len(ids):,} {what}", ids) for what, ids in findings.bad_records.items()]
    lines += [f"  {count:,} {what} are left out" for what, count in findings.left_out.items()]
    bad = findings.bad_images
    lines += (
        [_wrong(f"{len(bad):,} of the images cannot be used", [f"{n} {why}" for n, why in bad.items()])] if bad else []
    )
    lines += _people("with a keypoint outside their picture", findings.outside)
    lines += _people("with a keypoint far outside their box", findings.far_outside_box)
    lines += _people("whose num_keypoints contradicts their keypoints", findings.miscounted)
    judged = f"of {findings.flips['judged']:,} judged"
    lines += _people("whose left shoulder and hip are on opposite sides", findings.flips["crossed"], judged)
    lines += _people("whose face is seen, but left is where right should be", findings.flips["turned"], judged)
    return "\n".join(cut for line in lines for cut in _cut(line))


def _line(label: str, value: str) -> str:
    return f"{label:<{_LABEL}}{value}"


def _mean(counts: list[int]) -> float:
    return sum(n * count for n, count in enumerate(counts)) / max(1, sum(counts))


def _people(what: str, ids: list[int], note: str = "") -> list[str]:
    return [_wrong(f"{len(ids):,} people {what}{f' ({note})' if note else ''}", ids)] if ids else []


def _wrong(what: str, items: Sequence[Any]) -> str:
    return f"  {what}: {', '.join(map(str, items[:_NAMED]))}{', ...' if len(items) > _NAMED else ''}"


def _cut(line: str) -> list[str]:
    """A line as several of at most 80 columns, broken at spaces where there are some."""
    lines = []
    while len(line) > _WIDTH:
        at = line.rfind(" ", 5, _WIDTH + 1)
        at = at if at > 0 else _WIDTH
        lines.append(line[:at].rstrip())
        line = "    " + line[at:].lstrip()
    return [*lines, line]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
