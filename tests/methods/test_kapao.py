"""The method as a whole: configuration, prediction in original pixels, choices of inference."""

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pose_lab.methods.kapao import Kapao, match, objects, published_map
from pose_lab.methods.kapao_inference import find_people
from pose_lab.nets.csp import CSPPose
from pose_lab.runs.train import LABELS
from pose_lab.skeletons import COCO, CROWDPOSE
from tests.methods.kapao_cases import CONFIG, PUBLISHED, batch, inference, kapao, net, tiny_net

K = len(CROWDPOSE)
SURE = 8.0  # a logit near certainty


@pytest.mark.parametrize(("size", "width"), [("n", 16), ("s", 32), ("m", 48), ("l", 64)])
def test_sizes_compose_into_a_method(size, width):
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        config = compose("method/kapao", overrides=[f"method/kapao_size={size}"]).method
    config = OmegaConf.to_container(config) | {"skeleton": "crowdpose", "image_size": 1280}
    config = {key: value for key, value in config.items() if key not in LABELS}
    with torch.device("meta"):
        method = instantiate(config)
    assert isinstance(method, Kapao)
    assert method.net.num_keypoints == K
    assert method.net.model[0].conv.conv.out_channels == width


class Drawn(torch.nn.Module):
    """Stands in for the network: gives prepared raw outputs."""

    def __init__(self, like: CSPPose, raw):
        super().__init__()
        self.raw, self.anchors, self.strides = raw, like.anchors, like.strides

    def forward(self, images):
        return self.raw


def logit(value):
    return torch.logit(value.double(), eps=1e-12).float()


