"""What runs a cell, wherever that is."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omrlbench.config import RunConfig
from omrlbench.errors import BenchError, Interrupted, RunBusy, unusable_file
from omrlbench.sweep import ELSEWHERE, FAILED, QUEUED

News = dict[str, Any]  # values of `Cell` by name


@dataclass(frozen=True)
class Work:
    """What the cells of a sweep have in common. Records hold `argv`."""

    results_dir: Path
    data_dir: Path | None
    argv: Sequence[str]

    def run(self, config: RunConfig, tell: Callable[[News], None]) -> News:
        """Run one cell and `tell` how far it is; returns how it ended. Only SystemExit comes out of here.

        The traceback of an error that nobody foresaw goes into a file beside where the record would be.
        """
        from omrlbench import training

        def on_progress(now: training.Progress) -> None:
            tell({"done": now.step / now.steps, "stage": now.stage, "score": now.score})

        try:
            record = training.run(
                config,
                results_dir=self.results_dir,
                data_dir=self.data_dir,
                argv=self.argv,
                on_progress=on_progress,
            )
            return {"state": record.status, "score": record.result["score"]}
        except RunBusy:
            return {"state": ELSEWHERE}
        except (Interrupted, KeyboardInterrupt):
            return {"state": QUEUED}
        except BenchError as error:
            return {"state": FAILED, "reason": str(error)}
        except Exception as error:
            if reason := unusable_file(error):
                return {"state": FAILED, "reason": reason}
            config.record_path(self.results_dir).with_suffix(".error").write_text(traceback.format_exc())
            return {"state": FAILED, "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
