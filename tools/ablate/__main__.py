"""Variants of the Coarse-Fine network beside each other: the same data, seeds and steps, one table and one picture.

    python -m tools.ablate configs/demo_ablation.yaml --seeds 3

For each seed the Fine stream is trained and its features are extracted once; from these weights and features each
variant is trained by stage 3, as its delta under configs/ablations/ says. All by the scripts that a user runs. What is
finished is not run again, and what was stopped continues, so the same command goes on after an interruption, and with
more seeds or variants adds to what is there. Written are PREFIX.md, PREFIX.json, PREFIX.csv and PREFIX.png;
`tools.ablate_table` says what they hold.

    <run.dir>/seed0/fine, features              stages 1 and 2
    <run.dir>/seed0/<variant>/coarse            stage 3
    <run.dir>/jobs/                             what is finished, and the scripts' output
"""

import argparse
import shlex
import sys
from contextlib import closing
from pathlib import Path

from common.arguments import COUNT, Parser, check_outputs
from common.errors import InputError, one_line
from common.progress import progress, say
from common.signals import Stopped, stop_at_once
from configs.cli import parse
from configs.files import ConfigError
from configs.schema import Config
from tools.ablate import table
from tools.ablate.jobs import PROJECT, Job, Seconds, run

DELTAS = PROJECT / "configs" / "ablations"
COARSE_FINE = table.REFERENCE  # the method itself: no delta
VARIANTS = ("x3d", COARSE_FINE, "fine_fine", "stride", "no_fusion", "uniform")
STAGES = ("train_fine.py", "extract_fineFEAT.py", "train_coarse_fineFEAT.py")


def plan(args: argparse.Namespace, results: Path) -> list[Job]:
    """All jobs: of each seed stages 1 and 2, then a stage 3 for each variant."""
    return [job for seed in range(args.seeds) for job in _plan_seed(args, results, seed)]


def _plan_seed(args: argparse.Namespace, results: Path, seed: int) -> list[Job]:
    shared = results / f"seed{seed}"
    weights = shared / "fine" / "checkpoints" / "best.pt"
    options = {"run.seed": seed, "features.dir": shared / "features", "features.checkpoint": weights}

    def job(name: str, stage: int, delta: list[Path], needs: str | None, **own: object) -> Job:
        typed = ["-gpu", args.gpu]
        for file in [*args.configs, *delta]:
            typed += ["--config", str(file)]
        for option, value in (options | own).items():
            typed += [f"--{option}", str(value)]
        return Job(
            name=f"seed{seed}/{name}",
            script=STAGES[stage - 1],
            arguments=tuple(typed),
            config=resolve(typed),
            folder=results / "jobs",
            needs=frozenset([f"seed{seed}/{needs}"] if needs else []),
        )

    jobs = [job("fine", 1, [], None, **{"run.dir": shared}), job("features", 2, [], "fine", **{"run.dir": shared})]
    for variant in args.variants:
        delta = [] if variant == COARSE_FINE else [DELTAS / f"{variant}.yaml"]
        jobs.append(job(variant, 3, delta, "features", **{"run.dir": shared / variant, "coarse.init": weights}))
    return jobs


def resolve(typed: list[str]) -> Config:
    """What a script makes of these arguments; a mistake in them ends this process: one line, status 2."""
    return parse(typed, prog="ablate", description="").config


def run_all(jobs: list[Job], at_once: int) -> dict[str, Seconds]:
    """Run what is not finished, with a line for each job. Returns the time of each by name."""
    seconds, earlier = {}, 0
    with closing(run(jobs, at_once=at_once)) as finished:
        for job, taken, ran in progress(finished, len(jobs), "Ablation"):
            seconds[job.name] = taken
            earlier += not ran
            if ran:
                score = table.score_line(job.config.run_dir / "coarse") if job.script == STAGES[2] else "done"
                say(f"{len(seconds)} of {len(jobs)}: {job.name}: {score} ({taken.wall:.0f} s, CPU {taken.cpu:.0f} s)")
    if earlier:
        say(f"{earlier} of {len(jobs)} were finished before")
    return seconds


def ablate(args: argparse.Namespace, command: str) -> None:
    results = resolve([part for file in args.configs for part in ("--config", str(file))]).run_dir
    prefix = args.output or results / "ablation"
    outputs = [prefix.with_name(prefix.name + suffix) for suffix in table.SUFFIXES]
    check_outputs(outputs, args.configs)
    jobs = plan(args, results)
    seconds = run_all(jobs, args.jobs)
    of_variant = {v: [job for job in jobs if job.name.endswith(f"/{v}")] for v in args.variants}
    configs = {v: [job.config for job in of] for v, of in of_variant.items()}
    times = {v: Seconds.total(seconds[job.name] for job in of) for v, of in of_variant.items()}
    table.write(prefix, configs, times, about={"command": command, "cpu_seconds": Seconds.total(seconds.values()).cpu})
    print(f"\n{outputs[0].read_text(encoding='utf-8')}\nwritten: {', '.join(map(str, outputs))}")


def main(argv: list[str] | None = None) -> int:
    """Run and write; 1 with one line on stderr where a job fails, 128 + signal where one stops this."""
    args = _parse(argv)
    typed = sys.argv[1:] if argv is None else argv
    try:
        with stop_at_once():
            ablate(args, shlex.join(["python", "-m", "tools.ablate", *typed]))
    except (InputError, ConfigError, OSError) as error:
        print(f"ablate: error: {one_line(error)}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"ablate: {stopped}", file=sys.stderr)
        return stopped.status
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.ablate", description=__doc__)
    parser.add_argument("configs", metavar="CONFIG", nargs="+", type=Path, help="the experiment; later files override")
    parser.add_argument("--seeds", metavar="N", type=COUNT, default=3, help="seeds 0 to N-1 (default 3)")
    parser.add_argument("--variants", metavar="NAME", nargs="+", default=VARIANTS,
                        help=f"{COARSE_FINE}, files of configs/ablations (default {' '.join(VARIANTS)})")  # fmt: skip
    parser.add_argument("--jobs", metavar="N", type=COUNT, default=1, help="scripts at once (default 1)")
    parser.add_argument("-gpu", metavar="N|cpu", default="cpu", help="of every script (default cpu)")
    parser.add_argument("--output", metavar="PREFIX", type=Path, help="results (default: ablation in the run's folder)")
    args = parser.parse_args(argv)
    known = [COARSE_FINE, *sorted(path.stem for path in DELTAS.glob("*.yaml"))]
    for variant in args.variants:
        if variant not in known:
            parser.error(f"--variants {variant}: choose from {', '.join(known)}")
        if list(args.variants).count(variant) > 1:
            parser.error(f"--variants: {variant} is given twice")
    return args


if __name__ == "__main__":
    sys.exit(main())
