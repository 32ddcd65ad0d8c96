"""The check of a data set: counts against the files, made errors are found, left and right by geometry."""

import json
import shutil

import numpy as np
import pytest

from pose_lab.data.annotations import ReadingRules, load_annotations
from pose_lab.data.check.__main__ import main
from pose_lab.data.check.flips import flip_errors
from pose_lab.data.check.sources import guessed, named, names
from pose_lab.skeletons import COCO, CROWDPOSE, LSP, mapping
from tests.conftest import shared_data
from tests.data.scenes import read_annotations, write_annotations, write_scene

UPPER = ("shoulder", "elbow", "wrist")
LOWER = ("hip", "knee", "ankle")
FACE = ("eye", "ear")


def exchanged(keypoints, stems, skeleton=COCO):
    """Keypoints (N, K, 3) with some left ones where the right ones were."""
    swapped = keypoints.copy()
    for stem in stems:
        left, right = skeleton.index[f"left_{stem}"], skeleton.index[f"right_{stem}"]
        swapped[:, [left, right]] = keypoints[:, [right, left]]
    return swapped


@pytest.fixture(scope="module")
def coco_people(tmp_path_factory):
    """Everybody in `coco_mini` who has keypoints, (128, 17, 3)."""
    cache, found = tmp_path_factory.mktemp("cache"), []
    for split in ("train", "val"):
        path = shared_data("coco_mini") / f"annotations/person_keypoints_{split}2017.json"
        annotations = load_annotations(path, ReadingRules(COCO), cache)
        found.append(annotations.keypoints[~annotations.ignore & (annotations.num_keypoints > 0)])
    return np.concatenate(found)


def test_nobody_in_coco_is_suspected(coco_people):
    errors = flip_errors(coco_people, COCO)
    assert len(coco_people) == 128
    assert errors.judged.sum() == 64
    assert not errors.any.any()


@pytest.mark.parametrize(
    ("stems", "found"),
    [
        ((*FACE, *UPPER, *LOWER), 34),  # the whole person
        ((*UPPER, *LOWER), 31),  # all but the face
        (UPPER, 62),
        (LOWER, 62),
        (FACE, 34),
    ],
)
def test_exchanged_people_are_found(coco_people, stems, found):
    errors = flip_errors(exchanged(coco_people, stems), COCO)
    assert errors.any.sum() == found
    assert not (errors.any & ~errors.judged).any()


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 33])
def test_the_rules_do_not_depend_on_the_picture_being_upright(coco_people, angle):
    turn = np.deg2rad(angle)
    rotated = coco_people.astype(float).copy()
    rotated[..., :2] = rotated[..., :2] @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    for stems in ((), LOWER):
        before, after = flip_errors(exchanged(coco_people, stems), COCO), flip_errors(exchanged(rotated, stems), COCO)
        np.testing.assert_array_equal(before.any, after.any)


def test_without_a_face_only_crossed_people_are_found(coco_people):
    shown = mapping(COCO, LSP)(coco_people.astype(float))
    assert not flip_errors(shown, LSP).any.any()
    assert flip_errors(exchanged(shown, LOWER, LSP), LSP).crossed.sum() == 62
    assert not flip_errors(exchanged(shown, (*UPPER, *LOWER), LSP), LSP).any.any()


def test_unlabelled_and_collapsed_people_are_not_judged():
    people = np.zeros((2, len(COCO), 3))
    people[1, :, 2] = 2
    errors = flip_errors(people, COCO)
    assert not errors.judged.any()
    assert not errors.any.any()


def checked(*arguments):
    """The exit status, and what was written to `out=FOLDER`."""
    arguments = [str(argument) for argument in arguments]
    out = next(argument.partition("=")[2] for argument in arguments if argument.startswith("out="))
    status = main(arguments)
    with open(f"{out}/check.json") as file:
        return status, json.load(file)


