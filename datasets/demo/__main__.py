"""Generate the demo dataset: synthetic videos in Charades' layout, a small task for trying all three stages.

    python -m datasets.demo DIR --videos 160 --seed 0
    python -m datasets.demo DIR --rhythm bursts          quiet periods and bursts: the ablation's dataset

    DIR/frames/<id>/<id>-000001.jpg ...   24 frames per second
    DIR/annotations.json                  {id: {"subset", "duration", "actions": [[class, start, end], ...]}}
    DIR/ground_truth.csv                  the test videos in the official format
    DIR/Charades_v1_classes.txt           `c000 rising`, ...
    DIR/demo.json                         what was generated, and which classes need context

`datasets.demo.scene` draws the content of the videos; this module renders and writes them. Video i depends only on the
seed, the rhythm and i: a larger dataset starts with the videos of a smaller one, byte for byte. Every fourth video is a
test video.
"""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from jsonargparse.typing import restricted_number_type
from PIL import Image

from common.arguments import WHOLE, Parser, exit_status, typed
from common.errors import InputError
from datasets.demo.scene import (
    CLASSES,
    CONTEXT_CLASSES,
    FPS,
    HEIGHT,
    RHYTHMS,
    WIDTH,
    Scene,
    Thing,
    draw_scene,
)
from datasets.frames import frame_path
from datasets.kinds import CLASS_FILE

GENERATOR = 1  # increment when the drawn videos change, so that earlier demos count as different
JPEG_QUALITY = 90
DEFAULT_RHYTHM = "steady"
GRAINS = (6, 12, 24)  # widths of the noise images that are summed into a background
VIDEOS = typed(restricted_number_type("DemoVideos", int, (">=", 2)), "at least 2: one for training, one for testing")
ANNOTATIONS, GROUND_TRUTH, SUMMARY = "annotations.json", "ground_truth.csv", "demo.json"
OFFICIAL_COLUMNS = (
    "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions",
    "length",
)  # fmt: skip


# --- pixels -----------------------------------------------------------------------------------------------------------


