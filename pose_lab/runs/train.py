"""One run, from its config to its folder: train, resume, evaluate, leave the numbers."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

import pose_lab
from pose_lab.data.module import PoseDataModule
from pose_lab.methods.base import PoseMethod
from pose_lab.runs.checking import check
from pose_lab.runs.checkpoints import Checkpoints, WholeCheckpoints, resumable
from pose_lab.runs.code import origin
from pose_lab.runs.folder import InterruptedRun, RunFolder
from pose_lab.runs.identity import deciding, identity, resolved, run_folder, trained_by
from pose_lab.runs.latency import latency
from pose_lab.runs.pictures import Pictures
from pose_lab.runs.progress import progress_callbacks
from pose_lab.runs.results import PredictionsFile
from pose_lab.runs.search import Search, search
from pose_lab.runs.search import check as check_search
from pose_lab.runs.variants import Variants, settings
from pose_lab.runs.wandb import Wandb
from pose_lab.runs.weights import (
    CHECKPOINTS,
    check_complete,
    fitted,
    load_weights,
    published_choices,
    weights_fingerprint,
)
from pose_lab.runs.words import unit

# keys of `method` that are no arguments: people, reports and recipes read them
LABELS = ("name", "about", "published_batch", "published_inference")


def fingerprint(cfg: DictConfig) -> str:
    """A hash of the content of the data and of the weights to start from, as run identities need it.

    Raises:
        ValueError, OSError: the run's config, data or weights are wrong.
    """
    check(cfg)
    whole, _ = _method(cfg)  # what is wrong with it is found before any data are made
    return _fingerprint(whole, build(cfg.data))


def is_decided(cfg: DictConfig) -> bool:
    """Whether the config alone decides what `fingerprint` says: drawn data, and no weights to start from."""
    return cfg.checkpoint is None and getattr(get_class(cfg.data._target_), "is_drawn", False)


def prepare(cfg: DictConfig) -> str:
    """Makes or indexes the data of a run, so that no run of a sweep has to; returns what they are, in words."""
    data: PoseDataModule = build(cfg.data)
    data.prepare_data()
    data.setup()
    return data.describe()


def device(cfg: DictConfig) -> str:
    """What a run will compute on, in words."""
    machine = cfg.machine
    places: dict[str, Any] = {"accelerator": machine.accelerator, "devices": machine.devices}
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    _quiet()
    trainer = _made(**places, num_nodes=machine.nodes, strategy=machine.strategy, **quiet)
    return f"{device_name(trainer)}, {cfg.training.precision}"


def logs(cfg: DictConfig) -> str:
    """Where a run will be logged, in words."""
    logger: Wandb = build(cfg.logger)
    return logger.destination()


def _fingerprint(whole: DictConfig, data: PoseDataModule) -> str:
    """Of the data, of the weights to start from, and of what these made of the config."""
    if whole.checkpoint is None:
        return data.fingerprint()
    method = hashlib.sha256(repr(deciding(whole)["method"]).encode()).hexdigest()
    return f"{data.fingerprint()}-{weights_fingerprint(whole.checkpoint)}-{method}"


def _method(cfg: DictConfig) -> tuple[DictConfig, PoseMethod]:
    """The config with the network of its checkpoint, and the method that it makes, whose checks all run here."""
    whole = fitted(cfg)
    method: PoseMethod = build(whole.method, LABELS)
    method.optimisation.build(method.net, cfg.data.batch_size)
    if cfg.search is not None:
        check_search(method, _search_of(cfg))
    variants = _variants(whole, method)
    if cfg.checkpoint is not None and not cfg.training.epochs:
        check_complete([method, *variants.values()], cfg.checkpoint)
    return whole, method


def _variants(whole: DictConfig, method: PoseMethod) -> dict[str, PoseMethod]:
    """The method in the settings of the config's `variants`, all around its network."""

    def variant(name: str, node: DictConfig) -> PoseMethod:
        try:
            return build(node, LABELS, net=lambda **_: method.net)  # type: ignore[no-any-return]
        except ValueError as error:
            raise ValueError(f"variants.{name}: {error}") from error

    return {name: method if node == whole.method else variant(name, node) for name, node in settings(whole).items()}


def _search_of(cfg: DictConfig) -> Search:
    try:
        return Search(**cast(dict[str, Any], OmegaConf.to_container(cfg.search, resolve=True)))
    except TypeError as error:  # a key too many or too few
        raise ValueError(f"search: {error}") from None


