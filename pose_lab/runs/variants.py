"""One network, several test-time settings: each validation picture is shown to it once, whatever is asked of its maps.

The config's node `variants` names the settings; each changes keys of `method` that training does not depend on:

    variants:
      plain: {}                                # as configured
      flip: {method.test_time.flip: true}
      flip, scales: {method.test_time.flip: true, method.test_time.scales: [2.0, 1.0, 0.5]}

All that is evaluated at the end of a run is decided from the same passes of the network: each of the views that the
settings ask for (the picture, its mirror image, another scale) is seen once for each batch, and kept until the batch is
done. `metrics.json` has the numbers of each variant under `variants`, and the report a row for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from hydra.utils import get_class
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from torch import nn

from pose_lab.methods.base import PoseMethod
from pose_lab.poses import Batch, Predictions

_ABSENT = object()


def settings(cfg: DictConfig) -> dict[str, DictConfig]:
    """The `method` node of each variant, by the variant's name.

    Raises:
        ValueError: a variant names a key that the config does not have, or one that training depends on.
    """
    method = get_class(cfg.method._target_)
    assert issubclass(method, PoseMethod)
    free = [f"method.{name}" for name in method.test_settings]
    variants = cfg.variants or OmegaConf.create()
    if not OmegaConf.is_dict(variants):
        raise ValueError(f"variants must be {{name: {{method.KEY: value}}}}, not {variants}")
    for name, changes in variants.items():
        if not OmegaConf.is_dict(changes):
            raise ValueError(f"variants.{name!s} must be {{method.KEY: value}}, not {changes}; {{}} changes nothing")
    return {str(name): _changed(cfg, str(name), changes, free) for name, changes in variants.items()}


def _changed(cfg: DictConfig, name: str, changes: Mapping[str, Any], free: list[str]) -> DictConfig:
    changed = cfg.copy()
    for key, value in changes.items():
        if OmegaConf.select(changed, key, default=_ABSENT) is _ABSENT:
            raise ValueError(f"variants.{name} names {key}, which is no key of the config")
        if not any(f"{key}.".startswith(f"{part}.") for part in free):
            raise ValueError(
                f"variants.{name} names {key}, which training may depend on, but variants share one training: they can "
                f"change {', '.join(free)}. Vary other keys in a sweep"
            )
        OmegaConf.update(changed, key, value, merge=False)
    return changed.method  # type: ignore[no-any-return]


class Variants(LightningModule):
    """A method in several settings, to be validated in its place.

    Args:
        method: as configured; what it finds and its numbers are those of the validation.
        variants: the same in other settings, around the same network, by name; the method itself may be among them.

    Attributes:
        skeleton: the method's, for callbacks that draw.
        numbers: of the last validation, by the variant's name.
    """

    def __init__(self, method: PoseMethod, variants: Mapping[str, PoseMethod]) -> None:
        super().__init__()
        self.method, self.variants = method, dict(variants)
        self.skeleton = method.skeleton
        self.others = nn.ModuleList(one for one in variants.values() if one is not method)
        self.numbers: dict[str, dict[str, float]] = {}

    def configure_callbacks(self) -> list[Callback]:
        """The method's own."""
        return list(self.method.configure_callbacks())

    def setup(self, stage: str) -> None:
        """Gives each variant metrics of its own."""
        self.method.setup(stage)
        annotations = self.trainer.datamodule.val_annotations  # type: ignore[attr-defined]
        for variant in self.others:
            variant.metrics = nn.ModuleList(variant.make_metrics(annotations))  # type: ignore[operator]

    def validation_step(self, batch: Batch, batch_idx: int) -> Predictions:  # type: ignore[override]
        """Finds people in each setting and counts them; the result is as configured."""
        look = cache(partial(self.method.look, batch))
        found = {}
        for method in self._settings:
            found[method] = method.predict(batch, look)
            method.count(found[method], batch)
        return found[self.method]

    def on_validation_epoch_end(self) -> None:
        """Logs the numbers as configured as `val/AP`, ..., those of the variants as `variants/NAME/AP`, ..."""
        measured = {method: method.measured() for method in self._settings}
        logged = {"val": measured[self.method]}
        logged |= {f"variants/{name}": measured[method] for name, method in self.variants.items()}
        self.log_dict({f"{place}/{key}": value for place, numbers in logged.items() for key, value in numbers.items()})
        self.numbers = {
            name: {key: float(value) for key, value in measured[method].items()}
            for name, method in self.variants.items()
        }

    @property
    def _settings(self) -> list[PoseMethod]:
        """The method and its variants, each once."""
        return [self.method, *self.others]  # type: ignore[list-item]
