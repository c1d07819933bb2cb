"""fit, validate, test, predict: the LightningCLI over run directories."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment

import lightning_gen.diffusion.module
import lightning_gen.networks
import lightning_gen.optim  # noqa: F401
from lightning_gen.callbacks import EMA, Checkpoints, Progress, SampleSheet, Throughput
from lightning_gen.errors import UserError
from lightning_gen.generative_module import EVALUATION_SEED, GenerativeModule
from lightning_gen.loggers import MetricsCSV, wandb_settings
from lightning_gen.run_directory import (
    checkpoint_files,
    differences,
    new_run,
    run_id,
    run_of,
    write_atomically,
    write_csv,
)

_RUN = "LIGHTNING_GEN_RUN"
"""Environment variable by which rank zero tells the ranks it starts which run directory it has made."""

_TRAINER_DEFAULTS = {
    # Training is counted in optimizer steps; a data module's stream has no epochs.
    "max_epochs": -1,
    "max_steps": 10_000,
    "check_val_every_n_epoch": None,
    "val_check_interval": 1000,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}


class GenerativeCLI(LightningCLI):
    """Model and data by class path, callbacks as sections of the config, everything a run makes in its directory."""

    def __init__(self, verb: str, args: list[str]) -> None:
        self.verb, self.run_dir, self.is_new, self.resume = verb, Path(), False, None
        self.given = args
        super().__init__(
            GenerativeModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=_TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "exit_on_error": False,
                **{verb: {"prog": f"lightning-gen {verb}", "exit_on_error": False} for verb in self.subcommands()},
            },
            args=[verb, *args],
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run", type=str | None, default=None, help="The run directory; a new one under runs/ by default."
        )
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(SampleSheet, "samples")
        parser.add_lightning_class_args(Progress, "progress")
        for name in ("shape", "levels", "num_classes"):
            parser.link_arguments(
                "data", f"model.init_args.{name}", compute_fn=_Attribute(name), apply_on="instantiate"
            )

    # ---- before: which directory, new or resumed ------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        config = self.config[self.verb]
        seed = config.seed_everything
        self.resolved = self._resolved()
        self.recipe = {"seed": seed, **{key: self.resolved[key] for key in ("model", "data")}}
        if config.run is not None:
            self.run_dir = Path(config.run)
        elif config.get("ckpt_path") and self.verb != "fit":
            self.run_dir = run_of(Path(config.ckpt_path))
        elif self.verb == "fit" and os.environ.get("LOCAL_RANK", "0") != "0" and _RUN in os.environ:
            self.run_dir = Path(os.environ[_RUN])  # started by rank zero, which has chosen
        elif self.verb == "fit" and _started_from_outside():
            raise UserError("several processes of one run must be told their directory: give --run DIR")
        elif self.verb == "fit":
            self.run_dir, self.is_new = new_run(self._config_name()), True
            os.environ[_RUN] = str(self.run_dir)
        else:
            raise UserError(f"{self.verb} needs --run DIR or --ckpt_path FILE")
        self._enter_run(config)
        config.trainer.default_root_dir = str(self.run_dir)
        self._complete_wandb(config)

    def _resolved(self) -> dict[str, Any]:
        """The whole config of this verb as primitives."""
        return yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml"))[self.verb]

    def _config_name(self) -> str:
        """The name of the first config file on the command line."""
        for flag, value in zip(self.given, self.given[1:]):
            if flag in ("-c", "--config", "--model"):
                return Path(value).stem
        return next((Path(a.split("=", 1)[1]).stem for a in self.given if a.startswith("--config=")), "run")

    def _enter_run(self, config: Any) -> None:
        own = self.run_dir / "config.yaml"
        checkpoints = checkpoint_files(self.run_dir)
        self.identity = run_id(self.run_dir)
        if self.verb != "fit":
            self._refuse_another_model(own)
            if config.get("ckpt_path") is None:
                if not checkpoints:
                    raise UserError(
                        f"{self.run_dir} holds no checkpoint: is it a run directory, and has the run begun?"
                    )
                config.ckpt_path = str(checkpoints[0])
            return
        if own.exists():
            different = differences(yaml.safe_load(own.read_text()), self.resolved)
            if different:
                shown = "; ".join(f"{key}: {old!r} there, {new!r} here" for key, (old, new) in different.items())
                raise UserError(f"{self.run_dir} belongs to another config ({shown})")
        if checkpoints and config.get("ckpt_path") is None:
            config.ckpt_path = str(checkpoints[0])
        self.resume = config.get("ckpt_path")

    def _refuse_another_model(self, own: Path) -> None:
        """What the weights were trained as must be what is judged; how it is judged may differ."""
        if not own.exists():
            return
        trained = yaml.safe_load(own.read_text())
        free = ("batch_size", "micro_batch_size", "eval_batch_size", "eval_draws", "compile", "sampler", "bound")
        there, here = ({key: config[key] for key in ("model", "data")} for config in (trained, self.resolved))
        for key, (old, new) in differences(there, here).items():
            if not any(part in free for part in key.split(".")):
                raise UserError(f"{self.run_dir} was trained with {key}: {old!r}, not {new!r}")

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except BaseException:
            if self.is_new:  # bad input leaves no empty directory behind
                self.run_dir.rmdir()
            raise

    def _complete_wandb(self, config: Any) -> None:
        loggers = config.trainer.get("logger")
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            class_path = getattr(logger, "class_path", "") or ""
            if class_path.endswith("WandbLogger"):
                tags = [config[key].class_path.rpartition(".")[2] for key in ("model", "data")]
                given = {**logger.init_args.as_dict(), **(logger.get("dict_kwargs") or {})}
                settings = wandb_settings(self.run_dir, self.identity, given, self.verb, tags)
                known = logger.init_args.as_dict().keys()
                for key, value in settings.items():
                    if key in known:
                        logger.init_args[key] = value
                logger.dict_kwargs = {key: value for key, value in settings.items() if key not in known}

    # ---- the trainer ----------------------------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.model.seed = self.datamodule.seed = self.config[self.verb].seed_everything
        self.model.recipe = self.recipe
        given = self._get(self.config_init, "trainer").get("logger")
        loggers = [
            logger for logger in (given if isinstance(given, list) else [given]) if logger not in (None, True, False)
        ]
        kwargs["logger"] = loggers
        if SLURMEnvironment.detect():  # Lightning's own requeue saves inside the signal handler, and can hang there
            kwargs["plugins"] = [*(self._get(self.config_init, "trainer").get("plugins") or [])]
            kwargs["plugins"].append(SLURMEnvironment(auto_requeue=False))
        if self._get(self.config_init, "trainer").get("enable_progress_bar") is False:
            kwargs["enable_progress_bar"] = True  # the Trainer refuses a bar among the callbacks otherwise
            self._get(self.config_init, "progress").disable()
        trainer = super().instantiate_trainer(**kwargs)
        if self.verb == "fit":
            trainer.loggers = [MetricsCSV(self.run_dir, _step_of(self.resume)), *loggers]
        if self.verb == "fit" and trainer.is_global_zero:  # all has been built: only now does the run come to be
            self.is_new = False
            write_atomically(self.run_dir / "run_id", self.identity + "\n")
            write_atomically(self.run_dir / "config.yaml", yaml.safe_dump(self.resolved, sort_keys=False))
        trainer.callbacks.insert(0, Throughput())
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.resolved)
                if logger._offline and trainer.is_global_zero:
                    print(f"W&B is offline; send this run later with: wandb sync {self.run_dir}/wandb/offline-run-*")
        return trainer

    def predict(self, **kwargs: Any) -> None:
        """Keeps the rows of all ranks, by the example's index."""
        batches = self.trainer.predict(**kwargs) or []
        columns = list(batches[0]) if batches else []
        rows = [row for batch in batches for row in zip(*(batch[name].tolist() for name in columns))]
        parts = [(columns, rows)]
        if dist.is_available() and dist.is_initialized():
            parts = parts * dist.get_world_size()
            dist.all_gather_object(parts, (columns, rows))
        self.columns = next((names for names, _ in parts if names), ["index"])
        self.rows = sorted(row for _, part in parts for row in part)


