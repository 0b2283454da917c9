"""Draw the content of a demo video: things, their motions and the resulting activities (without pixels).

Two or three things alternate between rest and motion; every motion is an activity. Activities differ only over time: in
a single frame, a thing half-way up may be rising, falling or resting. No activity has a preferred side, since training
clips are mirrored.

Early in each video the whole scene brightens or dims once: the *cue*. More than a clip later one thing circles and one
blinks, and the classes of these activities depend on the cue: `circling after brightening` looks exactly like
`circling after dimming`. They can only be distinguished by remembering the cue: these are the *context classes*.

A `Rhythm` sets the temporal pattern. In `STEADY`, the demo's default, something happens most of the time. In `BURSTS`,
all things rest together for about half of the time; motions, cue and context activities are short and come in bursts.
Informative moments are then spread unevenly within a clip, which rewards a stream that selects its few frames well.

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


Range = tuple[int, int]  # shortest and longest, in frames, inclusive


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Temporal pattern of a video: ranges of lengths in frames."""

    frames: Range  # of a video
    clip_span: int  # of a training clip, which never shows both the cue and an activity that depends on it
    cue: Range
    context: Range
    rest: Range  # of a thing between two of its motions
    lengths: dict[str, Range]  # of motions, by key of MOTIONS
    endless: float  # probability of another thing that never rests
    quiet: Range = (0, 0)  # of all things between two bursts
    burst: Range | None = None  # None: the whole video


STEADY = Rhythm(
    frames=(232, 256),  # fits into 128 steps of 2 frames
    clip_span=32,
    cue=(24, 36),
    context=(32, 52),
    rest=(8, 40),
    lengths={  # 8 frames are a third of a second
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
    """An interval, named by CLASSES (by CONTEXT as long as the cue is not applied)."""

    name: str
    first: int
    stop: int


@dataclass
class Thing:
    """A sprite: its appearance, and its state in each of the n frames (arrays of length n)."""

    shape: str
    colour: np.ndarray  # (3,) RGB, 0 to 255
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Content of a video except its background. Only `cue.name` depends on which cue it is."""

    frames: int
    things: tuple[Thing, ...]
    motions: tuple[Activity, ...]
    cue: Activity

    @property
    def activities(self) -> list[Activity]:
        """Motions and cue with their class names, in temporal order."""
        named = [replace(m, name=f"{m.name} after {self.cue.name}") if m.name in CONTEXT else m for m in self.motions]
        return sorted([*named, self.cue], key=lambda activity: (activity.first, activity.stop, activity.name))

    def light(self) -> np.ndarray:
        """Return the brightness of each frame (n,): 1 except during the cue."""
        light = np.ones(self.frames)
        swell = np.sin(np.pi * _progress(self.cue.first, self.cue.stop)) ** 2
        light[self.cue.first : self.cue.stop] += swell * (0.7 if self.cue.name == "brightening" else -0.6)
        return light


def draw_scene(seed: int, index: int, rhythm: Rhythm = STEADY) -> Scene:
    """Draw the scene of video `index`, determined by (seed, index, rhythm)."""
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
    cue = CUES[np.random.default_rng([seed, index, 1]).integers(2)]  # own stream: nothing else depends on it
    return Scene(frames, tuple(things), tuple(motions), Activity(cue, first, stop))


def _draw(rng: Generator, bounds: Range) -> int:
    """Draw an integer within inclusive bounds."""
    return int(rng.integers(*bounds, endpoint=True))


def _draw_thing(rng: Generator, frames: int, *, x: float) -> Thing:
    """Draw a resting thing near x."""
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


# --- when: motions of a thing in temporal order, by key of MOTIONS ----------------------------------------------------


def _draw_plans(rng: Generator, rhythm: Rhythm, frames: int, cue_stop: int) -> list[list[Activity]]:
    """Draw one plan per thing: one circles and one blinks after the cue; a third, if any, never rests."""
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
    """Draw the intervals [first, stop) in which things may move, in temporal order."""
    if rhythm.burst is None:
        return [(0, frames)]
    bursts, first = [], _draw(rng, rhythm.quiet)
    while first < frames:
        stop = min(first + _draw(rng, rhythm.burst), frames)
        bursts.append((first, stop))
        first = stop + _draw(rng, rhythm.quiet)
    return bursts


def _fill(rng: Generator, rhythm: Rhythm, intervals: list[tuple[int, int]]) -> Iterator[Activity]:
    """Alternate rests and motions over each interval."""
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


# Drawn twice as often: travelling and resizing (two activities each), and popping (short).
DRAWN = (*STEADY.lengths, "travel", "resize", "pop")
ENDLESS = ("travel", "resize", "swing", "bob", "shake")


# --- how: every motion changes the thing's state over its interval and returns its name -------------------------------
# `side`, 1 or -1, mirrors the motion left to right.


def _progress(first: int, stop: int) -> np.ndarray:
    """Return relative times within an interval, in (0,1): (stop - first,)."""
    return (np.arange(first, stop) - first + 0.5) / (stop - first)


def _turns(first: int, stop: int, period: float) -> np.ndarray:
    """Return the completed turns: an integer in total, each of about `period` frames: (stop - first,)."""
    return max(1, round((stop - first) / period)) * _progress(first, stop)


def _travel(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    """Leave the scene at the top or bottom and re-enter at the opposite side, repeatedly."""
    up = rng.random() < 0.5
    margin = 12
    span = HEIGHT + 2 * margin
    way = span * _turns(first, stop, rng.uniform(28, 40))
    thing.y[first:stop] = (thing.y[first:stop] + margin + (-way if up else way)) % span - margin
    return "rising" if up else "falling"


def _resize(thing: Thing, first: int, stop: int, side: int, rng: Generator) -> str:
    """Grow threefold or shrink to a third, jump back, and repeat."""
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
    """Circle a point above or below the thing, towards mid-height."""
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