def test_counts_of_coco(tmp_path, capsys):
    root = shared_data("coco_mini")
    status, report = checked(root, f"out={tmp_path}")
    assert status == 0
    val = report["splits"]["val"]
    content = json.loads((root / "annotations/person_keypoints_val2017.json").read_text())
    people = [person for person in content["annotations"] if not person["iscrowd"]]
    visibility = np.array([person["keypoints"][2::3] for person in people])
    assert val["pictures"]["all"] == len(content["images"]) == 50
    assert val["people"]["all"] == len(people)
    assert val["people"]["ignored regions"] == len(content["annotations"]) - len(people)
    assert val["keypoints"]["visible"] == (visibility == 2).sum()
    assert val["keypoints"]["hidden"] == (visibility == 1).sum()
    assert sum(n * count for n, count in enumerate(val["people_per_picture"])) == len(people)
    assert sum(n * count for n, count in enumerate(val["visible_per_person"])) == (visibility > 0).sum()
    shares = (visibility[(visibility > 0).any(1)] > 0).mean(0)
    np.testing.assert_allclose(list(val["labelled_share"].values()), shares, atol=1e-4)
    assert val["bad_images"] == {}
    assert val["bad_records"] == {}
    assert val["miscounted"] == []
    assert val["crowd_index"] == {}
    assert val["flips"]["crossed"] == val["flips"]["turned"] == []
    printed = capsys.readouterr().out
    assert "guessed data=coco" in printed
    table = [line for line in printed.splitlines() if str(tmp_path) not in line and str(root) not in line]
    assert max(map(len, table)) <= 80
    assert {path.name for path in tmp_path.iterdir()} == {"check.json", "train.png", "val.png"}
    assert (tmp_path / "val.png").read_bytes().startswith(b"\x89PNG")


def test_counts_of_crowdpose(tmp_path):
    file = shared_data("crowdpose") / "annotations/crowdpose_val.json"
    (tmp_path / "root/annotations").mkdir(parents=True)
    (tmp_path / "root/images").mkdir()
    (tmp_path / "root/annotations/crowdpose_test.json").symlink_to(file)
    status, report = checked(tmp_path / "root", "images=list", f"out={tmp_path / 'out'}")
    test = report["splits"]["val"]
    assert status == 0
    assert test["skeleton"] == CROWDPOSE.name
    assert test["crowd_index"] == {"easy": 411, "medium": 1240, "hard": 349}
    assert test["people"]["ignored regions"] == 106
    assert test["miscounted"] == []
    assert len(test["bad_images"]) == 2000
    assert test["keypoints"]["hidden"] > test["keypoints"]["visible"]


@pytest.fixture
def faulty(tmp_path):
    """A scene with one error of every kind."""
    root = write_scene(tmp_path / "root", sizes=((96, 128),) * 9)
    content = read_annotations(root)
    people, images = content["annotations"], content["images"]
    people[1]["image_id"] = 7  # of no image
    people[2]["bbox"] = [3, 3, 0, 9]
    people[3]["keypoints"][:3] = [140, 50, 2]  # outside
    people[4]["bbox"] = [2, 3, 20, 20]  # keypoints far outside their box
    images[5]["width"] = 127
    (root / "pictures/6.png").write_bytes(b"\x89PNG cut off")
    (root / "pictures/7.png").unlink()
    people[8]["id"] = people[0]["id"]
    people[0]["num_keypoints"] = 0
    people[5]["num_keypoints"] = sum(flag > 0 for flag in people[5]["keypoints"][2::3])
    write_annotations(root, content)
    return root


def people_of(root):
    return read_annotations(root)["annotations"]


def test_every_error_is_found(faulty, tmp_path, capsys):
    status, report = checked(faulty, f"out={tmp_path / 'out'}")
    assert status == 0
    assert "guessed: files in COCO's layout" in capsys.readouterr().out
    found = report["splits"]["people"]
    assert found["bad_records"] == {
        "annotations of an image that is not in the list": [2],
        "annotations with an id that occurred before": [1],
        "annotations with a box of zero size": [3],
    }
    assert found["outside"] == [4]
    assert found["miscounted"] == [people_of(faulty)[0]["id"]]
    assert 5 in found["far_outside_box"]
    assert {name: reason.split(",")[0] for name, reason in found["bad_images"].items()} == {
        "5.png": "is 128x96 pixels",
        "6.png": "is cut off (12 bytes)",
        "7.png": "is missing",
    }
    listed = checked(faulty, "images=list", f"out={tmp_path / 'out'}")[1]["splits"]["people"]
    assert listed["bad_images"] == {"7.png": "is missing"}


