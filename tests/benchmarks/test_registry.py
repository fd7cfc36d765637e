import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from omrlbench import registry
from omrlbench.errors import BenchError


class FakeDistribution:
    def __init__(self, name):
        self.name = name


def plugin(name, value, distribution):
    return EntryPoint(name, value, registry.GROUP)._for(FakeDistribution(distribution))


@pytest.fixture
def plugins(monkeypatch):
    found = []
    monkeypatch.setattr("omrlbench.plugins.entry_points", lambda group: found)
    return found


def test_a_typo_gets_a_hint_and_the_names_that_exist():
    with pytest.raises(BenchError, match="unknown method 'fokal': did you mean focal\\? choose from focal") as caught:
        registry.algorithm_class("fokal")
    assert caught.value.exit_code == 2
    with pytest.raises(BenchError, match="did you mean sparse_point_robot\\?"):
        registry.meta_env("sparse_point_robt")


def test_a_name_unlike_any_other_gets_no_hint():
    with pytest.raises(BenchError, match="unknown method 'zzz': choose from"):
        registry.algorithm_class("zzz")


def test_a_plugin_is_listed_and_loaded(plugins):
    plugins.append(plugin("mine", "omrlbench.algorithms.algorithm:Algorithm", "lab"))
    assert registry.algorithms()["mine"] == "lab"
    assert registry.algorithm_class("mine").__name__ == "Algorithm"


def test_a_built_in_name_cannot_be_taken(plugins):
    plugins.append(plugin("focal", "nowhere:Nothing", "lab"))
    assert registry.algorithm_class("focal").__module__ == "omrlbench.algorithms.focal"
    assert "lab is ignored" in registry.algorithms()["focal"]


def test_one_name_from_two_distributions_is_an_error_naming_both(plugins):
    plugins += [plugin("mine", "a:A", "first"), plugin("mine", "b:B", "second")]
    assert "first and second" in registry.algorithms()["mine"]
    with pytest.raises(BenchError, match="first and second"):
        registry.algorithm_class("mine")


@pytest.mark.parametrize("value", ["no_such_module:Method", "json:no_such_name", "json:dumps"])
def test_a_broken_plugin_breaks_its_own_use_only(plugins, value):
    plugins.append(plugin("broken", value, "lab"))
    assert registry.algorithms()["broken"] == "lab"
    with pytest.raises(BenchError, match="'broken' of lab"):
        registry.algorithm_class("broken")


def test_importing_the_registry_and_listing_methods_imports_nothing_heavy():
    code = "import sys; from omrlbench import registry; registry.algorithms(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "gymnasium"} & set(done.stdout.split())
