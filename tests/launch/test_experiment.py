"""What would end a training right after its time in the queue is refused before it is submitted."""

from pathlib import Path

import pytest

from lightning_gen.errors import UserError
from lightning_gen.launch.experiment import refuse, settings
from lightning_gen.launch.resources import Resources
from lightning_gen.launch.submission import Submission

CONFIG = Path("configs/experiment/digits_ddpm.yaml")  # a batch of 64, on CPUs
CPUS = Resources(gpus_per_node=0)


def refused(overrides, resources=CPUS, config=CONFIG):
    with pytest.raises(UserError) as error:
        refuse(config, overrides.split(), Submission("train", [], "x", Path("runs"), resources))
    return str(error.value)


def accepted(overrides, resources=CPUS):
    refuse(CONFIG, overrides.split(), Submission("train", [], "x", Path("runs"), resources))


def test_settings_come_from_the_sections_files_and_the_last_word_wins(project):
    assert settings(CONFIG, [])["data.batch_size"] == 64
    assert settings(CONFIG, ["--data.init_args.batch_size=32", "--data.batch_size", "16"])["data.batch_size"] == 16
    over = settings(CONFIG, ["--data", "configs/data/mnist.yaml", "--trainer=configs/trainer/gpu.yaml"])
    assert over["data.class_path"] == "datamodules.MNIST" and over["trainer.accelerator"] == "gpu"
    assert over["trainer.max_steps"] == 500  # a file says its own keys and leaves the others


def test_words_that_belong_to_nothing(project):
    assert "'12' belongs to no option" in refused("--trainer.max_steps 10 12")
    assert "'x' belongs to no option" in refused("x")
    assert "'-x' is no option" in refused("-x 3")
    accepted("--trainer.max_steps -1 --seed_everything=3 --trainer.fast_dev_run --data.batch_size 32")


def test_files_that_are_not_there(project):
    assert "did you mean configs/experiment/digits_ddpm.yaml?" in refused(
        "", config=Path("configs/experiment/digit_ddpm.yaml")
    )
    assert "no config file configs/trainer/gpus.yaml" in refused("--trainer configs/trainer/gpus.yaml")


def test_a_config_of_a_part_is_no_experiment(project):
    part = Path("configs/trainer/cpu.yaml")
    assert "has no model and no data" in refused("", config=part)
    assert "has no model:" in refused("--data configs/data/digits.yaml", config=part)


@pytest.mark.parametrize("option", ["trainer.devices", "trainer.num_nodes", "run"])
def test_what_follows_from_the_job_is_not_for_the_overrides(project, option):
    assert f"--{option} follows from the job" in refused(f"--{option} 2")


def test_a_batch_divides_among_the_tasks(project):
    three = Resources(nodes=3, gpus_per_node=0)
    assert "batch_size 64 does not divide among 3 tasks" in refused("", three)
    assert "among 24 tasks (3 nodes of 8)" in refused("--trainer.accelerator gpu", Resources(nodes=3, gpus_per_node=8))
    accepted("--data.init_args.batch_size 66", three)
    accepted("", Resources(nodes=4, gpus_per_node=0, tasks_per_node=2))


def test_devices_that_the_config_would_leave_idle(project):
    assert "--gpus_per_node 0" in refused("", Resources())  # the template asks for a GPU
    assert "--trainer.accelerator cpu" in refused("--trainer configs/trainer/gpu.yaml")
    accepted("--trainer configs/trainer/gpu.yaml", Resources())
    accepted("--trainer.accelerator auto", Resources(gpus_per_node=2))


def test_an_override_that_cannot_be_read_is_named():
    with pytest.raises(UserError, match=r"--model.init_args.schedule: '\[1' cannot be read"):
        settings(CONFIG, ["--model.init_args.schedule=[1"])
