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


class SiteFolder:
    """The files of a site below a folder, by their paths relative to it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._written = folder, set[str]()

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
        for name in self._earlier() - self._written:
            path = self._folder / name
            # Only what is below the folder, whatever the list says.
            if path.resolve().is_relative_to(self._folder.resolve()):
                with suppress(OSError):
                    path.unlink()
                    while (path := path.parent) != self._folder:
                        path.rmdir()  # fails where anything is left in it
        self.write(LIST, json.dumps({"files": sorted(self._written)}, indent=0))

    def _earlier(self) -> set[str]:
        path = self._folder / LIST
        try:
            listed = json_object(content_of(path, InputError), str(path), InputError)["files"]
        except (InputError, OSError, KeyError):  # no site yet, or not one of ours
            return set()
        return {name for name in listed if isinstance(name, str)}

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            draft.write_bytes(content)
        self._written.add(name)
        return path
