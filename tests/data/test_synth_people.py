"""SynthPeople's bodies and annotations: geometry, limits, visibility, left and right."""

import numpy as np
import pytest

from pose_lab.data.synth import SynthSettings
from pose_lab.data.synth.annotate import see
from pose_lab.data.synth.body import FLESH, articulate, draw_shapes, sculpt
from pose_lab.data.synth.camera import Camera, look
from pose_lab.data.synth.layout import EASY, HARD, crowd_index
from pose_lab.data.synth.looks import Materials, dress
from pose_lab.data.synth.posing import ANGLE, FAMILIES, LIMITS, Poses, draw_poses
from pose_lab.data.synth.render import cast
from pose_lab.data.synth.scene import make_picture
from pose_lab.data.synth.solids import OBJECT, boxes, cones, ellipsoids, join
from pose_lab.skeletons import COCO, skeleton

FAMILY_NAMES = tuple(FAMILIES)


def random_bodies(count=400, seed=1, families=FAMILY_NAMES):
    rng = np.random.default_rng(seed)
    poses, shapes = draw_poses(rng, count, families), draw_shapes(rng, count)
    return poses, shapes, articulate(poses, shapes, rng.uniform(-180, 180, count))


def angle_at(body, a, b, c):
    """Degrees between the bones b-a and b-c."""
    first, second = body.joints[a] - body.joints[b], body.joints[c] - body.joints[b]
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def in_frame(body, frame, start, end):
    """The bone from `start` to `end` in the axes of a body part: x left, y up, z forwards."""
    return np.einsum("pij,pi->pj", body.frames[frame], body.joints[end] - body.joints[start])


def upright(count=1):
    """People who stand straight with hanging arms."""
    zeros = np.zeros((count, len(LIMITS)))
    return Poses(zeros, zeros[:, 0], zeros[:, 0], zeros[:, 0] > 0, ("standing",) * count)


def scene_of(x, z, yaw, extra=()):
    """People at ground places (x, z), photographed from (0, 1, 4) metres; returns visibility and the frame."""
    rng = np.random.default_rng(0)
    shapes = draw_shapes(rng, len(x))
    shapes = type(shapes)(**{name: np.full(len(x), 1.0) for name in vars(shapes)})
    shapes = type(shapes)(**{**vars(shapes), "stature": np.full(len(x), 1700.0)})
    body = articulate(upright(len(x)), shapes, np.array(yaw, float))
    body = body.placed(np.stack([x, np.zeros(len(x)), z], axis=1).astype(float))
    worn, fit = dress(rng, Materials.empty(), len(x))
    camera = Camera(256, 256, 300.0, look(0, 0), np.array([0.0, 1000.0, 4000.0]))
    solids = join([sculpt(body, shapes, worn, {**fit, "skirt": 0 * fit["skirt"]}), *extra])
    frame = cast(solids.moved(camera.rotation, camera.eye), camera)
    joints = camera.seen(body.stacked(COCO.keypoints))
    flesh = np.array([FLESH[name.split("_")[-1]] for name in COCO.keypoints]) * 1700
    visibility, open_view = see(camera.project(joints), joints[..., 2], np.tile(flesh, (len(x), 1)), frame)
    return visibility, open_view, camera.project(joints), frame