def build(node: DictConfig, labels: tuple[str, ...] = (), **given: Any) -> Any:
    """The object that a config group describes.

    Args:
        node: with `_target_` and the arguments.
        labels: keys that only people read.
        given: arguments in place of the node's.

    Raises:
        Exception: what the object's constructor raised, itself.
    """
    content = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    try:
        kept = {key: value for key, value in content.items() if key not in (*labels, *given)}
        return instantiate(kept, **given, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, TypeError):  # an argument too many or too few
            raise ValueError(f"{content.get('_target_')}: {cause}") from error
        raise cause from None


def train(cfg: DictConfig) -> RunFolder:
    """Trains and evaluates one run in its folder; a finished run is left as it is.

    A run whose weights another one trains (`weights_of`) evaluates only; that other one comes first if it is not done.
    A run that another process is training is waited for; if that one stops, this one goes on with it.

    Raises:
        InterruptedRun: a signal came; the run goes on from its checkpoint when it is started again.
        ValueError, OSError: what was given is wrong; the message says what and where.
    """
    _quiet()
    check(cfg)
    seed_everything(cfg.seed, verbose=False)
    whole, method = _method(cfg)
    if cfg.machine.threads:
        torch.set_num_threads(cfg.machine.threads)
    data: PoseDataModule = build(cfg.data)
    content = _fingerprint(whole, data)
    folder, run_id = RunFolder(run_folder(cfg, content)), identity(cfg, content)
    if folder.status().state == "finished":
        print(f"finished before: {folder.path} (delete the folder to train again)\n{_result(cfg, folder)}", flush=True)
        return folder
    trains = trained_by(cfg)
    weights = None if trains is None else train(trains).checkpoints / CHECKPOINTS[cfg.training.evaluate]
    # the other processes of a multi-device run work under the first one's lock, and cannot wait with it
    life = folder.training(_waiting()) if _is_first_process() else nullcontext()
    try:
        with life:
            if not folder.metrics():
                _run(whole, method, data, folder, run_id, weights, published_choices(cfg, whole))
            else:
                print(f"finished meanwhile: {folder.path}\n{_result(cfg, folder)}", flush=True)
    except KeyboardInterrupt as stop:
        raise InterruptedRun(str(stop)) from None
    return folder


def _run(
    cfg: DictConfig,
    method: PoseMethod,
    data: PoseDataModule,
    folder: RunFolder,
    run_id: str,
    weights: Path | None,
    choices: str,
) -> None:
    """Trains and evaluates, or evaluates the given weights; `choices` are told at the start."""
    if _is_first_process():
        folder.write_config(cfg)
        origin().write(folder.path)
    data.prepare_data()
    data.setup("fit")
    seed_everything(cfg.seed, verbose=False)  # again: what was drawn until now depends on what was there
    start = load_weights(method, cfg.checkpoint) if cfg.checkpoint is not None else "new"
    logs: Wandb = build(cfg.logger)
    monitor = cfg.training.monitor if cfg.training.evaluate == "best" else None
    decides = deciding(cfg)
    minutes, pause = cfg.machine.checkpoint_minutes, cfg.machine.checkpoint_pause
    checkpoints = Checkpoints(folder.checkpoints, minutes, pause, run_id, decides, monitor)
    resume = resumable(folder.checkpoints, run_id, decides, print)
    tags = (cfg.scale, cfg.data.name, cfg.method.name)
    identifier = f"{cfg.name}-{run_id}"
    with logs.run(folder.path, identifier, folder.name, cfg.name, resolved(cfg), tags=tags) as (logger, where):
        trainer = _trainer(cfg, folder, checkpoints, logger, Pictures(folder.path, logs.pictures, logs.min_score))
        if cfg.training.epochs and weights is None:
            data.share(trainer.world_size)  # refused before the other processes start
        if trainer.is_global_zero:
            start = f"evaluates {weights}" if weights else f"goes on from {resume}" if resume else start
            _banner(cfg, data, trainer, folder, where, {"start": start, "people": choices})
        numbers = _fit_and_evaluate(cfg, folder, trainer, method, data, checkpoints, resume, weights)
        if trainer.is_global_zero:
            folder.write_metrics(numbers)
            print(_result(cfg, folder), flush=True)


def _waiting() -> Callable[[str], None] | None:
    """Who is told that another process trains the run; None where this one has others beside it, which do not wait."""
    alone = all(int(os.environ.get(name, 1)) == 1 for name in ("SLURM_NTASKS", "WORLD_SIZE"))
    return partial(print, flush=True) if alone else None


