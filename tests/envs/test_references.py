from dataclasses import replace

import numpy as np
import pytest

from omrlbench.envs import references
from omrlbench.envs.references import References, measure, normalized_score, reference_returns
from omrlbench.envs.registry import META_ENVS
from omrlbench.envs.tasks import SPLITS

every_name = pytest.mark.parametrize("name", META_ENVS)


@pytest.mark.parametrize("name", [spec.name for spec in META_ENVS.values() if not spec.locomotion])
def test_measuring_again_gives_the_frozen_file(name):
    frozen, measured = references._frozen()[name], measure(META_ENVS[name])
    assert frozen["revision"] == measured["revision"]
    assert frozen["told"] == measured["told"]
    for policy in ("expert", "random", "one_expert"):
        assert len(frozen[policy]) == len(META_ENVS[name].tasks)
        np.testing.assert_allclose(measured[policy], frozen[policy], rtol=0, atol=1.001e-6)


@pytest.mark.parametrize("name", [spec.name for spec in META_ENVS.values() if spec.locomotion])
def test_a_few_episodes_agree_with_the_frozen_file(name):
    spec = META_ENVS[name]
    frozen = references._frozen()[name]
    measured = measure(spec, episodes=max(1, 20 // len(spec.tasks)), told=frozen["told"])
    gap = np.mean(frozen["expert"]) - np.mean(frozen["random"])
    for policy in ("expert", "random", "one_expert"):
        assert len(frozen[policy]) == len(spec.tasks)
        assert np.mean(measured[policy]) == pytest.approx(np.mean(frozen[policy]), abs=0.1 * gap)


def test_the_file_holds_these_meta_environments_and_no_other():
    assert list(references._frozen()) == list(META_ENVS)


@every_name
@pytest.mark.parametrize("split", SPLITS)
def test_scores_at_the_references(name, split):
    if not META_ENVS[name].tasks.splits[split]:
        pytest.skip(f"{name} has no {split} tasks")
    found = reference_returns(name, split)
    assert found.random < found.expert
    assert normalized_score(name, split, found.random) == 0.0
    assert normalized_score(name, split, found.expert) == 1.0
    assert normalized_score(name, split, (found.random + found.expert) / 2) == pytest.approx(0.5)


@every_name
def test_the_one_expert_is_told_a_training_task(name):
    assert references._frozen()[name]["told"] in META_ENVS[name].tasks.splits["train"]


def test_references_average_the_tasks_of_the_split(monkeypatch):
    returns = {"random": [0.0] * 40 + [2.0] * 10 + [0.0] * 10, "expert": [0.0] * 40 + [6.0] * 10 + [0.0] * 10}
    monkeypatch.setattr(references, "_frozen", lambda path: {"point_robot_wind": {"revision": 1, **returns}})
    assert reference_returns("point_robot_wind", "test") == References(random=2.0, expert=6.0)
    assert normalized_score("point_robot_wind", "test", 3.0) == 0.25


def test_another_revision_is_refused(monkeypatch):
    monkeypatch.setitem(META_ENVS, "point_robot", replace(META_ENVS["point_robot"], revision=99))
    with pytest.raises(ValueError, match="^references.json has revision 1 of point_robot, .* has 99; run [^\n]*$"):
        normalized_score("point_robot", "test", 0.0)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="did you mean point_robot?"):
        reference_returns("point_robt", "test")
    with pytest.raises(ValueError, match="no split 'valid' of point_robot, there are train, validation, test"):
        reference_returns("point_robot", "valid")
    with pytest.raises(ValueError, match="ant_fwd_back has no validation tasks"):
        reference_returns("ant_fwd_back", "validation")
