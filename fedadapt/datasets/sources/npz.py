"""Reading ``.npz`` files that may be anything: refused before they cost memory or time."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedadapt.errors import InputError, one_line
from fedadapt.files import check_unpacked, in_bytes

_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # as numpy writes them


def read_arrays(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Read arrays of a ``.npz`` file by name; no pickle is read.

    Raises:
        InputError: The file is none, lacks an array, or is not as numpy writes it: encrypted,
            packed in another way, a name twice, an array longer or shorter than it claims to be, or
            one that would fill the memory.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            missing = [name for name in needed if name not in members]
            if missing:
                raise InputError(
                    f"{path}: lacks {', '.join(missing)}; it needs {', '.join(needed)}"
                )
            wanted = {name: members[name] for name in (*needed, *optional) if name in members}
            for name, info in wanted.items():
                _check_plain(path, name, info)
            check_unpacked(path, sum(info.file_size for info in wanted.values()))
            return {name: _array(path, archive, info) for name, info in wanted.items()}
    except InputError:  # a ValueError too
        raise
    except Exception as error:  # a broken file can raise anything
        reason = one_line(error, 150) or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); it must be a plain .npz") from None


def _members(path: Path, archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise InputError(f"{path}: holds {one_line(name, 60)!r} twice; each array once")
        members[name] = info
    return members


def _check_plain(path: Path, name: str, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 1:
        raise InputError(f"{path}: {name} is encrypted; it must be a plain .npz")
    if info.compress_type not in _PLAIN:
        raise InputError(
            f"{path}: {name} is packed in a way that numpy does not use; save it with np.savez or "
            "np.savez_compressed"
        )


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read one array, whose header is compared with what there is before any memory is taken."""
    with archive.open(info) as file:
        read_header: Any = np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(file) != (1, 0):
            read_header = np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        held, claimed = info.file_size - file.tell(), dtype.itemsize
        for length in shape:
            claimed *= int(length)
    if dtype.hasobject:
        raise InputError(f"{path}: {info.filename} holds pickled objects; it must hold numbers")
    if claimed != held:
        raise InputError(
            f"{path}: {info.filename} says it is {list(shape)}, {in_bytes(claimed)}, and holds "
            f"{in_bytes(held)}"
        )
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
