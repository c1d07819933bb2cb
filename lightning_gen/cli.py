"""fit, validate, test, predict: the LightningCLI over run directories."""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import math
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

import lightning_gen.families
import lightning_gen.optim  # noqa: F401
from lightning_gen import wandb_run
from lightning_gen.callbacks import (
    EMA,
    Checkpoints,
    Fidelity,
    Preemption,
    Progress,
    RunBegins,
    SampleSheet,
    TestFidelity,
    Throughput,
)
from lightning_gen.cluster import slurm
from lightning_gen.errors import Interrupted, UserError
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.subject import subject
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.loading import fill, read_checkpoint
from lightning_gen.refusals import configs_first, options
from lightning_gen.run_directory import sealed, write_atomically, write_csv
from lightning_gen.run_entry import choose_directory, enter, with_own_config
from lightning_gen.strategies import check_callbacks, check_settings, check_strategy
from lightning_gen.unprofiled import Unprofiled

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


_OF_TRAINING = ("max_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm", "overfit_batches")
"""What of the Trainer's settings weights depend on, whatever the devices."""
yaml.SafeDumper.add_multi_representer(enum.Enum, lambda dumper, e: dumper.represent_data(e.value))


class GenerativeCLI(LightningCLI):
    """Model and data by class path, callbacks as sections of the config, everything a run makes in its directory."""

    def __init__(self, verb: str, args: list[str]) -> None:
        self.verb, self.given = verb, args
        self.run_dir, self.is_new = Path(), False
        self.begins: RunBegins | None = None
        try:
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
                    "allow_abbrev": False,
                    verb: {"prog": f"lightning-gen {verb}", "exit_on_error": False, "allow_abbrev": False},
                },
                args=[verb, *args],
            )
        except BaseException as error:
            if hasattr(self, "trainer"):
                wandb_run.finish(self.trainer.loggers, getattr(error, "status", 0) or 1)
            if self.begins is not None:
                self.begins.release()
            if self.is_new:  # bad input leaves no directory behind; one that holds something stays
                with suppress(OSError):
                    self.run_dir.rmdir()
            if isinstance(error, SystemExit) and hasattr(self, "trainer") and self.trainer.interrupted:
                self._say_how_it_goes_on(error)
            raise

    def _say_how_it_goes_on(self, stop: SystemExit) -> None:
        """Lightning turns a signal into an exit without a word, after SIGTERM even with status 0."""
        name, number = ("SIGTERM", 15) if isinstance(stop, SIGTERMException) else ("an interrupt", 2)
        again = f"lightning-gen fit --run {self.run_dir} goes on from its last checkpoint"
        raise Interrupted(f"stopped by {name}; {again}" if self.verb == "fit" else f"stopped by {name}", 128 + number)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's is static
        """The one verb at hand: building the parsers of the others takes as long as all the rest of the command line."""
        return {self.verb: LightningCLI.subcommands()[self.verb]}

    def _set_seed(self) -> None:
        seed = self.config[self.verb].seed_everything
        if seed is False or not 0 <= seed < 2**32:
            raise UserError(f"seed_everything must be an integer from 0 to {2**32 - 1}, not {seed}")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Nothing: what a checkpoint says is compared with the command line, and never overrides it."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run", type=str | None, default=None, help="The run directory; a new one under runs/ by default."
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="A run or checkpoint whose weights a new run starts from: everything else begins anew.",
        )
        parser.add_argument(
            "--init_weights", type=str, default="ema", help="Which of its weights: ema, ema:DECAY or raw."
        )
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(SampleSheet, "samples")
        parser.add_lightning_class_args(Fidelity, "fidelity")
        parser.add_lightning_class_args(Progress, "progress")
        parser.add_lightning_class_args(Preemption, "preemption")
        if self.verb == "test":
            parser.add_class_arguments(Protocol, "evaluation")
        for name in ("shape", "levels", "num_classes"):
            parser.link_arguments(
                "data", f"model.init_args.{name}", compute_fn=_Attribute(name), apply_on="instantiate"
            )

    # ---- before: which directory, new or resumed ------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        config = self.config[self.verb]
        check_settings(config.trainer, self.verb)
        self.resolved = self._resolved()
        self.recipe = {"seed": config.seed_everything, **{key: self.resolved[key] for key in ("model", "data")}}
        slurm.check_started()
        given = config.get("ckpt_path")
        nodes = config.trainer.get("num_nodes") or 1
        run = config.run or (wandb_run.sweep_directory() if self.verb == "fit" else None)
        self.run_dir, self.is_new = choose_directory(self.verb, run, given, self._config_name(), nodes)
        self.entry = enter(self.verb, self.run_dir, self.resolved, self.recipe, given)
        asked = wandb_run.asked_id(config.trainer.get("logger"))
        if self.verb == "fit":
            own = (self.run_dir / "run_id").exists()
            if own and asked not in (None, self.entry.identity):
                raise UserError(
                    f"{self.run_dir} has the W&B id {self.entry.identity}, not {asked}: leave logger.id out"
                )
            self.entry = replace(self.entry, identity=wandb_run.sweep_run() or asked or self.entry.identity)
        config.ckpt_path = self.entry.checkpoint
        config.trainer.default_root_dir = str(self.run_dir)
        tags = [config[key].class_path.rpartition(".")[2] for key in ("model", "data")]
        tags.append(f"seed-{config.seed_everything}")
        logger = config.trainer.get("logger")
        # A verb that judges is a W&B run beside the training's, which would otherwise get rows from outside.
        identity = self.entry.identity
        if self.verb != "fit":
            identity = f"{identity}-{self.verb}" if asked in (None, identity) else asked
        group = f"{self._config_name()}-{self._configuration()}" if self.verb == "fit" else None
        wandb_run.complete(logger, self.run_dir, identity, self.verb, tags, group)

    def _resolved(self) -> dict[str, Any]:
        """The whole config of this verb as primitives."""
        return yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml"))[self.verb]

    def _training_recipe(self) -> dict[str, Any]:
        """What a training depends on beside its seed, model and data."""
        whole = ("ema", "init_from", "init_weights") if self.resolved.get("init_from") else ("ema",)
        trainer = {key: self.resolved["trainer"].get(key) for key in _OF_TRAINING}
        return {"trainer": trainer, **{key: self.resolved.get(key) for key in whole}}

    def _configuration(self) -> str:
        """Six characters that the seeds of one configuration share: of model, data and training, and of no other."""
        whole = {**{key: self.recipe[key] for key in ("model", "data")}, "training": self._training_recipe()}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:6]

    def _config_name(self) -> str:
        """The name of the first config file on the command line."""
        named = (Path(value) for option, value in options(self.given) if option in ("c", "config", "model"))
        file = next(named, Path("run"))
        # a run's own config is named by its directory
        return re.sub(r"-\d+$", "", file.absolute().parent.name) if file.name == "config.yaml" else file.stem

    # ---- the trainer ----------------------------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.model.seed = self.datamodule.seed = self.config[self.verb].seed_everything
        self.model.recipe, self.model.judged_step = self.recipe, self.entry.step
        self.model.symbols = getattr(self.datamodule, "symbols", None)
        self.model.training_recipe = self._training_recipe()
        self._start_warm(self.config[self.verb])
        given = self._get(self.config_init, "trainer").get("logger")
        loggers = [
            logger for logger in (given if isinstance(given, list) else [given]) if logger not in (None, True, False)
        ]
        kwargs["logger"] = loggers
        if self._get(self.config_init, "trainer").get("profiler") is None:
            kwargs["profiler"] = Unprofiled()
        if SLURMEnvironment.detect():  # Lightning's own requeue saves inside the signal handler, and can hang there
            kwargs["plugins"] = [*(self._get(self.config_init, "trainer").get("plugins") or [])]
            kwargs["plugins"].append(SLURMEnvironment(auto_requeue=False))
        if self._get(self.config_init, "trainer").get("enable_progress_bar") is False:
            kwargs["enable_progress_bar"] = True  # the Trainer refuses a bar among the callbacks otherwise
            self._get(self.config_init, "progress").disable()
        trainer = super().instantiate_trainer(**kwargs)
        check_strategy(trainer.strategy)
        check_callbacks(trainer.callbacks)
        if self.verb == "fit":
            # Lightning's own handler broadcasts from within a signal, and so hangs; `cluster.stop` has been listening
            trainer._signal_connector.register_signal_handlers = lambda: None
            trainer.callbacks.sort(key=lambda callback: isinstance(callback, Preemption))  # it is the last
        trainer.callbacks.insert(0, Throughput())
        if self.verb == "test":
            self.distances = TestFidelity(self._get(self.config_init, "evaluation"))
            trainer.callbacks.append(self.distances)
        if self.verb == "fit":
            self.begins = RunBegins(self.run_dir, self.entry, self.resolved)
            trainer.callbacks.insert(0, self.begins)
            if 0 < trainer.max_steps <= self.entry.step and trainer.is_global_zero:
                print(f"{self.run_dir} is at step {self.entry.step} of {trainer.max_steps} already")
        return trainer

    def say_where_time_is_up(self) -> None:
        """A run whose `max_time` was used up before ends at once: it says why, and how it goes on."""
        left = [each.time_remaining() or 1 for each in self.trainer.callbacks if isinstance(each, Timer)]
        if self.verb == "fit" and left and min(left) <= 0 and self.trainer.global_step == self.entry.step:
            print(f"{self.run_dir} has used up trainer.max_time at step {self.entry.step} already: give a longer one")

    def _start_warm(self, config: Any) -> None:
        """With --init_from, a run that has no checkpoint of its own yet starts from another's weights."""
        if self.verb != "fit" or config.init_from is None or self.entry.checkpoint is not None:
            return
        checkpoint = read_checkpoint(config.init_from)

        def fill_and_say(module: GenerativeModule) -> None:
            which = fill(module, checkpoint, config.init_weights, name=config.init_from)
            if module.trainer.is_global_zero:
                step = checkpoint["global_step"]
                print(
                    f"a new run from the {which} weights of {config.init_from} at step {step}: "
                    "optimizer, averages, learning rate and data begin anew"
                )

        self.model.warm_start = fill_and_say

    def predict(self, **kwargs: Any) -> None:
        """Keeps the rows of all ranks, by the example's index."""
        batches = self.trainer.predict(**kwargs) or []
        columns = list(batches[0]) if batches else []
        rows = {row[0]: row for batch in batches for row in zip(*(batch[name].tolist() for name in columns))}
        parts = [(columns, rows)]
        if dist.is_available() and dist.is_initialized():
            parts = parts * dist.get_world_size()
            dist.all_gather_object(parts, (columns, rows))
        self.columns = next((names for names, _ in parts if names), ["index"])
        self.rows = [row for _, row in sorted({i: row for _, part in parts for i, row in part.items()}.items())]

    def write_measured(self) -> Path:
        """evaluation/VERB.json of what validation or test measured, or evaluation/predict.csv; its path."""
        folder = self.run_dir / "evaluation"
        if self.verb == "predict":
            write_csv(folder / "predict.csv", self.columns, self.rows)
            return folder / "predict.csv"
        module, checkpoint = self.model, read_checkpoint(self.entry.checkpoint)
        settings = {
            "split": "val" if self.verb == "validate" else "test",
            "checkpoint": self.entry.checkpoint,
            **subject(checkpoint, self.run_dir),
            "likelihood_kind": module.likelihood_kind,
            "draws": module.eval_draws,
            "seed": module.eval_seed,
        }
        if module.num_measured < len(self.datamodule.split(settings["split"])):
            settings["num_examples"] = module.num_measured  # of a part only: no number of the whole
        metrics = self._means()
        if self.verb == "test" and self.distances.measured is not None:
            found = self.distances.measured
            metrics, settings = {**found.metrics, **metrics}, {**found.settings, **settings}
            if self.distances.left_out:
                print(f"{self.distances.left_out}: FD is left out (give --evaluation.extractor)")
        settings["weights"] = f"ema:{module.averages.decays[0]}" if module.averages is not None else "raw"
        text = json.dumps(sealed({"metrics": metrics, "settings": settings}), indent=2)
        write_atomically(folder / f"{self.verb}.json", text + "\n")
        return folder / f"{self.verb}.json"

    def _means(self) -> dict[str, float]:
        """Means over the split with their standard errors, by the names that `evaluate` gives them."""
        bound = (self.model.likelihood_kind or "").endswith("elbo")
        metrics = {}
        for name, (mean, error) in self.model.measured.items():
            if name == "log_prob_nats" and bound:
                name = "elbo_nats"
            elif name in self.model.likelihood_terms:
                name = f"{name}_nats"
            metrics |= {name: mean} | ({} if math.isnan(error) else {f"{name}_se": error})
        return metrics


class _Attribute:
    """Reads one attribute of the data module: what a link hands to the model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, data: LightningDataModule) -> Any:
        return getattr(data, self.name)


def run_verb(verb: str, args: list[str]) -> Path | None:
    """Runs one Trainer verb; returns the path of what it made, on rank zero."""
    # Lightning announces the machine, its other products and every default: what it has to say in earnest is a warning.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available on your system.*")
    # What Lightning's launcher starts for every further rank of this machine.
    sys.argv = [str(Path(__file__).with_name("__main__.py")), verb, *args]
    cli = GenerativeCLI(verb, configs_first(with_own_config(verb, args)))
    wandb_run.finish(cli.trainer.loggers)  # what it has to say comes before the last line
    if cli.begins is not None:
        cli.begins.release()
    if not cli.trainer.is_global_zero:
        return None
    cli.say_where_time_is_up()
    return cli.run_dir if verb == "fit" else cli.write_measured()
