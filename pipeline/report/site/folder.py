"""The folder of a site: its files are written whole, and those of an earlier site go."""

import json
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path

from pipeline.errors import InputError
from pipeline.outside import content_of, json_object
from pipeline.writing import whole_file

ASSETS = "assets"
LIST = "ontogeny-site.json"  # names the files of a site
_LISTED_EVERY = 100  # files


class SiteFolder:
    """The files of a site below a folder, by their paths relative to it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._written = folder, set[str]()
        self._earlier = _listed(folder)

    def write(self, name: str, text: str) -> Path:
        """Write a file, and replace one of that name only once it is complete; return its path."""
        return self._write(name, text.encode())

    def copy_assets(self) -> None:
        """Copy the styles and scripts of all pages."""
        with as_file(files("pipeline.report.site") / ASSETS) as source:
            for path in sorted(source.iterdir()):
                self._write(f"{ASSETS}/{path.name}", path.read_bytes())

    def finish(self) -> None:
        """Remove what an earlier site has left in the folder, and list the files of this one."""
        for name in self._earlier - self._written:
            # Only what is below the folder, whatever the list says.
            with suppress(OSError, ValueError):
                path = self._folder / name
                if path.resolve().is_relative_to(self._folder.resolve()):
                    path.unlink()
                    while (path := path.parent) != self._folder:
                        path.rmdir()  # fails where anything is left in it
        self._earlier = set()
        self._list()

    def _list(self) -> None:
        content = json.dumps({"files": sorted(self._earlier | self._written)}, indent=0)
        self._replace(LIST, content.encode())

    def _write(self, name: str, content: bytes) -> Path:
        path = self._replace(name, content)
        self._written.add(name)
        # So that the next site knows most of what one that is killed has left.
        if len(self._written) % _LISTED_EVERY == 0:
            self._list()
        return path

    def _replace(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            draft.write_bytes(content)
        return path


def is_site(folder: Path) -> bool:
    """Return whether a folder holds a site."""
    return (folder / LIST).is_file()


def _listed(folder: Path) -> set[str]:
    """Return the names of the files of a site; none where there is no site, or a list not ours."""
    path = folder / LIST
    try:
        listed = json_object(content_of(path, InputError), str(path), InputError).get("files")
    except (InputError, OSError):
        return set()
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
