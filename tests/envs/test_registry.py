import pytest

from omrlbench.envs.registry import GROUP, META_ENVS, get_meta_env, meta_env_origins, usable_meta_envs


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution of this name that offers a meta-environment."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(distribution: str, env: str, value: str) -> None:
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{env} = {value}\n")

    return write


def test_one_name_from_three_distributions_is_an_error_naming_all(install):
    for distribution in ("first", "second", "third"):
        install(distribution, "maze", f"{distribution}:spec")
    (listed,) = [origin for name, origin in meta_env_origins().items() if name == "maze"]
    assert listed.startswith("unusable: claimed by ")
    assert sorted(listed.removeprefix("unusable: claimed by ").split(" and ")) == ["first", "second", "third"]
    with pytest.raises(ValueError, match="'maze' is claimed by .*: uninstall one of them"):
        get_meta_env("maze")


@pytest.mark.parametrize("value", ["no_such_module:spec", "json:no_such_name", "json:dumps"])
def test_a_broken_package_breaks_its_own_meta_environment_only(install, value):
    install("lab", "maze", value)
    assert meta_env_origins()["maze"] == "lab"
    with pytest.raises(ValueError, match="'maze' of lab"):
        get_meta_env("maze")
    assert [spec.name for spec in usable_meta_envs()] == list(META_ENVS)


def test_a_built_in_name_cannot_be_taken(install):
    install("lab", "cheetah_vel", "nowhere:spec")
    assert meta_env_origins()["cheetah_vel"] == "built in; the one of this name in lab is ignored"
    assert get_meta_env("cheetah_vel") is META_ENVS["cheetah_vel"]
