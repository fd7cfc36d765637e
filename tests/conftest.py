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
    """A folder of datasets that holds the expert dataset of sparse_point_robot. Tests only read it."""
    folder = tmp_path_factory.mktemp("datasets")
    make_dataset(get_meta_env("sparse_point_robot"), "expert", "per_task", folder)
    return folder
