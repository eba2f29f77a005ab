"""Column: the declaration of an array of results over checkpoints."""

from typing import NamedTuple


class Column(NamedTuple):
    """An array of results. definition: one sentence. dtype: of NumPy."""

    name: str
    dims: tuple[str, ...]
    unit: str
    definition: str
    dtype: str = "float64"

    def attributes(self) -> dict[str, str]:
        """Return the attributes with which xarray carries unit and definition."""
        return {"units": self.unit, "definition": self.definition}
