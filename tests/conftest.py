from pathlib import Path

import pytest
import torch

from omrlbench.data.generate import make_dataset
from omrlbench.envs.registry import get_meta_env


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder of datasets that holds the expert data of sparse_point_robot, shifted ones too. Tests only read it."""
    folder = tmp_path_factory.mktemp("datasets")
    for level in ("expert", "expert-shifted"):
        make_dataset(get_meta_env("sparse_point_robot"), level, "per_task", folder)
    return folder