def render(scene: Scene, seed: int, index: int) -> np.ndarray:
    """Render the frames of a scene: (n,HEIGHT,WIDTH,3) uint8."""
    frames = np.repeat(_background(seed, index)[None], scene.frames, axis=0)
    for thing in scene.things:
        coverage = _coverage(thing)[..., None]
        frames += coverage * (thing.colour.astype(np.float32) - frames)
    frames *= scene.light().astype(np.float32)[:, None, None, None]
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _background(seed: int, index: int) -> np.ndarray:
    """Draw a static background of colour noise at several scales: (HEIGHT,WIDTH,3) float32."""
    rng = np.random.default_rng([seed, index, 2])
    image = np.empty((HEIGHT, WIDTH, 3), np.float32)
    image[:] = rng.uniform(50, 80) + rng.uniform(-8, 8, 3)
    for columns in GRAINS:
        coarse = rng.uniform(-1, 1, (columns * HEIGHT // WIDTH, columns)).astype(np.float32)
        fine = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image += np.asarray(fine)[..., None] * rng.uniform(4, 14, 3).astype(np.float32)
    return image


def _coverage(thing: Thing) -> np.ndarray:
    """Return the share of each pixel covered by the thing in each frame: (n,HEIGHT,WIDTH) float32 in [0,1]."""
    x, y, radius, angle, opacity = (
        state.astype(np.float32)[:, None, None]
        for state in (thing.x, thing.y, thing.radius, thing.angle, thing.opacity)
    )
    dx = np.arange(WIDTH, dtype=np.float32) - x  # (n,1,W)
    dy = np.arange(HEIGHT, dtype=np.float32)[:, None] - y  # (n,H,1)
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius  # along the thing's axes, in radii
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / radius
    edge = (1 - OUTLINES[thing.shape](u, v)) * radius  # distance to the outline in pixels, positive inside
    return opacity * np.clip(edge + 0.5, 0, 1)


def _box(u: np.ndarray, v: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.maximum(np.abs(u) / width, np.abs(v) / height)


OUTLINES = {  # at most 1 inside a shape of radius about 1
    "bar": lambda u, v: _box(u, v, 1.2, 0.4),
    "ellipse": lambda u, v: np.hypot(u / 1.2, v / 0.6),
    "triangle": lambda u, v: np.maximum(-v, 0.87 * np.abs(u) + 0.5 * v) / 0.6,
    "cross": lambda u, v: np.minimum(_box(u, v, 1.1, 0.35), _box(u, v, 0.35, 1.1)),
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
}


# --- files ------------------------------------------------------------------------------------------------------------


def video_id(index: int) -> str:
    return f"demo{index:04d}"


def annotate(scene: Scene, index: int) -> dict:
    """A video's entry in annotations.json.

    Actions are half a frame early, in seconds to two digits, so that rounding moves no label. As in Charades, where a
    label needs start < time, a video's first frame has none.
    """
    actions = []
    for activity in scene.activities:
        start, end = max(0.0, (activity.first - 0.5) / FPS), (activity.stop - 0.5) / FPS
        actions.append([CLASSES.index(activity.name), round(start, 2), round(end, 2)])
    subset = "testing" if index % 4 == 1 else "training"
    return {"subset": subset, "duration": round(scene.frames / FPS, 2), "actions": actions}


def text_files(scenes: list[Scene], seed: int, rhythm: str) -> dict[str, str]:
    """{name: contents} of everything but the frames."""
    annotations = {video_id(i): annotate(scene, i) for i, scene in enumerate(scenes)}
    summary = {"generator": GENERATOR, "videos": len(scenes), "seed": seed, "context_classes": list(CONTEXT_CLASSES)}
    if rhythm != DEFAULT_RHYTHM:
        summary["rhythm"] = rhythm
    official = io.StringIO()  # the columns of Charades_v1_test.csv, most of them empty
    writer = csv.DictWriter(official, OFFICIAL_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for video, entry in annotations.items():
        if entry["subset"] == "testing":
            actions = ";".join(f"c{label:03d} {start:.2f} {end:.2f}" for label, start, end in entry["actions"])
            writer.writerow({"id": video, "verified": "Yes", "actions": actions, "length": f"{entry['duration']:.2f}"})
    return {
        ANNOTATIONS: json.dumps(annotations, indent=1),
        GROUND_TRUTH: official.getvalue(),
        CLASS_FILE: "".join(f"c{i:03d} {name}\n" for i, name in enumerate(CLASSES)),
        SUMMARY: json.dumps(summary, indent=1),
    }


def is_complete(folder: Path, texts: dict[str, str], scenes: list[Scene]) -> bool:
    """Return whether the folder contains exactly this demo: the same texts and numbers of frames."""
    try:
        there = {name: (folder / name).read_text(encoding="utf-8") for name in texts}
        counts = [len(os.listdir(folder / "frames" / video_id(i))) for i in range(len(scenes))]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return there == texts and counts == [scene.frames for scene in scenes]


def generate(folder: Path, *, videos: int, seed: int, rhythm: str = DEFAULT_RHYTHM) -> bool:
    """Write the demo, moving it to its final name when complete; return False if it already exists."""
    scenes = [draw_scene(seed, index, RHYTHMS[rhythm]) for index in range(videos)]
    texts = text_files(scenes, seed, rhythm)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if is_complete(folder, texts, scenes):
            return False
        what = "contains a different or incomplete demo" if (folder / SUMMARY).is_file() else "exists and is not a demo"
        raise InputError(f"{folder}: {what}; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        for index, scene in enumerate(scenes):
            video = video_id(index)
            (partial / "frames" / video).mkdir(parents=True)
            for number, pixels in enumerate(render(scene, seed, index), start=1):
                Image.fromarray(pixels).save(frame_path(partial / "frames", video, number), quality=JPEG_QUALITY)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def main(argv: list[str] | None = None) -> int:
    """Generate the demo; return 1, with one line on stderr, if it cannot be written."""
    parser = Parser(prog="python -m datasets.demo", description="Generate the demo dataset.")
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="output folder; must not exist, or contain the same demo dataset")
    add("--videos", type=VIDEOS, default=160, metavar="N", help="number of training and test videos (default: 160)")
    add("--seed", type=WHOLE, default=0, metavar="S", help="random seed (default: 0)")
    rhythm = f"temporal pattern of activities (default: {DEFAULT_RHYTHM})"
    add("--rhythm", choices=RHYTHMS, default=DEFAULT_RHYTHM, help=rhythm)
    args = parser.parse_args(argv)

    def work() -> None:
        written = generate(args.folder, videos=args.videos, seed=args.seed, rhythm=args.rhythm)
        print(f"{args.folder}: {args.videos} videos, seed {args.seed}, {'written' if written else 'already exists'}")

    return exit_status("datasets.demo", work)


if __name__ == "__main__":
    sys.exit(main())
