"""The plan of a benchmark: all combinations, overrides in order, and clear refusals."""

from pathlib import Path

import pytest
import yaml

from lightning_gen.benchmark.grid import Plan
from lightning_gen.errors import UserError

GOOD = {
    "experiment": "experiment.yaml",
    "axes": {
        "schedule": {"a": {"model.x": 1, "model.y": {"class_path": "C"}}, "b": {"model.x": 2}},
        "target": {"p": {"model.z": "s"}, "q": {"model.x": 3}},
    },
    "overrides": {"trainer.max_steps": 5, "model.x": 0},
}


def plan_file(tmp_path: Path, **changes) -> Path:
    (tmp_path / "experiment.yaml").write_text("model: model.yaml\n")
    (tmp_path / "model.yaml").write_text("class_path: A\n")
    content = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "plan.yaml"


def test_cells_are_all_combinations(tmp_path):
    cells = Plan.read(plan_file(tmp_path)).cells()
    assert [cell.name for cell in cells] == ["a-p", "a-q", "b-p", "b-q"]
    assert cells[1].values == {"schedule": "a", "target": "q"}
    # the plan's overrides first, then the axes in order: the last one wins
    assert cells[0].overrides == {"trainer.max_steps": 5, "model.x": 1, "model.y": {"class_path": "C"}, "model.z": "s"}
    assert cells[3].overrides["model.x"] == 3
    assert "--model.z=s" in cells[0].arguments() and '--model.y={"class_path": "C"}' in cells[0].arguments()


def test_the_name_is_the_files_by_default(tmp_path):
    assert Plan.read(plan_file(tmp_path)).name == "plan"


def test_recipe_changes_with_the_files_it_names(tmp_path):
    plan = Plan.read(plan_file(tmp_path))
    before = plan.recipe()
    (tmp_path / "model.yaml").write_text("class_path: B\n")
    assert plan.recipe() != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axis": {}}, "axis"),
        ({"axes": None}, "axes"),
        ({"experiment": "nowhere.yaml"}, "nowhere.yaml"),
        ({"workers": 0}, "worker"),
        ({"evaluation": {"num_sample": 5}}, "num_sample"),
        ({"evaluation": {"draws": -1}}, "draws"),
        ({"axes": {"schedule": ["a", "b"]}}, "schedule"),
        ({"axes": {"schedule": {"a/b": {}}}}, "a/b"),
    ],
)
def test_bad_plans_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        Plan.read(plan_file(tmp_path, **changes))
