"""Stage 1: train the Fine stream (X3D) on densely sampled clips (Coarse-Fine Networks, section 4.1).

python train_fine.py -gpu 0 --data.frames DIR --data.annotations FILE
"""

from functools import partial

from configs.cli import parse
from engine.launch import run_script
from engine.training import run_stage


def main(argv: list[str] | None = None) -> None:
    command = parse(
        argv, prog="train_fine.py", description="Stage 1: train or evaluate the Fine stream.", with_eval_only=True
    )
    run_script(__file__, command, argv, partial(run_stage, stage="fine"))


if __name__ == "__main__":
    main()
