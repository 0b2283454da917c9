"""Compare variants of the Coarse-Fine network on the same data, seeds and steps, in one table and one figure.

    python -m tools.ablate configs/demo_ablation.yaml --seeds 3

For each seed, the Fine stream is trained and its features are extracted once. Stage 3 then trains each variant from
these weights and features, with its delta under configs/ablations/. All jobs use the normal scripts. Finished jobs are
not repeated and stopped jobs resume, so run the same command after an interruption, or with more seeds or variants to
extend the results. The output is PREFIX.md, PREFIX.json, PREFIX.csv and PREFIX.png; see `scores` and `table` for the
contents.

    <run.dir>/seed0/fine, features              stages 1 and 2
    <run.dir>/seed0/<variant>/coarse            stage 3
    <run.dir>/jobs/                             state of the jobs and output of the scripts
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

DELTAS = PROJECT / "configs" / "ablations"  # one file per variant, except Coarse-Fine, the method itself
VARIANTS = ("x3d", REFERENCE, "fine_fine", "stride", "no_fusion", "uniform")
STAGES = ("train_fine.py", "extract_fineFEAT.py", "train_coarse_fineFEAT.py")


def plan(args: argparse.Namespace, results: Path, seed: int) -> list[Job]:
    """The jobs of a seed: stages 1 and 2, then stage 3 for each variant."""
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
    """The configuration that results from these arguments. A mistake ends this process with one line and status 2."""
    return parse(typed, prog="ablate", description="").config


def run_all(jobs: list[Job], at_once: int) -> dict[str, Seconds]:
    """Run the unfinished jobs and print a line for each. Returns the time of every job by name."""
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
        say(f"{earlier} of {len(jobs)} jobs were already finished")
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
    print(f"\n{outputs[0].read_text(encoding='utf-8')}\nwrote: {', '.join(map(str, outputs))}")


def main(argv: list[str] | None = None) -> int:
    """Run the ablation. Returns 1 with one line on stderr if a job fails, and 128 + signal if a signal stops it."""
    args = _parse(argv)
    typed = sys.argv[1:] if argv is None else argv
    with stop_at_once():
        return exit_status("ablate", lambda: ablate(args, shlex.join(["python", "-m", "tools.ablate", *typed])))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.ablate", description=__doc__)
    parser.add_argument("configs", metavar="CONFIG", nargs="+", type=Path, help="configuration; later files override")
    parser.add_argument("--seeds", metavar="N", type=COUNT, default=3, help="seeds 0 to N-1 (default 3)")
    known = [REFERENCE, *sorted(path.stem for path in DELTAS.glob("*.yaml"))]
    parser.add_argument("--variants", metavar="NAME", nargs="+", default=VARIANTS, choices=known,
                        help=f"{REFERENCE} or files in configs/ablations (default {' '.join(VARIANTS)})")  # fmt: skip
    parser.add_argument("--jobs", metavar="N", type=COUNT, default=1, help="scripts run in parallel (default 1)")
    parser.add_argument("-gpu", metavar="N|cpu", default="cpu", help="-gpu of every script (default cpu)")
    parser.add_argument("--output", metavar="PREFIX", type=Path, help="prefix of results (default: RUN_DIR/ablation)")
    args = parser.parse_args(argv)
    for variant in args.variants:
        if list(args.variants).count(variant) > 1:
            parser.error(f"--variants: {variant} is given twice")
    return args


if __name__ == "__main__":
    sys.exit(main())
