"""The W&B run: where it lives, that it never asks or waits, and what its rows say."""

import inspect
from argparse import Namespace

import pytest
import wandb
from jsonargparse import Namespace as Parsed
from lightning.pytorch.loggers import WandbLogger

from lightning_gen import wandb_run
from lightning_gen.errors import UserError
from lightning_gen.wandb_run import WandbRun, complete, has_key, settings


@pytest.fixture(autouse=True)
def answered(no_wandb, monkeypatch):
    monkeypatch.setattr(wandb_run, "reachable", lambda *args: True)


GIVEN = {"project": "mine", "name": None, "resume": None, "save_dir": ".", "offline": False}


def test_a_run_lives_in_its_directory_and_resumes(tmp_path):
    made = settings(tmp_path, "abc", GIVEN, "fit", ["VAE"], "family")
    assert (made["project"], made["name"]) == ("mine", tmp_path.name)
    assert (made["id"], made["resume"], made["save_dir"]) == ("abc", "allow", str(tmp_path))
    assert (made["job_type"], made["tags"], made["group"]) == ("fit", ["VAE"], "family")
    assert settings(tmp_path, "abc", {**GIVEN, "group": "own", "tags": ["t"]}, "fit", [], "f")["group"] == "own"


STANDS, REFUSED, ASIDE = "stands", "is refused in one line", "is set aside in one line"
ARGUMENTS = {
    "name": ("x", STANDS),
    "project": ("x", STANDS),
    "save_dir": ("elsewhere", REFUSED),
    "dir": ("elsewhere", REFUSED),
    "version": ("x", "is the id"),
    "id": ("x", "is the id"),
    "offline": (True, STANDS),
    "anonymous": (True, STANDS),
    "log_model": ("all", ASIDE),
    "experiment": (None, "is no value of a config"),
    "prefix": ("x", REFUSED),
    "checkpoint_name": ("x", STANDS),
    "add_file_policy": ("immutable", STANDS),
    # of wandb.init
    "entity": ("x", STANDS),
    "group": ("x", STANDS),
    "tags": (["x"], STANDS),
    "notes": ("x", STANDS),
    "job_type": ("x", STANDS),
    "resume": ("never", REFUSED),
    "reinit": (True, STANDS),
    "config_exclude_keys": (["x"], STANDS),
}
VARIABLES = {
    "WANDB_PROJECT": ("project", "x"),
    "WANDB_NAME": ("name", "x"),
    "WANDB_TAGS": ("tags", ["x", "y"]),
    "WANDB_RUN_GROUP": ("group", "x"),
    "WANDB_JOB_TYPE": ("job_type", "x"),
    "WANDB_ENTITY": ("entity", None),  # W&B reads these where it is not told
    "WANDB_NOTES": ("notes", None),
    "WANDB_DIR": (None, ASIDE),
    "WANDB_RESUME": (None, ASIDE),
    "WANDB_RUN_ID": (None, ASIDE),
}


def test_every_argument_of_the_logger_is_in_the_table():
    own = set(inspect.signature(WandbLogger.__init__).parameters) - {"self", "kwargs"}
    assert own <= ARGUMENTS.keys()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_of_the_logger_stands_or_one_line_says_that_it_cannot(tmp_path, name, capsys):
    value, what = ARGUMENTS[name]
    if what == REFUSED:
        with pytest.raises(UserError, match=f"logger.{name} is '{value}'.*leave it out") as caught:
            settings(tmp_path, "abc", {name: value}, "fit", [])
        assert "\n" not in str(caught.value)
    elif what == "is the id":
        logger = Parsed(class_path="WandbLogger", init_args=Parsed(**{name: value}))
        assert wandb_run.asked_id([logger]) == value
    elif value is not None:
        made = settings(tmp_path, "abc", {name: value}, "fit", ["t"], "g")
        said = capsys.readouterr().err
        assert (made[name] == value, said) == (True, "") if what == STANDS else said.count("\n") == 1 and name in said


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_of_the_environment_stands_below_the_config_or_a_line_says_that_it_cannot(
    tmp_path, name, monkeypatch, capsys
):
    key, meant = VARIABLES[name]
    monkeypatch.setenv(name, ",".join(meant) if isinstance(meant, list) else "x")
    made = settings(tmp_path, "abc", {}, "fit", ["t"], "g")
    said = capsys.readouterr().err
    if meant is ASIDE:
        assert name in said and said.count("\n") == 1 and (made["id"], made["save_dir"]) == ("abc", str(tmp_path))
    else:
        assert made.get(key) == meant and not said
        assert settings(tmp_path, "abc", {key: "own"}, "fit", ["t"], "g")[key] == "own"


def test_an_id_that_w_and_b_refuses_is_refused_before():
    with pytest.raises(UserError, match="logger.id is 'a/b'"):
        wandb_run.asked_id(Parsed(class_path="WandbLogger", init_args=Parsed(id="a/b")))


