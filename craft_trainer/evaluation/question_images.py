"""Images of questions: inside the data's folder, and readable."""

import io
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from craft_trainer.evaluation.question_rows import BadRowError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

# what readers of image formats raise on bytes that are none
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class StoredImage:
    """An image of a dataset: the bytes of its file. It is decoded anew each time, so that pixels do not pile up."""

    content: bytes

    def open(self) -> "Image":
        """The image, its pixels not yet decoded; see :func:`open_image`."""
        return open_image(io.BytesIO(self.content), "its image")


class ImageFolder:
    """Finds the images that rows name.

    Paths are relative to the first of ``roots``, and no image comes from outside all of them: not by an absolute path,
    not by ``..``, not over a symbolic link. Without roots only images inside the data itself are found.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [root.resolve() for root in roots]
        self._checked: dict[str, Path] = {}

    def find(self, image: Any) -> Path | StoredImage | None:
        """The file that ``image`` names, or the image whose ``bytes`` or ``path`` it holds; decoded when it is used.

        Raises:
            BadRowError: no such file inside the folder, or not an image.
        """
        if image is None or image == "":
            return None
        if isinstance(image, Mapping):
            return self._stored(image)
        if not isinstance(image, str):
            raise BadRowError(f"image_path must be text, not {shown(image)}")
        if image not in self._checked:
            self._checked[image] = self._named(image)
        return self._checked[image]

    def _stored(self, image: Mapping[str, Any]) -> Path | StoredImage | None:
        if isinstance(image.get("bytes"), bytes):
            stored = StoredImage(image["bytes"])
            stored.open()
            return stored
        if isinstance(image.get("path"), str):
            return self._image_at(Path(image["path"]), image["path"])
        raise BadRowError(f"image has neither bytes nor a path: {shown(dict(image))}")

    def _named(self, name: str) -> Path:
        windows, posix = PureWindowsPath(name), PurePosixPath(name)
        if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise BadRowError(f"image_path {shown(name)} must be relative to the data and stay inside its folder")
        if not self.roots:
            raise BadRowError("the data has no folder for image_path: use an image column")
        return self._image_at(self.roots[0] / name, name)

    def _image_at(self, path: Path, name: str) -> Path:
        path = self._inside(path, name)
        open_image(path, f"the image {shown(name)}").close()
        return path

    def _inside(self, path: Path, name: str) -> Path:
        try:
            found = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:  # missing, too long, NUL, links in a circle
            raise BadRowError(f"there is no image {shown(name)}: {_reason(error)}") from error
        if not any(found.is_relative_to(root) for root in self.roots):
            raise BadRowError(f"the image {shown(name)} is outside the data's folder")
        if not found.is_file():
            raise BadRowError(f"the image {shown(name)} is not a file")
        return found


def open_image(file: "Path | io.BytesIO", what: str) -> "Image":
    """The image in ``file``: its header is read, its pixels are not.

    Raises:
        BadRowError: it is no image that Pillow knows, or one too large for it.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("questions with images need Pillow: pip install 'craft-trainer[mcq]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            return Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadRowError(f"{what} is too large: {_reason(error)}") from error
    except UnidentifiedImageError as error:
        raise BadRowError(f"{what} is not an image that Pillow knows") from error
    except (*UNREADABLE, struct.error, NotImplementedError) as error:
        raise BadRowError(f"{what} is not an image: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()