def _is_first_process() -> bool:
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _fit_and_evaluate(
    cfg: DictConfig,
    folder: RunFolder,
    trainer: Trainer,
    method: PoseMethod,
    data: PoseDataModule,
    checkpoints: Checkpoints,
    resume: Path | None,
    weights: Path | None,
) -> dict[str, Any]:
    own = cfg.training.evaluate if cfg.training.epochs else "checkpoint"
    numbers: dict[str, Any] = {"weights": str(weights or own)}
    with checkpoints.listening():
        if cfg.training.epochs and weights is None:
            trainer.fit(method, data, ckpt_path=resume, weights_only=True)
            weights = checkpoints.folder / CHECKPOINTS[cfg.training.evaluate]
            numbers["seconds"] = round(checkpoints.trained_seconds, 1)
        if weights is not None:
            numbers |= _restore(method, weights)
        numbers |= _evaluate(trainer, method, data, _variants(cfg, method))
        if cfg.search is not None:
            numbers |= search(trainer, method, _search_of(cfg), folder)
        if cfg.latency is not None and trainer.is_global_zero:
            numbers |= latency(trainer, method, data, cfg.latency)
    return numbers | _origin(trainer)


def _trainer(
    cfg: DictConfig, folder: RunFolder, checkpoints: Checkpoints, logger: Logger | None, pictures: Pictures
) -> Trainer:
    training, machine = cfg.training, cfg.machine
    return _made(
        default_root_dir=folder.path,
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy=machine.strategy,
        # torch synchronises batch statistics on GPUs only
        sync_batchnorm=training.sync_batchnorm and machine.accelerator != "cpu" and torch.cuda.is_available(),
        precision=training.precision,
        deterministic=training.deterministic,
        max_epochs=training.epochs,
        check_val_every_n_epoch=training.validate_every,
        limit_train_batches=training.limit_batches,
        logger=logger or False,
        callbacks=[*progress_callbacks(folder.path), PredictionsFile(folder.predictions), pictures, checkpoints],
        plugins=[WholeCheckpoints()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        log_every_n_steps=training.log_every,
    )


def _made(**settings: Any) -> Trainer:
    """A trainer; Lightning's own exception about devices that are not there is no ValueError."""
    try:
        return Trainer(**settings)
    except MisconfigurationException as error:
        raise ValueError(f"machine.accelerator, devices or strategy cannot be used here: {error}") from error


def _restore(method: PoseMethod, checkpoint: Path) -> dict[str, int]:
    """Takes the averaged weights of a run's checkpoint; in memory they are gone after a restart.

    Returns:
        The epochs and steps that they were trained for.
    """
    content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    method.load_state_dict(content["state_dict"])
    return {"epochs": content["epoch"] + 1, "steps": content["global_step"]}


def _evaluate(
    trainer: Trainer, method: PoseMethod, data: PoseDataModule, variants: Mapping[str, PoseMethod]
) -> dict[str, Any]:
    """The final numbers, of the weights that the method holds."""
    module = Variants(method, variants) if variants else method
    logged = trainer.validate(module, data, verbose=False)[0]
    numbers = {name.removeprefix("val/"): value for name, value in logged.items() if name.startswith("val/")}
    return {
        **numbers,
        **({"variants": module.numbers} if isinstance(module, Variants) else {}),
        "parameters": sum(parameter.numel() for parameter in method.net.parameters()),
    }


def _origin(trainer: Trainer) -> dict[str, Any]:
    """On what a number was made."""
    return {
        "device": device_name(trainer),
        "processes": trainer.world_size,
        "pose_lab": pose_lab.__version__,
        "commit": origin().short,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }


def device_name(trainer: Trainer) -> str:
    """What the run computes on, for people."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    return f"CPU ({torch.get_num_threads()} threads, {platform.machine()})"


def _banner(
    cfg: DictConfig, data: PoseDataModule, trainer: Trainer, folder: RunFolder, where: str, begins: Mapping[str, str]
) -> None:
    """Which scale, data and device this is, and where everything goes: nothing falls back silently."""
    lines = {
        "run": f"{cfg.name} ({cfg.method.name}), seed {cfg.seed}",
        "scale": cfg.scale,
        "data": data.describe(),
        "device": f"{device_name(trainer)}, {cfg.training.precision}",
        "code": origin().short or "not from a checkout",
        "results": folder.path,
        **begins,
    }
    shown = [f"{name:8} {text}" for name, text in lines.items() if text]
    print("\n".join([*shown, where or "W&B: off"]), flush=True)


def _result(cfg: DictConfig, folder: RunFolder) -> str:
    """The run's numbers in the columns of a report, if it is to have one, and where all of them are."""
    numbers, report = folder.metrics(), cfg.report or {}
    wanted = dict.fromkeys([report.get("metric") or "AP", *(report.get("columns") or ())])
    shown = [f"{name} {unit(name).text(numbers[name])}" for name in wanted if numbers.get(name, -1) != -1]
    return f"result   {', '.join([*shown, f'and all numbers in {folder.path}/metrics.json'])}"


def _quiet() -> None:
    """Lightning's advice for beginners hides what matters."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", module="torch.*lr_scheduler")
