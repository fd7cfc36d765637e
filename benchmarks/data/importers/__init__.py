"""Importers: data that other programs have written, brought into the same store as the datasets made here.

One file per format, each a function `tasks(source)` that lists the tasks it finds and how to load their episodes, with
what is odd about the format in its docstring. `source.py` is what they share, `identify.py` says which task of the
meta-environment each is, `unpickle.py` reads pickles without running them, `imported.py` stores and loads.
"""

from omrlbench.data.importers.imported import FORMATS, import_dataset, import_id, load_imported

__all__ = ["FORMATS", "import_dataset", "import_id", "load_imported"]
