"""Predict activities over time in any video that PyAV can read. No dataset is needed.

    python predict.py kitchen.mp4 --checkpoint runs/charades/coarse/checkpoints/best.pt -gpu cpu

Three files per video are written to the output folder: NAME.json (activities: class, start, end, score), NAME.csv
(probabilities of every frame) and NAME.png (a timeline). A folder of frames (ID/ID-000001.jpg ...) is also accepted.
For a published checkpoint, which does not contain its configuration, use --config.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, restricted_number_type

from common.arguments import COUNT, NOT_NEGATIVE, WHOLE, Parser, typed
from common.errors import InputError, options_called
from common.files import writable
from common.signals import Stopped
from configs.cli import Command
from configs.schema import Config
from datasets.annotations import read_class_names
from datasets.assembly import class_names_or_numbers, input_size
from datasets.prepare.video import FPS
from engine.launch import run_script, set_up_process
from prediction.activities import find_activities, smooth, write_csv, write_json
from prediction.network import LONGEST, ClipFile, Networks, choose_windows, load_networks, predict
from prediction.timeline import timeline_figure
from prediction.video import read_video

RATES = restricted_number_type("Rate", float, [(">", 0), ("<=", 1000)])
PROBABILITY = typed(ClosedUnitInterval, "from 0 to 1")
RATE = typed(RATES, "greater than 0 and at most 1000")
GPU = typed(lambda text: () if text == "cpu" else (NonNegativeInt(text),), "cpu or the number of a GPU")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    command = Command(config=Config(), gpus=options.gpu, eval_only=False, given=frozenset())
    run_script(__file__, command, argv, lambda command: predict_all(command, options))


def predict_all(command: Command, options: argparse.Namespace) -> None:
    """Predict every video; an error in one does not stop the others."""
    names = output_names(options.videos)
    device = set_up_process(command)
    nets = load_networks(
        options.checkpoint, fine_checkpoint=options.fine_checkpoint, configs=options.config, device=device
    )
    choose_windows(nets.config, window=options.window, overlap=options.overlap)  # fail before the first video
    classes = choose_names(options, nets.config)
    writable(options.output, "--output")
    failed = 0
    for video, name in zip(options.videos, names, strict=True):
        try:
            problem = predict_video(nets, video, name, classes, options)
        except InputError as error:
            problem, failed = str(error), failed + 1
        except Stopped as stopped:
            print(f"predict.py: {video}: stopped; earlier videos are complete", file=sys.stderr)
            raise SystemExit(stopped.status) from None
        else:
            failed += bool(problem) and options.strict
        if problem:
            print(f"predict.py: {problem}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(1)


def choose_names(options: argparse.Namespace, config: Config) -> list[str]:
    """Return class names from --class_names, else those of the run, else (e.g. on another machine) numbers."""
    if options.class_names:
        with options_called({"--data.class_names": "--class_names", "--data.num_classes": None}):
            return read_class_names(options.class_names, config.data.num_classes)
    names, note = class_names_or_numbers(config)
    if note:
        print(note)
    return names


def predict_video(
    nets: Networks, video: Path, name: str, classes: Sequence[str], options: argparse.Namespace
) -> str | None:
    """Write the three files of a video, all or none; return a description of its damage, if any."""
    windows = choose_windows(nets.config, window=options.window, overlap=options.overlap)
    print(f"{video}:")
    with tempfile.TemporaryDirectory(dir=options.output, prefix=".predict-") as folder:
        scratch = Path(folder)
        clip = ClipFile(scratch / "clip", input_size(nets.config))
        n, problem = read_video(video, clip, stride=nets.config.data.stride, fps=options.fps)
        probabilities, chosen = predict(nets, clip, n, scratch / "features", *windows)
        probabilities = smooth(probabilities, options.smooth * options.fps)
        activities = find_activities(probabilities, threshold=options.threshold, fps=options.fps, top=options.top)
        about = {
            "video": str(video),
            "problem": problem,
            "seconds": round(probabilities.shape[1] / options.fps, 4),
            "fps": options.fps,
            "frames": probabilities.shape[1],
            "checkpoint": str(options.checkpoint),
            "threshold": options.threshold,
            "smooth": options.smooth,
            "grid_pool": chosen,
        }
        table, picture, summary = written = [scratch / f"{name}{suffix}" for suffix in (".csv", ".png", ".json")]
        write_csv(table, probabilities, classes, fps=options.fps)
        figure = timeline_figure(
            video.name, probabilities=probabilities, fps=options.fps, activities=activities, names=classes,
            chosen=chosen,
        )  # fmt: skip
        figure.savefig(picture, dpi=120)
        write_json(summary, about, activities, classes)
        found = f"{len(activities)} activities"
        if not activities:
            nearest = int(probabilities.max(1).argmax())
            found = f"no activity reaches {options.threshold:g}; the highest is {classes[nearest]} with "
            found += f"{probabilities[nearest].max():.2f} (lower --threshold)"
        print(f"  {found}; {options.output / name}.json")
        for path in written:
            path.replace(options.output / path.name)
    return f"{video}: {problem}; predicted from the decodable part" if problem else None


def output_names(videos: Sequence[Path]) -> list[str]:
    """Return the video names without folder and suffix, which must be unique."""
    names = [video.resolve().name if video.is_dir() else video.stem for video in videos]
    for index, name in enumerate(names):
        if name in names[:index]:
            other = videos[names.index(name)]
            raise InputError(f"{videos[index]}: its output would overwrite that of {other}; rename one of them")
    return names


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add("videos", metavar="VIDEO", type=Path, nargs="+", help="video file, or folder of frames ID/ID-000001.jpg")
    add("--checkpoint", metavar="FILE", type=Path, required=True, help="checkpoint of stage 1 or 3, ours or published")
    add("--fine_checkpoint", metavar="FILE", type=Path, help="Fine stream's checkpoint (default: that of the same run)")
    add("--config", metavar="FILE", action="append", help="configuration of a published checkpoint; repeatable")
    add("--output", metavar="DIR", type=Path, default=Path("predictions"), help="output folder (default: predictions)")
    add("--threshold", metavar="P", type=PROBABILITY, default=0.5, help="minimum probability (default: 0.5)")
    add("--top", metavar="N", type=COUNT, help="keep the N activities with the highest scores (default: all)")
    add("--smooth", metavar="S", type=NOT_NEGATIVE, default=0.0, help="first average over S seconds (default: 0)")
    add("--fps", metavar="F", type=RATE, default=FPS, help="frame rate of the training videos (default: 24)")
    add("--window", metavar="N", type=COUNT, help=f"clip frames per window (default: eval.window, else {LONGEST})")
    add("--overlap", metavar="N", type=WHOLE, help="clip frames shared by windows (default: a quarter of the window)")
    add("--class_names", metavar="FILE", help="one class name per line (default: the run's data.class_names)")
    add("--strict", action="store_true", help="exit with status 1 if a video is damaged, even if it was predicted")
    add("-gpu", metavar="N|cpu", type=GPU, help="GPU number, or cpu (default: the first GPU, or the CPU without one)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
