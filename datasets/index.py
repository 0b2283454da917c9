"""Cache the listings of the frame folders between runs.

Listing 10,000 folders of several hundred frames can take minutes on a cold or remote disk; checking whether they have
changed is fast. The index is a JSON file in the frames folder, or in a spare folder if that is not writable:

    {"format": 1, "sha256": of the text of "folders", "folders": {id: [mtime_ns, ctime_ns, inode, *Listing]}}

An entry is valid while the times and inode of its folder are unchanged: adding or removing a file changes them.
Overwriting a frame in place does not, but leaves the listing unchanged. A damaged index, or one of another format, is
rebuilt. Processes may share an index: it is replaced atomically, and lost entries are listed again.
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
SETTLING_SECONDS = 2.0  # a folder that has just changed may change again with the same times


class Entry(NamedTuple):
    """A folder's listing and the folder state at that time."""

    mtime_ns: int
    ctime_ns: int
    inode: int
    listing: Listing


def list_with_index(frames: str | Path, videos: Iterable[str], *, spare: str | Path) -> dict[str, Listing]:
    """List the folder of every video, in the given order, using the index for unchanged folders.

    Prints a line if the index is damaged or folders have changed.

    Args:
        frames: Folder with one folder of frames per video.
        videos: Video ids.
        spare: Folder for the index if `frames` is not writable.
    """
    places = Path(frames, INDEX), Path(spare, INDEX)
    known = _read(places[1]) | _read(places[0])
    settled = time.time_ns() - int(SETTLING_SECONDS * 1e9)

    def look(root: Path, video: str) -> Entry | None:
        """Return the current entry of a folder; None without a folder."""
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
        print(f"{places[0].parent}: {len(changed)} of {len(known)} indexed folders have changed; indexing them again")
    lasting = {video: entry for video, entry in present.items() if entry and entry.ctime_ns < settled}
    updated = {video: entry for video, entry in known.items() if video not in present} | lasting
    if updated != known:
        _write(places, updated)
    return {video: entry.listing if entry else Listing() for video, entry in present.items()}


def _read(path: Path) -> dict[str, Entry]:
    """Read the entries of an index; empty if it is missing or damaged."""
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
        print(f"{path}: damaged or from another version; rebuilding the index")
        return {}


def _write(places: Sequence[Path], entries: Mapping[str, Entry]) -> None:
    """Write the index to the first writable place; without one, the next run lists all folders again."""
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
