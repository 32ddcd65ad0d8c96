import lightning
import numpy as np
import pytest
import torch

from pose_lab.data import augment
from pose_lab.data.augment import Augmentation
from pose_lab.data.samples import BatchKey, Samples, View
from pose_lab.ops import warps
from pose_lab.skeletons import COCO
from tests.data.scenes import data_module, keypoint_colours, write_scene

EVERYTHING = Augmentation(mosaic=0.7, scale=0.6, translate=0.1, flip=0.5)
RECOLOURED = Augmentation(hue=0.015, saturation=0.7, value=0.4)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    return data_module(write_scene(folder / "root"), folder / "cache")


def batches(scene, augmentation, epochs, size=6, frame=(96, 96)):
    samples = Samples(
        scene.train_annotations, scene.root / "pictures", COCO, View(frame, pad_value=60, augmentation=augmentation)
    )
    for epoch in range(epochs):
        yield samples[BatchKey(epoch, np.arange(size), np.arange(size) % len(samples))]


def mean_position(picture, colour, around, radius):
    """Where a colour has its middle, in continuous pixels, looking only near a point; None if it is hardly there."""
    _, height, width = picture.shape
    y, x = np.mgrid[:height, :width] + 0.5
    near = np.hypot(x - around[0], y - around[1]) < radius
    weight = near * (np.abs(picture.transpose(1, 2, 0).astype(int) - colour).max(-1) < 70)
    return None if weight.sum() < 6 else np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def found_offsets(batch, frame=(96, 96)):
    """Distances between visible keypoints and the middles of their dots, for dots well inside and apart from others."""
    colours = keypoint_colours(len(COCO)).astype(int)
    instances = batch.instances
    points = instances.keypoints.numpy()
    for person, image in enumerate(instances.image_index.tolist()):
        same = points[instances.image_index.numpy() == image, :, :2].reshape(-1, 2)
        for k in np.flatnonzero(points[person, :, 2] > 0):
            point = points[person, k, :2]
            alone = np.sort(np.hypot(*(same - point).T))[1] > 14 if len(same) > 1 else True
            if alone and (point > 8).all() and (point < np.array(frame[::-1]) - 8).all():
                found = mean_position(batch.images[image].numpy(), colours[k], point, 9)
                if found is not None:
                    yield np.hypot(*(found - point))


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=1.0),
        Augmentation(scale=0.5, translate=0.1),
        Augmentation(mosaic=1.0),
        Augmentation(mosaic=1.0, scale=0.5, translate=0.1, flip=0.5),
        Augmentation(rotate=30, reduce=(0.75, 1.5), translate=0.2, flip=0.5),
    ],
)
def test_dots_stay_under_their_keypoints(scene, augmentation):
    offsets = [offset for batch in batches(scene, augmentation, 6) for offset in found_offsets(unflipped(batch))]
    assert len(offsets) > 20
    assert np.quantile(offsets, 0.95) < 1
    assert np.mean(offsets) < 0.5


def unflipped(batch):
    """Dots carry the colour of the keypoint they were painted for; after a flip that is its partner."""
    rows = (torch.linalg.det(batch.to_input[:, :, :2]) < 0)[batch.instances.image_index]
    batch.instances.keypoints[rows] = batch.instances.keypoints[rows][:, list(COCO.flip)]
    return batch


def test_flipping_exchanges_left_and_right(scene):
    (plain,) = batches(scene, Augmentation(), 1)
    (flipped,) = batches(scene, Augmentation(flip=1.0), 1)
    exchanged = plain.instances.keypoints[:, list(COCO.flip)]
    exchanged[..., 0] = 96 - exchanged[..., 0]
    torch.testing.assert_close(flipped.instances.keypoints, exchanged)
    assert torch.equal(flipped.images, plain.images.flip(-1))


def test_colours_leave_labels_alone(scene):
    (plain,), (recoloured,) = batches(scene, Augmentation(), 1), batches(scene, RECOLOURED, 1)
    assert torch.equal(plain.instances.keypoints, recoloured.instances.keypoints)
    assert not torch.equal(plain.images, recoloured.images)


