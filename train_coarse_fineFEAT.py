"""Stage 3: train the Coarse stream, fused with the stored features of the Fine stream (section 4.1).

    python train_coarse_fineFEAT.py -gpu 0 --data.frames DIR --data.annotations FILE
"""

from assemble import build_coarse
from configs.cli import Command, parse
from launch import run_script
from stage import coarse_forward, run_stage


def main(argv: list[str] | None = None) -> None:
    command = parse(
        argv,
        prog="train_coarse_fineFEAT.py",
        description="Stage 3: train or evaluate the Coarse-Fine network.",
        with_eval_only=True,
    )
    run_script(__file__, command, argv, train)


def train(command: Command) -> None:
    run_stage(
        command,
        "coarse",
        build=build_coarse,
        forward=coarse_forward,
        needs_features=True,
        fusion_lr_factor=command.config.coarse.fusion_lr_factor,
    )


if __name__ == "__main__":
    main()
