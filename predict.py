"""Activities over time in any video: a trained network, a file that PyAV reads, and no dataset.

    python predict.py kitchen.mp4 --checkpoint runs/charades/coarse/checkpoints/best.pt -gpu cpu

For each video NAME, three files in the output folder: NAME.json (activities: class, start, end, score), NAME.csv (every
frame's probabilities) and NAME.png (a time line). A folder of frames (ID/ID-000001.jpg ...) is taken as well. What a
checkpoint of these scripts does not say of itself, as a published one, comes from --config.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, restricted_number_type
from torch import Tensor

from common.arguments import COUNT, NOT_NEGATIVE, WHOLE, Parser, typed
from common.errors import InputError
from common.files import writable
from common.progress import progress
from common.signals import Stopped
from configs.cli import Command, load
from configs.options import DEFAULT_CONFIG
from configs.schema import Config, Eval
from datasets.annotations import read_class_names
from datasets.assembly import class_names, input_size
from datasets.clips import video_frames
from datasets.frames import count_frames, get_decoder, read_frames
from datasets.prepare.video import FPS, VideoFile
from engine.checkpoint import read_weights
from engine.launch import run_script, set_up_process
from models.official import holds_coarse
from prediction.activities import find_activities, smooth, write_csv, write_json
from prediction.network import ClipFile, Networks, Prediction, load_networks, predict
from prediction.timeline import timeline_figure

LONGEST = 256  # clip frames that are seen at once where nothing else is said: 107 s at stride 10, about 2 GB


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    command = Command(config=Config(), gpus=options.gpu, eval_only=False, given=frozenset())
    run_script(__file__, command, argv, lambda command: predict_all(command, options))


def predict_all(command: Command, options: argparse.Namespace) -> None:
    """Every video; what is wrong with one does not keep the others from being predicted."""
    names = output_names(options.videos)
    device = set_up_process(command)
    nets = choose_networks(options, device)
    choose_windows(options, nets.config.eval)  # a mistake there ends it before the first video
    classes = choose_names(options, nets.config)
    folder = writable(options.output, "--output")
    failed = 0
    for video, name in zip(options.videos, names, strict=True):
        try:
            problem = predict_video(nets, video, name, folder, classes, options)
        except InputError as error:
            problem, failed = str(error), failed + 1
        except Stopped as stopped:
            print(f"predict.py: {video}: stopped; the videos before it are predicted", file=sys.stderr)
            raise SystemExit(stopped.status) from None
        else:
            failed += bool(problem) and options.strict
        if problem:
            print(f"predict.py: {problem}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(1)


# --- which networks ---------------------------------------------------------------------------------------------------


def choose_networks(options: argparse.Namespace, device: torch.device) -> Networks:
    """What the checkpoints are, by their own account where they are of these scripts, and the networks they fit."""
    path = options.checkpoint
    if path.is_dir():
        raise InputError(f"{path}: a folder; --checkpoint is a file, as RUN/coarse/checkpoints/best.pt")
    weights = read_weights(path)
    if weights.stage and options.config:
        raise InputError(f"{path}: says itself how it was trained; --config goes with a published checkpoint")
    saved = weights.config
    config = load(*options.config or [DEFAULT_CONFIG]) if saved is None else Config.from_dict(saved)
    stage = weights.stage or ("coarse" if holds_coarse(weights.tensors) else "fine")
    if stage == "fine":
        if options.fine_checkpoint:
            raise InputError(f"{path}: a Fine stream already; --fine_checkpoint goes with one of the Coarse stream")
        return load_networks(config, fine=weights, coarse=None, device=device)
    fine = None
    if config.model.fusion != "none":
        fine_path = fine_checkpoint(options, config)
        fine = weights if fine_path == path else read_weights(fine_path)
    return load_networks(config, fine=fine, coarse=weights, device=device)


def fine_checkpoint(options: argparse.Namespace, config: Config) -> Path:
    """That of the Fine stream whose features the Coarse stream was trained with."""
    if options.fine_checkpoint:
        return options.fine_checkpoint
    if config.coarse.fine_source == "network":  # the checkpoint holds both streams
        return options.checkpoint
    beside = options.checkpoint.resolve().parent.parent.parent / "fine" / "checkpoints" / "best.pt"
    for path in (beside, config.features_checkpoint):  # the run may have been moved since
        if path.is_file():
            return path
    raise InputError(
        f"{options.checkpoint}: a Coarse stream needs its Fine stream's checkpoint, which is neither {beside} nor "
        f"{config.features_checkpoint}; name it with --fine_checkpoint"
    )


def choose_names(options: argparse.Namespace, config: Config) -> list[str]:
    """Of the classes: from the file asked for, else the run's, which may not be on this machine, else numbers."""
    if options.class_names:
        try:
            return read_class_names(options.class_names, config.data.num_classes)
        except InputError as error:  # its remedy is an option of training
            raise InputError(str(error).replace("--data.class_names", "--class_names")) from None
    try:
        return class_names(config)
    except InputError as error:
        print(f"Classes by number: {error}")
        return read_class_names(None, config.data.num_classes)


