"""How well task embeddings tell tasks apart: numbers beside the pictures of the task space.

An embedding table is `tasks` (n,), the task of each context, and `codes` (n, latent), its embedding; every task has
equally many contexts.
"""

import warnings

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.linear_model import RidgeClassifier

SEPARATE = 2 / 3  # mean squared difference per dimension of two codes drawn uniformly from (-1, 1)^l


def embedding_diagnostics(
    tasks: np.ndarray, codes: np.ndarray, parameters: np.ndarray, bounded: bool
) -> dict[str, float | None]:
    """Of the tasks in an embedding table, with their task parameters `parameters` (n_tasks, p) in ascending order.

    `effective_separation_rate` is the share of task pairs whose mean codes differ by more than 2/3 in mean square per
    dimension (FOCAL, Table 1), None unless codes are `bounded` to (-1, 1). `rms_distance` is the root mean square
    difference per dimension of two tasks, averaged over dimensions (the same table, as the authors compute it).
    `probe_accuracy` is how often a linear classifier, fitted on half of each task's contexts, names the task of the
    others. `parameter_correlation` is Pearson's between the distances of mean codes and of standardised task
    parameters over all task pairs, None where these have no spread, as between two tasks.
    """
    present = np.unique(tasks)
    means = np.stack([codes[tasks == task].mean(0) for task in present])
    first, second = np.triu_indices(len(present), 1)
    squares = np.square(means[first] - means[second]).mean(1)
    return {
        "effective_separation_rate": float((squares > SEPARATE).mean()) if bounded else None,
        "rms_distance": float(means.std(0, ddof=1).mean() * np.sqrt(2)),
        "probe_accuracy": probe_accuracy(tasks, codes),
        "parameter_correlation": correlation(np.sqrt(squares), _distances(standardised(parameters), first, second)),
    }


def probe_accuracy(tasks: np.ndarray, codes: np.ndarray) -> float:
    """Accuracy of a ridge classifier on the second half of each task's contexts, fitted on the first."""
    place = np.array([np.count_nonzero(tasks[:k] == task) for k, task in enumerate(tasks)])  # among those of its task
    fitted = place < (place.max() + 1) // 2
    seen = standardised(codes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # codes nearly on a line, which the ridge is there for
        classifier = RidgeClassifier(alpha=1e-3).fit(seen[fitted], tasks[fitted])
    return float((classifier.predict(seen[~fitted]) == tasks[~fitted]).mean())


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's, None where one of them has no spread."""
    if len(x) < 2 or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def standardised(table: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; one without spread stays at 0."""
    spread = table.std(0)
    return (table - table.mean(0)) / np.where(spread > 1e-12, spread, 1.0)


def _distances(table: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(table[first] - table[second]).sum(1))
