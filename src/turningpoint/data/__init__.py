"""Data sets of pictures: folders, zips, tables and arrays, as one kind of thing.

``open_images(where)`` says what lies there: an `ImageSet` with a name per item, labels where they are known,
and pictures that are read when they are asked for.  ``select`` takes some classes of it, balanced; ``pixels`` of a
set makes a picture fit a model.
"""

from .imageset import ImageSet
from .opening import open_images
from .pictures import PictureError
from .select import select

__all__ = ["ImageSet", "PictureError", "open_images", "select"]