# --- one video --------------------------------------------------------------------------------------------------------


def predict_video(
    nets: Networks, video: Path, name: str, folder: Path, classes: Sequence[str], options: argparse.Namespace
) -> str | None:
    """Writes the three files of a video, all or none; returns what is wrong with it where something is."""
    config = nets.config
    window, overlap = choose_windows(options, config.eval)
    print(f"{video}:")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".predict-") as scratch:
        clip = ClipFile(Path(scratch, "clip"), input_size(config))
        n, problem = read_video(video, clip, stride=config.data.stride, fps=options.fps)
        predicted = predict(nets, clip, n, Path(scratch, "features"), window=window, overlap=overlap, progress=progress)
        written = write_results(Path(scratch), video, name, predicted, problem, classes, options)
        for path in written:
            path.replace(folder / path.name)
    return f"{video}: {problem}; what could be decoded is predicted" if problem else None


def write_results(
    folder: Path,
    video: Path,
    name: str,
    predicted: Prediction,
    problem: str | None,
    classes: Sequence[str],
    options: argparse.Namespace,
) -> list[Path]:
    """NAME.csv, NAME.png and NAME.json in a folder; says how much was found."""
    probabilities = smooth(predicted.probabilities, options.smooth * options.fps)
    activities = find_activities(probabilities, threshold=options.threshold, fps=options.fps, top=options.top)
    seconds = probabilities.shape[1] / options.fps
    figure = timeline_figure(
        video.name, duration=seconds, probabilities=probabilities, intervals=activities, names=classes,
        chosen=[(frame - 1) / options.fps for frame in predicted.chosen],
    )  # fmt: skip
    about = {
        "video": str(video),
        "problem": problem,
        "seconds": round(seconds, 4),
        "fps": options.fps,
        "frames": probabilities.shape[1],
        "checkpoint": str(options.checkpoint),
        "threshold": options.threshold,
        "smooth": options.smooth,
        "grid_pool": predicted.chosen,
    }
    table, picture, summary = written = [folder / f"{name}{suffix}" for suffix in (".csv", ".png", ".json")]
    write_csv(table, probabilities, classes, fps=options.fps)
    figure.savefig(picture, dpi=120)
    write_json(summary, about, activities, classes)
    print(f"  {what_was_found(probabilities, activities, classes, options.threshold)}; {options.output / name}.json")
    return written


def choose_windows(options: argparse.Namespace, run: Eval) -> tuple[int, int]:
    """Clip frames of a window and of an overlap: as asked for, else as the run was evaluated, else ours."""
    window = options.window or run.window or LONGEST
    if options.overlap is not None:
        if options.overlap >= window:
            raise InputError(f"--overlap {options.overlap}: must be less than the window of {window} clip frames")
        return window, options.overlap
    return window, run.common_frames if window == run.window else window // 4


