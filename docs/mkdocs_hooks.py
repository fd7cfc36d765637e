"""The site has the layout of the repository: docs/ below its own name, beside it the pages and pictures elsewhere."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = ("README.md", "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md")
TARGET = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent.resolve()
    docs = Path(config.docs_dir).resolve()
    found = [file for file in files if file.src_dir is None or Path(file.src_dir).resolve() != docs]  # the theme's
    paths = {Path(file.abs_src_path) for file in files if file not in found} | {root / name for name in PAGES}
    paths |= {target for page in paths if page.suffix == ".md" for target in linked_files(page, root) - paths}
    places = sorted(path.relative_to(root).as_posix() for path in paths)
    return Files([*found, *(File.generated(config, place, abs_src_path=str(root / place)) for place in places)])


def linked_files(page: Path, root: Path) -> set[Path]:
    """What a page links to below results/: pictures and tables."""
    targets = {(page.parent / target).resolve() for target in TARGET.findall(page.read_text())}
    return {path for path in targets if path.is_relative_to(root / "results") and path.is_file()}
