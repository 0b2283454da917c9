"""What happens in a demo video: things, their motions, and the activities that these are (no pixels here).

Two or three things rest, move or change, and rest again; every such motion is an activity. Activities are told apart by
what happens over time: in a single frame, a thing half-way up may be rising, falling or resting. None has a preferred
side, since training mirrors its clips.

Early in each video the whole scene lights up or dims once, the *cue*. More than a clip later one thing circles and one
blinks, and what these activities are called depends on the cue: `circling after brightening` looks exactly as
`circling after dimming`. Only who remembers the cue can tell them apart; these are the *context classes*.

How these follow one another is a `Rhythm`: `STEADY` is the demo's, in which something happens most of the time. In
`BURSTS` all things rest together for about half of it; motions, cue and context activities are short and come in
bursts, so that informative moments are unevenly spread within a clip: a stream of few frames may choose them well.

Times are in frames, intervals half-open [first, stop); positions in pixels, y downwards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

FPS = 24
WIDTH, HEIGHT = 80, 72
CUE_FIRST = (4, 28)

CUES = ("brightening", "dimming")
PLAIN = ("rising", "falling", "growing", "shrinking", "swinging", "bobbing", "shaking", "popping")
CONTEXT = ("circling", "blinking")
CLASSES = (*PLAIN, *CUES, *(f"{motion} after {cue}" for motion in CONTEXT for cue in CUES))
CONTEXT_CLASSES = tuple(i for i, name in enumerate(CLASSES) if " after " in name)

SHAPES = ("bar", "ellipse", "triangle", "cross", "square")


Range = tuple[int, int]  # shortest and longest, in frames, both included


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """When things happen."""

    frames: Range  # of a video
    clip_span: int  # frames of a training clip: no window of so many shows the cue and what depends on it
    cue: Range
    context: Range
    rest: Range  # of one thing, between two of its motions
    lengths: dict[str, Range]  # of the motions, by their key in MOTIONS
    endless: float  # probability of a further thing that never rests
    quiet: Range = (0, 0)  # of all things, between two bursts
    burst: Range | None = None  # None: the whole video


STEADY = Rhythm(
    frames=(232, 256),  # all of it fits into 128 steps of 2 frames
    clip_span=32,
    cue=(24, 36),
    context=(32, 52),
    rest=(8, 40),
    lengths={  # a third of a second is 8
        "travel": (20, 60),
        "resize": (16, 60),
        "swing": (16, 60),
        "bob": (16, 60),
        "shake": (12, 60),
        "pop": (8, 12),
    },
    endless=0.25,
)
BURSTS = Rhythm(
    frames=(176, 192),
    clip_span=48,
    cue=(16, 24),
    context=(18, 28),
    rest=(2, 8),
    lengths={
        "travel": (14, 22),
        "resize": (12, 20),
        "swing": (12, 20),
        "bob": (12, 20),
        "shake": (10, 16),
        "pop": (8, 12),
    },
    endless=0.0,
    quiet=(32, 64),
    burst=(28, 44),
)
RHYTHMS = {"steady": STEADY, "bursts": BURSTS}


@dataclass(frozen=True)
class Activity:
    """An interval, by a name of CLASSES (of CONTEXT, while the cue is left open)."""

    name: str
    first: int
    stop: int


@dataclass
class Thing:
    """One sprite: its look, and its state in each of the video's n frames (arrays of n)."""

    shape: str
    colour: np.ndarray  # (3,) RGB, 0 to 255
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything about one video but its background. Only `cue.name` tells which cue it is."""

    frames: int
    things: tuple[Thing, ...]
    motions: tuple[Activity, ...]
    cue: Activity

    @property
    def activities(self) -> list[Activity]:
        """Motions and cue by their classes, in order of time."""
        named = [replace(m, name=f"{m.name} after {self.cue.name}") if m.name in CONTEXT else m for m in self.motions]
        return sorted([*named, self.cue], key=lambda activity: (activity.first, activity.stop, activity.name))

    def light(self) -> np.ndarray:
        """Brightness of each frame (n,): 1 but during the cue."""
        light = np.ones(self.frames)
        swell = np.sin(np.pi * _progress(self.cue.first, self.cue.stop)) ** 2
        light[self.cue.first : self.cue.stop] += swell * (0.7 if self.cue.name == "brightening" else -0.6)
        return light


def draw_scene(seed: int, index: int, rhythm: Rhythm = STEADY) -> Scene:
    """The scene of video `index`: a function of (seed, index, rhythm) alone."""
    rng = np.random.default_rng([seed, index])
    frames = _draw(rng, rhythm.frames)
    first = _draw(rng, CUE_FIRST)
    stop = first + _draw(rng, rhythm.cue)
    plans = _draw_plans(rng, rhythm, frames, stop)
    things, motions = [], []
    for column, plan in enumerate(plans):
        thing = _draw_thing(rng, frames, x=WIDTH / 2 + ((column + 0.5) / len(plans) - 0.5) * 50)
        for step in plan:
            side = 1 if rng.random() < 0.5 else -1
            motions.append(replace(step, name=MOTIONS[step.name](thing, step.first, step.stop, side, rng)))
        things.append(thing)
    cue = CUES[np.random.default_rng([seed, index, 1]).integers(2)]  # a draw of its own: nothing else depends on it
    return Scene(frames, tuple(things), tuple(motions), Activity(cue, first, stop))


def _draw(rng: Generator, bounds: Range) -> int:
    """A whole number within bounds, both included."""
    return int(rng.integers(*bounds, endpoint=True))


def _draw_thing(rng: Generator, frames: int, *, x: float) -> Thing:
    """A thing at rest, about at x."""
    still = np.ones(frames)
    return Thing(
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=rng.uniform(150, 255, 3),
        x=still * (x + rng.uniform(-3, 3)),
        y=still * rng.uniform(23, HEIGHT - 23),
        radius=still * rng.uniform(8, 12),
        angle=still * rng.uniform(0, 2 * np.pi),
        opacity=still.copy(),
    )


# --- when: a thing's motions in order of time, named by their key in MOTIONS ------------------------------------------


def _draw_plans(rng: Generator, rhythm: Rhythm, frames: int, cue_stop: int) -> list[list[Activity]]:
    """One plan a thing: one circles and one blinks after the cue; a further one, where there is one, never rests."""
    bursts, plans = _draw_bursts(rng, rhythm, frames), []
    for kind in CONTEXT:
        first = cue_stop + _draw(rng, (rhythm.clip_span + 1, rhythm.clip_span + 12))
        context = Activity(kind, first, first + _draw(rng, rhythm.context))
        before = [(start, min(stop, context.first)) for start, stop in bursts if start < context.first]
        after = [(max(start, context.stop), stop) for start, stop in bursts if stop > context.stop]
        plans.append([*_fill(rng, rhythm, before), context, *_fill(rng, rhythm, after)])
    if rng.random() < rhythm.endless:
        plans.append([Activity(str(rng.choice(ENDLESS)), 0, frames)])
    return [plans[i] for i in rng.permutation(len(plans))]


def _draw_bursts(rng: Generator, rhythm: Rhythm, frames: int) -> list[tuple[int, int]]:
    """The intervals [first, stop) in which things move on their own, in order of time."""
    if rhythm.burst is None:
        return [(0, frames)]
    bursts, first = [], _draw(rng, rhythm.quiet)
    while first < frames:
        stop = min(first + _draw(rng, rhythm.burst), frames)
        bursts.append((first, stop))
        first = stop + _draw(rng, rhythm.quiet)
    return bursts


def _fill(rng: Generator, rhythm: Rhythm, intervals: list[tuple[int, int]]) -> Iterator[Activity]:
    """Rests and motions in turn, from the start to the end of each interval."""
    for first, stop in intervals:
        while True:
            first += _draw(rng, rhythm.rest)
            kind = str(rng.choice(DRAWN))
            shortest, longest = rhythm.lengths[kind]
            last = min(first + _draw(rng, (shortest, longest)), stop)
            if last - first < shortest:
                break
            yield Activity(kind, first, last)
            first = last


# Travelling and resizing are two activities each, and popping is short: drawn twice as often.
DRAWN = (*STEADY.lengths, "travel", "resize", "pop")
ENDLESS = ("travel", "resize", "swing", "bob", "shake")


# --- how: every motion adds to the thing's state, which is at rest again afterwards, and returns its name -------------
# `side`, 1 or -1, mirrors the motion left to right.


def _progress(first: int, stop: int) -> np.ndarray:
    """Time within an interval, from above 0 to below 1: (stop - first,)."""
    return (np.arange(first, stop) - first + 0.5) / (stop - first)


def _turns(first: int, stop: int, period: float) -> np.ndarray:
    """Turns done, of a whole number in all that take about `period` frames each: (stop - first,)."""
    return max(1, round((stop - first) / period)) * _progress(first, stop)


def _travel(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    """Out of the scene at the top or bottom and in again at the other end, and so on."""
    up = rng.random() < 0.5
    margin = 12
    span = HEIGHT + 2 * margin
    way = span * _turns(first, stop, rng.uniform(28, 40))
    thing.y[first:stop] = (thing.y[first:stop] + margin + (-way if up else way)) % span - margin
    return "rising" if up else "falling"


def _resize(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    """To three times or a third of a size, and back at once, again and again."""
    grow = rng.random() < 0.5
    sweep = _turns(first, stop, rng.uniform(14, 20)) % 1
    thing.radius[first:stop] *= 3 ** ((sweep if grow else 1 - sweep) - 0.6)
    return "growing" if grow else "shrinking"


def _swing(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    thing.x[first:stop] += side * 10 * np.sin(2 * np.pi * _turns(first, stop, rng.uniform(12, 16)))
    return "swinging"


def _bob(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    thing.y[first:stop] += 10 * np.sin(2 * np.pi * _turns(first, stop, rng.uniform(12, 16)))
    return "bobbing"


def _shake(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    thing.x[first:stop] += side * rng.uniform(-5, 5, stop - first)
    thing.y[first:stop] += rng.uniform(-5, 5, stop - first)
    return "shaking"


def _pop(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    """One quick swell."""
    thing.radius[first:stop] *= 1 + 0.8 * np.sin(np.pi * _progress(first, stop))
    return "popping"


def _circle(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    """Around a point between the thing and the middle of the height."""
    angle = 2 * np.pi * _turns(first, stop, rng.uniform(16, 20))
    inwards = 1 if thing.y[first] < HEIGHT / 2 else -1
    thing.x[first:stop] += side * 10 * np.sin(angle)
    thing.y[first:stop] += inwards * 10 * (1 - np.cos(angle))
    return "circling"


def _blink(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    thing.opacity[first:stop] = np.cos(2 * np.pi * _turns(first, stop, rng.uniform(8, 12))) > -0.3
    return "blinking"


MOTIONS: dict[str, Callable[[Thing, int, int, int, Generator], str]] = {
    "travel": _travel,
    "resize": _resize,
    "swing": _swing,
    "bob": _bob,
    "shake": _shake,
    "pop": _pop,
    "circling": _circle,
    "blinking": _blink,
}
