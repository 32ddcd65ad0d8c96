from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pose_lab.runs.identity import deciding, identity, run_folder, slug, trained_by

BASE = {
    "name": "ablation",
    "scale": "demo",
    "results": "results",
    "seed": 0,
    "weights_of": None,
    "data": {"name": "synth", "root": "/a", "cache": "/b", "workers": 2, "size": 128},
    "method": {"keypoint_box": 0.05, "lr": 1, "levels": [8, 16]},
    "machine": {"accelerator": "cpu"},
    "logger": {"name": "wandb"},
}


def config(*changes, base=BASE):
    return OmegaConf.merge(OmegaConf.create(base), OmegaConf.from_dotlist(list(changes)))


def test_the_hash_never_changes():
    assert identity(config(), "data") == "9e4d4004"


@pytest.mark.parametrize(
    "change",
    [
        "data.root=/elsewhere",
        "data.cache=/elsewhere",
        "data.workers=7",
        "machine.accelerator=gpu",
        "logger.name=none",
        "results=/elsewhere",
        "name=other",
        "report.title=Other",
        "method.keypoint_box=5e-2",
        "method.lr=1.0",
    ],
)
def test_what_does_not_decide_the_result_does_not_matter(change):
    assert identity(config(change), "data") == identity(config(), "data")


@pytest.mark.parametrize(
    "change", ["method.keypoint_box=0.1", "seed=1", "data.size=256", "method.new=null", "method.levels=[16,8]"]
)
def test_what_decides_the_result_matters(change):
    assert identity(config(change), "data") != identity(config(), "data")


def test_the_data_matter_by_content():
    assert identity(config(), "data") != identity(config(), "other data")


BY_ANOTHER = "weights_of={method.lr: 1}"


def test_a_run_may_evaluate_the_weights_of_another_one():
    trains = trained_by(config("method.lr=2", BY_ANOTHER))
    assert identity(trains, "data") == identity(config(), "data")
    assert identity(config("method.lr=2", BY_ANOTHER), "data") != identity(config("method.lr=2"), "data")


def test_the_run_that_trains_for_others_is_the_same_run_as_without_them():
    assert trained_by(config(BY_ANOTHER)) is None
    assert identity(config(BY_ANOTHER), "data") == identity(config(), "data")


@pytest.mark.parametrize("key", ["method.misspelt", "data.size"])
def test_weights_of_names_keys_outside_the_data_that_exist(key):
    with pytest.raises(ValueError, match=f"weights_of names {key}"):
        trained_by(config(f"weights_of={{{key}: 1}}"))


def test_the_order_of_keys_does_not_matter():
    assert identity(config(base=dict(reversed(BASE.items()))), "data") == identity(config(), "data")


def test_hydras_own_node_does_not_enter():
    cfg = config()
    cfg.hydra = {"mode": "???"}
    assert identity(cfg, "data") == identity(config(), "data")


def test_interpolations_enter_by_value():
    assert identity(config("method.lr=${seed}", "seed=1"), "") == identity(config("method.lr=1", "seed=1"), "")


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match=r"method\.lr has no value"):
        identity(config(base=BASE | {"method": {"lr": "???"}}), "data")


def test_a_missing_path_does_not_matter():
    assert identity(config(base=BASE | {"data": BASE["data"] | {"root": "???"}}), "data") == identity(config(), "data")


def test_an_unknown_type_is_refused():
    cfg = config()
    cfg.method.path = Path("a")
    with pytest.raises(TypeError, match=r"method\.path holds a PosixPath"):
        deciding(cfg)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "base"),
        (["method.keypoint_box=0.05"], "keypoint_box-0.05"),
        (["method.keypoint_box=0.05", "seed=1"], "keypoint_box-0.05-seed-1"),
        (["method/net=kapao_s", "+a.b=[1,2]"], "net-kapao_s-b-1-2"),
        (["a='../../x'"], "a-..-..-x"),
    ],
)
def test_the_slug_is_readable_and_safe(overrides, expected):
    assert slug(overrides) == expected


def test_a_run_alone_finds_the_folder_that_the_sweep_made(tmp_path):
    cfg = config(f"results={tmp_path}")
    folder = run_folder(cfg, "data", ["method.keypoint_box=0.05"])
    assert folder == tmp_path / "ablation" / "demo-synth" / f"keypoint_box-0.05-{identity(cfg, 'data')}"
    assert run_folder(cfg, "data") == folder
    assert run_folder(config(f"results={tmp_path}", "seed=1"), "data").name.startswith("base-")