def read_video(video: Path, clip: ClipFile, *, stride: int, fps: float) -> tuple[int, str | None]:
    """Fill the clip from a file or a folder of frames: the video's number of frames, and what is wrong with it."""
    if video.is_dir():
        n = count_frames(video.parent, video.name)
        if not n:
            raise InputError(
                f"{video}: no frames in it, as {video.name}-000001.jpg; for the video files in it give {video}/*"
            )
        numbers = video_frames(n, stride)
        decode = get_decoder()
        clip.fill(image for k in numbers for image in read_frames(video.parent, video.name, [k], decode))
        return n, None
    file = VideoFile(video)
    clip.fill(upright(progress(file.frames(fps=fps, stride=stride), expected(file, fps, stride), "Decoding")))
    return file.num_frames, file.problem


def upright(frames: Iterable[np.ndarray]) -> Iterator[Tensor]:
    """(H,W,3) arrays as (3,H,W) tensors."""
    return (torch.from_numpy(frame).permute(2, 0, 1) for frame in frames)


def expected(file: VideoFile, fps: float, stride: int) -> int:
    return max(1, int((file.seconds or 0) * fps / stride))


def what_was_found(probabilities: np.ndarray, activities: Sequence, classes: Sequence[str], threshold: float) -> str:
    """How much was found; of nothing, what came nearest."""
    if activities:
        return f"{len(activities)} activities"
    label = int(probabilities.max(1).argmax())
    return (
        f"nothing reaches {threshold:g}; the nearest is {classes[label]} with {probabilities[label].max():.2f} "
        "(lower --threshold)"
    )


# --- command line -----------------------------------------------------------------------------------------------------


def output_names(videos: Sequence[Path]) -> list[str]:
    """The videos' names without folder and suffix, which must differ."""
    names = [video.resolve().name if video.is_dir() else video.stem for video in videos]
    for index, name in enumerate(names):
        if name in names[:index]:
            other = videos[names.index(name)]
            raise InputError(f"{videos[index]}: its files would replace those of {other}; rename it")
    return names


RATES = restricted_number_type("Rate", float, [(">", 0), ("<=", 1000)])
PROBABILITY = typed(ClosedUnitInterval, "from 0 to 1")
RATE = typed(RATES, "more than 0 and at most 1000")
GPU = typed(lambda text: () if text == "cpu" else (NonNegativeInt(text),), "cpu or the number of a GPU")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add("videos", metavar="VIDEO", type=Path, nargs="+", help="video file, or folder of frames ID/ID-000001.jpg")
    add("--checkpoint", metavar="FILE", type=Path, required=True, help="of stage 1 or 3, ours or a published one")
    add("--fine_checkpoint", metavar="FILE", type=Path, help="the Fine stream's; by default that of the same run")
    add("--config", metavar="FILE", action="append", help="experiment of a published checkpoint; repeatable")
    add("--output", metavar="DIR", type=Path, default=Path("predictions"), help="folder of results (predictions)")
    add("--threshold", metavar="P", type=PROBABILITY, default=0.5, help="least probability of an activity (0.5)")
    add("--top", metavar="N", type=COUNT, help="keep the N activities of the highest scores")
    add("--smooth", metavar="S", type=NOT_NEGATIVE, default=0.0, help="average over S seconds first (0)")
    add("--fps", metavar="F", type=RATE, default=FPS, help="frames a second of the training videos (24)")
    add("--window", metavar="N", type=COUNT, help=f"clip frames seen at once (eval.window, else {LONGEST})")
    add("--overlap", metavar="N", type=WHOLE, help="clip frames that windows have in common (a quarter)")
    add("--class_names", metavar="FILE", help="text file, a class a line (the run's data.class_names)")
    add("--strict", action="store_true", help="exit status 1 also where a video is damaged but could be predicted")
    add("-gpu", metavar="N|cpu", type=GPU, help="device; the first GPU where there is one")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
