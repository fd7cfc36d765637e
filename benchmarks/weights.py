"""The weights beside a record, as safetensors: what adapting and acting need."""

import shlex
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from omrlbench.algorithms.algorithm import Algorithm
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.errors import BenchError


def exported_tensors(algorithm: Algorithm) -> dict[str, Tensor]:
    """The tensors themselves behind `algorithm.exported()`: `<module>.<parameter>`, and `<name>` of single ones."""
    tensors = {}
    for name, value in algorithm.exported().items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            tensors |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
    return tensors


def stored_weights(algorithm: Algorithm, dataset: MultiTaskDataset) -> bytes | None:
    """The content of the file, None for a method that needs none. Holds what standardises observations, if anything."""
    tensors = exported_tensors(algorithm)
    if tensors and dataset.observation_mean is not None:
        tensors |= {"observations.mean": dataset.observation_mean, "observations.scale": dataset.observation_scale}
    return save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}) if tensors else None


def stored_scaling(record: Path) -> tuple[Tensor, Tensor] | None:
    """Mean and scale of observations that the run with this record learned with, None where nothing is stored."""
    try:
        stored = load_file(record.with_suffix(".safetensors"))
    except (OSError, SafetensorError):  # restore_weights says what is to be done
        return None
    return (stored["observations.mean"], stored["observations.scale"]) if "observations.mean" in stored else None


@torch.no_grad()
def restore_weights(algorithm: Algorithm, record: Path) -> None:
    """Give `algorithm` the weights beside `record`. Raises BenchError where they are missing or do not fit."""
    wanted, path = exported_tensors(algorithm), record.with_suffix(".safetensors")
    if not wanted:
        return
    again = f"repeat the run and use its new record: bench run --from {shlex.quote(str(record))}"
    try:
        stored = load_file(path, algorithm.device.type)
    except FileNotFoundError:
        raise BenchError(f"there are no weights beside {record}; {again}") from None
    except (OSError, SafetensorError):
        raise BenchError(f"cannot read {path}; {again}") from None
    for name, tensor in wanted.items():
        if name not in stored or stored[name].shape != tensor.shape:
            raise BenchError(f"{path} has no {name} of shape {tuple(tensor.shape)}; {again}")
        tensor.copy_(stored[name])
