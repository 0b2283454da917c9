"""Variants of the Coarse-Fine network beside each other: the same data, seeds and steps, one table and one picture.

    python -m tools.ablate configs/demo_ablation.yaml --seeds 3

For each seed the Fine stream is trained and its features are extracted once; from these weights and features each
variant is trained by stage 3, as its delta under configs/ablations/ says. All by the scripts that a user runs. What is
finished is not run again, and what was stopped continues, so the same command goes on after an interruption, and with
more seeds or variants adds to what is there. Written are PREFIX.md, PREFIX.json, PREFIX.csv and PREFIX.png;
`scores` and `table` say what they hold.

    <run.dir>/seed0/fine, features              stages 1 and 2
    <run.dir>/seed0/<variant>/coarse            stage 3
    <run.dir>/jobs/                             what is finished, and the scripts' output
"""

import argparse
import shlex
import sys
from contextlib import closing
from pathlib import Path

from common.arguments import COUNT, Parser, check_outputs, exit_status
from common.progress import progress, say
from common.signals import stop_at_once
from configs.cli import parse
from configs.schema import Config
from engine.log import percent
from tools.ablate import table
from tools.ablate.jobs import PROJECT, Job, Seconds, run
from tools.ablate.scores import REFERENCE
from tools.runs import read_metrics

DELTAS = PROJECT / "configs" / "ablations"  # a file for each variant but Coarse-Fine, which is the method itself
VARIANTS = ("x3d", REFERENCE, "fine_fine", "stride", "no_fusion", "uniform")
STAGES = ("train_fine.py", "extract_fineFEAT.py", "train_coarse_fineFEAT.py")


def plan(args: argparse.Namespace, results: Path, seed: int) -> list[Job]:
    """The jobs of a seed: stages 1 and 2, then a stage 3 for each variant."""
    shared = results / f"seed{seed}"
    weights = shared / "fine" / "checkpoints" / "best.pt"
    options = {"run.seed": seed, "features.dir": shared / "features", "features.checkpoint": weights}

    def job(name: str, stage: int, delta: list[Path], needs: list[str], **own: object) -> Job:
        typed = ["-gpu", args.gpu, *(f"--config={file}" for file in [*args.configs, *delta])]
        typed += [f"--{option}={value}" for option, value in (options | own).items()]
        return Job(
            name=f"seed{seed}/{name}",
            script=STAGES[stage - 1],
            arguments=tuple(typed),
            config=resolve(typed),
            folder=results / "jobs",
            needs=frozenset(f"seed{seed}/{needed}" for needed in needs),
        )

    jobs = [job("fine", 1, [], [], **{"run.dir": shared}), job("features", 2, [], ["fine"], **{"run.dir": shared})]
    for variant in args.variants:
        delta = [] if variant == REFERENCE else [DELTAS / f"{variant}.yaml"]
        jobs.append(job(variant, 3, delta, ["features"], **{"run.dir": shared / variant, "coarse.init": weights}))
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
                score = "done"
                if job.script == STAGES[2]:
                    metrics = read_metrics(job.config.run_dir / "coarse" / "metrics.json")
                    score = f"mAP {percent(metrics['mAP_official_defined'])}"
                say(f"{len(seconds)} of {len(jobs)}: {job.name}: {score} ({taken.wall:.0f} s, CPU {taken.cpu:.0f} s)")
    if earlier:
        say(f"{earlier} of {len(jobs)} were finished before")
    return seconds


def ablate(args: argparse.Namespace, command: str) -> None:
    results = resolve([f"--config={file}" for file in args.configs]).run_dir
    prefix = args.output or results / "ablation"
    outputs = table.output_files(prefix)
    check_outputs(outputs, args.configs)
    jobs = [job for seed in range(args.seeds) for job in plan(args, results, seed)]
    seconds = run_all(jobs, args.jobs)
    of_variant = {v: [job for job in jobs if job.name.endswith(f"/{v}")] for v in args.variants}
    configs = {v: [job.config for job in of] for v, of in of_variant.items()}
    times = {v: sum((seconds[job.name] for job in of), Seconds()) for v, of in of_variant.items()}
    table.write(prefix, configs, times, command=command, cpu_seconds=sum(taken.cpu for taken in seconds.values()))
    print(f"\n{outputs[0].read_text(encoding='utf-8')}\nwritten: {', '.join(map(str, outputs))}")


def main(argv: list[str] | None = None) -> int:
    """Run and write; 1 with one line on stderr where a job fails, 128 + signal where one stops this."""
    args = _parse(argv)
    typed = sys.argv[1:] if argv is None else argv
    with stop_at_once():
        return exit_status("ablate", lambda: ablate(args, shlex.join(["python", "-m", "tools.ablate", *typed])))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.ablate", description=__doc__)
    parser.add_argument("configs", metavar="CONFIG", nargs="+", type=Path, help="the experiment; later files override")
    parser.add_argument("--seeds", metavar="N", type=COUNT, default=3, help="seeds 0 to N-1 (default 3)")
    known = [REFERENCE, *sorted(path.stem for path in DELTAS.glob("*.yaml"))]
    parser.add_argument("--variants", metavar="NAME", nargs="+", default=VARIANTS, choices=known,
                        help=f"{REFERENCE}, files of configs/ablations (default {' '.join(VARIANTS)})")  # fmt: skip
    parser.add_argument("--jobs", metavar="N", type=COUNT, default=1, help="scripts at once (default 1)")
    parser.add_argument("-gpu", metavar="N|cpu", default="cpu", help="of every script (default cpu)")
    parser.add_argument("--output", metavar="PREFIX", type=Path, help="results (default: ablation in the run's folder)")
    args = parser.parse_args(argv)
    for variant in args.variants:
        if list(args.variants).count(variant) > 1:
            parser.error(f"--variants: {variant} is given twice")
    return args


if __name__ == "__main__":
    sys.exit(main())
