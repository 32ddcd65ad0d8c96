"""Several test-time settings of one network: each is what a run of its own gives, and the network sees a view once."""

import pytest
import torch
from torchmetrics import Metric

from pose_lab.methods.base import PoseMethod
from pose_lab.nets.dekr import DEKRNet
from pose_lab.runs.formats import markdown
from pose_lab.runs.report import build
from pose_lab.runs.train import train
from tests.configs import composed

TINY = (
    "method=dekr",
    "method.inference.min_score=-1.0",  # an untrained network's centres too
    "method.rescoring.learn=jointly",
    "data.image_size=64",
    "data.batch_size=4",
    "data.val_batch_size=3",
    "data.settings.train_images=8",
    "data.settings.val_images=4",
    "training.validate_every=1",
    "machine.accelerator=cpu",
    "machine.threads=1",
    "logger=none",
)
VARIANTS = {
    "as it is": {},
    "flip": {"method.test_time.flip": True},
    "0.5, flip": {"method.test_time.flip": True, "method.test_time.scales": [1.0, 0.5]},
    "rescoring": {"method.inference.rescore": True},
    "snapping": {"method.inference.snap": "fit"},
}


def varied(variants, *overrides, **places):
    """The config of a command line and of an experiment's `variants`."""
    cfg = composed(*overrides, **places)
    cfg.variants = variants
    return cfg


class Sums(Metric):
    """Numbers that no two settings have in common; AP needs a training."""

    def __init__(self):
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions, image_ids):
        found = (predictions.scores * 0 + 1, predictions.scores, predictions.keypoints.flatten(1).mean(1))
        self.sums += torch.stack([values.double().sum() for values in found])

    def compute(self):
        return dict(zip(("people", "scores", "AP"), self.sums, strict=True))


@pytest.fixture(scope="module")
def summed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PoseMethod, "make_metrics", lambda *_: [Sums()])
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(summed, cache, tmp_path_factory):
    places = {"results": tmp_path_factory.mktemp("results"), "cache": cache}
    return train(varied(VARIANTS, *TINY, "training.epochs=1", **places))


def evaluated(trained, variants, cache, results, *overrides):
    """A run that evaluates the trained weights."""
    places = {"results": results, "cache": cache}
    return train(varied(variants, *TINY, "training.epochs=0", f"checkpoint={trained.path}", *overrides, **places))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_numbers_of_a_run_of_its_own(name, trained, cache, tmp_path):
    overrides = [f"{key}={value}" for key, value in VARIANTS[name].items()]
    own = evaluated(trained, None, cache, tmp_path, *overrides).metrics()
    found = trained.metrics()["variants"][name]
    assert set(found) == {"people", "scores", "AP"}
    assert found == pytest.approx({key: own[key] for key in found}, rel=1e-5)


def test_what_a_checkpoint_lacks_is_not_evaluated(trained, cache, tmp_path):
    """An untrained rescoring network's numbers would look like any others."""
    state = torch.load(trained.checkpoints / "last.ckpt", weights_only=False)["state_dict"]
    poses = {name.removeprefix("net."): tensor for name, tensor in state.items() if "rescorer" not in name}
    assert 0 < len(poses) < len(state)
    torch.save({"state_dict": poses}, tmp_path / "a.pth")
    overrides = (*TINY, f"checkpoint={tmp_path / 'a.pth'}")
    places = {"results": tmp_path / "results", "cache": cache}
    with pytest.raises(ValueError, match=r"a\.pth has no rescoring network.*set rescoring\.weights, or train"):
        train(varied(VARIANTS, *overrides, "training.epochs=0", **places))
    assert not (tmp_path / "results").exists()
    known = {name: VARIANTS[name] for name in ("as it is", "flip")}
    assert train(varied(known, *overrides, "training.epochs=0", **places)).metrics()["variants"].keys() == known.keys()
    assert train(varied(VARIANTS, *overrides, "training.epochs=1", **places)).status().state == "finished"


def test_the_variants_differ_and_the_configured_one_is_the_run(trained):
    metrics = trained.metrics()
    numbers = metrics["variants"]
    assert list(numbers) == list(VARIANTS)
    assert len({(one["AP"], one["scores"]) for one in numbers.values()}) == len(VARIANTS)
    assert numbers["as it is"]["AP"] == metrics["AP"]
    assert metrics["people"] > 0


def test_the_network_sees_each_picture_once_in_each_view(trained, cache, tmp_path, monkeypatch):
    seen, forward = [], DEKRNet.forward

    def counted(net, images):
        seen.extend([tuple(images.shape[2:])] * len(images))
        return forward(net, images)

    monkeypatch.setattr(DEKRNet, "forward", counted)
    evaluated(trained, VARIANTS, cache, tmp_path)
    pictures, whole, half = 4, (64, 64), (32, 32)
    assert sorted(seen) == sorted(2 * pictures * [whole] + 2 * pictures * [half])


def test_the_report_has_a_row_for_each_variant_in_their_order(trained):
    report = build(trained.path.parent, {"against": {"variant": "flip"}, "columns": ["AP", "scores"]})
    names = ["flip", *(name for name in VARIANTS if name != "flip")]  # the others are held against it
    assert [row.settings for row in report.rows] == [{"variant": name} for name in names]
    numbers = trained.metrics()["variants"]
    assert [row.estimates["scores"].mean for row in report.rows] == [numbers[name]["scores"] for name in names]
    gains = [row.estimates.get("ΔAP") for row in report.rows]
    assert gains[0] is None
    assert gains[1].mean == pytest.approx(numbers["as it is"]["AP"] - numbers["flip"]["AP"])
    assert report.facts["runs"] == "1 finished"
    assert "| 0.5, flip |" in markdown(report)


def test_variants_of_higherhrnet_and_kapao(summed, cache, tmp_path):
    """Each with what its own training does not depend on."""
    wanted = {
        "higherhrnet": {"finest": {"method.aggregation": "finest"}, "flip": {"method.test_time.flip": True}},
        "kapao": {"mirrored": {"method.test_time.flips": [True]}, "grey": {"method.inference.pad": 0.2}},
    }
    for method, variants in wanted.items():
        overrides = (*TINY[3:], f"method={method}", "training.epochs=1")
        folder = train(varied(variants, *overrides, results=tmp_path, cache=cache))
        assert list(folder.metrics()["variants"]) == list(variants)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"method.test_tim.flip": True}}, r"variants\.a names method\.test_tim\.flip, which is no key"),
        ({"a": {"method.labels.sigma": 1.0}}, "which training may depend on.*change method.inference, method.test_t"),
        ({"a": {"data.image_size": 32}}, r"variants\.a names data\.image_size, which training may depend on"),
        ({"a": {"method.test_time.scales": [0.001]}}, r"variants\.a: a scale of 0\.001 leaves nothing"),
        (
            {"a": {"method.inference.snap": "often"}},
            r"variants\.a: inference\.snap is .often.; there are: never, peak, fit",
        ),
    ],
)
def test_what_variants_cannot_change_is_refused_before_training(variants, message, cache, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(varied(variants, *TINY, "training.epochs=1", results=tmp_path, cache=cache))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variants", [["flip"], "flip", {"a": "flip"}, {"a": None}])
def test_variants_that_are_none(variants, cache, tmp_path):
    with pytest.raises(ValueError, match=r"variants(\.a)? must be"):
        train(varied(variants, *TINY, "training.epochs=1", results=tmp_path, cache=cache))