def test_same_key_same_batch_and_every_key_another(scene):
    first, again = (list(batches(scene, EVERYTHING, 3)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.instances.keypoints, b.instances.keypoints)
    assert not torch.equal(first[0].images, first[1].images)


def test_a_sample_does_not_depend_on_its_batch(scene):
    samples = Samples(scene.train_annotations, scene.root / "pictures", COCO, View((96, 96), 114, 3, EVERYTHING))
    whole = samples[BatchKey(1, np.arange(6), np.arange(6))]
    alone = samples[BatchKey(1, np.array([4]), np.array([4]))]
    assert torch.equal(whole.images[4], alone.images[0])
    rows = whole.instances.image_index == 4
    assert torch.equal(whole.instances.keypoints[rows], alone.instances.keypoints)


def test_draws_are_uniform_and_independent_of_each_other():
    draws = torch.stack(list(augment.uniforms(5, 2, np.arange(4000)).values()))
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.08


def test_people_outside_the_frame_are_left_out_and_cut_keypoints_lose_visibility(scene):
    for batch in batches(scene, Augmentation(mosaic=1.0, scale=0.9), 8):
        instances = batch.instances
        inside = ((instances.keypoints[..., :2] >= 0) & (instances.keypoints[..., :2] <= 96)).all(-1)
        assert not (instances.keypoints[..., 2] > 0)[~inside].any()
        assert instances.labelled.all()
        assert (instances.boxes[:, 2:] > 0).all()
        assert (instances.boxes[:, :2] < 96).all()
        assert (instances.image_index.diff() >= 0).all()


def test_kept_cut_keypoints_move_onto_the_border_of_what_is_visible(scene):
    cut_off = Augmentation(mosaic=1.0)
    kept = Augmentation(mosaic=1.0, keep_cut_keypoints=True)
    lost = 0
    for without, with_ in zip(batches(scene, cut_off, 6), batches(scene, kept, 6), strict=True):
        moved = (without.instances.keypoints[..., :2] != with_.instances.keypoints[..., :2]).any(-1)
        lost += int(moved.sum())
        assert not without.instances.keypoints[..., 2][moved].any()
    assert lost > 20


def test_areas_and_boxes_scale_together(scene):
    (batch,) = batches(scene, Augmentation(scale=0.3), 1)
    sides = batch.instances.boxes[:, 2:] - batch.instances.boxes[:, :2]
    torch.testing.assert_close(batch.instances.areas, sides.prod(1) / 2)  # as painted: half of the box


def test_to_input_maps_original_pixels(scene):
    for batch in batches(scene, EVERYTHING, 2):
        people = scene.train_annotations
        own = torch.from_numpy(people.keypoints[:6, :, :2].astype(float))
        mapped = warps.apply_to_points(batch.to_input, own)
        for image in range(6):
            here = batch.instances.keypoints[batch.instances.image_index == image, :, :2].double()
            wanted = mapped[image][list(COCO.flip)] if batch.to_input[image, 0, 0] < 0 else mapped[image]
            box = mapped[image]
            shown = ((box > 0) & (box < 96)).all(-1).any()
            assert not shown or (here - wanted).abs().amax((1, 2)).min() < 1e-3


def test_frames_need_not_be_square(scene):
    batch = next(batches(scene, EVERYTHING, 1, frame=(64, 128)))
    assert batch.images.shape == (6, 3, 64, 128)


def test_the_last_epochs_can_be_without_mosaics(scene):
    module = data_module(scene.root, scene.cache, augment=Augmentation(mosaic=1.0, close_mosaic=2))
    module.trainer = lightning.Trainer(max_epochs=5, logger=False, enable_checkpointing=False, accelerator="cpu")
    module.setup("fit")
    samples = module.train_dataloader().samples
    sources = [len(samples.plan(BatchKey(epoch, np.arange(6), np.arange(6))).source) for epoch in range(5)]
    assert sources == [24, 24, 24, 6, 6]


@pytest.mark.parametrize("epochs", [None, -1])
def test_a_training_without_an_end_keeps_its_mosaics(epochs):
    assert Augmentation(mosaic=1.0, close_mosaic=2).in_epoch(100, epochs).mosaic == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("mosaic", 1.5), ("flip", -0.1), ("scale", 1.0), ("hue", 0.5), ("translate", -1), ("close_mosaic", -1)],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(ValueError, match=rf"data\.augment\.{field} .* {value}"):
        Augmentation(**{field: value})


TURNED = Augmentation(rotate=30, reduce=(0.75, 1.5), translate=0.2, flip=0.5)


def turned_maps(count=2000, size=(60, 80), frame=(96, 96)):
    draws = augment.uniforms(3, 0, np.arange(count))
    plan = augment.training_plan(torch.zeros(count, dtype=torch.int64), torch.tensor([size]), frame, TURNED, draws)
    return plan, plan.warp


def test_turned_pictures_have_the_published_spread():
    plan, maps = turned_maps()
    factor = torch.linalg.det(maps[:, :, :2]).sqrt()  # of the shorter side, 60 pixels, which fills the frame at 1.6
    assert factor.min() == pytest.approx(1.6 / 1.5, rel=0.01)
    assert factor.max() == pytest.approx(1.6 / 0.75, rel=0.01)
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert angle.abs().max() == pytest.approx(30, abs=0.2)
    assert angle.mean().abs() < 1
    middle = warps.apply_to_points(maps, torch.tensor([[40.0, 30]], dtype=torch.float64))[:, 0] - 48
    back = (warps.rotation(torch.deg2rad(-angle)) @ middle[..., None])[..., 0]
    assert back.abs().amax(0).tolist() == pytest.approx([19.2, 19.2], abs=0.1)
    assert plan.flipped.double().mean() == pytest.approx(0.5, abs=0.05)


def test_turning_scales_areas_and_keeps_old_draws(scene):
    (batch,) = batches(scene, TURNED, 1)
    (plain,) = batches(scene, Augmentation(), 1)
    for shown in (batch, plain):
        factor = torch.linalg.det(shown.to_input[:, :, :2]).abs()
        original = (shown.instances.areas / factor[shown.instances.image_index]).numpy()
        away = np.abs(original[:, None] / scene.train_annotations.areas - 1).min(1)
        assert away.max() < 1e-5
    names = list(augment.uniforms(0, 0, np.arange(1)))
    assert names[-1] == "angle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotate": 200.0, "reduce": (1, 1)}, "0 to 180"),
        ({"rotate": 10.0}, "needs data.augment.reduce"),
        ({"reduce": (1.5, 0.75)}, "two rising factors"),
        ({"reduce": (1, 1), "mosaic": 0.5}, "neither data.augment.mosaic"),
    ],
)
def test_turning_that_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**changes)