def _started_from_outside() -> bool:
    """Whether a cluster or torchrun has started this process as one of several."""
    sizes = [os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_NTASKS")]
    return any(size.isdigit() and int(size) > 1 for size in sizes)


class _Attribute:
    """Reads one attribute of the data module: what a link hands to the model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, data: LightningDataModule) -> Any:
        return getattr(data, self.name)


def _step_of(checkpoint: str | None) -> int:
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def run_verb(verb: str, args: list[str]) -> Path | None:
    """Runs one Trainer verb; returns the path of what it made, on rank zero."""
    # Lightning announces the machine, its other products and every default: what it has to say in earnest is a warning.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # What Lightning's launcher starts for every further rank of this machine.
    sys.argv = [str(Path(__file__).with_name("__main__.py")), verb, *args]
    cli = GenerativeCLI(verb, _with_own_config(verb, args))
    for logger in cli.trainer.loggers:
        if isinstance(logger, WandbLogger) and cli.trainer.is_global_zero:
            logger.experiment.finish()  # what it has to say comes before the last line
    if not cli.trainer.is_global_zero:
        return None
    if verb == "fit":
        return cli.run_dir
    folder = cli.run_dir / "evaluation"
    if verb == "predict":
        write_csv(folder / "predict.csv", cli.columns, cli.rows)
        return folder / "predict.csv"
    metrics = {}
    bound = (cli.model.likelihood_kind or "").endswith("elbo")
    for name, (mean, error) in cli.model.measured.items():
        name = "elbo_nats" if bound and name == "log_prob_nats" else name
        metrics |= {name: mean, f"{name}_se": error}
    settings = {
        "split": "val" if verb == "validate" else "test",
        "checkpoint": str(cli.config[verb].ckpt_path),
        "weights": f"ema:{cli.model.averages.decays[0]}" if cli.model.averages is not None else "raw",
        "likelihood_kind": cli.model.likelihood_kind,
        "draws": cli.model.eval_draws,
        "seed": EVALUATION_SEED,
    }
    text = json.dumps({"metrics": metrics, "settings": settings}, indent=2)
    write_atomically(folder / f"{verb}.json", text + "\n")
    return folder / f"{verb}.json"


def _with_own_config(verb: str, args: list[str]) -> list[str]:
    """The arguments of a verb that judges a run, with the run's own config where they name none, on one device."""
    named = any(arg.split("=")[0] in ("-c", "--config", "--model") for arg in args)
    runs = [value for flag, value in zip(args, args[1:]) if flag == "--run"]
    runs += [arg.removeprefix("--run=") for arg in args if arg.startswith("--run=")]
    if verb == "fit" or named or not runs or not (Path(runs[-1]) / "config.yaml").exists():
        return args
    here = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    return ["--config", str(Path(runs[-1]) / "config.yaml"), *here, *args]
