"""The index of frames: what each video's folder holds, remembered from one start to the next.

To list 10,000 folders of some hundred frames takes long, on a cold or distant disk minutes; to ask whether they have
changed does not. The index is a JSON file in the frames folder, or where that cannot be written to in a spare one:

    {"format": 1, "sha256": of the text of "folders", "folders": {id: [mtime_ns, ctime_ns, inode, *Listing]}}

An entry holds as long as its folder's times and inode do: any file that comes or goes changes them. A frame written
over in place does not, and does not change the listing either. An index that is damaged or of another format is left
aside and written anew. Processes may share one: it is replaced as a whole, and entries that get lost are listed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.features import write_atomically
from datasets.frames import Listing, list_all_frames, list_frames

INDEX = ".frames_index.json"
FORMAT = 1
SETTLING_SECONDS = 2.0  # a folder that changed just now may change again without its times telling


class Entry(NamedTuple):
    """A folder's listing, and the state of the folder that it is of."""

    mtime_ns: int
    ctime_ns: int
    inode: int
    listing: Listing


def list_with_index(
    frames: str | Path,
    videos: Iterable[str],
    *,
    spare: str | Path | None = None,
    report: Callable[[str], object] = print,
) -> dict[str, Listing]:
    """The listing of every video's folder, in the given order; folders that the index knows are not listed again.

    Args:
        frames: The folder with one folder of frames per video.
        videos: Ids.
        spare: The folder for the index where `frames` cannot be written to; None to do without one then.
        report: Called with a line where the index is damaged, or folders have changed since.
    """
    places = [Path(folder, INDEX) for folder in (frames, spare) if folder is not None]
    known: dict[str, Entry] = {}
    for place in reversed(places):
        known |= _read(place, report)
    settled = time.time_ns() - int(SETTLING_SECONDS * 1e9)

    def look(root: Path, video: str) -> Entry | None:
        """The entry of a folder as it is now; None without a folder."""
        try:
            state = os.stat(root / video)
        except (FileNotFoundError, NotADirectoryError):
            return None
        stamp = (state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
        entry = known.get(video)
        return entry if entry and entry[:3] == stamp else Entry(*stamp, list_frames(root, video))

    present = list_all_frames(frames, videos, look)
    changed = [video for video, entry in present.items() if video in known and entry is not known[video]]
    if changed:
        report(f"{places[0].parent}: {len(changed)} of {len(known)} known folders have changed and are listed again")
    lasting = {video: entry for video, entry in present.items() if entry and entry.ctime_ns < settled}
    updated = {video: entry for video, entry in known.items() if video not in present} | lasting
    if updated != known:
        _write(places, updated)
    return {video: entry.listing if entry else Listing() for video, entry in present.items()}


def _read(path: Path, report: Callable[[str], object]) -> dict[str, Entry]:
    """The entries of an index; none where there is no index, or one that is not as it was written."""
    try:
        index = json.loads(path.read_bytes())
        if index["format"] != FORMAT or index["sha256"] != _digest(index["folders"]):
            raise ValueError
        return {video: _entry(*values) for video, values in index["folders"].items()}
    except OSError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        report(f"{path}: damaged or of another version; the folders are listed again")
        return {}


def _entry(mtime_ns: int, ctime_ns: int, inode: int, last: int, holes: list[list[int]], stray: str | None) -> Entry:
    """An entry from its values in JSON, which has no tuples."""
    return Entry(mtime_ns, ctime_ns, inode, Listing(last, tuple((a, b) for a, b in holes), stray))


def _write(places: Sequence[Path], entries: Mapping[str, Entry]) -> None:
    """Keep the index in the first place that takes it; without one, the next start lists all folders again."""
    folders = {video: [*entry[:3], *entry.listing] for video, entry in entries.items()}
    data = json.dumps({"format": FORMAT, "sha256": _digest(folders), "folders": folders}).encode()
    for path in places:
        try:
            return write_atomically(path, data)
        except OSError:
            continue


def _digest(folders: Mapping[str, Sequence[object]]) -> str:
    return hashlib.sha256(json.dumps(folders).encode()).hexdigest()
