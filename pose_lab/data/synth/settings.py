"""What decides the bytes of a synthetic data set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

from pose_lab.data.synth.body import FLESH
from pose_lab.data.synth.posing import FAMILIES
from pose_lab.skeletons import skeleton

GENERATOR_VERSION = 4  # raise it with every change of the generator that changes a picture or an annotation

_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class SynthSettings:
    """Settings of SynthPeople; together with the generator's version they decide every byte.

    Attributes:
        skeleton: "coco" or "crowdpose".
        train_images: pictures of the training split.
        val_images: pictures of the validation split.
        width: of a picture, pixels.
        height: of a picture, pixels.
        people: fewest and most people of a picture (without empty pictures and crowd regions).
        person_height: range of an upright person's height as a fraction of the picture's height.
        poses: the pose families that are drawn from.
        crowd: crowd mode: pictures follow CrowdPose's spread of crowd index and carry `crowdIndex`.
        crowd_shares: shares of easy, medium and hard pictures in crowd mode.
        crowd_hardest: the largest crowd index that crowd mode aims at.
        empty: fraction of pictures without people.
        crowd_regions: fraction of pictures with a far group annotated as one `iscrowd` region.
        occluders: mean number of objects in front of people, per picture.
        distractors: mean number of body-like objects around people, per picture.
        facing: how strongly people turn towards the camera: 0 all directions alike, 1 all face it.
        camera_pitch: range of the camera's downward pitch, degrees.
        camera_roll: standard deviation of the camera's roll, degrees.
        field_of_view: range of the diagonal field of view, degrees.
        min_visible: people of whom a smaller part can be seen (by area) carry no keypoints.
        min_area: people with fewer visible pixels carry no keypoints (COCO's smallest are 32 x 32).
        noise: standard deviation of the sensor's noise, grey levels.
        jpeg_quality: 1 to 100.
        seed: of everything random.
    """

    skeleton: str = "coco"
    train_images: int = 2000
    val_images: int = 200
    width: int = 128
    height: int = 128
    people: tuple[int, int] = (1, 3)
    person_height: tuple[float, float] = (0.5, 0.95)
    poses: tuple[str, ...] = tuple(FAMILIES)
    crowd: bool = False
    crowd_shares: tuple[float, float, float] = (0.2055, 0.62, 0.1745)
    crowd_hardest: float = 1.4
    empty: float = 0.03
    crowd_regions: float = 0.04
    occluders: float = 0.3
    distractors: float = 1.5
    facing: float = 0.3
    camera_pitch: tuple[float, float] = (-8.0, 30.0)
    camera_roll: float = 4.0
    field_of_view: tuple[float, float] = (35.0, 70.0)
    min_visible: float = 0.1
    min_area: int = 50
    noise: float = 3.0
    jpeg_quality: int = 90
    seed: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(SynthSettings)
        for field in fields(self):
            value = _typed(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        for complaint in _complaints(self):
            raise ValueError(f"synthetic data: {complaint}")

    @property
    def digest(self) -> str:
        """Hash of all settings and of the generator's version: the name of the cache folder."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """All settings and the generator's version, for `settings.json`."""
        return {**asdict(self), "generator_version": GENERATOR_VERSION}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SynthSettings:
        """The settings that `to_json` wrote."""
        return cls(**{key: value for key, value in values.items() if key != "generator_version"})


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value in its field's own type, so that 4 and 4.0, a list and a tuple are one data set."""
    if kinds := get_args(hint):  # a tuple
        expected = len(value) if Ellipsis in kinds and isinstance(value, list | tuple) else len(kinds)
        if not isinstance(value, list | tuple) or len(value) != expected:
            raise ValueError(f"synthetic data: {name}={value!r} is no list of {len(kinds)} values")
        kinds = kinds[:1] * expected if Ellipsis in kinds else kinds
        return tuple(_typed(name, item, kind) for item, kind in zip(value, kinds, strict=True))
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if hint is int and not float(value).is_integer():
            raise ValueError(f"synthetic data: {name}={value!r} is no whole number")
        return hint(value)
    if not isinstance(value, hint):
        raise ValueError(f"synthetic data: {name}={value!r} is no {_KINDS[hint]}")
    return value


def _complaints(settings: SynthSettings) -> list[str]:
    """What is wrong with the settings, each with the field's name."""
    found = [
        f"{name} goes from {low} to {high}: the first must be positive and not above the second"
        for name, (low, high) in (("people", settings.people), ("person_height", settings.person_height))
        if not 0 < low <= high
    ]
    found += [
        f"{name}={value} is no fraction between 0 and 1"
        for name in ("empty", "crowd_regions", "facing", "min_visible")
        if not 0 <= (value := getattr(settings, name)) <= 1
    ]
    found += [
        f"{name}={value} is below {least}"
        for name, least in (("width", 32), ("height", 32), ("train_images", 1), ("val_images", 0), ("seed", 0))
        if (value := getattr(settings, name)) < least
    ]
    drawn = {side + joint for joint in FLESH for side in ("", "left_", "right_")}
    if lacking := [name for name in skeleton(settings.skeleton).keypoints if name not in drawn]:
        found.append(f"drawn people have no {lacking[0]}, which skeleton {settings.skeleton} needs")
    if unknown := set(settings.poses) - set(FAMILIES):
        found.append(f"poses has no family {', '.join(sorted(unknown))}; there are: {', '.join(FAMILIES)}")
    if not settings.poses:
        found.append(f"poses is empty; choose from: {', '.join(FAMILIES)}")
    if not 1 <= settings.jpeg_quality <= 100:
        found.append(f"jpeg_quality={settings.jpeg_quality} is not between 1 and 100")
    if abs(sum(settings.crowd_shares) - 1) > 1e-3:
        found.append(f"crowd_shares={settings.crowd_shares} do not sum to 1")
    if settings.crowd and settings.people[1] < 3:
        found.append(f"people={settings.people} in crowd mode: at least 3 must be allowed for a high crowd index")
    return found