def drawn_method(example, **settings):
    """A method whose network answers with the objects of the example itself."""
    method = kapao(
        "crowdpose", inference=CONFIG["inference"] | settings, labels=CONFIG["labels"] | {"keypoint_box": 0.2}
    )
    size = example.images.shape[-1]
    strides = torch.tensor(method.net.strides)
    grids = torch.stack((size // strides, size // strides), 1)
    found = match(objects(example.instances, size, size, method.labels), method.net.anchors, strides, grids, 4.0)
    raw = [torch.full((len(example), 3, 3 * K + 6, n, n), -SURE) for n in grids[:, 0].tolist()]
    pose_row = torch.full((len(found.level),), -1)
    pose_row[found.pose] = torch.arange(len(found.pose))
    for m in pose_row.argsort().tolist():  # poses last: where objects share an anchor, the pose stays
        out = raw[found.level[m]][found.image[m], found.anchor[m], :, found.row[m], found.column[m]]
        out[:2] = logit((found.boxes[m, :2] + 0.5) / 2)
        out[2:4] = logit((found.boxes[m, 2:] / found.anchors[m]).sqrt() / 2)
        out[5 : 6 + K] = -SURE
        out[4] = out[5 + found.categories[m]] = SURE
        if pose_row[m] >= 0:
            out[6 + K :] = logit((found.keypoints[pose_row[m]] / found.anchors[m] + 2) / 4).flatten()
    method.net = Drawn(method.net, raw)
    return method.eval()


def people_apart():
    """One person in the first and one in the last of three pictures, keypoints well inside the boxes."""
    example = batch(K, [0, 2], 3)
    generator = torch.Generator().manual_seed(1)
    example.instances.keypoints[..., :2] = 16 + 24 * torch.rand(2, K, 2, generator=generator)
    example.instances.keypoints[..., 2] = 2
    example.instances.labelled[:] = True
    return example


def originals(example):
    """The example's keypoints in the pixels of its original pictures: the map is x / 2, y / 2 + 2."""
    return (example.instances.keypoints[..., :2] - torch.tensor([0.0, 2.0])) * 2


@pytest.mark.parametrize("fusion", [True, False])
def test_predict_finds_what_the_targets_say(fusion):
    example = people_apart()
    found = drawn_method(example, fusion=fusion).predict(example)
    assert found.image_index.tolist() == [0, 2]
    torch.testing.assert_close(found.keypoints, originals(example), rtol=0, atol=1e-2)
    corners = example.instances.boxes * 2 - torch.tensor([0.0, 4.0, 0.0, 4.0])
    torch.testing.assert_close(found.boxes, corners, rtol=0, atol=1e-2)
    certain = torch.sigmoid(torch.tensor(SURE)) ** 2
    torch.testing.assert_close(found.scores, certain.expand(2))
    fused = found.keypoint_scores > 0
    assert fused.float().mean() > 0.7 if fusion else not fused.any()  # some share an anchor with others
    torch.testing.assert_close(found.keypoint_scores[fused], certain.expand(int(fused.sum())))


def test_predict_without_people():
    example = batch(K, [], 2)
    found = drawn_method(example).predict(example)
    assert len(found) == 0
    assert found.keypoints.shape == (0, K, 2)


def test_half_precision_does_not_round_places():
    example = people_apart()
    method = drawn_method(example)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.predict(example)
    torch.testing.assert_close(found.keypoints, originals(example), rtol=0, atol=1e-2)


def test_pixel_centres_shift_keypoints_only():
    example = people_apart()
    found = drawn_method(example).predict(example)
    shifted = drawn_method(example, pixel_centres=True).predict(example)
    torch.testing.assert_close(shifted.keypoints, found.keypoints + 0.5)
    torch.testing.assert_close(shifted.boxes, found.boxes)


def test_published_map_equals_the_exact_one_for_whole_paddings():
    sizes = torch.tensor([[100, 200], [300, 150]])
    maps = published_map(sizes, (128, 128))
    points = torch.tensor([[0.0, 32.0, 1.0], [32.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close((maps @ points[..., None])[..., 0], torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize(("clip_keypoints", "outside"), [("all", 0), ("first_two", K - 2)])
def test_clipping(clip_keypoints, outside):
    """A pose whose keypoints all lie left of the picture."""
    row = torch.zeros(1, 3 * K + 6)
    row[0, :6] = torch.tensor([20.0, 20, 30, 30, 0.9, 1])
    row[0, 6 + K :] = -5.0
    settings = inference(clip_keypoints=clip_keypoints)
    maps = torch.eye(2, 3, dtype=torch.float64)[None]
    found = find_people(row, torch.tensor([0]), K, maps, torch.tensor([[64, 64]]), settings)
    assert int((found.keypoints[..., 0] < 0).sum()) == outside


def test_state_holds_published_names_only():
    names = set(kapao("coco").state_dict())
    assert all(name.startswith("net.model.") for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": CONFIG["labels"] | {"keypoint_box": [0.05, 0.1]}}, "17, one per keypoint"),
        ({"level_weights": [1.0]}, "2 levels"),
        ({"image_size": [64, 100]}, "data.image_size 100 is no multiple of 16"),
        ({"inference": CONFIG["inference"] | {"pose_iou": 1.5}}, "inference.pose_iou is 1.5"),
        ({"inference": CONFIG["inference"] | {"clip_keypoints": "none"}}, "all, first_two"),
        ({"inference": CONFIG["inference"] | {"fusion_distance": -1}}, "inference.fusion_distance"),
        ({"inference": CONFIG["inference"] | {"max_detections": -3}}, "inference.max_detections is -3, but must be at"),
        ({"inference": CONFIG["inference"] | {"max_candidates": 0}}, "inference.max_candidates is 0, but must be at"),
        ({"inference": CONFIG["inference"] | {"pad": 1.5}}, "inference.pad is 1.5"),
    ],
)
def test_numbers_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        kapao(COCO, **changes)


def test_published_choices_exist():
    assert inference(**PUBLISHED).clip_keypoints == "first_two"
    assert tiny_net(5).num_classes == 6
    assert net(5, 0.125, 0.1).num_outputs == 21
