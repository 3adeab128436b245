"""Pictures that are files: of a folder, of a zip, or one alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .imageset import ImageSet
from .layout import arranged, no_splits
from .pictures import decoded
from .tree import Tree

if TYPE_CHECKING:
    from PIL import Image


class Files(ImageSet):
    """The pictures in a folder or a zip, in the order of their names.

    Parameters
    ----------
    tree : Tree
        The folder or the zip.
    argument : str
        The name of the user's argument.
    split : str, optional
        Which one, of several.

    Raises
    ------
    TurningpointError
        If there is no picture, a split is wanting or not there, or a table of labels cannot be read.
    """

    def __init__(self, tree: Tree, argument: str = "images", split: str | None = None) -> None:
        layout = arranged(tree, argument, split)
        self.where, self._tree, self._files = tree.where, tree, layout.files
        self.names = [name.removeprefix(layout.root) for name in layout.files]
        self.labels, self.classes = layout.labels, layout.classes

    def picture(self, i: int) -> Image.Image:
        with self._tree.open(self._files[i]) as file:
            return decoded(file, self.described(i))

    def described(self, i: int) -> str:
        return self._tree.described(self._files[i])


class OneFile(ImageSet):
    """A single picture."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        self.where, self.names, self._path = str(path), [path.name], path
        no_splits(split, self.where)

    def picture(self, i: int) -> Image.Image:
        return decoded(self._path, self.described(i))

    def described(self, i: int) -> str:
        return f"the file {self.where!r}"