def test_a_benchmark_names_the_group_of_its_cells(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "digits")
    assert settings(tmp_path, "abc", GIVEN, "fit", [], "digits_diffusion")["group"] == "digits"


def test_without_a_key_it_is_offline_and_nothing_is_asked(tmp_path, monkeypatch):
    assert settings(tmp_path, "abc", GIVEN, "fit", [])["offline"] and not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_key() and not settings(tmp_path, "abc", GIVEN, "fit", [])["offline"]
    assert settings(tmp_path, "abc", {**GIVEN, "offline": True}, "fit", [])["offline"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert settings(tmp_path, "abc", GIVEN, "fit", [])["offline"]


def test_a_server_that_does_not_answer_means_offline_said_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setattr(wandb_run, "reachable", lambda *args: False)
    assert settings(tmp_path, "abc", GIVEN, "fit", [])["offline"]
    assert capsys.readouterr().err == "W&B's server api.wandb.ai does not answer: this run is kept offline\n"


@pytest.mark.parametrize("given", [{}, {"offline": True}])
def test_a_disabled_run_is_none_and_leaves_nothing(tmp_path, monkeypatch, given):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb_run, "reachable", lambda *args: pytest.fail("no server is needed"))
    logger = WandbRun(**settings(tmp_path, "abc", {**GIVEN, **given}, "fit", []))
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.finalize("success")
    assert not logger._offline and logger.experiment.disabled
    wandb.finish()
    assert list(tmp_path.iterdir()) == [] and wandb_run.os.environ["WANDB_MODE"] == "disabled"


def test_a_mode_in_the_config_counts_as_one_in_the_environment(tmp_path):
    assert not settings(tmp_path, "abc", {**GIVEN, "mode": "disabled"}, "fit", [])["offline"]
    made = settings(tmp_path, "abc", {**GIVEN, "mode": "online"}, "fit", [])
    assert made["offline"] and "mode" not in made  # without a key it would ask for one


def test_only_a_wandb_logger_is_completed(tmp_path):
    class_path = "lightning.pytorch.loggers.WandbLogger"
    logger = Parsed(class_path=class_path, init_args=Parsed(project="p", offline=True, tags=None))
    other = Parsed(class_path="lightning.pytorch.loggers.CSVLogger", init_args=Parsed(save_dir="x"))
    complete([logger, other], tmp_path, "abc", "fit", ["VAE"])
    complete(None, tmp_path, "abc", "fit", [])
    complete(True, tmp_path, "abc", "fit", [])
    assert logger.class_path.endswith("WandbRun") and other.class_path.endswith("CSVLogger")
    assert logger.init_args.tags == ["VAE"] and logger.dict_kwargs["job_type"] == "fit"
    assert vars(other.init_args) == {"save_dir": "x"}


@pytest.fixture
def begun(monkeypatch):
    """What is given to wandb.init, call by call; each call that finds `mode` online fails with `error`, if any."""
    calls, rows = [], []

    def function(error=None):
        def init(**given):
            calls.append(given)
            if error is not None and given.get("mode") != "offline":
                raise error
            log = rows.append
            return Namespace(log=lambda row, **kwargs: log(row), define_metric=lambda *a, **k: None, config={})

        monkeypatch.setattr(wandb, "init", init)
        monkeypatch.setattr(wandb, "teardown", lambda: None)
        return calls, rows

    return function


def test_rows_carry_the_step_they_are_plotted_against(begun, tmp_path):
    _, rows = begun()
    WandbRun(save_dir=str(tmp_path), project="p").log_metrics({"train/loss": 0.5, "images_seen": 64.0}, step=7)
    assert rows[0]["step"] == 7 and rows[0]["train/loss"] == 0.5 and rows[0]["images_seen"] == 64.0


def test_a_run_that_w_and_b_refuses_goes_on_offline(begun, tmp_path, capsys):
    calls, rows = begun(wandb.errors.AuthenticationError("no such\nkey"))
    logger = WandbRun(save_dir=str(tmp_path), project="p")
    logger.log_metrics({"train/loss": 0.5}, step=1)
    assert [call.get("mode") for call in calls] == [None, "offline"] and len(rows) == 1
    error = capsys.readouterr().err
    assert error == "W&B cannot be used (no such key): this run is kept offline\n"
    assert logger._offline


def test_a_bug_is_not_taken_for_a_missing_server(begun, tmp_path):
    begun(TypeError("a bug"))
    with pytest.raises(TypeError):
        WandbRun(save_dir=str(tmp_path), project="p").log_metrics({"a": 1.0}, step=1)


def test_w_and_b_is_told_the_exit_status_of_a_run_that_is_cut(begun, tmp_path):
    """A sweep gives no run out again that ended with 0; W&B's own hook misses `sys.exit(main())`."""
    begun()
    ended = []
    logger = WandbRun(save_dir=str(tmp_path), project="p")
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.experiment.finish = ended.append
    wandb_run.finish([logger, object()], 75)
    assert ended == [75]
