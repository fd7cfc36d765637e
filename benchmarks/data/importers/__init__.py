"""Importers: data that other programs have written, brought into the same store as the datasets made here.

One file per format, each a function `tasks(source)` that lists the tasks it finds and how to load their episodes, with
what is odd about the format in its docstring. `source.py` is what they share, `identify.py` says which task of the
meta-environment each is, `unpickle.py` reads pickles without running them, `imported.py` stores and loads.
"""

from omrlbench.data.importers.imported import (
    FORMATS,
    describe_import,
    import_dataset,
    import_id,
    list_imports,
    load_imported,
    validate_import,
)

__all__ = [
    "FORMATS",
    "describe_import",
    "import_dataset",
    "import_id",
    "list_imports",
    "load_imported",
    "validate_import",
]