def test_exchanged_people_are_listed_and_drawn(tmp_path, capsys):
    root = shared_data("coco_mini")
    content = json.loads((root / "annotations/person_keypoints_val2017.json").read_text())
    people = [person for person in content["annotations"] if person["num_keypoints"] >= 15][:3]
    for person in people:
        keypoints = np.reshape(person["keypoints"], (1, -1, 3))
        person["keypoints"] = exchanged(keypoints, LOWER).ravel().tolist()
    (tmp_path / "root/annotations").mkdir(parents=True)
    (tmp_path / "root/val2017").symlink_to(root / "val2017")
    (tmp_path / "root/annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    _, report = checked(tmp_path / "root", "images=list", f"out={tmp_path / 'out'}")
    assert sorted(report["splits"]["val"]["flips"]["crossed"]) == sorted(person["id"] for person in people)
    assert "3 people whose left shoulder and hip are on opposite sides" in capsys.readouterr().out
    assert (tmp_path / "out/val_flips.png").stat().st_size > 10_000


def test_names_are_those_of_the_configs():
    assert names()[0] == "coco"
    assert {"crowdpose", "mpii", "posetrack18", "human36m"} <= set(names())
    assert not {"synth", "coco_demo", "coco_paper"} & set(names())


def test_a_named_data_set_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected there: annotations/mpii_train\.json"):
        named("mpii", tmp_path)
    with pytest.raises(ValueError, match="no data set in files is called 'mpi'; there are: coco"):
        named("mpi", tmp_path)


def test_changes_of_the_config(tmp_path):
    (tmp_path / "annot").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "annot/train.json").write_text("[]")
    source = named("mpii", tmp_path, ["data.train.annotations=train.json"])
    assert [part.name for part in source.parts] == ["train"]
    assert source.parts[0].rules.layout == "mpii"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{root}/nowhere"], "is no folder"),
        (["{root}"], "is in no layout that is known"),
        (["{root}", "{root}"], "expected one folder"),
        (["data=coco"], "expected one folder of a data set, but none was given"),
        (["{root}", "image=list"], "'image=list' is none of data=, data.KEY=, images=, out="),
        (["{root}", "images=none"], "images=none is neither decode nor list"),
        (["{root}", "data.limit=3"], "name the data set by data=NAME"),
        (["{root}", "data=coco", "data.nonsense=3"], "data=coco: "),
        (
            ["data=coco", "data.root={root}"],
            "is not complete. Expected there: annotations/person_keypoints_train2017.json",
        ),
    ],
)
def test_wrong_arguments(tmp_path, capsys, arguments, complaint):
    status = main([argument.format(root=tmp_path) for argument in arguments])
    printed = capsys.readouterr()
    assert status == 1
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1


def test_files_that_are_no_annotations_are_passed_over(tmp_path):
    root = write_scene(tmp_path / "root")
    (root / "annotations/a.json").write_text("{")
    (root / "annotations/b.json").write_text('{"images": [], "annotations": []}')
    shutil.copy(root / "annotations/people.json", root / "elsewhere.json")
    (root / "other.json").write_text((root / "elsewhere.json").read_text().replace(".png", ".bmp"))
    source = guessed(root)
    assert [part.name for part in source.parts] == ["people", "elsewhere"]
    assert set(source.passed_over) == {"annotations/a.json", "annotations/b.json", "other.json"}
    assert source.passed_over["annotations/a.json"] == "not in COCO's layout"
    assert "pictures is in this folder" in source.passed_over["other.json"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("aic/test_aic.json", "aic"),
        ("mhp/test_mhp.json", "mpii"),
        ("jhmdb/test_jhmdb_sub1.json", "jhmdb"),
        ("coco/test_coco_wholebody.json", "wholebody"),
    ],
)
def test_skeletons_are_told_by_the_names_of_keypoints(file, expected):
    folder = (shared_data("mmpose_samples") / file).parent
    parts = {part.annotations.name: part.rules.skeleton.name for part in guessed(folder).parts}
    assert parts[file.rpartition("/")[2]] == expected


def test_keypoints_of_no_known_skeleton_are_not_guessed_by_their_number():
    with pytest.raises(ValueError, match=r"h36m_coco\.json: its keypoints are those of no known skeleton"):
        guessed(shared_data("mmpose_samples") / "h36m")
