"""Names to methods and meta-environments. Methods are strings here, imported when first used.

Other packages add methods by an entry point of the group `omrlbench.algorithms`, for example

    [project.entry-points."omrlbench.algorithms"]
    my_method = "my_package.my_method:MyMethod"
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from omrlbench.errors import BenchError, unknown
from omrlbench.plugins import distributions, load_plugin, origin, plugins

if TYPE_CHECKING:
    from omrlbench.algorithms.algorithm import Algorithm
    from omrlbench.envs.registry import MetaEnvSpec

GROUP = "omrlbench.algorithms"

ALGORITHMS: dict[str, str] = {
    "focal": "omrlbench.algorithms.focal:Focal",
    "batch_pearl": "omrlbench.algorithms.batch_pearl:BatchPearl",
    "batch_pearl_brac": "omrlbench.algorithms.batch_pearl:BatchPearlBRAC",
    "pearl": "omrlbench.algorithms.pearl:Pearl",
    "contextual_bcq": "omrlbench.algorithms.contextual_bcq:ContextualBCQ",
    "mbml": "omrlbench.algorithms.mbml:MBML",
    "smac_offline": "omrlbench.algorithms.smac:SMACOffline",
    "smac": "omrlbench.algorithms.smac:SMAC",
    "single_task_bcq": "omrlbench.algorithms.single_task_bcq:SingleTaskBCQ",
    "single_task_brac": "omrlbench.algorithms.single_task_brac:SingleTaskBRAC",
    "single_task_td3_bc": "omrlbench.algorithms.single_task_td3_bc:SingleTaskTD3BC",
    "single_task_iql": "omrlbench.algorithms.single_task_iql:SingleTaskIQL",
    "merpo": "omrlbench.algorithms.merpo:MerPO",
    "rac_no_meta": "omrlbench.algorithms.rac:RAC",
    "bc": "omrlbench.algorithms.bc:BehaviorCloning",
    "no_context": "omrlbench.algorithms.no_context:NoContext",
    "oracle_task": "omrlbench.algorithms.oracle_task:OracleTask",
    "do_nothing": "omrlbench.algorithms.untrained:DoNothing",
    "random_policy": "omrlbench.algorithms.untrained:RandomPolicy",
    "expert_policy": "omrlbench.algorithms.untrained:ExpertPolicy",
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> method, and the values that differ from it
    "focal_inverse": ("focal", {"metric_power": -1, "metric_beta": 2.0}),  # weights: FOCAL, Table 5b
    "focal_linear": ("focal", {"metric_power": 1, "metric_beta": 8.0}),
    "focal_square": ("focal", {"metric_power": 2, "metric_beta": 16.0}),
    "focal_repel": ("focal", {"metric_attraction": False}),
    "focal_probabilistic": ("focal", {"encoder": "gaussian", "kl_weight": 0.001}),  # see docs/algorithms/focal.md
    "focal_coupled": ("focal", {"coupled_gradients": True}),
    "single_task_bc": ("single_task_td3_bc", {"alpha": 0.0, "actor_interval": 1}),
    "merpo_adaptive": ("merpo", {"adaptive_alpha": True}),
    "rac": ("merpo", {"meta_models": False}),
    "rac_random": ("rac_no_meta", {"meta_policy": "random", "regularization_weight": 2.5}),
    "single_task_combo": ("rac_no_meta", {"regularization_weight": 0.0, "conservative_weight": 5.0}),
}


def algorithms() -> dict[str, str]:
    """Every known method and where it comes from, built-in ones first. Imports none of them."""
    origins = {name: "built in" for name in ALGORITHMS}
    for name, (method, values) in VARIANTS.items():
        origins[name] = f"built in: {method} with {', '.join(f'{key}={value}' for key, value in values.items())}"
    return origins | {name: origin(points, name in origins) for name, points in plugins(GROUP).items()}


def algorithm_class(name: str) -> "type[Algorithm]":
    """The method called `name`, of a variant the one that it varies.

    Raises BenchError for an unknown, ambiguous or broken one.
    """
    name = VARIANTS[name][0] if name in VARIANTS else name
    if name in ALGORITHMS:
        return resolve_name(ALGORITHMS[name])
    points = plugins(GROUP).get(name)
    if not points:
        raise unknown("method", name, algorithms())
    try:
        loaded = load_plugin("method", points)
    except ValueError as error:
        raise BenchError(str(error)) from error
    from omrlbench.algorithms.algorithm import Algorithm

    if not (isinstance(loaded, type) and issubclass(loaded, Algorithm)):
        raise BenchError(f"method {name!r} of {distributions(points)} is no subclass of Algorithm: {loaded!r}")
    return loaded


def kind(name: str) -> tuple[str, str]:
    """The allowance and the experience of the method `name`: only methods of one kind are ranked together."""
    method = algorithm_class(name)
    return method.allowance, method.experience


def variant_values(name: str) -> dict[str, Any]:
    """The values in which the variant `name` differs from its method, none for a method."""
    return VARIANTS[name][1] if name in VARIANTS else {}


def meta_env(name: str) -> "MetaEnvSpec":
    """The meta-environment called `name`. Raises BenchError for an unknown, ambiguous or broken one."""
    from omrlbench.envs.registry import META_ENVS, get_meta_env, meta_env_origins

    if name not in META_ENVS and name not in meta_env_origins():
        raise unknown("meta-environment", name, meta_env_origins())
    try:
        return get_meta_env(name)
    except ValueError as error:
        raise BenchError(str(error)) from error
