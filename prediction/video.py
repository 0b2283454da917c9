"""Read a video file or a folder of frames into a clip in the test view."""

from pathlib import Path

import torch

from common.errors import InputError
from common.progress import progress
from datasets.clips import video_frames
from datasets.frames import count_frames, get_decoder, read_frames
from datasets.prepare.video import VideoFile
from prediction.network import ClipFile


def read_video(video: Path, clip: ClipFile, *, stride: int, fps: float) -> tuple[int, str | None]:
    """Fill the clip from a file or a folder of frames; return the number of frames and a description of damage."""
    if video.is_dir():
        n = count_frames(video.parent, video.name)
        if not n:
            what = f"contains no frames such as {video.name}-000001.jpg"
            raise InputError(f"{video}: {what}; to predict the video files in it, give {video}/*")
        clip.fill(read_frames(video.parent, video.name, video_frames(n, stride), get_decoder()))
        return n, None
    file = VideoFile(video)
    expected = max(1, int(file.declared_seconds * fps / stride))
    clip.fill(map(torch.from_numpy, progress(file.frames(fps=fps, stride=stride), expected, "Decoding")))
    return file.num_frames, file.problem
