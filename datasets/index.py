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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.files import written_whole
from datasets.frames import Listing, list_frames, look_into_folders

INDEX = ".frames_index.json"
FORMAT = 1
SETTLING_SECONDS = 2.0  # a folder that changed just now may change again without its times telling


class Entry(NamedTuple):
    """A folder's listing, and the state of the folder that it is of."""

    mtime_ns: int
    ctime_ns: int
    inode: int
    listing: Listing


def list_with_index(frames: str | Path, videos: Iterable[str], *, spare: str | Path) -> dict[str, Listing]:
    """The listing of every video's folder, in the given order; folders that the index knows are not listed again.

    Says so where the index is damaged, or folders have changed since.

    Args:
        frames: The folder with one folder of frames per video.
        videos: Ids.
        spare: The folder for the index where `frames` cannot be written to.
    """
    places = Path(frames, INDEX), Path(spare, INDEX)
    known = _read(places[1]) | _read(places[0])
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

    present = look_into_folders(frames, videos, look)
    changed = [video for video, entry in present.items() if video in known and entry is not known[video]]
    if changed:
        print(f"{places[0].parent}: {len(changed)} of {len(known)} known folders have changed and are listed again")
    lasting = {video: entry for video, entry in present.items() if entry and entry.ctime_ns < settled}
    updated = {video: entry for video, entry in known.items() if video not in present} | lasting
    if updated != known:
        _write(places, updated)
    return {video: entry.listing if entry else Listing() for video, entry in present.items()}


def _read(path: Path) -> dict[str, Entry]:
    """The entries of an index; none where there is no index, or one that is not as it was written."""
    try:
        index = json.loads(path.read_bytes())
        if index["format"] != FORMAT or index["sha256"] != _digest(index["folders"]):
            raise ValueError
        return {
            video: Entry(mtime_ns, ctime_ns, inode, Listing(last, tuple((a, b) for a, b in holes), stray))
            for video, (mtime_ns, ctime_ns, inode, last, holes, stray) in index["folders"].items()
        }
    except OSError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        print(f"{path}: damaged or of another version; the folders are listed again")
        return {}


def _write(places: Sequence[Path], entries: Mapping[str, Entry]) -> None:
    """Keep the index in the first place that takes it; without one, the next start lists all folders again."""
    folders = {video: [*entry[:3], *entry.listing] for video, entry in entries.items()}
    data = json.dumps({"format": FORMAT, "sha256": _digest(folders), "folders": folders}).encode()
    for path in places:
        try:
            with written_whole(path, durable=True) as temporary:
                temporary.write_bytes(data)
            return
        except OSError:
            continue


def _digest(folders: Mapping[str, Sequence[object]]) -> str:
    return hashlib.sha256(json.dumps(folders).encode()).hexdigest()
