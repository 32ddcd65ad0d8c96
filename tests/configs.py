"""Composing the real configs in tests."""

from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from pose_lab.runs import launcher, resolvers, search_path, slurm_launcher

# a KAPAO small enough to train some steps in a second
TINY = (
    "method.net.width=0.125",
    "method.inference.pose_confidence=0",  # else the untrained network finds nobody, and nothing is compared
    "data.image_size=64",
    "data.batch_size=4",
    "data.val_batch_size=4",
    "data.settings.train_images=20",
    "data.settings.val_images=4",
    "data.settings.width=64",
    "data.settings.height=64",
    "data.settings.min_area=10",
    "training.epochs=2",
    "training.validate_every=1",
    "training.log_every=1",
    "machine.accelerator=cpu",
    "machine.threads=1",
    "logger=none",
)


def composed(
    *overrides: str, results: Path | None = None, cache: Path | None = None, hydra: bool = False
) -> DictConfig:
    """The config of a command line; Hydra's own node only if asked for."""
    resolvers.register()
    search_path.register()
    launcher.register()
    slurm_launcher.register()
    GlobalHydra.instance().clear()
    places = [f"results={results}"] if results else []
    places += [f"machine.cache={cache}"] if cache else []
    with initialize_config_module("pose_lab.conf", version_base="1.3"):
        return compose("run", overrides=[*overrides, *places], return_hydra_config=hydra)