def test_joint_limits_hold_in_every_family():
    poses, _, body = random_bodies(1500)
    low, high = np.array(list(LIMITS.values())).T
    assert (poses.angles >= low).all()
    assert (poses.angles <= high).all()
    for side in ("left", "right"):
        knee = angle_at(body, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        elbow = angle_at(body, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
        np.testing.assert_allclose(knee, 180 - poses.angles[:, ANGLE[f"{side}_knee"]], atol=1e-6)
        np.testing.assert_allclose(elbow, 180 - poses.angles[:, ANGLE[f"{side}_elbow"]], atol=1e-6)
        assert min(knee.min(), elbow.min()) >= 30
        # Knees bend backwards and elbows forwards: never the other way.
        shin = in_frame(body, f"{side}_thigh", f"{side}_knee", f"{side}_ankle")
        forearm = in_frame(body, f"{side}_upper_arm", f"{side}_elbow", f"{side}_wrist")
        assert (shin[:, 2] < 0).all()
        assert (forearm[:, 2] > 0).all()


def test_bones_keep_their_length_and_stand_on_the_ground():
    _, shapes, body = random_bodies()
    for side in ("left", "right"):
        forearm = np.linalg.norm(body.joints[f"{side}_wrist"] - body.joints[f"{side}_elbow"], axis=1)
        np.testing.assert_allclose(forearm / shapes.stature, 0.146, rtol=1e-9)
    lowest = np.min([point[:, 1] for point in body.joints.values()], axis=0)
    assert (lowest > -1).all()
    assert (lowest < 0.13 * shapes.stature).all()


def test_families_differ_as_their_names_say():
    def height(family, joint):
        _, shapes, body = random_bodies(60, families=(family,))
        return body.joints[joint][:, 1] / shapes.stature

    assert np.median(height("standing", "head")) > 0.93
    assert np.median(height("sitting", "pelvis")) < 0.35
    assert np.median(height("squatting", "pelvis")) < 0.35
    assert np.median(height("lying", "head")) < 0.2
    _, shapes, body = random_bodies(60, families=("arms_raised",))
    wrists = np.maximum(body.joints["left_wrist"][:, 1], body.joints["right_wrist"][:, 1])
    assert ((wrists > body.joints["neck"][:, 1]).mean()) > 0.9
    stride = {}
    for family in ("standing", "walking", "running"):
        _, shapes, body = random_bodies(60, families=(family,))
        gap = np.linalg.norm(body.joints["left_ankle"] - body.joints["right_ankle"], axis=1)
        stride[family] = np.median(gap / shapes.stature)
    assert stride["standing"] < stride["walking"] < stride["running"]


def test_left_is_at_larger_x_of_someone_who_faces_the_camera():
    _, _, front, frame = scene_of([0], [0], [0])
    _, _, back, _ = scene_of([0], [0], [180])
    for name in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        left, right = (COCO.keypoints.index(f"{side}_{name}") for side in ("left", "right"))
        assert front[0, left, 0] > front[0, right, 0] + 1
        assert back[0, left, 0] < back[0, right, 0] - 1
    assert (frame.owner == 0).sum() > 1000


def test_left_and_right_follow_the_body_in_every_pose():
    """Toes show where a foot's front is and the nose where the face is: with up, that fixes the left side."""
    _, _, body = random_bodies()
    for part, up, front in (("eye", ("neck", "head"), ("head_centre", "nose")), ("shoulder", ("pelvis", "neck"), None)):
        across = body.joints[f"left_{part}"] - body.joints[f"right_{part}"]
        upwards = body.joints[up[1]] - body.joints[up[0]]
        forwards = body.joints[front[1]] - body.joints[front[0]] if front else body.frames["chest"][:, :, 2]
        assert (np.einsum("pi,pi->p", np.cross(upwards, forwards), across) > 0).all()


def test_keypoints_are_visible_behind_another_body_hidden_outside_zero():
    visibility, _, _, _ = scene_of([0, 0, 3000], [0, -1500, 0], [0, 0, 0])
    nose, shoulder, hip = (COCO.keypoints.index(name) for name in ("nose", "left_shoulder", "right_hip"))
    assert (visibility[0, [nose, shoulder, hip]] == 2).all()
    # The second stands 1.5 m behind the first: trunk hidden.
    assert (visibility[1, [shoulder, hip]] == 1).all()
    assert (visibility[2] == 0).all()
    apart, _, _, _ = scene_of([-600, 600], [0, -1500], [0, 0])
    assert (apart[1] == 2).all()


def test_someone_who_faces_the_camera_shows_every_keypoint_and_the_face_hides_from_behind():
    front, open_view, _, _ = scene_of([0], [0], [0])
    assert (front == 2).all()
    assert open_view.all()
    back, open_view, _, _ = scene_of([0], [0], [180])
    face = [COCO.keypoints.index(name) for name in ("nose", "left_eye", "right_eye")]
    body = [k for k in range(len(COCO)) if k > COCO.keypoints.index("right_ear")]
    assert (back[0, face] == 1).all()
    assert (back[0, body] == 2).all()
    assert open_view.all()  # hidden by the own body, not by others


def test_the_far_arm_is_hidden_from_the_side():
    side, _, _, _ = scene_of([0], [0], [90])  # the person's right side is turned to the camera
    assert (
        side[0, [COCO.keypoints.index(f"right_{name}") for name in ("shoulder", "elbow", "hip", "knee")]] == 2
    ).all()
    assert (side[0, [COCO.keypoints.index(f"left_{name}") for name in ("shoulder", "hip", "ear")]] == 1).all()


def test_an_object_hides_what_lies_behind_it():
    owner, material = np.array([OBJECT]), np.array([0])
    table = boxes(np.array([[0.0, 300.0, 600.0]]), np.eye(3)[None], np.array([[800.0, 300.0, 50.0]]), owner, material)
    visibility, open_view, _, frame = scene_of([0], [0], [0], (table,))
    for name in ("knee", "ankle"):
        hidden = [COCO.keypoints.index(f"{side}_{name}") for side in ("left", "right")]
        assert (visibility[0, hidden] == 1).all()
        assert not open_view[0, hidden].any()
    assert visibility[0, COCO.keypoints.index("nose")] == 2
    assert (frame.owner == OBJECT).any()


def test_rays_meet_solids_where_geometry_says():
    camera = Camera(101, 101, 400.0, np.eye(3), np.zeros(3))
    owner, material = np.array([0]), np.array([0])
    centre, axes = np.array([[0.0, 0.0, 2000.0]]), np.eye(3)[None]
    ball = cast(ellipsoids(centre, axes, np.full((1, 3), 100.0), owner, material), camera)
    cube = cast(boxes(centre, axes, np.full((1, 3), 100.0), owner, material), camera)
    ends = np.array([[0.0, -200.0, 2000.0]]), np.array([[0.0, 200.0, 2000.0]])
    cone = cast(cones(*ends, np.array([60.0]), np.array([20.0]), owner, material), camera)
    for frame, depth in ((ball, 1900), (cube, 1900), (cone, 1960)):
        assert 1 / frame.nearness[50, 50] == pytest.approx(depth, rel=1e-3)
    assert (ball.owner == 0).sum() == pytest.approx(np.pi * 20**2, rel=0.03)
    assert (cube.owner == 0).sum() == pytest.approx((2 * 400 * 100 / 1900) ** 2, rel=0.06)
    width = (cone.owner == 0).sum(axis=1)
    assert width[12] > 1.8 * width[88] > 0
    assert width[8] == width[92] == 0


@pytest.mark.parametrize("name", ["coco", "crowdpose"])
def test_annotations_agree_with_the_picture(name):
    settings = SynthSettings(skeleton=name, width=160, height=128, seed=5)
    K = len(skeleton(name))
    for index in range(6):
        picture = make_picture(settings, 0, index)
        people = picture.people
        assert picture.image.shape == (128, 160, 3)
        assert people.keypoints.shape == people.joints.shape == (len(people.boxes), K, 3)
        v = people.keypoints[..., 2]
        assert np.isin(v, (0, 1, 2)).all()
        assert (people.keypoints[v == 0] == 0).all()
        inside = (people.keypoints[..., :2] >= 0) & (people.keypoints[..., :2] <= [159, 127])
        assert inside.all()
        projected = picture.camera.project(people.joints) - 0.5
        error = np.abs(projected - people.keypoints[..., :2])[v > 0]
        assert (error < 0.56).all()  # rounding, and points on the outer half of an edge pixel


def test_pictures_without_anything_are_only_background():
    settings = SynthSettings(width=64, height=48, empty=1, crowd_regions=0, distractors=0, occluders=2)
    picture = make_picture(settings, 0, 0)
    assert len(picture.people.boxes) == 0
    assert picture.image.std() > 1


def test_crowd_index_is_the_papers_ratio():
    keypoints = np.array([[[1, 1], [2, 2]], [[2, 2], [9, 9]], [[30, 30], [0, 0]]], float)
    labelled = np.array([[True, True], [True, True], [True, False]])
    boxes_xyxy = np.array([[0, 0, 5, 5], [1, 1, 10, 10], [20, 20, 40, 40]], float)
    # The first's box holds one of the second's two, the second's both of the first's, the third's none.
    assert crowd_index(keypoints, labelled, boxes_xyxy) == pytest.approx((1 / 2 + 2 / 2 + 0) / 3)
    assert crowd_index(keypoints, labelled & False, boxes_xyxy) == 0


def test_crowd_mode_spreads_like_crowdpose():
    settings = SynthSettings(crowd=True, empty=0, crowd_regions=0, people=(2, 7), width=192, height=144,
                             person_height=(0.35, 0.8), seed=3)  # fmt: skip
    found = np.array([make_picture(settings, 1, index).people.crowd_index for index in range(100)])
    shares = (found < EASY).mean(), ((found >= EASY) & (found < HARD)).mean(), (found >= HARD).mean()
    np.testing.assert_allclose(shares, (411 / 2000, 1240 / 2000, 349 / 2000), atol=0.06)
    assert found.std() > 0.2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"people": (3, 1)}, "people goes from 3 to 1"),
        ({"empty": 1.5}, "empty=1.5"),
        ({"poses": ("flying",)}, "no family flying; there are: standing"),
        ({"skeleton": "hand"}, "no skeleton is called 'hand'"),
        ({"skeleton": "mpii"}, "drawn people have no pelvis, which skeleton mpii needs"),
        ({"width": 8}, "width=8 is below 32"),
    ],
)
def test_settings_say_what_is_wrong(wrong, words):
    with pytest.raises(ValueError, match=words):
        SynthSettings(**wrong)
